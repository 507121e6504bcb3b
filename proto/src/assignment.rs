//! What a controller wants of one node: attempts to carry, each complete in itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, Digest, Generation, JobName, ProjectName, Revision, UserName};
use crate::quantity::{Bytes, MilliCpu};

/// All that one node shall carry, as of a revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct DesiredSet {
    /// Raised with every change.
    pub revision: Revision,
    /// Generation of the controller.
    pub generation: Generation,
    /// The attempts. One that is absent is none of the controller's concern any more.
    pub assignments: Vec<Assignment>,
}

/// One attempt that a node shall carry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// Which.
    pub attempt: AttemptId,
    /// The job's name, for people.
    pub job_name: JobName,
    /// Whose chunks it may reach.
    pub project: ProjectName,
    /// Who submitted it.
    pub owner: UserName,
    /// Run it, or let it stop.
    pub intent: Intent,
    /// What to run.
    pub image: ImageRef,
    /// Overrides the image's command when not empty.
    pub command: Vec<String>,
    /// The resolved spec, JSON text, at most 64 KiB.
    pub trainer_spec: String,
    /// What to stage.
    pub inputs: Vec<Input>,
    /// Manifest of the checkpoint to resume from.
    pub resume: Option<Digest>,
    /// What was promised to it on this node.
    pub promise: Promise,
    /// Named relaxations of the closed container.
    pub relaxations: Vec<Relaxation>,
    /// Committed checkpoints that stay on the node's disk; at least 1.
    pub keep_checkpoints: u32,
    /// From the request to stop until the container is killed.
    pub grace: Duration,
    /// How long a silent controller is waited for; `None` is for ever.
    pub disconnect_wait: Option<Duration>,
    /// Raised for each "save now".
    pub checkpoint_requests: u64,
    /// W3C trace context of the submit; empty when there is none.
    pub traceparent: String,
    /// Wall budget.
    pub max_time: Option<Duration>,
}

/// Whether a job may not set the variable of this name. The loader's variables reach into hooks that run with the host's
/// privileges (CVE-2025-23266), the devices are the planner's, and `HONE_*` is the contract.
#[must_use]
pub fn is_denied_variable(name: &str) -> bool {
    ["LD_", "NVIDIA_", "HONE_"].iter().any(|prefix| name.starts_with(prefix))
        || matches!(name, "GLIBC_TUNABLES" | "GCONV_PATH" | "CUDA_VISIBLE_DEVICES")
}

/// What an assigned attempt shall do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Intent {
    /// Run to its end.
    Run,
    /// Save, stop, and report the outcome.
    Stop {
        /// For people.
        reason: String,
    },
}

/// A container image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// The engine's image id `sha256:…`, or a repository digest `name@sha256:…`.
    pub reference: String,
    /// Manifest of its `save` stream, where the image travels as chunks.
    pub manifest: Option<Digest>,
}

/// Something to stage under `/hone/input`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Where.
    pub channel: Channel,
    /// What.
    pub manifest: Digest,
}

/// A fixed place under `/hone/input`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Channel {
    /// The base model.
    Model,
    /// Rows to train on.
    Train,
    /// Rows held out.
    Eval,
}

impl Channel {
    /// The path below `/hone/input`, which is also the name on the wire.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Train => "data/train",
            Self::Eval => "data/eval",
        }
    }

    /// The channel of a wire name.
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        [Self::Model, Self::Train, Self::Eval].into_iter().find(|channel| channel.path() == path)
    }
}

/// What was promised on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Promise {
    /// Exclusive GPUs, by UUID.
    pub gpus: Vec<String>,
    /// VRAM that each of them was expected to have free.
    pub vram: Bytes,
    /// Processor time.
    pub cpu: MilliCpu,
    /// Memory, the container's limit.
    pub ram: Bytes,
    /// Disk for inputs, outputs and checkpoints.
    pub disk: Bytes,
    /// Shared memory; part of `ram`.
    pub shm: Bytes,
}

/// A named relaxation of the closed container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Relaxation {
    /// `network: egress`: the container reaches the network through the engine's bridge.
    NetworkEgress,
    /// `container.user: image`: uid 0 inside, with every capability dropped.
    UserImage,
}

impl Relaxation {
    /// Every relaxation there is.
    pub const ALL: &[Self] = &[Self::NetworkEgress, Self::UserImage];

    /// The line in the spec that asks for it, which is also the name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetworkEgress => "network: egress",
            Self::UserImage => "container.user: image",
        }
    }

    /// The relaxation of a wire name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| one.name() == name)
    }
}
