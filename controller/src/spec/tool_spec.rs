//! The part of `/hone/spec.json` that the agent reads to run a tool other than hone's own trainer.

use std::collections::BTreeMap;

use serde::Serialize;

use super::tool::{Complete, Resume, Tool};
use super::words::{StopSignal, Telemetry, TrainerKind};

/// What the agent is told of the tool.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ToolSpec {
    kind: TrainerKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<ConfigFile>,
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    overrides: Option<serde_json::Map<String, serde_json::Value>>,
    telemetry: Telemetry,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stdout_patterns: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<Checkpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: Option<Resume>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<StopSignal>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
}

/// The user's configuration file.
#[derive(Debug, Clone, Serialize)]
struct ConfigFile {
    name: String,
    text: String,
}

#[derive(Debug, Clone, Serialize)]
struct Checkpoint {
    path: String,
    complete: Rule,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
}

/// As [`Complete`], with a number for its time.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
enum Rule {
    Marker(String),
    SettledS(u64),
}

impl ToolSpec {
    /// What the settings of a tool of this kind mean.
    pub(super) fn of(kind: TrainerKind, tool: &Tool, config: Option<&str>) -> Self {
        Self {
            kind,
            config: tool.config.as_ref().zip(config).map(|(file, text)| ConfigFile {
                name: file.file_name().to_owned(),
                text: text.to_owned(),
            }),
            overrides: tool.overrides.clone(),
            telemetry: tool.telemetry,
            stdout_patterns: tool.stdout_patterns.clone(),
            checkpoint: tool.checkpoint.as_ref().map(|checkpoint| Checkpoint {
                path: checkpoint.path.clone(),
                complete: match &checkpoint.complete {
                    Complete::Marker(name) => Rule::Marker(name.clone()),
                    Complete::Settled(time) => Rule::SettledS(time.as_secs()),
                },
                request: checkpoint.request.clone(),
            }),
            resume: tool.resume.clone(),
            stop: tool.stop,
            env: tool.env.clone(),
        }
    }
}
