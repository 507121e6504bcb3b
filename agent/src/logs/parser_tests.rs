//! The parser against every way of cutting its input, and what records must look like.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const START: u64 = 1_714_557_600_000_000_000;
const MILLI: u64 = 1_000_000;

/// A line as the engine writes it, `millis` after the start.
fn engine_line(output: Output, millis: u64, text: &str) -> String {
    let nanos = i64::try_from(START + millis * MILLI).expect("a time");
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanos)).expect("a time");
    let log = serde_json::to_string(text).expect("text");
    format!("{{\"log\":{log},\"stream\":\"{}\",\"time\":\"{time:.9}\"}}\n", output.name())
}

fn whole(input: &[u8]) -> Vec<LogItem> {
    let mut out = Vec::new();
    let mut parser = LogParser::new(Progress::default());
    parser.push(input, &mut out);
    parser.finish(&mut out);
    out
}

fn texts(items: &[LogItem]) -> Vec<(Level, &str)> {
    items
        .iter()
        .filter_map(|item| match item {
            LogItem::Line(line) => Some((line.level, line.text.as_str())),
            LogItem::Gap(_) => None,
        })
        .collect()
}

fn on(output: Output, lines: &[&str]) -> String {
    lines.iter().enumerate().map(|(n, text)| engine_line(output, n as u64, text)).collect()
}

#[test]
fn lines_get_their_level_time_and_output() {
    let input = on(Output::Stdout, &["hello\n", "WARNING x: careful\n", "\n", "   \n"])
        + &on(Output::Stderr, &["plain\n"]);
    let items = whole(input.as_bytes());
    assert_eq!(
        texts(&items),
        [(Level::Info, "hello"), (Level::Warning, "WARNING x: careful"), (Level::Info, "plain")]
    );
    let LogItem::Line(second) = &items[1] else { panic!("{items:?}") };
    assert_eq!((second.at, second.output), (WallNanos::new(START + MILLI), Output::Stdout));
}

#[test]
fn pieces_of_a_line_are_joined_and_progress_bars_show_their_last_state() {
    let input = on(
        Output::Stderr,
        &["one ", "line\n", "\r 10%|#", "\r 20%|##\r 30%|###\n", "dos\r\n", "\u{1b}[1", "mred\n"],
    );
    assert_eq!(
        texts(&whole(input.as_bytes())),
        [
            (Level::Info, "one line"),
            (Level::Info, " 30%|###"),
            (Level::Info, "dos"),
            (Level::Info, "red")
        ]
    );
}

#[test]
fn bars_come_with_their_line_or_with_the_next_when_nothing_is_left_of_it() {
    let pieces = ["\r  5%|#| 1/20 [", "x]\r          \r\n", "text\r 10%|#| 2/20 [x]\n", "more\n"];
    let items = whole(on(Output::Stderr, &pieces).as_bytes());
    let told: Vec<_> = items
        .iter()
        .filter_map(|item| if let LogItem::Line(line) = item { Some(line) } else { None })
        .map(|line| (&line.text[..], line.bars.iter().map(|bar| bar.done).collect::<Vec<_>>()))
        .collect();
    assert_eq!(told, [(" 10%|#| 2/20 [x]", vec![1, 2]), ("more", vec![])]);
}

#[test]
fn a_traceback_is_one_record_whatever_stdout_says_meanwhile() {
    let trace = [
        "INFO x: before\n",
        "Traceback (most recent call last):\n",
        "  File \"a.py\", line 1\n",
        "ValueError: no\n",
        "after\n",
    ];
    let mut input = String::new();
    for (n, text) in trace.iter().enumerate() {
        input += &engine_line(Output::Stderr, n as u64, text);
        input += &engine_line(Output::Stdout, n as u64, "step\n");
    }
    let items = whole(input.as_bytes());
    let found = texts(&items);
    let expected = (
        Level::Error,
        "Traceback (most recent call last):\n  File \"a.py\", line 1\nValueError: no",
    );
    assert!(found.contains(&expected), "{found:?}");
    assert_eq!(found.iter().filter(|(_, text)| *text == "step").count(), 5);
    assert_eq!(found.len(), 8);
}

#[test]
fn lines_far_apart_are_not_one_record() {
    let input = engine_line(Output::Stderr, 0, "Traceback (most recent call last):\n")
        + &engine_line(Output::Stderr, 5000, "  indented\n")
        + &engine_line(Output::Stderr, 5001, "no end")
        + &engine_line(Output::Stderr, 9000, "another\n");
    let items = whole(input.as_bytes());
    let found: Vec<&str> = texts(&items).iter().map(|(_, text)| *text).collect();
    assert_eq!(found, ["Traceback (most recent call last):", "  indented", "no end", "another"]);
}

#[test]
fn an_open_record_is_delivered_when_nothing_more_can_join_it() {
    let input = on(Output::Stderr, &["Traceback (most recent call last):\n", "  File\n", "E: x\n"]);
    let mut out = Vec::new();
    let mut parser = LogParser::new(Progress::default());
    parser.push(input.as_bytes(), &mut out);
    parser.idle(WallNanos::new(START + 3000 * MILLI), &mut out);
    assert_eq!(out, []);
    assert_eq!(parser.progress().resume(), 0);
    parser.idle(WallNanos::new(START + 6000 * MILLI), &mut out);
    assert_eq!(texts(&out), [(Level::Error, "Traceback (most recent call last):\n  File\nE: x")]);
    assert_eq!(parser.progress(), Progress::at(input.len() as u64));
}

#[test]
fn rubbish_and_endless_lines_are_counted_and_cost_only_themselves() {
    let good = engine_line(Output::Stdout, 0, "good\n");
    let endless = "z".repeat(3 * MAX_ENGINE_LINE_LEN);
    let input = format!("\0\0\0\n{good}{endless}\n{good}torn");
    let mut out = Vec::new();
    let mut parser = LogParser::new(Progress::default());
    for piece in input.as_bytes().chunks(10_000) {
        parser.push(piece, &mut out);
        assert!(parser.buffer.len() <= MAX_ENGINE_LINE_LEN + 10_000);
    }
    parser.end_of_file(&mut out);
    parser.finish(&mut out);
    let gaps = out.iter().filter(|item| matches!(item, LogItem::Gap(_))).count();
    assert_eq!((gaps, texts(&out).len()), (3, 2));
}

#[test]
fn a_flood_without_an_end_stays_bounded() {
    let flood: String =
        (0..64).map(|_| engine_line(Output::Stdout, 1, &"w".repeat(16 * 1024))).collect();
    let items = whole(flood.as_bytes());
    let found = texts(&items);
    assert!((3..8).contains(&found.len()), "{}", found.len());
    assert!(found.iter().all(|(_, text)| text.len() <= crate::logs::MAX_TEXT_LEN));
    let frames: Vec<String> =
        std::iter::once("Traceback (most recent call last):\n".to_owned())
            .chain((0..5000).map(|n| {
                format!("  File \"deep.py\", line {n}, in recurse_and_recurse_and_recurse\n")
            }))
            .chain(["RecursionError: too deep\n".to_owned()])
            .collect();
    let input: String = frames.iter().map(|text| engine_line(Output::Stderr, 1, text)).collect();
    let items = whole(input.as_bytes());
    assert!(texts(&items).iter().all(|(_, text)| text.len() <= crate::logs::MAX_TEXT_LEN));
}

#[test]
fn loss_closes_what_is_open() {
    let mut out = Vec::new();
    let mut parser = LogParser::new(Progress::default());
    parser.push(engine_line(Output::Stdout, 0, "half of").as_bytes(), &mut out);
    let position = parser.fed() + 1000;
    parser.lost(position, &mut out);
    parser.push(engine_line(Output::Stdout, 1, "new\n").as_bytes(), &mut out);
    assert_eq!(texts(&out), [(Level::Info, "half of"), (Level::Info, "new")]);
    assert!(matches!(out[1], LogItem::Gap(LogGap { cause: GapCause::Rotated, lines: None })));
    assert!(parser.progress().resume() > position);
}

/// The records of each output and the number of gaps. How the two outputs interleave depends on when records close.
fn by_output(items: &[LogItem]) -> ([Vec<LogLine>; 2], usize) {
    let mut found = ([Vec::new(), Vec::new()], 0);
    for item in items {
        match item {
            LogItem::Line(line) => found.0[line.output.index()].push(line.clone()),
            LogItem::Gap(_) => found.1 += 1,
        }
    }
    found
}

fn some_text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z ]{0,12}\n",
        2 => "[a-z\r\u{1b}\\[é]{0,12}",
        2 => Just("Traceback (most recent call last):\n".to_owned()),
        3 => "  [a-z]{1,9}\n",
        2 => Just("ValueError: x\n".to_owned()),
        1 => Just("\n".to_owned()),
        1 => Just("During handling of the above exception, another exception occurred:\n".to_owned()),
        1 => Just("ERROR x: y\n".to_owned()),
    ]
}

/// Lines of a file with the time of each, in order of time.
fn some_file() -> impl Strategy<Value = Vec<(u64, Vec<u8>)>> {
    let line =
        (any::<bool>(), prop_oneof![8 => 0_u64..3, 1 => 1500_u64..9000], some_text(), 0_u8..20);
    proptest::collection::vec(line, 0..40).prop_map(|lines| {
        let mut now = 0;
        let make = |(stderr, pause, text, odd): (bool, u64, String, u8)| {
            now += pause;
            let output = if stderr { Output::Stderr } else { Output::Stdout };
            let line = match odd {
                0 => b"rubbish\n".to_vec(),
                1 => b"\xff\xfe{\n".to_vec(),
                _ => engine_line(output, now, &text).into_bytes(),
            };
            (now, line)
        };
        lines.into_iter().map(make).collect()
    })
}

/// Feeds the file up to each cut, then starts anew from the progress as text. At each cut the wall clock is as late as it
/// can be: just before the next line is written.
fn in_pieces(lines: &[(u64, Vec<u8>)], cuts: &[usize], idle: bool) -> Vec<LogItem> {
    let input: Vec<u8> = lines.iter().flat_map(|(_, line)| line.clone()).collect();
    let mut out = Vec::new();
    let mut progress = Progress::default();
    let cuts: BTreeSet<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    for end in cuts {
        let mut parser = LogParser::new(progress);
        let from = usize::try_from(progress.resume()).expect("small");
        if from >= end {
            continue;
        }
        parser.push(&input[from..end], &mut out);
        if idle {
            let mut at = 0;
            let next = lines.iter().find(|(_, line)| {
                at += line.len();
                at > end
            });
            let millis = next.or(lines.last()).map_or(0, |(millis, _)| *millis);
            parser.idle(WallNanos::new(START + millis * MILLI), &mut out);
        }
        let text = serde_json::to_string(&parser.progress()).expect("text");
        progress = serde_json::from_str(&text).expect("progress");
    }
    let mut parser = LogParser::new(progress);
    parser.push(&input[usize::try_from(progress.resume()).expect("small")..], &mut out);
    parser.finish(&mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pieces_restarts_and_pauses_change_nothing(
        lines in some_file(),
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
        idle in any::<bool>(),
    ) {
        let at_once = in_pieces(&lines, &[], false);
        prop_assert_eq!(by_output(&in_pieces(&lines, &cuts, idle)), by_output(&at_once));
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        whole(&bytes);
    }
}
