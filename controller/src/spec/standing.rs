//! How the tool of a job stands to the contract of the container, read from the spec that the container gets: jobs that
//! were submitted before there were other tools have none of it, and run hone's own trainer.

use serde::Deserialize;

use super::tool::Level;
use super::words::TrainerKind;

/// How far the tool of a job keeps the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What runs.
    pub kind: TrainerKind,
    /// How far it keeps the contract.
    pub level: Level,
    /// What the job lacks for it, each in a phrase.
    pub lacks: Vec<&'static str>,
}

/// What matters here of `/hone/spec.json`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Known {
    train: Length,
    trainer: Option<Tool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Length {
    max_steps: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tool {
    kind: String,
    checkpoint: Option<serde::de::IgnoredAny>,
}

impl Standing {
    /// That of the job whose container reads `trainer_spec`.
    #[must_use]
    pub fn of(trainer_spec: &str) -> Self {
        let known: Known = serde_json::from_str(trainer_spec).unwrap_or_default();
        let tool = known.trainer.unwrap_or_default();
        let kind = TrainerKind::from_name(&tool.kind).unwrap_or(TrainerKind::Hone);
        let level = kind.level();
        let mut lacks = level.lacks().to_vec();
        if level == Level::Opaque && tool.checkpoint.is_none() {
            lacks.push("no checkpoints, so each attempt starts from the beginning");
        }
        if level == Level::Opaque && known.train.max_steps.is_none() {
            lacks.push("its exit code alone tells whether it is complete");
        }
        Self { kind, level, lacks }
    }
}
