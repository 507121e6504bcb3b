//! Log reading on what the real engine writes and rotates.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use hone_agent::logs::{GapCause, LogCursor, LogItem, LogReader, Output};
use hone_proto::event::Level;
use hone_proto::time::{Now, WallNanos};
use hone_tests::docker::{TestNode, docker};

use super::PATIENCE;

/// A started container with a log of `files` times `size`.
fn start(test: &TestNode, image: &str, size: &str, files: u32, args: &[&str]) -> String {
    let label = format!("hone.fleet={}", test.fleet);
    let (max_size, max_file) = (format!("max-size={size}"), format!("max-file={files}"));
    let mut all =
        vec!["run", "-d", "--network", "none", "--label", &label, "--log-driver", "json-file"];
    all.extend(["--log-opt", &max_size, "--log-opt", &max_file, image]);
    all.extend(args);
    docker(&all).expect("started")
}

fn log_path(id: &str) -> PathBuf {
    docker(&["inspect", "-f", "{{.LogPath}}", id]).expect("inspected").into()
}

fn is_running(id: &str) -> bool {
    docker(&["inspect", "-f", "{{.State.Running}}", id]).expect("inspected") == "true"
}

fn wait(id: &str) {
    let waited =
        Command::new("timeout").args(["60", "docker", "wait", id]).output().expect("waited");
    assert!(waited.status.success(), "the container did not end in time");
}

/// Everything that one look after another yields, until nothing more comes.
fn drain(reader: &mut LogReader, items: &mut Vec<LogItem>) {
    loop {
        let batch = reader.poll(Now::read().wall, 1 << 20).expect("read");
        items.extend(batch.items);
        if !batch.more {
            return;
        }
    }
}

/// The numbers of the guest's numbered lines.
fn numbers(items: &[LogItem]) -> Vec<u64> {
    items
        .iter()
        .filter_map(|item| match item {
            LogItem::Line(line) => line.text.split(' ').next()?.parse().ok(),
            LogItem::Gap(_) => None,
        })
        .collect()
}

#[test]
fn a_reader_that_restarts_all_the_time_loses_and_repeats_nothing() {
    const LINES: u64 = 20_000;
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    // About 4 MB in files of 1 MB: rotated while it is read, never out of reach.
    let id = start(&test, &image, "1m", 8, &["lines", &LINES.to_string()]);
    let path = log_path(&id);
    let mut cursor = LogCursor::default();
    let mut items = Vec::new();
    let began = Instant::now();
    loop {
        let ended = !is_running(&id);
        let mut reader = LogReader::new(path.clone(), cursor, 8);
        drain(&mut reader, &mut items);
        if ended {
            items.extend(reader.finish());
            break;
        }
        let text = serde_json::to_string(&reader.cursor().expect("a cursor")).expect("text");
        cursor = serde_json::from_str(&text).expect("a cursor");
        assert!(began.elapsed() < PATIENCE, "the container did not end in time");
    }
    assert!(numbers(&items).into_iter().eq(0..LINES), "lines are missing or repeated");
    assert!(
        path.with_extension("log.1").exists(),
        "the log was never rotated: the test proved too little"
    );
}

#[test]
fn what_the_engine_rotated_away_is_a_gap_before_what_is_left() {
    const LINES: u64 = 2_000;
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let id = start(&test, &image, "20k", 3, &["lines", &LINES.to_string()]);
    wait(&id);
    let mut reader = LogReader::new(log_path(&id), LogCursor::default(), 3);
    let mut items = Vec::new();
    drain(&mut reader, &mut items);
    items.extend(reader.finish());
    assert!(
        matches!(&items[0], LogItem::Gap(gap) if gap.cause == GapCause::Rotated),
        "{:?}",
        items[0]
    );
    let found = numbers(&items);
    let first = found.first().copied().expect("lines");
    assert!(first > 0 && found.into_iter().eq(first..LINES));
}

#[test]
fn both_outputs_levels_tracebacks_and_long_lines_arrive_as_printed() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let long = format!("o{}\n", "long ".repeat(8_000));
    let trace = "eTraceback (most recent call last):\n  File \"/x.py\", line 1, in <module>\n    x()\nValueError: bad \u{1b}[31mred\n";
    let id = start(
        &test,
        &image,
        "10m",
        2,
        &["say", "oWARNING hone.trainer: careful\n", trace, &long, "eplain\n", "ono end"],
    );
    wait(&id);
    let mut reader = LogReader::new(log_path(&id), LogCursor::default(), 2);
    let mut items = Vec::new();
    drain(&mut reader, &mut items);
    items.extend(reader.finish());
    let lines: Vec<_> = items
        .into_iter()
        .map(|item| match item {
            LogItem::Line(line) => line,
            LogItem::Gap(gap) => panic!("{gap:?}"),
        })
        .collect();
    assert!(
        lines
            .iter()
            .all(|line| Now::read().wall.since(line.at) < PATIENCE && line.at > WallNanos::new(0))
    );
    let of = |output: Output| -> Vec<(Level, &str)> {
        lines
            .iter()
            .filter(|line| line.output == output)
            .map(|line| (line.level, line.text.as_str()))
            .collect()
    };
    let traceback = "Traceback (most recent call last):\n  File \"/x.py\", line 1, in <module>\n    x()\nValueError: bad red";
    assert_eq!(of(Output::Stderr), [(Level::Error, traceback), (Level::Info, "plain")]);
    let stdout = of(Output::Stdout);
    assert_eq!(stdout.len(), 3, "{stdout:?}");
    assert_eq!(stdout[0], (Level::Warning, "WARNING hone.trainer: careful"));
    assert!(stdout[1].1.starts_with("long long") && stdout[1].1.contains("bytes left out"));
    assert_eq!(stdout[2].1, "no end");
}
