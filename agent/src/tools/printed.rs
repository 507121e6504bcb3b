//! What tools print of their figures, one line at a time: the least trusted source, and for some tools the only one that
//! is there while they run.
//!
//! A figure without its step is worth nothing here, and a wrong step is worse: lines whose step is not certain yield
//! nothing, and the state file tells them later. What is understood goes by the tool: `dict` and `logs` the Hugging
//! Face `Trainer`'s, `torch` torchtune's and torchtitan's, `keras` Keras's.

mod dict;
mod keras;
mod logs;
pub(super) mod torch;

use hone_proto::id::Step;

use super::point::{Gather, Point, Source};
use crate::logs::{Bar, LogLine};

use keras::Epochs;
use logs::Logs;

/// Longest line that is looked at, in bytes: the most talkative tool prints a fifth of it.
const MAX_LINE_LEN: usize = 8192;

/// Whose lines are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The Hugging Face `Trainer`'s.
    HuggingFace,
    /// torchtune's.
    Torchtune,
    /// Any of those that are known.
    Any,
}

/// Reads the lines of one attempt, in order.
#[derive(Debug)]
pub struct PrintedReader {
    dialect: Dialect,
    logs: Logs,
    epochs: Epochs,
}

impl PrintedReader {
    /// A reader from the attempt's first line on.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, logs: Logs::default(), epochs: Epochs::default() }
    }

    /// Lines are missing here, or come again: what depends on their number is over.
    pub fn lost(&mut self) {
        self.logs.give_up();
        self.epochs = Epochs::default();
    }

    /// Whole passes over the data that ended since this was asked last, with their steps.
    pub fn passes(&mut self) -> Vec<(u64, Step)> {
        self.epochs.passes()
    }

    /// The figures whose steps are certain with this line; they may be those of earlier ones.
    pub fn line(&mut self, line: &LogLine) -> Vec<Point> {
        let mut points = Vec::new();
        for bar in &line.bars {
            self.bar(bar, &mut points);
        }
        if line.text.len() <= MAX_LINE_LEN {
            self.text(&line.text, &mut points);
        }
        for point in &mut points {
            point.at = point.at.or(Some(line.at));
        }
        points
    }

    fn bar(&mut self, bar: &Bar, points: &mut Vec<Point>) {
        if self.dialect != Dialect::HuggingFace {
            points.extend(torch::torchtune(&bar.label));
        }
        if self.dialect != Dialect::Torchtune && bar.redrawn {
            points.extend(self.logs.redrawn(bar.done, bar.total));
        }
    }

    fn text(&mut self, text: &str, points: &mut Vec<Point>) {
        if self.dialect != Dialect::Torchtune
            && let Some(log) = dict::parse(text)
        {
            points.extend(self.logs.log(log));
        }
        if self.dialect != Dialect::HuggingFace {
            let mut gather = gather();
            if torch::put_torchtune(text, &mut gather).is_some() {
                points.extend(gather.finish());
            }
        }
        if self.dialect == Dialect::Any {
            points.extend(torch::torchtitan(text));
            points.extend(self.epochs.line(text));
        }
    }
}

/// A number as people and Python write it: with commas between thousands, `nan` and `inf` too, with nothing after it.
/// One that is too large to be held is none: nobody wrote that it is infinite.
fn number(text: &str) -> Option<f64> {
    let word = text.trim_start_matches(['+', '-']);
    let begins = word.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let named = ["nan", "inf"].iter().any(|name| word.eq_ignore_ascii_case(name));
    if !(begins || named) || text.len() > 64 {
        return None;
    }
    let number: f64 =
        if text.contains(',') { text.replace(',', "").parse() } else { text.parse() }.ok()?;
    (named || number.is_finite()).then_some(number)
}

/// Figures without a place, to be filled.
fn gather() -> Gather {
    Gather::new(Source::Printed)
}

#[cfg(test)]
#[path = "printed_tests.rs"]
mod tests;
