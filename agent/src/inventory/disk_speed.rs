//! How fast the state directory's disk is. Hypervisors hide what is behind their disks, so it is measured once when a
//! node joins: a file of at most [`MEASURE_BOUND`], for less than two seconds, that no crash can leave behind.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use hone_proto::inventory::DiskSpeed;
use hone_proto::quantity::Bytes;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::observe::Space;

/// Most that a measurement writes: enough for a steady rate of the fastest disks in the time given.
pub const MEASURE_BOUND: Bytes = Bytes::mib(64);

/// Free space below which nothing is measured: a measurement must not be what fills a disk.
const FREE_FLOOR: Bytes = Bytes::mib(256);

/// Time for one direction of sequential I/O. The last block and the sync may take it over by one operation.
const STREAM_BUDGET: Duration = Duration::from_millis(500);

/// Time for one kind of latency.
const LATENCY_BUDGET: Duration = Duration::from_millis(300);

/// Operations of which a latency is the median.
const LATENCY_OPERATIONS: usize = 64;

/// One sequential operation.
const BLOCK: usize = 1 << 20;

/// One small operation, and what direct I/O wants addresses and lengths aligned to.
const PAGE: usize = 4096;

/// The file in the state directory that keeps the result.
const KEPT: &str = "disk-speed.json";

/// Version of that file.
const KEPT_VERSION: u32 = 1;

/// Why a disk was not measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// There is too little room for the test file.
    #[error("less than {FREE_FLOOR} is free")]
    NoRoom,
    /// The disk, or the file system on it, failed.
    #[error("the test file failed")]
    Io(#[from] io::Error),
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    version: u32,
    device: String,
    speed: DiskSpeed,
}

/// The measurement of an earlier start. One of another device does not count.
pub(super) fn kept(state_dir: &Path, device: &str) -> Option<DiskSpeed> {
    let text = fs::read(state_dir.join(KEPT)).ok()?;
    let kept = serde_json::from_slice::<Kept>(&text).ok()?;
    (kept.version == KEPT_VERSION && kept.device == device).then_some(kept.speed)
}

/// The measurement of an earlier start, or else a new one.
pub(super) fn kept_or_measured(state_dir: &Path, device: &str) -> Option<DiskSpeed> {
    if let Some(speed) = kept(state_dir, device) {
        return Some(speed);
    }
    let path = state_dir.join(KEPT);
    match measure(state_dir) {
        Ok(speed) => {
            let kept = Kept { version: KEPT_VERSION, device: device.to_owned(), speed };
            if let Err(error) = keep(&path, &kept) {
                tracing::warn!(%error, path = %path.display(), "the disk's measurement is not kept");
            }
            Some(speed)
        }
        Err(error) => {
            tracing::warn!(%error, dir = %state_dir.display(), "the disk was not measured");
            None
        }
    }
}

/// A lost result is measured again, so it needs no sync.
fn keep(path: &Path, kept: &Kept) -> io::Result<()> {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, serde_json::to_vec(kept)?)?;
    fs::rename(fresh, path)
}

/// Measures the disk of `dir`. Blocks for up to about two seconds.
///
/// # Errors
/// There is no room, or the disk fails.
pub fn measure(dir: &Path) -> Result<DiskSpeed, MeasureError> {
    if Space::of(dir).is_none_or(|space| space.free < FREE_FLOOR) {
        return Err(MeasureError::NoRoom);
    }
    let (file, direct) = open(dir)?;
    let mut memory = vec![0; BLOCK + PAGE];
    let block = aligned(&mut memory);
    fill(block);
    let (written, write_per_second) = stream(&file, |at| file.write_at(block, at))?;
    // Without direct I/O what was just written is in memory: ask the kernel to forget it.
    if !direct {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .map_err(io::Error::from)?;
    }
    let (_, read_per_second) = {
        let end = written;
        stream(&file, |at| if at < end { file.read_at(block, at) } else { Ok(0) })?
    };
    let small = &mut block[..PAGE];
    let read_latency = latency(written, |at| file.read_exact_at(small, at))?;
    let write_latency = latency(written, |at| {
        file.write_all_at(small, at)?;
        file.sync_data()
    })?;
    Ok(DiskSpeed {
        read_per_second,
        write_per_second,
        read_latency_us: microseconds(read_latency),
        write_latency_us: microseconds(write_latency),
        direct,
    })
}

/// A file without a name: it is gone when it is closed, however that happens.
fn open(dir: &Path) -> io::Result<(File, bool)> {
    let nameless = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    if let Ok(file) = rustix::fs::open(dir, nameless | OFlags::DIRECT, mode) {
        return Ok((file.into(), true));
    }
    if let Ok(file) = rustix::fs::open(dir, nameless, mode) {
        return Ok((file.into(), false));
    }
    // Some file systems know no files without a name.
    let path = dir.join(".disk-speed");
    let named = OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
    let (file, direct) = match rustix::fs::open(&path, named | OFlags::DIRECT, mode) {
        Ok(file) => (file, true),
        Err(_) => (rustix::fs::open(&path, named, mode)?, false),
    };
    fs::remove_file(path)?;
    Ok((file.into(), direct))
}

/// Blocks one after the other until the bound or the time is reached, then a sync. How many bytes, and how many per second.
fn stream(
    file: &File,
    mut operation: impl FnMut(u64) -> io::Result<usize>,
) -> io::Result<(u64, Bytes)> {
    let start = Instant::now();
    let mut moved = 0;
    while moved < MEASURE_BOUND.get() && start.elapsed() < STREAM_BUDGET {
        match operation(moved)? {
            0 => break,
            bytes => moved += bytes as u64,
        }
    }
    file.sync_data()?;
    let nanos = start.elapsed().as_nanos().max(1);
    let per_second = u128::from(moved) * 1_000_000_000 / nanos;
    Ok((moved, Bytes::new(u64::try_from(per_second).unwrap_or(u64::MAX))))
}

/// The median time of a small operation at places spread over the file.
fn latency(len: u64, mut operation: impl FnMut(u64) -> io::Result<()>) -> io::Result<Duration> {
    let pages = (len / PAGE as u64).max(1);
    let start = Instant::now();
    let mut times = Vec::with_capacity(LATENCY_OPERATIONS);
    let mut random = Scatter(0x9e37_79b9_7f4a_7c15);
    while times.len() < LATENCY_OPERATIONS && (times.is_empty() || start.elapsed() < LATENCY_BUDGET)
    {
        let place = random.next() % pages * PAGE as u64;
        let began = Instant::now();
        operation(place)?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

fn microseconds(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

/// The part of `memory` that starts on a page.
fn aligned(memory: &mut [u8]) -> &mut [u8] {
    let skip = memory.as_ptr().align_offset(PAGE).min(PAGE);
    &mut memory[skip..skip + BLOCK]
}

/// Content that no layer below can compress away.
fn fill(block: &mut [u8]) {
    let mut random = Scatter(0x2545_f491_4f6c_dd1d);
    for chunk in block.chunks_exact_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes());
    }
}

/// Numbers without a pattern, the same each time (xorshift).
struct Scatter(u64);

impl Scatter {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_short_leaves_nothing_and_is_made_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let start = Instant::now();
        let first = kept_or_measured(dir.path(), "vda").expect("this disk can be measured");
        // Four budgets and one overlong operation each; a busy machine must not fail the test.
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        assert!(first.read_per_second > Bytes::ZERO && first.write_per_second > Bytes::ZERO);
        let names: Vec<_> = fs::read_dir(dir.path())
            .expect("listed")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        assert_eq!(names, [KEPT]);
        assert_eq!(kept_or_measured(dir.path(), "vda"), Some(first), "the kept one is taken");
    }

    #[test]
    fn a_kept_result_counts_only_for_its_device_and_version() {
        let dir = tempfile::tempdir().expect("a folder");
        let speed = DiskSpeed {
            read_per_second: Bytes::new(1),
            write_per_second: Bytes::new(2),
            read_latency_us: 3,
            write_latency_us: 4,
            direct: true,
        };
        let path = dir.path().join(KEPT);
        let kept = |version| Kept { version, device: "vdb".to_owned(), speed };
        keep(&path, &kept(KEPT_VERSION)).expect("kept");
        assert_eq!(kept_or_measured(dir.path(), "vdb"), Some(speed));
        assert_ne!(kept_or_measured(dir.path(), "vdc"), Some(speed));
        keep(&path, &kept(KEPT_VERSION + 1)).expect("kept");
        assert_ne!(kept_or_measured(dir.path(), "vdb"), Some(speed));
        fs::write(&path, "{ torn").expect("written");
        assert!(kept_or_measured(dir.path(), "vdb").is_some());
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        assert!(measure(Path::new("/nonexistent")).is_err());
    }
}
