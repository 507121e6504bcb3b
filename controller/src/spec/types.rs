//! The validated parts of a spec.
//!
//! Fields are visible to this module's readers only: outside, a spec exists exactly when every value is within its
//! bounds. Serialised, each part is again the YAML (as JSON) that would be read as the same value.

mod method;

use std::collections::BTreeMap;
use std::time::Duration;

use hone_proto::id::{JobName, ProjectName};
use hone_proto::quantity::{Bytes, MilliCpu};
use serde::{Serialize, Serializer};

use super::error::Origin;
use super::tool::Tool;
use super::words::{
    BadRows, ContainerUser, DataFormat, Export, Kind, LogLevel, LossOn, Network, OptimizerName,
    Overlong, Precision, Preload, ScheduleKind, Sharding, Template, TrainerKind,
};

pub(super) use method::{Freeze, Lora, Method, Quant, QuantBits, Targets};

/// A validated spec: what the user asked for, complete with every default.
#[derive(Debug, Clone, Serialize)]
pub struct JobSpec {
    pub(super) version: u32,
    pub(super) kind: Kind,
    pub(super) name: JobName,
    pub(super) project: ProjectName,
    pub(super) labels: BTreeMap<String, String>,
    /// Absent only with a tool that knows itself what it trains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<Model>,
    /// As the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Data>,
    pub(super) method: Method,
    pub(super) train: Train,
    pub(super) checkpoint: Checkpoint,
    pub(super) trainer: Trainer,
    pub(super) resources: Resources,
    pub(super) container: Container,
    pub(super) on_disconnect: OnDisconnect,
    pub(super) evaluate: Evaluate,
    pub(super) export: Vec<Export>,
    pub(super) log_level: LogLevel,
    /// What the text is called in messages about files it names.
    #[serde(skip)]
    pub(super) source: String,
    /// Keys that the text gives and the tool decides itself.
    #[serde(skip)]
    pub(super) left_to_tool: Vec<String>,
}

/// A path as the user wrote it, and where.
#[derive(Debug, Clone)]
pub(super) struct InputPath {
    pub(super) text: String,
    pub(super) key: String,
    pub(super) origin: Origin,
}

impl Serialize for InputPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Model {
    pub(super) path: InputPath,
    pub(super) name: String,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Data {
    pub(super) train: TrainData,
    pub(super) eval: EvalData,
    pub(super) template: Template,
    pub(super) system: Option<String>,
    pub(super) loss_on: LossOn,
    pub(super) overlong: Overlong,
    pub(super) bad_rows: BadRows,
    pub(super) preload: Preload,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct TrainData {
    pub(super) path: InputPath,
    pub(super) format: DataFormat,
}

/// Where held-out rows come from.
#[derive(Debug, Clone)]
pub(super) enum EvalData {
    Own(InputPath),
    Split { fraction: f64, seed: u32 },
}

impl Serialize for EvalData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Own(path) => map.serialize_entry("path", path)?,
            Self::Split { fraction, seed } => {
                map.serialize_entry("split_from", "train")?;
                map.serialize_entry("fraction", fraction)?;
                map.serialize_entry("seed", seed)?;
            }
        }
        map.end()
    }
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Train {
    #[serde(flatten)]
    pub(super) length: Length,
    pub(super) seq_len: u32,
    pub(super) packing: bool,
    pub(super) batch: Batch,
    pub(super) optimizer: Optimizer,
    pub(super) schedule: Schedule,
    pub(super) clip_norm: f64,
    pub(super) precision: Precision,
    pub(super) activation_checkpointing: bool,
    pub(super) sharding: Sharding,
    pub(super) seed: u32,
    pub(super) log_every: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) eval_every: Option<u32>,
}

/// How long training lasts: one or the other.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) enum Length {
    #[serde(rename = "epochs")]
    Epochs(f64),
    #[serde(rename = "max_steps")]
    Steps(u32),
}

/// Rows per step. `micro` divides `effective`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    pub(super) effective: u32,
    pub(super) micro: Option<u32>,
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("effective", &self.effective)?;
        match self.micro {
            Some(micro) => map.serialize_entry("micro", &micro)?,
            None => map.serialize_entry("micro", "auto")?,
        }
        map.end()
    }
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Optimizer {
    pub(super) name: OptimizerName,
    pub(super) bits: OptimizerBits,
    pub(super) paged: bool,
    pub(super) lr: f64,
    pub(super) weight_decay: f64,
    pub(super) betas: [f64; 2],
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Schedule {
    #[serde(rename = "type")]
    pub(super) kind: ScheduleKind,
    pub(super) warmup: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Checkpoint {
    pub(super) every: Every,
    pub(super) keep: Keep,
}

/// Bits of each of the optimizer's two moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum OptimizerBits {
    Eight,
    #[default]
    ThirtyTwo,
}

impl Serialize for OptimizerBits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(match self {
            Self::Eight => 8,
            Self::ThirtyTwo => 32,
        })
    }
}

/// When to save.
#[derive(Debug, Clone, Copy)]
pub(super) enum Every {
    /// As often as the time of a save allows.
    Auto,
    /// Whichever comes first; one at least is there.
    Given(Intervals),
}

/// Distances between two checkpoints.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Intervals {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) steps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epochs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) minutes: Option<f64>,
}

impl Every {
    pub(super) const AUTO: &str = "auto";
}

impl Serialize for Every {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str(Self::AUTO),
            Self::Given(intervals) => intervals.serialize(serializer),
        }
    }
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Keep {
    pub(super) last: u32,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Trainer {
    pub(super) kind: TrainerKind,
    pub(super) image: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) command: Vec<String>,
    /// Present exactly when `kind` is not hone's own.
    #[serde(flatten)]
    pub(super) tool: Option<Tool>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Resources {
    pub(super) gpus: Gpus,
    #[serde(serialize_with = "cores")]
    pub(super) cpu: MilliCpu,
    #[serde(serialize_with = "exact")]
    pub(super) memory: Bytes,
    #[serde(serialize_with = "exact")]
    pub(super) disk: Bytes,
    #[serde(serialize_with = "exact")]
    pub(super) shm: Bytes,
    pub(super) network: Network,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_hours: Option<f64>,
    pub(super) max_attempts: u32,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Gpus {
    pub(super) count: u32,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "exact_or_none")]
    pub(super) vram: Option<Bytes>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Container {
    pub(super) user: ContainerUser,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct OnDisconnect {
    pub(super) wait: Wait,
}

/// How long a silent controller is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Auto,
    Forever,
    For(Duration),
}

impl Serialize for Wait {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Forever => serializer.serialize_str("forever"),
            Self::For(time) => serializer.collect_str(&format_args!("{}s", time.as_secs())),
        }
    }
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Evaluate {
    pub(super) base_model: bool,
}

/// Sizes are written to the byte, so that the canonical form loses nothing.
fn exact<S: Serializer>(size: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}B", size.get()))
}

fn exact_or_none<S: Serializer>(size: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
    match size {
        Some(size) => exact(size, serializer),
        None => serializer.serialize_none(),
    }
}

fn cores<S: Serializer>(cpu: &MilliCpu, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(f64::from(cpu.get()) / 1000.0)
}
