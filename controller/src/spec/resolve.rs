//! From a spec to what the container reads as `/hone/spec.json`, contract version 1.
//!
//! That file is a public interface: keys are added and never change their meaning.

use hone_proto::id::{Attempt, Digest, JobId};
use serde::Serialize;

use super::types::{Batch, EvalData, JobSpec, Length, Lora, Optimizer, Schedule, Train};
use super::words::{
    DataFormat, Export, LogLevel, LossOn, MethodKind, Overlong, Precision, Template,
};

/// Version of the contract between hone and what runs in the container.
pub const CONTRACT: u32 = 1;

/// Largest micro-batch that `auto` chooses: enough to keep a small device busy, and safe on it.
const AUTO_MICRO: u32 = 8;

/// What the container is told.
#[derive(Debug, Clone, Serialize)]
pub struct TrainerSpec {
    version: u32,
    job: Job,
    model: Model,
    data: Data,
    method: Method,
    train: Training,
    checkpoint: Checkpoint,
    evaluate: Evaluate,
    export: Vec<Export>,
    log_level: LogLevel,
    spec_digest: Digest,
}

#[derive(Debug, Clone, Serialize)]
struct Job {
    /// Text: an id is nothing to calculate with.
    id: String,
    name: String,
    project: String,
    attempt: Attempt,
}

#[derive(Debug, Clone, Serialize)]
struct Model {
    name: String,
    trust_remote_code: bool,
    digest: Digest,
}

#[derive(Debug, Clone, Serialize)]
struct Data {
    format: DataFormat,
    template: Template,
    loss_on: LossOn,
    overlong: Overlong,
    eval: HeldOut,
}

#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum HeldOut {
    Split { fraction: f64, seed: u32 },
    Channel { channel: &'static str },
}

#[derive(Debug, Clone, Serialize)]
struct Method {
    #[serde(rename = "type")]
    kind: MethodKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    lora: Option<Lora>,
}

#[derive(Debug, Clone, Serialize)]
struct Training {
    epochs: Option<f64>,
    max_steps: Option<u32>,
    seq_len: u32,
    micro_batch: u32,
    accumulation: u32,
    optimizer: Optimizer,
    schedule: Schedule,
    clip_norm: f64,
    precision: Precision,
    gradient_checkpointing: bool,
    seed: u32,
    log_every: u32,
    eval_every: Option<u32>,
}

#[derive(Debug, Clone, Serialize)]
struct Checkpoint {
    every_steps: u32,
}

#[derive(Debug, Clone, Serialize)]
struct Evaluate {
    base_model: bool,
}

/// What `spec` means for one attempt of `job`, with the base model whose manifest is `model`.
#[must_use]
pub fn resolve(spec: &JobSpec, job: JobId, attempt: Attempt, model: Digest) -> TrainerSpec {
    TrainerSpec {
        version: CONTRACT,
        job: Job {
            id: job.to_string(),
            name: spec.name.to_string(),
            project: spec.project.to_string(),
            attempt,
        },
        model: Model { name: spec.model.name.clone(), trust_remote_code: false, digest: model },
        data: Data {
            format: spec.data.train.format,
            template: spec.data.template,
            loss_on: spec.data.loss_on,
            overlong: spec.data.overlong,
            eval: match spec.data.eval {
                EvalData::Own(_) => HeldOut::Channel { channel: "eval" },
                EvalData::Split { fraction, seed } => HeldOut::Split { fraction, seed },
            },
        },
        method: Method { kind: spec.method.kind, lora: spec.method.lora.clone() },
        train: training(&spec.train),
        checkpoint: Checkpoint { every_steps: spec.checkpoint.every.steps },
        evaluate: Evaluate { base_model: spec.evaluate.base_model },
        export: spec.export.clone(),
        log_level: spec.log_level,
        spec_digest: spec.digest(),
    }
}

fn training(train: &Train) -> Training {
    let (micro_batch, accumulation) = train.batch.split();
    let (epochs, max_steps) = match train.length {
        Length::Epochs(epochs) => (Some(epochs), None),
        Length::Steps(steps) => (None, Some(steps)),
    };
    Training {
        epochs,
        max_steps,
        seq_len: train.seq_len,
        micro_batch,
        accumulation,
        optimizer: train.optimizer,
        schedule: train.schedule,
        clip_norm: train.clip_norm,
        precision: train.precision,
        gradient_checkpointing: train.activation_checkpointing,
        seed: train.seed,
        log_every: train.log_every,
        eval_every: train.eval_every,
    }
}

impl Batch {
    /// Micro-batch and accumulation, whose product is the effective batch exactly.
    fn split(self) -> (u32, u32) {
        let fits = |micro: &u32| self.effective.is_multiple_of(*micro);
        let micro =
            self.micro.or_else(|| (1..=AUTO_MICRO).rev().find(fits)).filter(fits).unwrap_or(1);
        (micro, self.effective / micro)
    }
}

impl TrainerSpec {
    /// The bytes of `/hone/spec.json`.
    #[must_use]
    pub fn to_json(&self) -> String {
        super::json(self)
    }
}
