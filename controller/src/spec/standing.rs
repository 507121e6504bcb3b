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
    checkpoint: Option<Saves>,
    resume: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Saves {
    request: Option<serde::de::IgnoredAny>,
}

impl Standing {
    /// That of the job whose container reads `trainer_spec`.
    #[must_use]
    pub fn of(trainer_spec: &str) -> Self {
        let known: Known = serde_json::from_str(trainer_spec).unwrap_or_default();
        let tool = known.trainer.unwrap_or_default();
        let kind = TrainerKind::from_name(&tool.kind).unwrap_or(TrainerKind::Hone);
        let level = kind.level();
        Self { kind, level, lacks: lacks(kind, &tool, known.train) }
    }
}

fn lacks(kind: TrainerKind, tool: &Tool, train: Length) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    let request = tool.checkpoint.as_ref().and_then(|checkpoint| checkpoint.request.as_ref());
    if kind != TrainerKind::Hone && request.is_none() {
        lacks.push(match kind {
            TrainerKind::Axolotl => "no checkpoint on demand before Axolotl 0.14",
            _ => "no checkpoint on demand",
        });
    }
    lacks.extend(kind.level().lacks());
    let saves = kind.has_known_checkpoints() || tool.checkpoint.is_some();
    if !saves {
        lacks.push("no checkpoints, so each attempt starts from the beginning");
    } else if matches!(kind, TrainerKind::Unsloth | TrainerKind::Torchtune) && tool.resume.is_none()
    {
        lacks.push(
            "no `trainer.resume`, so each attempt starts from the beginning unless its command reads HONE_RESUME_FROM",
        );
    }
    if kind.level() == Level::Opaque && train.max_steps.is_none() {
        lacks.push("its exit code alone tells whether it is complete");
    }
    lacks
}
