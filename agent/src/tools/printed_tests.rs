//! What a real run printed, as an engine hands it on: whole, cut, out of step, and mixed with junk.

use hone_proto::time::WallNanos;

use super::*;
use crate::logs::LogItem;
use crate::logs::parser::{LogParser, Progress};
use crate::tools::fixtures;
use crate::tools::point::Split;
use crate::tools::state::TrainerState;

/// Output as the engine keeps it: a line at a time, and what has no end in pieces.
fn engine(stream: &str, text: &str) -> String {
    let line = |piece: &str| {
        let time = "2026-11-29T10:00:00Z";
        format!("{}\n", serde_json::json!({"log": piece, "stream": stream, "time": time}))
    };
    text.split_inclusive('\n').map(line).collect()
}

fn lines(kept: &str) -> Vec<LogLine> {
    let mut parser = LogParser::new(Progress::default());
    let mut out = Vec::new();
    parser.push(kept.as_bytes(), &mut out);
    parser.finish(&mut out);
    let line = |item| if let LogItem::Line(line) = item { Some(line) } else { None };
    out.into_iter().filter_map(line).collect()
}

fn read(dialect: Dialect, kept: &str) -> Vec<Point> {
    let mut reader = PrintedReader::new(dialect);
    lines(kept).iter().flat_map(|line| reader.line(line)).collect()
}

fn stdout() -> String {
    fixtures::text("hf5-trl-lora/stdout.txt")
}

fn stderr() -> String {
    fixtures::text("hf5-trl-lora/stderr-tqdm.txt")
}

fn state() -> TrainerState {
    let state = fixtures::bytes("hf5-trl-lora/checkpoint-40/trainer_state.json");
    TrainerState::parse(&state, None).expect("a state")
}

/// Figures that the state has at the same step, to four digits, as most of them are.
fn agree(points: &[Point], state: &TrainerState) -> usize {
    let mut compared = 0;
    for point in points {
        for name in ["loss", "eval_loss", "grad_norm", "learning_rate"] {
            let Some(value) = point.values.get(name) else { continue };
            let same = |p: &&Point| p.step == point.step && p.values.contains_key(name);
            let exact = state.points.iter().find(same).map(|p| p.values[name]);
            let exact = exact.unwrap_or_else(|| panic!("{name} has no step {:?}", point.step));
            assert!((value - exact).abs() <= 6e-4 * exact.abs(), "{name} at {:?}", point.step);
            compared += 1;
        }
    }
    compared
}

#[test]
fn a_real_run_s_logs_get_the_steps_that_its_state_says() {
    let state = state();
    for kept in [
        // The bars come late, or first; the logs' own order is the same.
        format!("{}{}", engine("stdout", &stdout()), engine("stderr", &stderr())),
        format!("{}{}", engine("stderr", &stderr()), engine("stdout", &stdout())),
    ] {
        let points = read(Dialect::HuggingFace, &kept);
        assert_eq!(agree(&points, &state), 26, "eight logs of three, two evaluations");
        let last = points.last().expect("points");
        assert!(last.values.contains_key("train_loss"));
        assert_eq!((last.step, last.source), (Some(Step::new(40)), Source::Printed));
        assert!(points.iter().all(|point| point.at.is_some()));
        let evals = points.iter().filter(|p| p.split == Split::Eval);
        assert_eq!(evals.filter_map(|p| p.step.map(Step::get)).collect::<Vec<_>>(), [20, 40]);
    }
}

#[test]
fn on_one_output_the_bar_before_a_log_is_behind_and_the_one_after_it_counts() {
    let text = "\r  0%|   | 0/40 [00:00<?, ?it/s]\r  5%|   | 2/40 [x]\r          \r\
                {'loss': 3.0, 'epoch': 0.05}\n\r 12%|   | 5/40 [x]\r          \r\
                {'loss': 2.0, 'epoch': 0.1}\n\r 25%|   | 10/40 [x]\n";
    let points = read(Dialect::HuggingFace, &engine("stderr", text));
    let told: Vec<_> = points.iter().map(|p| (p.step.map(Step::get), p.values["loss"])).collect();
    assert_eq!(told, [(Some(5), 3.0), (Some(10), 2.0)]);
}

#[test]
fn cut_anywhere_no_log_gets_a_wrong_step() {
    let (stdout, stderr, state) = (stdout(), stderr(), state());
    let mut most = 0;
    for (nth, (at, _)) in stderr.char_indices().enumerate() {
        if nth % 3 != 0 {
            continue;
        }
        let kept = format!("{}{}", engine("stdout", &stdout), engine("stderr", &stderr[..at]));
        most = most.max(agree(&read(Dialect::HuggingFace, &kept), &state));
    }
    assert_eq!(most, 26);
    for (at, _) in stdout.char_indices().step_by(5) {
        let kept = format!("{}{}", engine("stdout", &stdout[..at]), engine("stderr", &stderr));
        agree(&read(Dialect::HuggingFace, &kept), &state);
    }
}

#[test]
fn a_gap_ends_what_is_counted() {
    let kept = format!("{}{}", engine("stdout", &stdout()), engine("stderr", &stderr()));
    let mut reader = PrintedReader::new(Dialect::HuggingFace);
    let mut told = 0;
    for (nth, line) in lines(&kept).iter().enumerate() {
        if nth == 5 {
            reader.lost();
        }
        told += reader.line(line).len();
    }
    assert_eq!(told, 0);
}

#[test]
fn each_tool_s_lines_are_read_and_those_of_others_are_not() {
    let torchtune = "1|1|Loss: 2.5:   0%|   | 0/9 [x]\r1|1|Loss: 2.5:  11%|   | 1/9 [x]\r\
                     1|2|Loss: 2.25:  22%|   | 2/9 [x]\n";
    let kept = engine("stderr", torchtune);
    let steps = |dialect| -> Vec<_> {
        read(dialect, &kept).iter().map(|p| (p.step.map(Step::get), p.values["loss"])).collect()
    };
    assert_eq!(steps(Dialect::Torchtune), [(Some(1), 2.5), (Some(1), 2.5), (Some(2), 2.25)]);
    assert_eq!(steps(Dialect::HuggingFace), []);
    let titan = engine("stderr", "\u{1b}[31mstep: \u{1b}[32m 7 \u{1b}[36m loss: \u{1b}[0m 2.5\n");
    assert_eq!(read(Dialect::Torchtune, &titan), []);
    let found = read(Dialect::Any, &titan);
    assert_eq!((found[0].step, found[0].values["loss"]), (Some(Step::new(7)), 2.5));
}

#[test]
fn junk_of_any_form_yields_nothing_and_stays_bounded() {
    let mut reader = PrintedReader::new(Dialect::Any);
    let long = "9".repeat(MAX_LINE_LEN + 1);
    for text in [
        format!("{{'loss': {long}, 'epoch': 1}}"),
        format!("{{'{long}': 1, 'epoch': 1}}"),
        format!("step: 1 loss: {}", "9".repeat(100)),
        "{".repeat(8000),
        "{'a': 'b', ".repeat(700),
        "é".repeat(4000),
    ] {
        let line = LogLine {
            at: WallNanos::new(1),
            output: crate::logs::Output::Stdout,
            level: hone_proto::event::Level::Info,
            text,
            bars: Vec::new(),
        };
        assert_eq!(reader.line(&line), []);
    }
    assert_eq!(number("1,234.5"), Some(1234.5));
    for text in ["", "-", "infinity", "1e", "0x10", "1_000", "1.5%", "nano", "1e999", "-9e400"] {
        assert_eq!(number(text), None, "{text}");
    }
}
