//! Typed access to the tree: every look checks shape and bounds by the table of keys and notes what is wrong.
//!
//! A value that is wrong reads as absent, so that one reading finds all the problems; what was read is used only when
//! there were none.

use hone_proto::quantity::Bytes;

use super::error::{Place, ProblemKind, quoted};
use super::keys::{self, Shape};
use super::node::{Entry, Node, Value};
use super::not_yet;
use super::problems::Problems;
use super::shown::plain;
use super::words::Words;

/// Longest text value; a command's argument may be as long.
const MAX_VALUE: usize = 4096;

/// A value that is there, with the path of its key.
#[derive(Clone)]
pub(super) struct At<'n> {
    pub(super) path: String,
    pub(super) node: &'n Node,
}

impl<'n> At<'n> {
    pub(super) fn here(&self) -> (&str, Place) {
        (&self.path, self.node.place)
    }

    /// Notes that the value has the wrong type, and what it takes.
    pub(super) fn wrong_type(&self, problems: &mut Problems<'_>) {
        let takes =
            keys::find(&self.path).map_or("something else".to_owned(), |key| key.shape.takes());
        let what = format!("takes {takes}, not {}", self.node.value.kind());
        let quotes = matches!(
            (&self.node.value, keys::find(&self.path).map(|key| key.shape)),
            (Value::Whole(_) | Value::Real(_) | Value::Bool(_), Some(Shape::Text | Shape::Path))
        );
        let hint = if quotes { "put it in quotes" } else { "" };
        problems.add(ProblemKind::WrongType, self.here(), what, hint);
    }

    /// Notes that the value is not acceptable.
    pub(super) fn bad(
        &self,
        problems: &mut Problems<'_>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        problems.add(ProblemKind::BadValue, self.here(), what, hint);
    }

    /// Notes that hone cannot do this yet.
    pub(super) fn not_yet(&self, problems: &mut Problems<'_>, why: &str) {
        problems.add(
            ProblemKind::NotSupported,
            self.here(),
            format!("not supported yet: {why}"),
            "",
        );
    }

    /// Text of at most [`MAX_VALUE`] bytes without control characters.
    pub(super) fn text(&self, problems: &mut Problems<'_>) -> Option<String> {
        let Value::Text(text) = &self.node.value else {
            self.wrong_type(problems);
            return None;
        };
        if text.len() > MAX_VALUE {
            self.bad(problems, format!("longer than {MAX_VALUE} bytes"), "");
        } else if text.chars().any(char::is_control) {
            self.bad(problems, "holds control characters", "");
        } else if text.is_empty() {
            self.bad(problems, "is empty", "leave the key out instead");
        } else {
            return Some(text.clone());
        }
        None
    }

    /// A whole number within the key's bounds; also one that is written with a point or an exponent.
    pub(super) fn whole(&self, problems: &mut Problems<'_>) -> Option<u64> {
        let number = match self.node.value {
            Value::Whole(number) => number,
            #[expect(
                clippy::cast_possible_truncation,
                reason = "whole; beyond its range it saturates, and so stays out of bounds"
            )]
            Value::Real(number) if number.fract() == 0.0 => number as i128,
            Value::Real(number) if number.is_finite() => {
                self.bad(problems, format!("must be a whole number, not {}", plain(number)), "");
                return None;
            }
            _ => {
                self.wrong_type(problems);
                return None;
            }
        };
        let (low, high) = match keys::find(&self.path).map(|key| key.shape) {
            Some(Shape::Whole(low, high)) => (low, high),
            _ => (0, u64::MAX),
        };
        let found = u64::try_from(number).ok().filter(|number| (low..=high).contains(number));
        if found.is_none() {
            self.bad(
                problems,
                format!("{}, not {number}", range(&low.to_string(), &high.to_string())),
                "",
            );
        }
        found
    }

    /// A finite number within `low` and `high`.
    pub(super) fn real_within(
        &self,
        problems: &mut Problems<'_>,
        low: f64,
        high: f64,
    ) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "compared with bounds far below 2^53")]
        let number = match self.node.value {
            Value::Whole(number) => number as f64,
            Value::Real(number) => number,
            _ => {
                self.wrong_type(problems);
                return None;
            }
        };
        if (low..=high).contains(&number) {
            return Some(number);
        }
        self.bad(
            problems,
            format!("{}, not {}", range(&plain(low), &plain(high)), plain(number)),
            "",
        );
        None
    }

    /// The items of a list.
    pub(super) fn list(&self, problems: &mut Problems<'_>) -> Option<Vec<At<'n>>> {
        let Value::List(items) = &self.node.value else {
            self.wrong_type(problems);
            return None;
        };
        Some(items.iter().map(|node| At { path: self.path.clone(), node }).collect())
    }

    /// One of the words of `W`.
    pub(super) fn word<W: Words>(&self, problems: &mut Problems<'_>) -> Option<W> {
        let Value::Text(text) = &self.node.value else {
            self.wrong_type(problems);
            return None;
        };
        if let Some((_, word)) = W::ALL.iter().find(|(name, _)| name == text) {
            return Some(*word);
        }
        if let Some(why) = not_yet::word(&self.path, text) {
            problems.add(
                ProblemKind::NotSupported,
                self.here(),
                format!("{} is not supported yet", quoted(text, 60)),
                why,
            );
            return None;
        }
        let names: Vec<_> = W::ALL.iter().map(|(name, _)| format!("`{name}`")).collect();
        let near = keys::nearest(text, W::ALL.iter().map(|(name, _)| *name));
        let hint = near.map_or_else(
            || format!("it takes {}", names.join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        self.bad(problems, format!("does not know {}", quoted(text, 60)), hint);
        None
    }
}

/// A mapping whose keys are known; an absent one is an empty one.
#[derive(Clone)]
pub(super) struct Section<'n> {
    pub(super) path: String,
    entries: &'n [Entry],
    /// Where a key that misses would stand.
    place: Place,
}

impl<'n> Section<'n> {
    /// The whole spec.
    pub(super) fn root(node: &'n Node, problems: &mut Problems<'_>) -> Option<Self> {
        let at = At { path: String::new(), node };
        match &node.value {
            Value::Map(_) => Some(Self::open(&at, problems)?),
            Value::Null => {
                problems.add(
                    ProblemKind::Missing,
                    at.here(),
                    "the spec is empty",
                    "the least that a job needs is `model: ./directory` and `data: ./rows.jsonl`",
                );
                None
            }
            other => {
                let what = format!("a spec is a mapping of keys to values, not {}", other.kind());
                problems.add(
                    ProblemKind::WrongType,
                    at.here(),
                    what,
                    "write `model: ./directory` and so on",
                );
                None
            }
        }
    }

    /// The mapping at `at`; keys that are not in the table are problems.
    pub(super) fn open(at: &At<'n>, problems: &mut Problems<'_>) -> Option<Self> {
        let Value::Map(entries) = &at.node.value else {
            at.wrong_type(problems);
            return None;
        };
        for entry in entries {
            let path = keys::join(&at.path, &entry.key);
            if keys::find(&path).is_some() {
                continue;
            }
            if let Some(why) = not_yet::key(&path) {
                let what = format!("{} is not supported yet", quoted(&entry.key, 60));
                problems.add(ProblemKind::NotSupported, (&at.path, entry.place), what, why);
            } else {
                let what = format!("unknown key {}", quoted(&entry.key, 60));
                let hint = if problems.full() {
                    String::new()
                } else {
                    keys::advice(&at.path, &entry.key)
                };
                problems.add(ProblemKind::UnknownKey, (&at.path, entry.place), what, hint);
            }
        }
        Some(Self { path: at.path.clone(), entries, place: at.node.place })
    }

    /// Its path and place, for what is missing in it.
    pub(super) fn here(&self) -> (&str, Place) {
        (&self.path, self.place)
    }

    /// A section of this one: empty when it is absent or not a mapping.
    pub(super) fn section(&self, name: &str, problems: &mut Problems<'_>) -> Self {
        let nothing = Self { path: keys::join(&self.path, name), entries: &[], place: self.place };
        self.get(name).and_then(|at| Self::open(&at, problems)).unwrap_or(nothing)
    }

    /// An empty section at the path of `at`, for keys in their short form.
    pub(super) fn nothing(&self, name: &str) -> Self {
        Self { path: keys::join(&self.path, name), entries: &[], place: self.place }
    }

    /// The value of `name`, unless it is absent or null.
    pub(super) fn get(&self, name: &str) -> Option<At<'n>> {
        let entry = self.entries.iter().find(|entry| entry.key == name)?;
        let at = At { path: keys::join(&self.path, name), node: &entry.node };
        (!matches!(entry.node.value, Value::Null)).then_some(at)
    }

    /// Whether it holds a key that was refused as not supported yet.
    pub(super) fn has_unsupported(&self) -> bool {
        self.entries.iter().any(|entry| not_yet::key(&keys::join(&self.path, &entry.key)).is_some())
    }

    /// The value of a key that must be there.
    pub(super) fn required(&self, name: &str, problems: &mut Problems<'_>) -> Option<At<'n>> {
        let found = self.get(name);
        if found.is_none() {
            let path = keys::join(&self.path, name);
            let meaning = keys::find(&path).map_or("", |key| key.meaning);
            let what = format!("the key `{name}` is missing");
            problems.add(ProblemKind::Missing, (&self.path, self.place), what, meaning);
        }
        found
    }

    pub(super) fn word<W: Words>(&self, name: &str, problems: &mut Problems<'_>) -> Option<W> {
        self.get(name)?.word(problems)
    }

    pub(super) fn flag(&self, name: &str, problems: &mut Problems<'_>) -> Option<bool> {
        let at = self.get(name)?;
        if let Value::Bool(flag) = at.node.value {
            return Some(flag);
        }
        at.wrong_type(problems);
        None
    }

    pub(super) fn whole(&self, name: &str, problems: &mut Problems<'_>) -> Option<u64> {
        self.get(name)?.whole(problems)
    }

    /// A whole number that the key's bounds keep below 2³².
    pub(super) fn small(&self, name: &str, problems: &mut Problems<'_>) -> Option<u32> {
        self.whole(name, problems).and_then(|number| u32::try_from(number).ok())
    }

    pub(super) fn real(&self, name: &str, problems: &mut Problems<'_>) -> Option<f64> {
        let at = self.get(name)?;
        let (low, high) = match keys::find(&at.path).map(|key| key.shape) {
            Some(Shape::Real(low, high)) => (low, high),
            _ => (f64::MIN, f64::MAX),
        };
        at.real_within(problems, low, high)
    }

    pub(super) fn size(&self, name: &str, problems: &mut Problems<'_>) -> Option<Bytes> {
        let at = self.get(name)?;
        let text = match &at.node.value {
            Value::Text(text) => text,
            Value::Whole(number) => {
                let hint = format!(
                    "write `{number} GiB`, `{number} MiB` or what you mean; GB is 10⁹ and GiB is 2³⁰"
                );
                at.bad(problems, "a size needs a unit", hint);
                return None;
            }
            _ => {
                at.wrong_type(problems);
                return None;
            }
        };
        let size = match text.parse::<Bytes>() {
            Ok(size) => size,
            Err(error) => {
                let hint = if text.contains("..") {
                    "give the least that is needed, such as `24 GB`"
                } else {
                    "write it such as `24 GiB`"
                };
                at.bad(
                    problems,
                    format!("{} is not a size: {}", quoted(text, 60), error.why),
                    hint,
                );
                return None;
            }
        };
        match keys::find(&at.path).map(|key| key.shape) {
            Some(Shape::Size(low, high)) if !(low..=high).contains(&size) => {
                at.bad(problems, format!("must lie between {low} and {high}, not {size}"), "");
                None
            }
            _ => Some(size),
        }
    }
}

fn range(low: &str, high: &str) -> String {
    if low == high {
        format!("must be {low}")
    } else {
        format!("must lie between {low} and {high}")
    }
}
