//! What every reader yields: figures at a place in training, and how far training is.

use std::collections::BTreeMap;

use hone_proto::id::Step;
use hone_proto::time::WallNanos;
use serde::{Deserialize, Serialize};

use super::names::{self, Meaning};

/// Most figures of one point; the most talkative tool has about forty.
const MAX_VALUES: usize = 256;
/// Longest name of a figure, in bytes.
const MAX_NAME_LEN: usize = 128;

/// Where a figure was read, the least trusted first: of two for the same name and step the greater one stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A line on stdout or stderr: few digits, often without a step.
    Printed,
    /// `trainer_state.json`: exact, and late.
    StateFile,
    /// TensorBoard's files: single precision.
    TensorBoard,
    /// A tool's own file of JSON lines.
    JsonLines,
    /// Pushed over HTTP.
    Push,
    /// hone's own trainer.
    Native,
}

/// What a figure was measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// The rows that are trained on.
    Train,
    /// Rows held out while training.
    Eval,
    /// Rows held out for the end.
    Test,
}

impl Split {
    /// Its name, as records have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
            Self::Test => "test",
        }
    }
}

/// Figures at one place in training.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Optimizer steps completed, when the tool says so.
    pub step: Option<Step>,
    /// Position in the data, in passes.
    pub epoch: Option<f64>,
    /// What the figures were measured on.
    pub split: Split,
    /// The figures by hone's names (see [`names`]); may be infinite or not a number. Never empty.
    pub values: BTreeMap<String, f64>,
    /// When it was measured or written, when the tool says so.
    pub at: Option<WallNanos>,
    /// Where it was read.
    pub source: Source,
}

/// How far training is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Progress {
    /// Optimizer steps completed.
    pub step: Option<Step>,
    /// Optimizer steps in all.
    pub total: Option<Step>,
    /// Position in the data, in passes; tools round it.
    pub epoch: Option<f64>,
    /// The tool's own guess of the seconds that remain.
    pub remaining_s: Option<u64>,
}

impl Progress {
    /// Whether it says anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is known now, given what was said later.
    pub fn renew(&mut self, later: Self) {
        self.step = later.step.or(self.step);
        self.total = later.total.or(self.total);
        self.epoch = later.epoch.or(self.epoch);
        self.remaining_s = later.remaining_s.or(self.remaining_s);
    }
}

/// Puts the figures of one place together, under hone's names and by split.
#[derive(Debug)]
pub(super) struct Gather {
    pub(super) source: Source,
    pub(super) at: Option<WallNanos>,
    pub(super) progress: Progress,
    splits: BTreeMap<Split, Figures>,
}

#[derive(Debug, Default)]
struct Figures {
    values: BTreeMap<String, f64>,
    /// Of names that tools have several figures for: the tool's name for the one that stands, and its rank.
    ranked: BTreeMap<&'static str, (u8, String)>,
}

impl Gather {
    pub(super) fn new(source: Source) -> Self {
        Self { source, at: None, progress: Progress::default(), splits: BTreeMap::new() }
    }

    /// Takes one figure under the tool's own name.
    pub(super) fn put(&mut self, raw: &str, value: f64) {
        match names::meaning(raw) {
            Meaning::Step => self.progress.step = whole_step(value).or(self.progress.step),
            Meaning::Total => self.progress.total = whole_step(value).or(self.progress.total),
            Meaning::Epoch => {
                self.progress.epoch = Some(value).filter(|v| v.is_finite()).or(self.progress.epoch);
            }
            Meaning::Known { split, name, rank } => {
                self.splits.entry(split).or_default().put_known(name, rank, raw, value);
            }
            Meaning::Other { split, name } => self.put_other(split, &name, value),
        }
    }

    /// Takes one figure whose split and name are certain.
    pub(super) fn put_other(&mut self, split: Split, name: &str, value: f64) {
        self.splits.entry(split).or_default().put(name, value);
    }

    /// How many figures there are.
    pub(super) fn count(&self) -> usize {
        self.splits.values().map(|figures| figures.values.len()).sum()
    }

    /// The points, one for each split that has figures, all at the same place.
    pub(super) fn finish(self) -> impl Iterator<Item = Point> {
        let Self { source, at, progress, splits } = self;
        splits.into_iter().filter(|(_, figures)| !figures.values.is_empty()).map(
            move |(split, figures)| Point {
                step: progress.step,
                epoch: progress.epoch,
                split,
                values: figures.values,
                at,
                source,
            },
        )
    }
}

impl Figures {
    fn put(&mut self, name: &str, value: f64) {
        let usable = (1..=MAX_NAME_LEN).contains(&name.len())
            && !name.chars().any(char::is_control)
            && (self.values.len() < MAX_VALUES || self.values.contains_key(name));
        if usable {
            self.values.insert(name.to_owned(), value);
        }
    }

    /// Of several figures for one name the best ranked stands; the others keep the tool's names.
    fn put_known(&mut self, name: &'static str, rank: u8, raw: &str, value: f64) {
        // Without the part that says what it was measured on.
        let raw = raw.rsplit_once('/').map_or(raw, |(_, last)| last);
        match self.ranked.get(name) {
            Some((better, _)) if *better < rank => return self.put(raw, value),
            Some((worse, other)) if *worse > rank => {
                let (other, moved) = (other.clone(), self.values.get(name).copied());
                if let Some(moved) = moved {
                    self.put(&other, moved);
                }
            }
            _ => {}
        }
        self.ranked.insert(name, (rank, raw.to_owned()));
        self.put(name, value);
    }
}

/// A step as tools write it; some write it with a decimal point.
pub(super) fn whole_step(value: f64) -> Option<Step> {
    let value = serde_json::Number::from_f64(value).map(serde_json::Value::Number)?;
    crate::trainer::record::whole(&value).map(Step::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(figures: &[(&str, f64)]) -> Vec<Point> {
        let mut gather = Gather::new(Source::Push);
        figures.iter().for_each(|(name, value)| gather.put(name, *value));
        gather.finish().collect()
    }

    #[test]
    fn trust_is_in_the_order() {
        let order = [
            Source::Native,
            Source::Push,
            Source::JsonLines,
            Source::TensorBoard,
            Source::StateFile,
            Source::Printed,
        ];
        assert!(order.is_sorted_by(|a, b| a > b));
    }

    #[test]
    fn an_entry_becomes_one_point_per_split() {
        let found = points(&[
            ("eval_loss", 2.0),
            ("num_input_tokens_seen", 7.0),
            ("step", 20.0),
            ("epoch", 0.5),
        ]);
        let told: Vec<_> = found
            .iter()
            .map(|p| (p.split, p.step.map(Step::get), p.epoch, p.values.keys().next().cloned()))
            .collect();
        assert_eq!(
            told,
            [
                (Split::Train, Some(20), Some(0.5), Some("tokens_seen".to_owned())),
                (Split::Eval, Some(20), Some(0.5), Some("eval_loss".to_owned())),
            ]
        );
    }

    #[test]
    fn the_better_of_two_figures_stands_whatever_their_order() {
        for figures in [
            [("num_tokens", 5.0), ("num_input_tokens_seen", 7.0)],
            [("num_input_tokens_seen", 7.0), ("num_tokens", 5.0)],
        ] {
            let found = points(&figures);
            assert_eq!(found[0].values["tokens_seen"], 7.0);
            assert_eq!(found[0].values["num_tokens"], 5.0);
        }
    }

    #[test]
    fn names_that_cannot_be_kept_are_left_out_and_a_point_is_never_empty() {
        assert_eq!(points(&[("", 1.0), ("a\nb", 1.0), (&"x".repeat(200), 1.0), ("step", 3.0)]), []);
        let many: Vec<String> = (0..1000).map(|n| format!("figure_{n}")).collect();
        let figures: Vec<_> = many.iter().map(|name| (name.as_str(), 1.0)).collect();
        assert_eq!(points(&figures)[0].values.len(), MAX_VALUES);
    }
}
