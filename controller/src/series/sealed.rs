//! Rollups of sealed segments, in files beside them. They can be lost without loss: they are made again from the
//! segment.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::rollup::{Bucket, Point, Resolution, Rollup};
use super::segment::{self, SegmentError, SegmentReader, SegmentWriter, io_at};
use crate::durable;

/// Buckets in one record: keeps the record under its bound.
const BUCKETS_PER_RECORD: usize = 4_096;

/// First record of a rollup file.
const VERSION: &[u8] = b"rollup 1";

/// Bytes of one bucket: start, count, not finite, min, sum, max.
const BUCKET: usize = 48;

/// Longest name of a series, in bytes.
const MAX_NAME: usize = 128;

/// The file of a segment's rollup.
pub(super) fn rollup_path(segment: &Path, resolution: Resolution) -> PathBuf {
    segment.with_extension(match resolution {
        Resolution::TenSeconds => "10s",
        Resolution::FiveMinutes => "5m",
        Resolution::Hour => "1h",
    })
}

/// Removes what was made of a segment that is about to change.
pub(super) fn remove_rollups(segment: &Path) -> Result<(), SegmentError> {
    for resolution in Resolution::ALL {
        let path = rollup_path(segment, resolution);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(io_at("remove", &path))?,
        }
    }
    Ok(())
}

/// Makes all rollups of a sealed segment; `points` reads one of its records.
pub(super) fn write_rollups(
    segment: &Path,
    len: u64,
    points: impl Fn(&[u8]) -> Vec<Point>,
) -> Result<(), SegmentError> {
    let mut finest = Rollup::new(Resolution::TenSeconds);
    for entry in SegmentReader::open(segment, 0, len)? {
        finest.extend(points(&entry?.payload));
    }
    for resolution in Resolution::ALL {
        let mut rollup = Rollup::new(resolution);
        rollup.merge(&finest);
        write(&rollup_path(segment, resolution), &rollup)?;
    }
    Ok(())
}

fn write(path: &Path, rollup: &Rollup) -> Result<(), SegmentError> {
    let temp = path.with_added_extension("tmp");
    let mut writer = SegmentWriter::create(&temp)?;
    writer.append(VERSION)?;
    for name in rollup.names().filter(|name| name.len() <= MAX_NAME) {
        let buckets: Vec<_> = rollup.series(name).into_iter().flatten().collect();
        for some in buckets.chunks(BUCKETS_PER_RECORD) {
            writer.append(&encode(name, some))?;
        }
    }
    writer.sync()?;
    fs::rename(&temp, path).map_err(io_at("rename", path))?;
    durable::sync_parent(path).map_err(io_at("sync", path))
}

/// Reads a rollup file, if there is one and it is whole.
pub(super) fn read(segment: &Path, resolution: Resolution) -> Option<Rollup> {
    let path = rollup_path(segment, resolution);
    let end = segment::stored_len(&path).ok()?;
    let mut rollup = Rollup::new(resolution);
    let mut records = SegmentReader::open(&path, 0, end).ok()?;
    if records.next()?.ok()?.payload != VERSION {
        return None;
    }
    for record in records {
        decode(&record.ok()?.payload, &mut rollup)?;
    }
    Some(rollup)
}

fn encode(name: &str, buckets: &[(&u64, &Bucket)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + name.len() + buckets.len() * BUCKET);
    out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(name.as_bytes());
    for (start, bucket) in buckets {
        for number in [**start, bucket.count, bucket.not_finite] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for value in [bucket.min, bucket.sum, bucket.max] {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
    out
}

fn decode(record: &[u8], into: &mut Rollup) -> Option<()> {
    let (len, rest) = record.split_first()?;
    let (name, buckets) = rest.split_at_checked(usize::from(*len))?;
    let name = std::str::from_utf8(name).ok()?;
    let (buckets, rest) = buckets.as_chunks::<BUCKET>();
    for bucket in buckets {
        let (fields, _) = bucket.as_chunks::<8>();
        let [start, count, not_finite, min, sum, max] = *fields else { return None };
        let bucket = Bucket {
            count: u64::from_le_bytes(count),
            not_finite: u64::from_le_bytes(not_finite),
            min: f64::from_le_bytes(min),
            sum: f64::from_le_bytes(sum),
            max: f64::from_le_bytes(max),
        };
        into.add(name, u64::from_le_bytes(start), &bucket);
    }
    rest.is_empty().then_some(())
}
