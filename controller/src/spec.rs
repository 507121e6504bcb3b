//! The job spec: what a user submits, read once and complete.
//!
//! ```text
//! text ── node ──▶ tree with places ── read* ──▶ JobSpec ── resolve ──▶ /hone/spec.json
//!                                                  │  └── demand ──▶ placement
//!                                                  └── local_inputs ──▶ uploads (command line only)
//! ```
//!
//! The same [`parse`] runs in the command line for its messages and in the controller for its authority. Everything
//! here is pure except [`local_inputs`]. `keys` is the one list of keys; `docs/spec.md` is made from it.

mod docs;
mod error;
mod inputs;
mod keys;
mod left;
mod node;
mod not_yet;
mod problems;
mod read;
mod read_method;
mod read_run;
mod read_tool;
mod read_train;
mod reader;
mod resolve;
mod shown;
mod standing;
mod tool;
mod tool_config;
mod tool_limits;
mod tool_spec;
mod types;
mod words;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use hone_proto::assignment::{Channel, Relaxation};
use hone_proto::id::{Digest, JobName, ProjectName};
use hone_proto::quantity::Bytes;
use serde::Serialize;

use crate::core::record::OnDisconnect;
use crate::placement::Demand;

pub use docs::markdown;
pub use error::{MAX_PROBLEMS, Problem, ProblemKind, SpecError};
pub use inputs::{LocalInput, local_inputs};
pub use keys::{Absent, KEYS, Key, Shape};
pub use node::MAX_TEXT;
pub use read_run::DEFAULT_IMAGE;
pub use resolve::{CONTRACT, TrainerSpec, resolve};
pub use standing::Standing;
pub use tool::Level;
pub use tool_config::{MAX_CONFIG, check_config, read_config};
pub use types::JobSpec;
pub use words::{
    BadRows, ContainerUser, DataFormat, Export, Kind, LogLevel, LossOn, MethodKind, Network,
    OptimizerName, Overlong, Precision, Preload, QuantType, ScheduleKind, Sharding, StopSignal,
    Telemetry, Template, TrainerKind,
};

use types::{EvalData, InputPath, Wait};

/// The spec that `text` holds; `name` stands for it in messages, such as the file's name.
///
/// # Errors
/// Lists what is wrong with it, each with line and column.
pub fn parse(text: &str, name: &str) -> Result<JobSpec, SpecError> {
    let root = node::parse(text, name)?;
    let mut problems = problems::Problems::new(text, name);
    let spec = read::job(&root, name, &mut problems);
    problems.finish(spec)
}

/// The spec that a file's bytes hold.
///
/// # Errors
/// As [`parse`], and when they are not text.
pub fn parse_bytes(bytes: &[u8], name: &str) -> Result<JobSpec, SpecError> {
    parse(node::utf8(bytes, name)?, name)
}

impl JobSpec {
    /// The job's name.
    #[must_use]
    pub const fn name(&self) -> &JobName {
        &self.name
    }
    /// The project it belongs to.
    #[must_use]
    pub const fn project(&self) -> &ProjectName {
        &self.project
    }
    /// The user's own marks.
    #[must_use]
    pub const fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }
    /// What records and packages call the base model; empty where the tool knows itself what it trains.
    #[must_use]
    pub fn model_name(&self) -> &str {
        self.model.as_ref().map_or("", |model| &model.name)
    }
    /// What runs in the container.
    #[must_use]
    pub const fn trainer(&self) -> TrainerKind {
        self.trainer.kind
    }
    /// What is trained.
    #[must_use]
    pub const fn method(&self) -> MethodKind {
        self.method.kind
    }
    /// The image, as the user named it.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.trainer.image
    }
    /// Overrides the image's command when not empty.
    #[must_use]
    pub fn command(&self) -> &[String] {
        &self.trainer.command
    }
    /// What the package holds; nothing when it is empty.
    #[must_use]
    pub fn exports(&self) -> &[Export] {
        &self.export
    }
    /// The inputs that a submit of this spec must bring.
    #[must_use]
    pub fn channels(&self) -> Vec<Channel> {
        self.inputs().map(|(channel, _)| channel).collect()
    }
    /// The inputs with the paths that the text gives for them.
    fn inputs(&self) -> impl Iterator<Item = (Channel, &InputPath)> {
        let model = self.model.as_ref().map(|model| (Channel::Model, &model.path));
        let train = self.data.as_ref().map(|data| (Channel::Train, &data.train.path));
        let eval = self.data.as_ref().and_then(|data| match &data.eval {
            EvalData::Own(path) => Some((Channel::Eval, path)),
            EvalData::Split { .. } => None,
        });
        [model, train, eval].into_iter().flatten()
    }
    /// What a user should know of a spec that is taken as it is, each in a line.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let kind = self.trainer.kind;
        let mut warnings =
            left::warning(&self.trainer, &self.left_to_tool).into_iter().collect::<Vec<_>>();
        if kind != TrainerKind::Hone && kind.is_rendered() && !self.command().is_empty() {
            warnings.push(format!(
                "`trainer.command` replaces the command that hone would write for {}",
                kind.name()
            ));
        }
        warnings
    }
    /// The named relaxations of the closed container that it asks for.
    #[must_use]
    pub fn relaxations(&self) -> Vec<Relaxation> {
        let mut relaxations = Vec::new();
        if self.resources.network == Network::Egress {
            relaxations.push(Relaxation::NetworkEgress);
        }
        if self.container.user == ContainerUser::Image {
            relaxations.push(Relaxation::UserImage);
        }
        relaxations
    }
    /// Committed checkpoints that stay on the node's disk.
    #[must_use]
    pub const fn keep_checkpoints(&self) -> u32 {
        self.checkpoint.keep.last
    }
    /// Placements at most.
    #[must_use]
    pub const fn max_attempts(&self) -> u32 {
        self.resources.max_attempts
    }
    /// Wall budget of one attempt.
    #[must_use]
    pub fn max_time(&self) -> Option<Duration> {
        self.resources.max_hours.map(|hours| Duration::from_secs_f64(hours * 3600.0))
    }
    /// How long an agent waits for a silent controller.
    #[must_use]
    pub const fn on_disconnect(&self) -> OnDisconnect {
        match self.on_disconnect.wait {
            Wait::Auto => OnDisconnect::Auto,
            Wait::Forever => OnDisconnect::Forever,
            Wait::For(time) => OnDisconnect::Wait(time),
        }
    }
    /// From the request to stop until the container is killed.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        self.trainer.kind.grace(self.method.kind)
    }
    /// What a node must have free.
    #[must_use]
    pub fn demand(&self) -> Demand {
        Demand {
            gpus: self.resources.gpus.count,
            vram: self.resources.gpus.vram.unwrap_or(Bytes::ZERO),
            cpu: self.resources.cpu,
            ram: self.resources.memory,
            disk: self.resources.disk,
            shm: self.resources.shm,
        }
    }
    /// The spec with every default, as JSON that is itself a spec. The same for every text that means the same.
    #[must_use]
    pub fn canonical(&self) -> String {
        json(self)
    }
    /// Names the spec by its content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.canonical().as_bytes())
    }
}

/// JSON of our own types, whose maps have text for keys and whose numbers are finite: nothing there can fail.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value)
        .unwrap_or_else(|error| unreachable!("our own types serialise: {error}"))
}
