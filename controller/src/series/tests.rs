//! Streams over several segments: cut, read, lost in part, rolled up; and a model.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

const S: u64 = 1_000_000_000;

fn open(dir: &Path, len: u64) -> Result<StreamWriter, SegmentError> {
    let mut writer = StreamWriter::open(JobFiles::series_in(dir), len)?;
    writer.seal_at(100);
    Ok(writer)
}

/// `n` records of a time and a value; returns the ends.
fn fill(writer: &mut StreamWriter, n: u64) -> Vec<u64> {
    let ends = (0..n).map(|i| writer.append(format!("{i} {}", i % 7).as_bytes()).unwrap());
    let ends = ends.collect();
    writer.sync().unwrap();
    ends
}

fn points(payload: &[u8]) -> Vec<Point> {
    let text = std::str::from_utf8(payload).unwrap();
    let (at, value) = text.split_once(' ').unwrap();
    vec![Point::new("v", at.parse::<u64>().unwrap() * S, value.parse().unwrap())]
}

fn payloads(files: &StreamFiles, from: u64, end: u64) -> Result<Vec<Vec<u8>>, SegmentError> {
    files.read(from, end)?.map(|entry| entry.map(|e| e.payload)).collect()
}

fn names(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = all.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

#[test]
fn both_streams_of_a_job_go_on_where_the_store_says() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("12");
    let mut job = JobFiles::open(&dir, Lengths::default()).unwrap();
    job.series.append(b"1 1").unwrap();
    job.logs.append(b"hello").unwrap();
    let recorded = job.sync().unwrap();
    job.logs.append(b"never acknowledged").unwrap();
    job.sync().unwrap();
    drop(job);
    let mut job = JobFiles::open(&dir, recorded).unwrap();
    assert_eq!(job.sync().unwrap(), recorded);
    job.logs.append(b"again").unwrap();
    let end = job.sync().unwrap().logs;
    assert_eq!(payloads(&JobFiles::logs_in(&dir), 0, end).unwrap(), [&b"hello"[..], b"again"]);
    assert_eq!(payloads(&JobFiles::series_in(&dir), 0, recorded.series).unwrap(), [b"1 1"]);
}

#[test]
fn a_stream_is_read_across_its_segments_from_any_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path(), 0).unwrap();
    let ends = fill(&mut writer, 60);
    assert!(names(dir.path(), "seg").len() > 4);
    let files = writer.files();
    for (index, from) in [0].iter().chain(&ends).enumerate() {
        assert_eq!(payloads(files, *from, ends[59]).unwrap().len(), 60 - index, "from {from}");
    }
    let middle: Vec<_> = files.read(ends[9], ends[40]).unwrap().map(Result::unwrap).collect();
    assert_eq!(middle.iter().map(|entry| entry.next).collect::<Vec<_>>(), ends[10..=40]);
}

#[test]
fn a_lost_segment_is_an_error_and_not_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path(), 0).unwrap();
    let ends = fill(&mut writer, 60);
    let files = writer.files().clone();
    let segments = names(dir.path(), "seg");
    fs::remove_file(&segments[2]).unwrap();
    assert!(matches!(payloads(&files, 0, ends[59]), Err(SegmentError::Damaged { .. })));
    fs::remove_file(segments.last().unwrap()).unwrap();
    assert!(matches!(open(dir.path(), ends[59]), Err(SegmentError::Damaged { .. })));
    segments.iter().for_each(|path| drop(fs::remove_file(path)));
    assert!(matches!(open(dir.path(), ends[59]), Err(SegmentError::Damaged { .. })));
    assert!(payloads(&files, 0, ends[59]).is_err());
}

#[test]
fn rollups_of_sealed_segments_give_what_the_records_give() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path(), 0).unwrap();
    let end = fill(&mut writer, 400).pop().unwrap();
    let files = writer.files();
    let plain = |resolution| {
        roll_up((0..400).flat_map(|i| points(format!("{i} {}", i % 7).as_bytes())), resolution)
    };
    for resolution in Resolution::ALL {
        assert_eq!(files.rollup(resolution, end, points).unwrap(), plain(resolution));
    }
    let made = files.roll_up_sealed(end, points).unwrap();
    assert_eq!(made, names(dir.path(), "seg").len() - 1);
    assert_eq!(files.roll_up_sealed(end, points).unwrap(), 0);
    let refuse_sealed = |payload: &[u8]| {
        let first_open = files.sealed(end).unwrap().last().unwrap().end;
        let sealed = payloads(files, 0, first_open).unwrap();
        assert!(!sealed.iter().any(|p| p == payload), "a sealed record was read again");
        points(payload)
    };
    for resolution in Resolution::ALL {
        assert_eq!(files.rollup(resolution, end, refuse_sealed).unwrap(), plain(resolution));
    }
    for path in names(dir.path(), "5m") {
        fs::write(path, b"damaged").unwrap();
    }
    let again = files.rollup(Resolution::FiveMinutes, end, points).unwrap();
    assert_eq!(again, plain(Resolution::FiveMinutes));
}

#[test]
fn a_rollup_does_not_outlive_the_records_it_was_made_of() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path(), 0).unwrap();
    let ends = fill(&mut writer, 60);
    writer.files().roll_up_sealed(ends[59], points).unwrap();
    drop(writer);
    let mut writer = open(dir.path(), ends[10]).unwrap();
    let end = writer.append(b"500 3").unwrap();
    writer.sync().unwrap();
    let rollup = writer.files().rollup(Resolution::Hour, end, points).unwrap();
    let counted: u64 = rollup.iter().map(|(_, _, bucket)| bucket.count).sum();
    assert_eq!(counted, 12);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Appends, acknowledgements and crashes: what was acknowledged is there, and nothing else.
    #[test]
    fn a_stream_equals_the_records_acknowledged(
        turns in prop::collection::vec((prop::collection::vec(0_usize..150, 0..5), any::<bool>()), 1..20),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = open(dir.path(), 0).unwrap();
        let (mut acknowledged, mut len) = (Vec::new(), 0);
        for (turn, (sizes, crash)) in turns.into_iter().enumerate() {
            let records: Vec<Vec<u8>> = sizes.iter().map(|size| vec![turn.to_le_bytes()[0]; *size]).collect();
            for record in &records {
                writer.append(record).unwrap();
            }
            writer.sync().unwrap();
            if crash {
                drop(writer);
                writer = open(dir.path(), len).unwrap();
            } else {
                len = writer.len();
                acknowledged.extend(records);
            }
            prop_assert_eq!(&payloads(writer.files(), 0, len).unwrap(), &acknowledged);
        }
    }
}

#[test]
fn what_is_whole_of_a_stream_is_found_when_its_end_is_cut_bent_or_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path(), 0).unwrap();
    let ends = fill(&mut writer, 30);
    let files = writer.files().clone();
    drop(writer);
    let end = ends[29];
    assert_eq!(files.whole_until(end).unwrap(), end);
    let segments = names(dir.path(), "seg");
    let last = segments.last().unwrap();
    let bytes = fs::read(last).unwrap();
    let start = files.sealed(end).unwrap().last().unwrap().end;
    let before: Vec<_> = ends.iter().filter(|e| **e < end).copied().collect();
    fs::write(last, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(files.whole_until(end).unwrap(), *before.last().unwrap());
    fs::write(last, b"HONE").unwrap();
    assert_eq!(files.whole_until(end).unwrap(), start);
    fs::remove_file(last).unwrap();
    assert_eq!(files.whole_until(end).unwrap(), start);
    for segment in &segments[..segments.len() - 1] {
        fs::remove_file(segment).unwrap();
    }
    assert_eq!(files.whole_until(end).unwrap(), 0);
}
