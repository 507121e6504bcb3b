//! The validated settings of a tool other than hone's own trainer. Serialised, they are again the YAML (as JSON) that
//! would be read as the same.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::types::InputPath;
use super::words::{MethodKind, StopSignal, Telemetry, TrainerKind};

/// How far a tool keeps the contract of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It keeps all of it.
    Native,
    /// hone knows its ways: it reads what the tool leaves, and stops it from outside.
    Steered,
    /// hone knows of it what its spec says.
    Opaque,
}

impl Level {
    /// The word for people and programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Steered => "steered",
            Self::Opaque => "opaque",
        }
    }

    /// What every job lacks at this level, each in a phrase; nothing at the first.
    #[must_use]
    pub const fn lacks(self) -> &'static [&'static str] {
        match self {
            Self::Native => &[],
            Self::Steered => &["no evaluation of the base model"],
            Self::Opaque => &["no evaluation of base and tuned model"],
        }
    }
}

impl TrainerKind {
    /// The level of the contract that this kind keeps.
    #[must_use]
    pub const fn level(self) -> Level {
        match self {
            Self::Hone => Level::Native,
            Self::Trl
            | Self::Axolotl
            | Self::LlamaFactory
            | Self::Torchtune
            | Self::Unsloth
            | Self::Hf => Level::Steered,
            Self::Custom => Level::Opaque,
        }
    }

    /// The kind that this word names.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        use super::words::Words as _;
        Self::ALL.iter().find(|(word, _)| *word == name).map(|(_, kind)| *kind)
    }

    /// Whether hone knows what its checkpoints look like, whatever its spec says.
    pub(super) const fn has_known_checkpoints(self) -> bool {
        !matches!(self, Self::Custom | Self::Torchtune)
    }

    /// Whether hone writes the configuration and the command. What it does not write runs as it is.
    pub(super) const fn is_rendered(self) -> bool {
        matches!(self, Self::Hone | Self::Trl | Self::Axolotl | Self::LlamaFactory)
    }

    /// Whether what it trains is the script's own affair too.
    pub(super) const fn is_own_script(self) -> bool {
        matches!(self, Self::Hf | Self::Custom)
    }

    /// How long a stop may take. An adapter is saved in seconds. What saves every weight with its optimizer state takes a slow disk minutes, and what an
    /// own script saves nobody knows.
    pub(super) const fn grace(self, method: MethodKind) -> Duration {
        match method {
            MethodKind::Lora if !self.is_own_script() => Duration::from_secs(120),
            _ => Duration::from_secs(600),
        }
    }
}

/// The settings of a tool.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Tool {
    /// The user's own configuration file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<InputPath>,
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    pub(super) overrides: Option<serde_json::Map<String, serde_json::Value>>,
    pub(super) telemetry: Telemetry,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) stdout_patterns: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) checkpoint: Option<ToolCheckpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resume: Option<Resume>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stop: Option<StopSignal>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) env: BTreeMap<String, String>,
}

/// Where checkpoints appear, and when one is complete.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ToolCheckpoint {
    pub(super) path: String,
    pub(super) complete: Complete,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<String>,
}

/// What makes a checkpoint complete.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Complete {
    Marker(String),
    #[serde(serialize_with = "seconds")]
    Settled(Duration),
}

/// How a tool is told where to go on.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Resume {
    Argument(String),
    Environment(String),
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}s", time.as_secs()))
}
