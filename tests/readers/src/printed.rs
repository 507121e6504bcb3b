//! What a container prints, as its engine keeps it: lines, bars, and the figures of each tool's form.

use hone_agent::logs::parser::{LogParser, Progress};
use hone_agent::logs::{LogItem, LogLine, MAX_TEXT_LEN, Output};
use hone_agent::tools::point::Source;
use hone_agent::tools::printed::{Dialect, PrintedReader};

use crate::check;

/// Parts the pieces of stdout from those of stderr, which follow each other in turn. No text holds this byte.
pub(crate) const TURN: u8 = 0xff;

/// The engine's own file, as it is.
pub(crate) fn logs(bytes: &[u8]) {
    let _ = lines(bytes);
}

/// The dictionaries of the Hugging Face `Trainer`, with its bars.
pub(crate) fn dict(bytes: &[u8]) {
    printed(Dialect::HuggingFace, bytes);
}

/// torchtune's bars.
pub(crate) fn torchtune(bytes: &[u8]) {
    printed(Dialect::Torchtune, bytes);
}

/// All forms: those, torchtitan's lines and Keras's progress.
pub(crate) fn any(bytes: &[u8]) {
    printed(Dialect::Any, bytes);
}

fn printed(dialect: Dialect, bytes: &[u8]) {
    let lines = lines(&engine(bytes));
    let mut reader = PrintedReader::new(dialect);
    let mut steps = Vec::new();
    for line in &lines {
        let points = reader.line(line);
        check::points(&points, Source::Printed);
        check::odd_values_were_written(&points, bytes);
        let placed = points.iter().all(|point| point.step.is_some() && point.at.is_some());
        assert!(placed, "a figure whose step is not certain: {points:?}");
        for (pass, step) in reader.passes() {
            assert!(pass > 0 && step.get() >= pass, "pass {pass} ends at step {step}");
            steps.push(step);
        }
    }
    if dialect != Dialect::Any {
        assert_eq!(steps, [], "only Keras tells its passes");
    }
    // What is missing somewhere makes the steps of the Trainer's logs uncertain, for good.
    let mut reader = PrintedReader::new(Dialect::HuggingFace);
    reader.lost();
    assert!(lines.iter().all(|line| reader.line(line).is_empty()), "a step was guessed");
}

/// The file in which an engine keeps what was printed: a line at a time, and what has no end in pieces.
pub(crate) fn engine(bytes: &[u8]) -> Vec<u8> {
    let mut file = String::new();
    for (nth, piece) in bytes.split(|byte| *byte == TURN).enumerate() {
        let stream = if nth % 2 == 0 { "stdout" } else { "stderr" };
        for line in String::from_utf8_lossy(piece).split_inclusive('\n') {
            let line =
                serde_json::json!({"log": line, "stream": stream, "time": "2026-11-29T10:00:00Z"});
            file.push_str(&line.to_string());
            file.push('\n');
        }
    }
    file.into_bytes()
}

/// The lines of an engine's file: the same in two pieces, also with a new life of the agent between them.
fn lines(file: &[u8]) -> Vec<LogLine> {
    let mut whole = Vec::new();
    let mut parser = LogParser::new(Progress::default());
    parser.push(file, &mut whole);
    assert_eq!(parser.fed(), file.len() as u64);
    parser.finish(&mut whole);
    let (first, rest) = file.split_at(check::cut(file));
    let mut pieces = Vec::new();
    let mut parser = LogParser::new(Progress::default());
    parser.push(first, &mut pieces);
    let (kept, mut resumed) = (parser.progress(), pieces.clone());
    parser.push(rest, &mut pieces);
    parser.finish(&mut pieces);
    assert_eq!(pieces, whole, "in two pieces");
    let mut parser = LogParser::new(kept);
    let from = usize::try_from(kept.resume()).expect("within the file");
    assert!(from <= first.len());
    parser.push(&file[from..], &mut resumed);
    parser.finish(&mut resumed);
    for output in [Output::Stdout, Output::Stderr] {
        assert_eq!(texts(&resumed, output), texts(&whole, output), "after another life");
    }
    let gaps = |items: &[LogItem]| items.iter().filter(|i| matches!(i, LogItem::Gap(_))).count();
    assert_eq!(gaps(&resumed), gaps(&whole), "after another life");
    let line = |item| if let LogItem::Line(line) = item { Some(line) } else { None };
    let lines: Vec<LogLine> = whole.into_iter().filter_map(line).collect();
    for line in &lines {
        assert!((1..=MAX_TEXT_LEN).contains(&line.text.len()) && line.bars.len() <= 8192);
        assert!(!line.text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')));
    }
    lines
}

fn texts(items: &[LogItem], of: Output) -> Vec<&str> {
    let lines = items.iter().filter_map(|item| match item {
        LogItem::Line(line) => Some(line),
        LogItem::Gap(_) => None,
    });
    lines.filter(|line| line.output == of).map(|line| &line.text[..]).collect()
}
