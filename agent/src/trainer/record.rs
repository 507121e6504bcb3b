//! One line of `metrics.jsonl` as a typed value. Pure. Unknown fields are ignored: the format only ever grows.

use std::collections::BTreeMap;

use hone_proto::event::Level;
use hone_proto::id::{Attempt, Step};
use hone_proto::quantity::Bytes;
use hone_proto::time::WallNanos;
use serde_json::{Map, Value};

/// Most figures in one record; a trainer of ours sends about fifteen.
const MAX_VALUES: usize = 256;
/// Longest name of a figure.
const MAX_NAME_LEN: usize = 128;
/// Longest word of the contract, such as a split.
const MAX_WORD_LEN: usize = 32;
/// Longest free text kept, in characters.
const MAX_TEXT_LEN: usize = 16 * 1024;

/// Why a line is not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It does not follow the format.
    #[error("the line is malformed: {0}")]
    Malformed(&'static str),
    /// A record of a kind that this version does not know; newer trainers may send such.
    #[error("the kind of record is not known")]
    UnknownKind,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordBody {
    /// Training is about to begin.
    Start {
        /// Steps that the run will take.
        max_steps: Option<Step>,
        /// Passes over the data.
        epochs: Option<f64>,
        /// Processes that train together.
        world_size: Option<u32>,
        /// The step that was resumed from.
        resumed_from: Option<Step>,
        /// Parameters that are trained.
        trainable_params: Option<u64>,
        /// Parameters in all.
        total_params: Option<u64>,
        /// Versions of the tools.
        versions: BTreeMap<String, String>,
    },
    /// A part of the run begins or ends.
    Phase {
        /// Which part: load_model, load_data, train, eval, save, export.
        name: String,
        /// It begins; otherwise it ends.
        begin: bool,
    },
    /// Figures.
    Metrics {
        /// What they were measured on: `train`, `eval`, `test`, or another word of the trainer.
        split: String,
        /// Position in the data, in passes.
        epoch: Option<f64>,
        /// The figures by name; may be infinite or not a number.
        values: BTreeMap<String, f64>,
    },
    /// A checkpoint was completed: a claim, until its files were checked.
    Checkpoint {
        /// Where, as the trainer sees it.
        path: String,
        /// Its kind.
        kind: Option<String>,
        /// Its size.
        bytes: Option<Bytes>,
        /// Why it was made.
        reason: Option<String>,
        /// How long it took, in seconds.
        duration_s: Option<f64>,
    },
    /// Output of the model, for people.
    Sample {
        /// Which prompt.
        prompt: String,
        /// What the model said.
        text: String,
    },
    /// A remark.
    Notice {
        /// How much it matters.
        level: Level,
        /// A stable name for it.
        code: String,
        /// The remark.
        message: String,
    },
    /// The run ended. A hint; the result file is the last word.
    End {
        /// How.
        status: String,
        /// Why.
        reason: Option<String>,
    },
}

/// One record of the trainer.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainerRecord {
    /// Its number; strictly increasing within an attempt.
    pub seq: u64,
    /// When it was written, by the node's wall clock.
    pub at: WallNanos,
    /// The attempt that wrote it.
    pub attempt: Attempt,
    /// Optimizer steps completed.
    pub step: Step,
    /// What it says.
    pub body: RecordBody,
}

impl TrainerRecord {
    /// Reads one line, without its newline.
    ///
    /// # Errors
    /// When the line is not a record of the contract.
    pub fn parse(line: &[u8]) -> Result<Self, RecordError> {
        let fields: Map<String, Value> = serde_json::from_slice(line)
            .map_err(|_| RecordError::Malformed("it is not a JSON object"))?;
        let fields = Fields(&fields);
        if fields.whole("v") != Some(1) {
            return Err(RecordError::Malformed("its version is not 1"));
        }
        let attempt = fields.whole("attempt").and_then(|n| u32::try_from(n).ok());
        Ok(Self {
            seq: fields.whole("seq").ok_or(RecordError::Malformed("it has no seq"))?,
            at: fields.time("ts").ok_or(RecordError::Malformed("it has no time"))?,
            attempt: attempt
                .map(Attempt::new)
                .ok_or(RecordError::Malformed("it has no attempt"))?,
            step: fields.step("step").ok_or(RecordError::Malformed("it has no step"))?,
            body: body(&fields)?,
        })
    }
}

fn body(fields: &Fields<'_>) -> Result<RecordBody, RecordError> {
    let missing = RecordError::Malformed("a field of its kind is missing or wrong");
    Ok(match fields.raw_text("type").ok_or(missing)? {
        "start" => RecordBody::Start {
            max_steps: fields.step("max_steps"),
            epochs: fields.real("epochs"),
            world_size: fields.whole("world_size").and_then(|n| u32::try_from(n).ok()),
            resumed_from: fields.step("resumed_from_step"),
            trainable_params: fields.whole("trainable_params"),
            total_params: fields.whole("total_params"),
            versions: fields.versions(),
        },
        "phase" => RecordBody::Phase {
            name: fields.text("name").ok_or(missing)?,
            begin: match fields.raw_text("state") {
                Some("begin") => true,
                Some("end") => false,
                _ => return Err(missing),
            },
        },
        "metrics" => RecordBody::Metrics {
            split: fields.word("split").ok_or(missing)?,
            epoch: fields.real("epoch"),
            values: fields.values()?,
        },
        "checkpoint" => RecordBody::Checkpoint {
            path: fields.text("path").ok_or(missing)?,
            kind: fields.text("kind"),
            bytes: fields.whole("bytes").map(Bytes::new),
            reason: fields.text("reason"),
            duration_s: fields.real("duration_s"),
        },
        "sample" => RecordBody::Sample {
            prompt: fields.any_text(&["prompt", "prompt_id", "id"]).ok_or(missing)?,
            text: fields.any_text(&["text", "output"]).ok_or(missing)?,
        },
        "notice" => RecordBody::Notice {
            level: fields.level("level"),
            code: fields.text("code").unwrap_or_default(),
            message: fields.text("message").ok_or(missing)?,
        },
        "end" => RecordBody::End {
            status: fields.text("status").ok_or(missing)?,
            reason: fields.text("reason"),
        },
        _ => return Err(RecordError::UnknownKind),
    })
}

/// A number, or one of the three strings that strict JSON needs for what is no number.
pub(crate) fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "nan" => Some(f64::NAN),
            "inf" => Some(f64::INFINITY),
            "-inf" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// A whole number that is not negative; Python writes some of them with a decimal point.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    /// Beyond this a float no longer names one whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        let exact = number.fract() == 0.0 && (0.0..=EXACT).contains(&number);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be whole and in range"
        )]
        exact.then_some(number as u64)
    })
}

/// Figures by name, without those that are null.
pub(super) fn figures(map: &Map<String, Value>) -> Result<BTreeMap<String, f64>, RecordError> {
    if map.len() > MAX_VALUES {
        return Err(RecordError::Malformed("it has more than 256 figures"));
    }
    let mut values = BTreeMap::new();
    for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        if name.is_empty() || name.len() > MAX_NAME_LEN || name.chars().any(char::is_control) {
            return Err(RecordError::Malformed("a figure has no usable name"));
        }
        let number = real(value).ok_or(RecordError::Malformed("a figure is not a number"))?;
        values.insert(name.clone(), number);
    }
    Ok(values)
}

/// The fields of one JSON object, asked for by type.
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl Fields<'_> {
    pub(super) fn raw_text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }
    /// Text for people: cleaned and cut.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.raw_text(name).map(|text| crate::logs::clean_text(text, MAX_TEXT_LEN))
    }
    /// A short lower-case word that is safe as a key.
    fn word(&self, name: &str) -> Option<String> {
        let word = self.raw_text(name)?;
        let clean = (1..=MAX_WORD_LEN).contains(&word.len())
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        clean.then(|| word.to_owned())
    }
    fn level(&self, name: &str) -> Level {
        match self.raw_text(name) {
            Some("warn") => Level::Warning,
            other => other.and_then(Level::from_name).unwrap_or(Level::Info),
        }
    }
    fn any_text(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| match self.0.get(*name)? {
            Value::Number(number) => Some(number.to_string()),
            _ => self.text(name),
        })
    }
    pub(super) fn whole(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(whole)
    }
    pub(super) fn step(&self, name: &str) -> Option<Step> {
        self.whole(name).map(Step::new)
    }
    pub(crate) fn real(&self, name: &str) -> Option<f64> {
        self.0.get(name).and_then(real)
    }
    /// Unix seconds with a fraction.
    fn time(&self, name: &str) -> Option<WallNanos> {
        wall(self.0.get(name)?.as_f64()?)
    }
    fn values(&self) -> Result<BTreeMap<String, f64>, RecordError> {
        let map = self.0.get("values").and_then(Value::as_object);
        figures(map.ok_or(RecordError::Malformed("it has no values"))?)
    }
    fn versions(&self) -> BTreeMap<String, String> {
        let map = self.0.get("versions").and_then(Value::as_object);
        let entries = map.into_iter().flatten().take(MAX_VALUES);
        entries
            .filter_map(|(name, value)| {
                let clean = |text: &str| crate::logs::clean_text(text, MAX_NAME_LEN);
                Some((clean(name), clean(value.as_str()?)))
            })
            .collect()
    }
}

/// Unix seconds with a fraction, as a time. A float resolves them to less than a microsecond.
pub(crate) fn wall(seconds: f64) -> Option<WallNanos> {
    /// The year 2554, where nanoseconds leave 64 bits.
    const LATEST: f64 = 1.8e10;
    if !(0.0..LATEST).contains(&seconds) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be in range"
    )]
    let micros = (seconds * 1e6).round() as u64;
    Some(WallNanos::new(micros * 1000))
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
