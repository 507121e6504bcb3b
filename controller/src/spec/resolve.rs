//! From a spec to what the container reads as `/hone/spec.json`, contract version 1.
//!
//! That file is a public interface: keys are added and never change their meaning.

use hone_proto::id::{Attempt, Digest, JobId};
use serde::Serialize;

use super::tool_spec::ToolSpec;
use super::types::{Batch, EvalData, Every, JobSpec, Length, Method, Optimizer, Schedule, Train};
use super::words::{
    BadRows, DataFormat, Export, LogLevel, LossOn, Overlong, Precision, Preload, Sharding, Template,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<Model>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
    method: Method,
    train: Training,
    checkpoint: Checkpoint,
    evaluate: Evaluate,
    export: Vec<Export>,
    log_level: LogLevel,
    /// Present exactly when something else than hone's own trainer runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    trainer: Option<ToolSpec>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    loss_on: LossOn,
    overlong: Overlong,
    bad_rows: BadRows,
    preload: Preload,
    eval: HeldOut,
}

#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum HeldOut {
    Split { fraction: f64, seed: u32 },
    Channel { channel: &'static str },
}

#[derive(Debug, Clone, Serialize)]
struct Training {
    epochs: Option<f64>,
    max_steps: Option<u32>,
    seq_len: u32,
    packing: bool,
    micro_batch: u32,
    accumulation: u32,
    optimizer: Optimizer,
    schedule: Schedule,
    clip_norm: f64,
    precision: Precision,
    gradient_checkpointing: bool,
    sharding: Sharding,
    seed: u32,
    log_every: u32,
    eval_every: Option<u32>,
}

#[derive(Debug, Clone, Serialize)]
struct Checkpoint {
    #[serde(skip_serializing_if = "Option::is_none")]
    every_steps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    every_epochs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    every_minutes: Option<f64>,
    /// By what a save is seen to cost, instead of the others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    auto: bool,
}

impl Checkpoint {
    fn of(every: Every) -> Self {
        match every {
            Every::Auto => {
                Self { every_steps: None, every_epochs: None, every_minutes: None, auto: true }
            }
            Every::Given(given) => Self {
                every_steps: given.steps,
                every_epochs: given.epochs,
                every_minutes: given.minutes,
                auto: false,
            },
        }
    }
}

#[derive(Debug, Clone, Serialize)]
struct Evaluate {
    base_model: bool,
}

/// What `spec` means for one attempt of `job`, with the base model whose manifest is `model` and the text `config` of its
/// tool's configuration file.
#[must_use]
pub fn resolve(
    spec: &JobSpec,
    job: JobId,
    attempt: Attempt,
    model: Option<Digest>,
    config: Option<&str>,
) -> TrainerSpec {
    TrainerSpec {
        version: CONTRACT,
        job: Job {
            id: job.to_string(),
            name: spec.name.to_string(),
            project: spec.project.to_string(),
            attempt,
        },
        model: spec.model.as_ref().map(|known| Model {
            name: known.name.clone(),
            trust_remote_code: false,
            digest: model.unwrap_or(Digest::of(b"")),
        }),
        data: spec.data.as_ref().map(data),
        method: spec.method.clone(),
        train: training(&spec.train),
        checkpoint: Checkpoint::of(spec.checkpoint.every),
        evaluate: Evaluate { base_model: spec.evaluate.base_model },
        export: spec.export.clone(),
        log_level: spec.log_level,
        trainer: spec
            .trainer
            .tool
            .as_ref()
            .map(|tool| ToolSpec::of(spec.trainer.kind, tool, config)),
        spec_digest: config.map_or_else(|| spec.digest(), |text| with_config(spec, text)),
    }
}

/// Names a spec with the content of the file that it names.
fn with_config(spec: &JobSpec, text: &str) -> Digest {
    Digest::of(format!("{}{}", spec.digest(), Digest::of(text.as_bytes())).as_bytes())
}

fn data(data: &super::types::Data) -> Data {
    Data {
        format: data.train.format,
        template: data.template,
        system: data.system.clone(),
        loss_on: data.loss_on,
        overlong: data.overlong,
        bad_rows: data.bad_rows,
        preload: data.preload,
        eval: match data.eval {
            EvalData::Own(_) => HeldOut::Channel { channel: "eval" },
            EvalData::Split { fraction, seed } => HeldOut::Split { fraction, seed },
        },
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
        packing: train.packing,
        micro_batch,
        accumulation,
        optimizer: train.optimizer,
        schedule: train.schedule,
        clip_norm: train.clip_norm,
        precision: train.precision,
        gradient_checkpointing: train.activation_checkpointing,
        sharding: train.sharding,
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
