//! The reader across rotations, restarts and reused inodes, on files that a test rotates as the engine does.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::logs::{GapCause, LogGap};

const NOW: WallNanos = WallNanos::new(1_714_557_600_000_000_000);

/// A log as the engine keeps it.
struct Engine {
    temp: tempfile::TempDir,
    keep: usize,
    written: u64,
}

impl Engine {
    fn new(keep: usize) -> Self {
        Self { temp: tempfile::tempdir().expect("a directory"), keep, written: 0 }
    }
    fn path(&self) -> PathBuf {
        self.temp.path().join("c-json.log")
    }
    fn rotated(&self, n: usize) -> PathBuf {
        if n == 0 { self.path() } else { self.temp.path().join(format!("c-json.log.{n}")) }
    }
    fn append(&self, text: &str) {
        let mut file =
            OpenOptions::new().create(true).append(true).open(self.path()).expect("opened");
        file.write_all(text.as_bytes()).expect("written");
    }
    /// Writes the next numbered line.
    fn line(&mut self) {
        self.written += 1;
        let n = self.written;
        self.append(&format!(
            "{{\"log\":\"line {n}\\n\",\"stream\":\"stdout\",\"time\":\"2024-05-01T10:00:00.{n:09}Z\"}}\n"
        ));
    }
    fn rotate(&self) {
        let _ = std::fs::remove_file(self.rotated(self.keep - 1));
        for n in (0..self.keep - 1).rev() {
            let _ = std::fs::rename(self.rotated(n), self.rotated(n + 1));
        }
        File::create(self.path()).expect("created");
    }
    fn reader(&self, cursor: LogCursor) -> LogReader {
        LogReader::new(self.path(), cursor, u32::try_from(self.keep).expect("few"))
    }
}

fn numbers(items: &[LogItem]) -> Vec<u64> {
    items
        .iter()
        .filter_map(|item| match item {
            LogItem::Line(line) => line.text.strip_prefix("line ")?.parse().ok(),
            LogItem::Gap(_) => None,
        })
        .collect()
}

fn gaps(items: &[LogItem]) -> usize {
    items
        .iter()
        .filter(|item| matches!(item, LogItem::Gap(LogGap { cause: GapCause::Rotated, .. })))
        .count()
}

fn poll(reader: &mut LogReader) -> Vec<LogItem> {
    let mut items = Vec::new();
    loop {
        let batch = reader.poll(NOW, 300).expect("read");
        items.extend(batch.items);
        if !batch.more {
            return items;
        }
    }
}

fn restored(reader: &mut LogReader) -> LogCursor {
    let text = serde_json::to_string(&reader.cursor().expect("a cursor")).expect("text");
    serde_json::from_str(&text).expect("a cursor")
}

#[test]
fn no_file_yet_is_nothing_yet() {
    let mut engine = Engine::new(3);
    let mut reader = engine.reader(LogCursor::default());
    assert_eq!(poll(&mut reader), []);
    assert_eq!(restored(&mut reader), LogCursor::default());
    engine.line();
    assert_eq!(numbers(&poll(&mut reader)), [1]);
}

#[test]
fn rotation_loses_nothing_while_the_files_are_kept() {
    let mut engine = Engine::new(4);
    let mut reader = engine.reader(LogCursor::default());
    engine.line();
    engine.line();
    assert_eq!(numbers(&poll(&mut reader)), [1, 2]);
    let cursor = restored(&mut reader);
    for _ in 0..2 {
        engine.line();
        engine.rotate();
    }
    engine.line();
    assert_eq!(numbers(&poll(&mut reader)), [3, 4, 5]);
    let mut fresh = engine.reader(cursor);
    let items = poll(&mut fresh);
    assert_eq!((numbers(&items), gaps(&items)), (vec![3, 4, 5], 0));
    assert_eq!(restored(&mut fresh), restored(&mut reader));
}

#[test]
fn what_was_rotated_away_is_a_gap() {
    let mut engine = Engine::new(3);
    engine.line();
    let mut reader = engine.reader(LogCursor::default());
    assert_eq!(numbers(&poll(&mut reader)), [1]);
    let cursor = restored(&mut reader);
    for _ in 0..4 {
        engine.line();
        engine.rotate();
    }
    engine.line();
    // Who held the file open could still read its end.
    for (mut reader, expected) in
        [(reader, vec![2, 4, 5, 6]), (engine.reader(cursor), vec![4, 5, 6])]
    {
        let items = poll(&mut reader);
        assert_eq!((numbers(&items), gaps(&items)), (expected, 1));
        let cursor = restored(&mut reader);
        assert_eq!(poll(&mut engine.reader(cursor)), []);
    }
}

#[test]
fn a_reused_inode_is_not_mistaken_for_the_old_file() {
    let mut engine = Engine::new(2);
    engine.line();
    let mut reader = engine.reader(LogCursor::default());
    poll(&mut reader);
    let cursor = restored(&mut reader);
    drop(reader);
    // The same inode with other content, as a file system that hands the number out again would give it.
    std::fs::write(engine.path(), "").expect("emptied");
    engine.line();
    engine.line();
    let mut reader = engine.reader(cursor);
    let items = poll(&mut reader);
    assert_eq!((numbers(&items), gaps(&items)), (vec![2, 3], 1));
}

#[test]
fn a_file_emptied_in_place_is_a_gap() {
    let mut engine = Engine::new(2);
    let mut reader = engine.reader(LogCursor::default());
    for _ in 0..5 {
        engine.line();
    }
    assert_eq!(poll(&mut reader).len(), 5);
    OpenOptions::new().write(true).truncate(true).open(engine.path()).expect("emptied");
    engine.line();
    let items = poll(&mut reader);
    assert_eq!((numbers(&items), gaps(&items)), (vec![6], 1));
}

#[test]
fn what_is_open_across_a_rotation_comes_once() {
    let engine = Engine::new(3);
    let line = |text: &str, n: u32| {
        engine.append(&format!(
            "{{\"log\":\"{text}\\n\",\"stream\":\"stderr\",\"time\":\"2024-05-01T10:00:00.00000000{n}Z\"}}\n"
        ));
    };
    line("Traceback (most recent call last):", 1);
    let mut reader = engine.reader(LogCursor::default());
    assert_eq!(poll(&mut reader), []);
    engine.rotate();
    line("  File", 2);
    assert_eq!(poll(&mut reader), []);
    let cursor = restored(&mut reader);
    line("E: x", 3);
    for mut reader in [reader, engine.reader(cursor)] {
        assert_eq!(poll(&mut reader), []);
        let items = reader.finish();
        let [LogItem::Line(record)] = &items[..] else { panic!("{items:?}") };
        assert_eq!(record.text, "Traceback (most recent call last):\n  File\nE: x");
        let cursor = restored(&mut reader);
        assert_eq!(engine.reader(cursor).finish(), []);
    }
}

#[test]
fn a_link_in_place_of_a_log_is_refused() {
    let engine = Engine::new(2);
    std::os::unix::fs::symlink("/etc/passwd", engine.path()).expect("linked");
    assert!(engine.reader(LogCursor::default()).poll(NOW, 1000).is_err());
}

/// The engine writes and rotates while the reader looks, never further ahead than the files it keeps.
#[test]
fn a_rotation_in_the_middle_of_a_look_loses_nothing() {
    const ROTATIONS: u64 = 600;
    const LINES: u64 = 5;
    let mut engine = Engine::new(6);
    engine.line();
    let mut reader = engine.reader(LogCursor::default());
    let seen = Arc::new(AtomicU64::new(0));
    let writer = std::thread::spawn({
        let seen = Arc::clone(&seen);
        move || {
            for rotation in 0..ROTATIONS {
                while seen.load(Ordering::Acquire) + 3 * LINES < rotation * LINES {
                    std::hint::spin_loop();
                }
                (0..LINES).for_each(|_| engine.line());
                engine.rotate();
            }
            engine
        }
    });
    let mut items = Vec::new();
    while !writer.is_finished() {
        items.extend(poll(&mut reader));
        seen.store(numbers(&items).last().copied().unwrap_or(0), Ordering::Release);
    }
    let engine = writer.join().expect("the writer ends");
    items.extend(poll(&mut reader));
    assert_eq!(gaps(&items), 0);
    assert!(numbers(&items).into_iter().eq(1..=engine.written));
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Line,
    Rotate,
    Poll,
    Restart,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens in whatever order: numbers rise, and each one is either delivered once or behind a gap.
    #[test]
    fn every_line_is_delivered_once_or_reported_missing(
        actions in proptest::collection::vec(
            prop_oneof![6 => Just(Action::Line), 2 => Just(Action::Rotate), 2 => Just(Action::Poll), 1 => Just(Action::Restart)],
            0..80,
        ),
    ) {
        let mut engine = Engine::new(3);
        let mut reader = engine.reader(LogCursor::default());
        let mut items = Vec::new();
        // Files that come after the one in which reading stands.
        let mut unread_rotations = 0;
        let mut may_lose = false;
        for action in actions {
            match action {
                Action::Line => engine.line(),
                Action::Rotate => {
                    engine.rotate();
                    unread_rotations += 1;
                    may_lose |= unread_rotations > 1;
                }
                Action::Poll => {
                    items.extend(poll(&mut reader));
                    unread_rotations = 0;
                }
                Action::Restart => {
                    let cursor = restored(&mut reader);
                    reader = engine.reader(cursor);
                }
            }
        }
        items.extend(poll(&mut reader));
        let found = numbers(&items);
        prop_assert!(found.is_sorted_by(|a, b| a < b), "{:?}", found);
        if gaps(&items) == 0 {
            prop_assert_eq!(found, (1..=engine.written).collect::<Vec<_>>());
        } else {
            prop_assert!(may_lose, "a gap although every file was kept until it was read");
        }
    }
}
