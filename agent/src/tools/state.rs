//! `trainer_state.json`, as the Hugging Face `Trainer` writes it into every checkpoint: exact figures with their steps,
//! and how many steps there are.

use std::borrow::Cow;
use std::fmt;

use hone_proto::id::Step;
use hone_proto::quantity::Bytes;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::json::{self, Scalar};
use super::point::{Gather, Point, Source, whole_step};
use crate::logs::clean_text;

/// Name of the file.
pub const STATE_NAME: &str = "trainer_state.json";
/// Largest file that is read: a hundred thousand logs.
pub const MAX_STATE_SIZE: Bytes = Bytes::mib(32);
/// Most figures that are taken in one go, those of ten thousand logs, and of one log more.
const MAX_FIGURES: usize = 100_000;
/// Longest path that is kept.
const MAX_PATH_LEN: usize = 1024;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrainerState {
    /// Optimizer steps completed.
    pub global_step: Step,
    /// Optimizer steps of the whole run.
    pub max_steps: Option<Step>,
    /// Position in the data, in passes.
    pub epoch: Option<f64>,
    /// The best checkpoint, as the tool names it.
    pub best_checkpoint: Option<String>,
    /// The figure by which it is the best.
    pub best_metric: Option<f64>,
    /// The step of the best checkpoint.
    pub best_step: Option<Step>,
    /// `EarlyStoppingCallback` has run out of patience.
    pub early_stopped: bool,
    /// The figures of the steps after the one that was asked for, in the file's order.
    pub points: Vec<Point>,
    /// There are more of them: ask again after the last point's step.
    pub more: bool,
    /// Entries that are no figures.
    pub malformed: u64,
}

impl TrainerState {
    /// Whether the run took all of its steps.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.max_steps.is_some_and(|max| max > Step::default() && self.global_step >= max)
    }

    /// Reads the file, with the figures after step `after`; all of them without it.
    ///
    /// # Errors
    /// When it is not JSON (with Python's NaN and Infinity), or does not say how many steps were taken.
    pub fn parse(bytes: &[u8], after: Option<Step>) -> Result<Self, serde_json::Error> {
        json::with_seed(bytes, Document { after })
    }
}

/// The whole file. It is walked once; only what is wanted is kept of it.
struct Document {
    after: Option<Step>,
}

impl<'de> DeserializeSeed<'de> for Document {
    type Value = TrainerState;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<TrainerState, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document {
    type Value = TrainerState;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the trainer's state")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TrainerState, A::Error> {
        let mut state = TrainerState::default();
        let mut global_step = None;
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match key.as_ref() {
                "global_step" => global_step = step(&map.next_value()?),
                "max_steps" => state.max_steps = step(&map.next_value()?),
                "best_global_step" => state.best_step = step(&map.next_value()?),
                "epoch" => {
                    state.epoch = map.next_value::<Scalar>()?.real().filter(|e| e.is_finite());
                }
                "best_metric" => state.best_metric = map.next_value::<Scalar>()?.real(),
                "best_model_checkpoint" => {
                    if let Scalar::Text(path) = map.next_value()? {
                        state.best_checkpoint = Some(clean_text(&path, MAX_PATH_LEN));
                    }
                }
                "stateful_callbacks" => {
                    state.early_stopped = map.next_value::<Patience>()?.is_used_up();
                }
                "log_history" => {
                    map.next_value_seed(History { after: self.after, state: &mut state })?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        state.global_step = global_step.ok_or_else(|| de::Error::missing_field("global_step"))?;
        Ok(state)
    }
}

fn step(value: &Scalar) -> Option<Step> {
    value.real().and_then(whole_step)
}

/// The list of logs; each becomes points at once.
struct History<'a> {
    after: Option<Step>,
    state: &'a mut TrainerState,
}

impl<'de> DeserializeSeed<'de> for History<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for History<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of logs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { after, state } = self;
        state.points.clear();
        let mut figures = 0;
        while let Some(entry) = seq.next_element::<Entry>()? {
            let Some(at) = entry.0.progress.step else {
                state.malformed += 1;
                continue;
            };
            if state.more || after.is_some_and(|after| at <= after) {
                continue;
            }
            if figures >= MAX_FIGURES {
                // A step is told as a whole, since reading goes on after it; one that has no end is cut.
                let is_another = state.points.last().and_then(|point| point.step) != Some(at);
                state.more = is_another;
                state.malformed += u64::from(!is_another);
                continue;
            }
            figures += entry.0.count();
            state.points.extend(entry.0.finish());
        }
        Ok(())
    }
}

/// One log.
struct Entry(Gather);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Log;
        impl<'de> Visitor<'de> for Log {
            type Value = Entry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a log")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
                let mut gather = Gather::new(Source::StateFile);
                while let Some((name, value)) = map.next_entry::<Cow<'_, str>, Scalar>()? {
                    if let Some(value) = value.real() {
                        gather.put(&name, value);
                    }
                }
                Ok(Entry(gather))
            }
        }
        deserializer.deserialize_map(Log)
    }
}

/// How patient `EarlyStoppingCallback` is and how often it has waited, wherever among the callbacks it says so.
#[derive(Default)]
struct Patience {
    most: Option<f64>,
    used: Option<f64>,
}

impl Patience {
    fn is_used_up(&self) -> bool {
        self.most.zip(self.used).is_some_and(|(most, used)| most > 0.0 && used >= most)
    }

    fn take(&mut self, other: Self) {
        self.most = other.most.or(self.most);
        self.used = other.used.or(self.used);
    }
}

impl<'de> Deserialize<'de> for Patience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Callbacks)
    }
}

struct Callbacks;

impl<'de> Visitor<'de> for Callbacks {
    type Value = Patience;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("callbacks")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Patience, A::Error> {
        let mut found = Patience::default();
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match key.as_ref() {
                "early_stopping_patience" => found.most = map.next_value::<Scalar>()?.real(),
                "early_stopping_patience_counter" => {
                    found.used = map.next_value::<Scalar>()?.real();
                }
                _ => found.take(map.next_value()?),
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Patience, A::Error> {
        let mut found = Patience::default();
        while let Some(next) = seq.next_element()? {
            found.take(next);
        }
        Ok(found)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Patience, E> {
        Ok(Patience::default())
    }
    fn visit_unit<E>(self) -> Result<Patience, E> {
        Ok(Patience::default())
    }
    fn visit_f64<E>(self, _: f64) -> Result<Patience, E> {
        Ok(Patience::default())
    }
    fn visit_u64<E>(self, _: u64) -> Result<Patience, E> {
        Ok(Patience::default())
    }
    fn visit_i64<E>(self, _: i64) -> Result<Patience, E> {
        Ok(Patience::default())
    }
    fn visit_str<E>(self, _: &str) -> Result<Patience, E> {
        Ok(Patience::default())
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
