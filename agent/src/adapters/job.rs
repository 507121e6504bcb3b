//! The `trainer` section of an attempt's spec: which tool it is, and what its user says about it.
//!
//! The controller has checked it; it is checked here again only as far as reading it needs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The tools that are known by name, and the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolKind {
    /// TRL's command line, `trl sft`.
    Trl,
    /// `axolotl train`.
    Axolotl,
    /// `llamafactory-cli train`.
    Llamafactory,
    /// `tune run`.
    Torchtune,
    /// Unsloth's command line.
    Unsloth,
    /// A script of the user's own on Hugging Face's `Trainer`.
    Hf,
    /// Anything else.
    Custom,
}

impl ToolKind {
    /// Its word in specs and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trl => "trl",
            Self::Axolotl => "axolotl",
            Self::Llamafactory => "llamafactory",
            Self::Torchtune => "torchtune",
            Self::Unsloth => "unsloth",
            Self::Hf => "hf",
            Self::Custom => "custom",
        }
    }

    /// Whether it trains through Hugging Face's `Trainer`: its checkpoints, its state file and its metrics then follow.
    #[must_use]
    pub const fn is_hugging_face(self) -> bool {
        matches!(self, Self::Trl | Self::Axolotl | Self::Llamafactory | Self::Unsloth | Self::Hf)
    }
}

/// The user's own configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ConfigFile {
    /// Its name, for messages.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// Where metrics are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Telemetry {
    /// Every source that is there, by order of trust.
    #[default]
    Auto,
    /// Pushed records alone.
    Push,
    /// TensorBoard files alone.
    Tensorboard,
    /// Printed lines alone.
    Stdout,
}

/// What the checkpoints of a tool that is not known by name look like.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CheckpointWish {
    /// Where one lies, below the output; `{step}` or `{epoch}` stands for its number.
    pub path: String,
    /// What makes it complete.
    pub complete: Complete,
    /// The file below the output that makes the tool save where it is.
    pub request: Option<String>,
}

/// What makes a checkpoint complete.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Complete {
    /// A file in it.
    Marker(String),
    /// Nothing of it has changed for so many seconds.
    SettledS(f64),
}

/// How the tool is told to go on from a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResumeBy {
    /// An argument at the end of its command; `{path}` stands for the checkpoint.
    Argument(String),
    /// A variable that holds the checkpoint's path.
    Environment(String),
}

/// The signal upon which the tool saves and stops, sent to the processes that do the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopSignal {
    /// SIGTERM.
    Term,
    /// SIGINT.
    Int,
    /// SIGUSR1.
    Usr1,
    /// None: it is ended once its next checkpoint is complete, or when the grace is nearly over.
    None,
}

/// A job for a tool, as the attempt's spec states it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolJob {
    /// Which tool.
    pub kind: ToolKind,
    /// The user's own configuration.
    pub config: Option<ConfigFile>,
    /// Raw keys of the tool; they have the last word.
    pub overrides: Map<String, Value>,
    /// Where metrics are taken from.
    pub telemetry: Telemetry,
    /// How printed lines are read.
    pub patterns: Vec<String>,
    /// What checkpoints look like, when not as the tool's kind says.
    pub checkpoint: Option<CheckpointWish>,
    /// How it is told to resume, when not as the tool's kind says.
    pub resume: Option<ResumeBy>,
    /// How it is told to stop, when not as the tool's version says.
    pub stop: Option<StopSignal>,
    /// Variables of the user's.
    pub environment: BTreeMap<String, String>,
    /// The whole spec: what a rendered configuration says of model, data and method.
    pub spec: Value,
}

/// A spec that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the attempt's spec cannot be read")]
pub struct ToolSpecError(#[from] serde_json::Error);

/// As the section stands in the file.
#[derive(Deserialize)]
struct Section {
    kind: String,
    config: Option<ConfigFile>,
    #[serde(default, rename = "override")]
    overrides: Map<String, Value>,
    #[serde(default)]
    telemetry: Telemetry,
    #[serde(default)]
    stdout_patterns: Vec<String>,
    checkpoint: Option<CheckpointWish>,
    resume: Option<ResumeBy>,
    stop: Option<StopSignal>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

impl ToolJob {
    /// The tool of a spec; none where hone's own trainer runs, or an image that keeps its contract.
    ///
    /// # Errors
    /// When the text is no spec, or its `trainer` section is not as specified.
    pub fn of_spec(text: &str) -> Result<Option<Self>, ToolSpecError> {
        let spec: Value = serde_json::from_str(text)?;
        let Some(section) = spec.get("trainer") else { return Ok(None) };
        let section: Section = serde_json::from_value(section.clone())?;
        if section.kind == "hone" {
            return Ok(None);
        }
        Ok(Some(Self {
            kind: serde_json::from_value(Value::String(section.kind))?,
            config: section.config,
            overrides: section.overrides,
            telemetry: section.telemetry,
            patterns: section.stdout_patterns,
            checkpoint: section.checkpoint,
            resume: section.resume,
            stop: section.stop,
            environment: section.env,
            spec,
        }))
    }

    /// A figure of the spec, such as `/train/seq_len`.
    #[must_use]
    pub fn number(&self, at: &str) -> Option<f64> {
        self.spec.pointer(at).and_then(Value::as_f64)
    }

    /// A whole figure of the spec.
    #[must_use]
    pub fn whole(&self, at: &str) -> Option<u64> {
        self.spec.pointer(at).and_then(Value::as_u64)
    }

    /// A yes or no of the spec.
    #[must_use]
    pub fn flag(&self, at: &str) -> Option<bool> {
        self.spec.pointer(at).and_then(Value::as_bool)
    }

    /// A word of the spec.
    #[must_use]
    pub fn word(&self, at: &str) -> Option<&str> {
        self.spec.pointer(at).and_then(Value::as_str)
    }
}

impl Complete {
    /// How long nothing may have changed.
    #[must_use]
    pub fn settle(&self) -> Option<Duration> {
        match self {
            Self::Marker(_) => None,
            Self::SettledS(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_spec_of_hones_own_trainer_has_no_tool() {
        for spec in [json!({"version": 1}), json!({"trainer": {"kind": "hone"}})] {
            assert_eq!(ToolJob::of_spec(&spec.to_string()).expect("a spec"), None);
        }
        for broken in ["", "{", r#"{"trainer": {"kind": "word"}}"#, r#"{"trainer": 1}"#] {
            assert!(ToolJob::of_spec(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn what_the_user_says_of_a_tool_is_read() {
        let spec = json!({"train": {"seq_len": 128}, "model": {"name": "m"}, "trainer": {
            "kind": "custom", "telemetry": "tensorboard", "stdout_patterns": ["loss=(?<loss>.*)"],
            "checkpoint": {"path": "ckpt-{step}", "complete": {"settled_s": 2.5}},
            "resume": {"argument": "--resume={path}"}, "stop": "usr1", "env": {"SEED": "3"},
            "override": {"flash_attention": true}, "config": {"name": "a.yml", "text": "a: 1"},
        }});
        let job = ToolJob::of_spec(&spec.to_string()).expect("a spec").expect("a tool");
        assert_eq!((job.kind, job.telemetry), (ToolKind::Custom, Telemetry::Tensorboard));
        let wish = job.checkpoint.as_ref().expect("a wish");
        assert_eq!(wish.complete.settle(), Some(Duration::from_millis(2500)));
        assert_eq!(job.resume, Some(ResumeBy::Argument("--resume={path}".to_owned())));
        assert_eq!((job.stop, &job.environment["SEED"][..]), (Some(StopSignal::Usr1), "3"));
        assert_eq!((job.whole("/train/seq_len"), job.word("/model/name")), (Some(128), Some("m")));
    }
}
