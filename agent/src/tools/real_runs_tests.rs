//! Every reader over what real tools left (`tests/fixtures/make`): the figures that the tool's own state has, each once;
//! cut anywhere, a beginning of them and nothing else; and with what is no number among them.
//!
//! The truth is read without hone's code, from the `log_history` of the newest state of the same run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hone_proto::id::Step;

use super::fixtures::{Attempt, attempts, text_of};
use super::lines;
use super::point::{Point, Split};
use super::printed::{Dialect, PrintedReader};
use super::push::PushReader;
use super::state::TrainerState;
use super::tfevents;
use crate::logs::LogItem;
use crate::logs::parser::{LogParser, Progress};

/// Figures that every tool has, under hone's names, which here are the `Trainer`'s too.
const NAMES: [&str; 4] = ["eval_loss", "grad_norm", "learning_rate", "loss"];
/// Steps of a whole run.
const STEPS: u64 = 20;
/// What is kept of an event's figure.
const SINGLE: f64 = 1e-6;
/// Half of the fourth digit.
const FOUR_DIGITS: f64 = 6e-4;

/// Figures by step and name.
type Figures = BTreeMap<(u64, String), f64>;

impl Attempt {
    fn states(&self) -> Vec<PathBuf> {
        self.files(|path| path.ends_with("trainer_state.json"))
    }

    /// All figures of the run, as the newest state has them.
    fn truth(&self) -> Figures {
        let newest = self.states().into_iter().map(|path| truth_of(&path));
        newest.max_by_key(|(step, _)| *step).expect("a state").1
    }

    /// Whether all that was told is true, and nothing is missing of the steps that this attempt took.
    fn assert_whole(&self, told: &Figures, truth: &Figures, within: f64) {
        assert_true(told, truth, within, &self.name);
        let own = truth.keys().filter(|(step, _)| *step > self.begin);
        let missing: Vec<_> = own.filter(|place| !told.contains_key(*place)).collect();
        assert!(missing.is_empty(), "{}: nothing was told of {missing:?}", self.name);
    }
}

/// The step of a state and its figures, read as plain JSON.
fn truth_of(path: &Path) -> (u64, Figures) {
    let text = text_of(path);
    let state: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut figures = Figures::new();
    for log in state["log_history"].as_array().expect("a list") {
        let step = log["step"].as_u64().expect("a step");
        for name in NAMES {
            if let Some(value) = log[name].as_f64() {
                figures.insert((step, name.to_owned()), value);
            }
        }
    }
    (state["global_step"].as_u64().expect("a step"), figures)
}

/// What a reader told; no figure comes twice.
fn told(points: &[Point], whose: &str) -> Figures {
    let mut figures = Figures::new();
    for point in points {
        let step = point.step.map(Step::get).expect("a step");
        for (name, value) in point.values.iter().filter(|(name, _)| NAMES.contains(&name.as_str()))
        {
            let split = if name.starts_with("eval_") { Split::Eval } else { Split::Train };
            assert_eq!(point.split, split, "{whose}: {name} at {step}");
            let before = figures.insert((step, name.clone()), *value);
            // Held-out rows are measured again at the end, or when it goes on: nothing else comes twice.
            let again = before.is_none_or(|before| before == *value && split == Split::Eval);
            assert!(again, "{whose}: {name} at {step} comes twice");
        }
    }
    figures
}

/// Whether all that was told is true, to a part of its value. What was not told is another matter.
fn assert_true(told: &Figures, truth: &Figures, within: f64, whose: &str) {
    for (place, value) in told {
        let exact =
            truth.get(place).unwrap_or_else(|| panic!("{whose}: {place:?} was never logged"));
        assert!(
            (value - exact).abs() <= within * exact.abs(),
            "{whose}: {place:?} is {value}, not {exact}"
        );
    }
}

/// Ends of pieces, and the bytes beside them.
fn beside(ends: impl Iterator<Item = usize>, len: usize) -> Vec<usize> {
    ends.flat_map(|end| [end.saturating_sub(1), end, end + 1]).filter(|cut| *cut < len).collect()
}

fn line_ends(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1)
}

#[test]
fn states_say_what_they_hold_and_no_beginning_of_one_is_one() {
    for attempt in attempts() {
        let states = attempt.states();
        assert!(!states.is_empty(), "{} left no state", attempt.name);
        for path in states {
            let bytes = std::fs::read(&path).expect("bytes");
            let (step, truth) = truth_of(&path);
            let state = TrainerState::parse(&bytes, None).expect("a state");
            assert_eq!((state.global_step.get(), state.max_steps), (step, Some(Step::new(STEPS))));
            assert_eq!((state.is_finished(), state.malformed), (step == STEPS, 0));
            let whose = path.display().to_string();
            assert_eq!(told(&state.points, &whose), truth, "{whose}");
            let losses = truth.keys().filter(|(_, name)| name == "loss").count() as u64;
            assert_eq!(losses, step, "{whose}: a loss for each step");
            let whole = bytes.trim_ascii_end().len();
            for cut in beside(line_ends(&bytes), whole) {
                assert!(TrainerState::parse(&bytes[..cut], None).is_err(), "{whose} cut at {cut}");
            }
        }
    }
}

/// Ends of the records of an event file.
fn record_ends(bytes: &[u8]) -> Vec<usize> {
    let (mut at, mut ends) = (0, Vec::new());
    while let Some(head) = bytes.get(at..at + 8) {
        let length = u64::from_le_bytes(head.try_into().expect("eight bytes"));
        at += 12 + usize::try_from(length).expect("small") + 4;
        ends.push(at);
    }
    ends
}

fn events(bytes: &[u8]) -> Vec<Point> {
    let mut points = Vec::new();
    tfevents::flood(bytes, |batch| {
        assert_eq!((batch.corrupt, batch.malformed, batch.passed), (0, 0, 0));
        points.extend(batch.points);
    });
    points
}

#[test]
fn event_files_say_what_the_state_says_and_cut_off_a_beginning_of_it() {
    let mut read = 0;
    for attempt in attempts() {
        let truth = attempt.truth();
        let mut all = Vec::new();
        for path in
            attempt.files(|path| path.contains("/metrics/tb/") && path.contains(".tfevents."))
        {
            let bytes = std::fs::read(&path).expect("bytes");
            all.extend(events(&bytes));
            for cut in beside(record_ends(&bytes).into_iter(), bytes.len()) {
                let whose = format!("{} cut at {cut}", attempt.name);
                assert_true(&told(&events(&bytes[..cut]), &whose), &truth, SINGLE, &whose);
            }
        }
        if !all.is_empty() {
            attempt.assert_whole(&told(&all, &attempt.name), &truth, SINGLE);
            read += 1;
        }
    }
    assert_eq!(read, 10, "all but the one without TensorBoard, twice each");
}

fn json_lines(bytes: &[u8]) -> (Vec<Point>, u64) {
    let (mut points, mut malformed) = (Vec::new(), 0);
    lines::flood(bytes, |batch| {
        points.extend(batch.points);
        malformed += batch.malformed;
    });
    (points, malformed)
}

#[test]
fn llamafactory_s_log_says_what_the_state_says_and_cut_off_a_beginning_of_it() {
    let mut read = 0;
    for attempt in attempts() {
        for path in attempt.files(|path| path.ends_with("/output/trainer_log.jsonl")) {
            let mut truth = attempt.truth();
            // It does not write how steep the loss was.
            truth.retain(|(_, name), _| name != "grad_norm");
            let bytes = std::fs::read(&path).expect("bytes");
            let (points, malformed) = json_lines(&bytes);
            assert_eq!(malformed, 0, "{}", attempt.name);
            attempt.assert_whole(&told(&points, &attempt.name), &truth, 0.0);
            for cut in beside(line_ends(&bytes), bytes.len()) {
                let whose = format!("{} cut at {cut}", attempt.name);
                let (points, malformed) = json_lines(&bytes[..cut]);
                assert_eq!(malformed, 0, "{whose}");
                assert_true(&told(&points, &whose), &truth, 0.0, &whose);
            }
            read += 1;
        }
    }
    assert_eq!(read, 2);
}

/// Both outputs as an engine keeps them, stdout first, read by lines.
fn printed(dialect: Dialect, stdout: &str, stderr: &str) -> Vec<Point> {
    let mut kept = String::new();
    for (stream, text) in [("stdout", stdout), ("stderr", stderr)] {
        for log in text.split_inclusive('\n') {
            let time = "2026-11-29T10:00:00Z";
            let line = serde_json::json!({"log": log, "stream": stream, "time": time});
            kept.push_str(&format!("{line}\n"));
        }
    }
    let (mut parser, mut out) = (LogParser::new(Progress::default()), Vec::new());
    parser.push(kept.as_bytes(), &mut out);
    parser.finish(&mut out);
    let mut reader = PrintedReader::new(dialect);
    let line = |item| if let LogItem::Line(line) = item { Some(line) } else { None };
    out.into_iter().filter_map(line).flat_map(|line| reader.line(&line)).collect()
}

#[test]
fn printed_logs_get_the_steps_that_the_state_says_or_none() {
    for attempt in attempts() {
        let (truth, (stdout, stderr)) =
            (attempt.truth(), (attempt.text("stdout.txt"), attempt.text("stderr.txt")));
        for dialect in [Dialect::HuggingFace, Dialect::Any] {
            let found = told(&printed(dialect, &stdout, &stderr), &attempt.name);
            // Without a bar no step is certain; hone leaves one where nothing better is there.
            if attempt.name.starts_with("hf-4") {
                attempt.assert_whole(&found, &truth, FOUR_DIGITS);
            } else {
                assert_true(&found, &truth, FOUR_DIGITS, &attempt.name);
            }
        }
        let logs = stdout.match_indices("\n{'").map(|(at, _)| at + 1);
        for cut in beside(logs, stdout.len()) {
            let Some(part) = stdout.get(..cut) else { continue };
            let whose = format!("{}, stdout cut at {cut}", attempt.name);
            assert_true(
                &told(&printed(Dialect::HuggingFace, part, &stderr), &whose),
                &truth,
                FOUR_DIGITS,
                &whose,
            );
        }
    }
}

#[test]
fn what_was_pushed_says_where_a_run_begins_and_ends() {
    let mut read = 0;
    for attempt in attempts() {
        let Ok(posts) = std::fs::read_to_string(attempt.folder.join("metrics/posts.txt")) else {
            continue;
        };
        let (mut reader, mut points) = (PushReader::default(), Vec::new());
        let mut said = Vec::new();
        for post in posts.lines() {
            let body = &post[post.find('{').expect("a body")..];
            let pushed = reader.read(body.as_bytes()).expect("a body");
            said.push((pushed.progress.total, pushed.percent));
            points.extend(pushed.points.into_iter().filter(|point| point.step.is_some()));
            for cut in (0..body.len()).step_by(7) {
                let cut = body.floor_char_boundary(cut);
                assert!(PushReader::default().read(&body.as_bytes()[..cut]).is_none());
            }
        }
        // Of so short a run little but the begin and the end is pushed, and the end says no step: figures with their
        // steps are in the bodies of `push_tests`.
        assert_eq!(said.first(), Some(&(Some(Step::new(STEPS)), Some(0))), "{}", attempt.name);
        assert_eq!(said.last(), Some(&(None, Some(100))), "{}", attempt.name);
        assert_true(&told(&points, &attempt.name), &attempt.truth(), 0.0, &attempt.name);
        read += 1;
    }
    assert_eq!(read, 10, "all but the one whose transformers is too old, twice each");
}

/// torchtune's own log: it has no state, so the truth is its text, split at blanks.
fn torchtune_truth(text: &str) -> Figures {
    let mut figures = Figures::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let step = words.nth(1).expect("a step").parse().expect("a number");
        for (tool, name) in [("loss", "loss"), ("lr", "learning_rate"), ("grad_norm", "grad_norm")]
        {
            let begin = format!("{tool}:");
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(&begin));
            let value = word.expect("a figure").parse().expect("a number");
            figures.insert((step, name.to_owned()), value);
        }
    }
    figures
}

#[test]
fn torchtune_s_log_and_bar_are_read_whole_and_cut_off() {
    let attempt = Attempt::first("torchtune-0.6.1-lora");
    let logs = attempt.files(|path| path.contains("/output/logs/log_"));
    let [log] = logs.as_slice() else { panic!("{logs:?}") };
    let bytes = std::fs::read(log).expect("bytes");
    let truth = torchtune_truth(std::str::from_utf8(&bytes).expect("text"));
    assert_eq!(truth.len() as u64, 3 * STEPS);
    let (points, malformed) = json_lines(&bytes);
    assert_eq!((told(&points, "torchtune"), malformed), (truth.clone(), 0));
    for cut in beside(line_ends(&bytes), bytes.len()) {
        let whose = format!("torchtune cut at {cut}");
        let (points, malformed) = json_lines(&bytes[..cut]);
        assert_eq!(malformed, 0, "{whose}");
        assert_true(&told(&points, &whose), &truth, 0.0, &whose);
    }
    let spoilt = spoilt(&text_of(log), "loss:", "nan", 4).expect("a loss");
    let (points, _) = json_lines(spoilt.as_bytes());
    let found = told(&points, "torchtune");
    assert!(found[&(5, "loss".to_owned())].is_nan() && found.len() == truth.len());
    // Its bar has the loss of each step too, and is drawn several times with it.
    let (stdout, stderr) = (attempt.text("stdout.txt"), attempt.text("stderr.txt"));
    for dialect in [Dialect::Torchtune, Dialect::Any] {
        let mut steps = BTreeSet::new();
        for point in printed(dialect, &stdout, &stderr) {
            steps.extend(point.step.map(Step::get));
            assert_true(&told(&[point], "the bar"), &truth, 0.0, "the bar");
        }
        assert_eq!(steps, (1..=STEPS).collect(), "{dialect:?}");
    }
}

/// `text` with the figure of one log replaced, and the step of that log.
fn spoilt(text: &str, mark: &str, word: &str, nth: usize) -> Option<String> {
    let (at, _) = text.match_indices(mark).nth(nth)?;
    let begin = at + mark.len();
    let end = begin + text[begin..].find([',', ' ', '\n', '}'])?;
    Some(format!("{}{word}{}", &text[..begin], &text[end..]))
}

/// The figures of the truth, one of which is no number now.
fn assert_spoilt(found: &Figures, truth: &Figures, step: u64, word: &str, whose: &str) {
    let (place, value) = ((step, "loss".to_owned()), found[&(step, "loss".to_owned())]);
    match word {
        "NaN" => assert!(value.is_nan(), "{whose}: {value}"),
        "Infinity" => assert_eq!(value, f64::INFINITY, "{whose}"),
        _ => assert_eq!(value, f64::NEG_INFINITY, "{whose}"),
    }
    let others = |all: &Figures| -> Figures {
        all.iter().filter(|(at, _)| **at != place).map(|(at, value)| (at.clone(), *value)).collect()
    };
    assert_eq!(others(found), others(truth), "{whose}");
}

#[test]
fn what_is_no_number_is_told_as_that_and_spoils_nothing_else() {
    let mut spoils = 0;
    for attempt in attempts() {
        for (nth, word) in ["NaN", "Infinity", "-Infinity"].into_iter().enumerate() {
            let whose = format!("{} with {word}", attempt.name);
            for path in attempt.states() {
                let (_, truth) = truth_of(&path);
                let text = text_of(&path);
                // The state of a first step has one loss.
                let Some(text) = spoilt(&text, "\"loss\": ", word, nth) else { continue };
                let state = TrainerState::parse(text.as_bytes(), None).expect("a state");
                assert_spoilt(&told(&state.points, &whose), &truth, nth as u64 + 1, word, &whose);
                spoils += 1;
            }
            for path in attempt.files(|path| path.ends_with("/output/trainer_log.jsonl")) {
                let text = text_of(&path);
                let (before, _) = json_lines(text.as_bytes());
                let truth = told(&before, &whose);
                let text = spoilt(&text, "\"loss\": ", word, nth).expect("a loss");
                let (points, malformed) = json_lines(text.as_bytes());
                assert_eq!(malformed, 0, "{whose}");
                assert_spoilt(
                    &told(&points, &whose),
                    &truth,
                    attempt.begin + nth as u64 + 1,
                    word,
                    &whose,
                );
                spoils += 1;
            }
        }
    }
    assert!(spoils > 60, "{spoils}");
}
