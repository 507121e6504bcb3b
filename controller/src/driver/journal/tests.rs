//! Files of events on a real disk.

use hone_proto::event::Payload;
use hone_proto::id::Seq;
use hone_proto::time::{BootNanos, Now, WallNanos};

use super::*;
use crate::series::SEGMENT_BYTES;

/// About a thousandth of a segment.
fn event(number: u64) -> Event {
    let at = Now { wall: WallNanos::new(number), boot: BootNanos::new(number) };
    let what = Stream::Hardware.name().to_owned();
    let reason = "x".repeat(8000);
    let payload = Payload::Gap { attempt: None, what, count: 1, reason };
    Event { seq: Seq::new(number), at, boot: "boot-1".parse().expect("an id"), payload }
}

/// Bytes of all files below a folder.
fn on_disk(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |path: PathBuf| match path.is_dir() {
        true => on_disk(&path),
        false => path.metadata().map_or(0, |facts| facts.len()),
    };
    entries.map(|entry| size(entry.path())).sum()
}

#[test]
fn hardware_history_is_bounded_and_goes_on_after_a_restart() {
    let scratch = tempfile::tempdir().expect("a folder");
    let file = FileId::Node("n-1".parse().expect("an id"));
    let open = |stored: Vec<(String, Vec<u8>)>| {
        let journal = Journal::open(scratch.path(), stored).expect("it opens");
        journal.keeping_of_nodes(Bytes::new(SEGMENT_BYTES))
    };
    let mut journal = open(Vec::new());
    let mut length = 0;
    for round in 0..6 {
        for number in 1..=1100 {
            journal.append(file.clone(), &event(round * 1100 + number)).expect("it is written");
        }
        let lengths = journal.sync().expect("it is synced");
        length = lengths[0].1;
        journal = open(vec![(file.key(), length.to_string().into_bytes())]);
    }
    assert!(length > 6 * SEGMENT_BYTES, "{length}");
    let kept = on_disk(scratch.path());
    assert!(kept < 4 * SEGMENT_BYTES, "{kept} bytes of {length} are on the disk");
    let (records, next) =
        Journal::read(scratch.path(), &file, 0, length, u64::MAX).expect("the rest is read");
    assert_eq!(next, length);
    let last = records.last().expect("a record");
    let last = wire::Event::decode(last.as_slice()).expect("an event");
    assert_eq!(last.seq, 6600, "the newest is there");
}
