//! The container engine as the rest of the agent sees it: a handful of calls, typed errors, plain values.
//!
//! [`docker::Docker`] implements [`Runtime`] over the real engine and is the only user of its client library; tests
//! script the trait instead. Every call is safe to repeat: asking for what is already so succeeds, because the core
//! converges by asking again. The engine may perform a call whose answer got lost, so the truth is always
//! [`Runtime::list`], never the memory of a call.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;

use bytes::Bytes as Buf;
use futures_util::stream::BoxStream;
use hone_proto::id::AttemptId;
use hone_proto::inventory::EngineFacts;
use hone_proto::quantity::Bytes;
use hone_proto::time::WallNanos;
use tokio::sync::{mpsc, watch};

pub mod docker;
mod error;
mod image;
mod spec;

pub use error::{Refusal, RuntimeError};
pub use image::{ImageId, ImageName, ImageNameError};
pub use spec::{
    ContainerSpec, EnvVar, LogLimit, Mount, Network, SpecError, Tmpfs, User, may_enter,
};

/// The id that the engine gave to a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// An id as the engine returned it.
    #[must_use]
    pub fn new(id: String) -> Self {
        Self(id)
    }
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    /// The first 12 digits, as the engine's own tools show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.get(..12).unwrap_or(&self.0))
    }
}

/// What a container of ours is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Made but not running yet.
    Created {
        /// Why the engine could not start it, when it tried and failed.
        start_error: Option<String>,
    },
    /// Running, or paused by somebody.
    Running {
        /// The process id of its init, in the agent's process namespace; names its cgroup.
        pid: u32,
        /// When it started.
        started: Option<WallNanos>,
    },
    /// Ended. After an engine restart the code is not evidence: the trainer's result file decides.
    Exited {
        /// Exit code as the engine reports it.
        code: i64,
        /// The engine saw an out-of-memory kill in it; a child may have been killed while the job went on to succeed.
        oom_killed: bool,
        /// When it ended.
        finished: Option<WallNanos>,
    },
    /// Being removed by the engine.
    Removing,
}

/// One container that carries this agent's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Its id.
    pub id: ContainerId,
    /// The attempt it belongs to; absent when its labels cannot be read, which makes it fit only to be swept.
    pub attempt: Option<AttemptId>,
    /// What it is doing.
    pub state: ContainerState,
    /// The engine's log file of it; root-owned, outside the container's reach.
    pub log_path: Option<PathBuf>,
    /// The image it was made from.
    pub image: Option<ImageId>,
}

/// The signals that the agent sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Save and stop.
    Term,
    /// Stop now.
    Kill,
    /// Save and go on.
    Usr1,
    /// Dump the stacks to the log.
    Usr2,
}

impl Signal {
    /// The name that the engine understands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Kill => "SIGKILL",
            Self::Usr1 => "SIGUSR1",
            Self::Usr2 => "SIGUSR2",
        }
    }
}

/// How far a transfer of an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Transfer {
    /// Bytes that have arrived.
    pub done: Bytes,
    /// Bytes expected as far as is known; grows while layers are discovered.
    pub total: Bytes,
}

/// The bytes of an image as the engine's `save` wrote them.
pub type ImageStream = BoxStream<'static, io::Result<Buf>>;

/// Something happened to a container of ours, or may have while nobody listened. It carries no detail on purpose:
/// events get lost, so the only right reaction is to list again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineEvent {
    /// A container started, ended, ran out of memory or was removed.
    Changed(ContainerId),
    /// The subscription is new: whatever happened before it was missed.
    Subscribed,
    /// The engine stopped answering; the subscription is being renewed.
    Lost,
}

/// The container engine of this node.
///
/// `Err(RuntimeError::Unavailable)` says nothing about whether the call had its effect.
pub trait Runtime: Send + Sync {
    /// What the engine is and can do.
    fn facts(&self) -> impl Future<Output = Result<EngineFacts, RuntimeError>> + Send;

    /// Every container that carries this fleet's and this node's labels, running or not. Nobody else's appear.
    fn list(&self) -> impl Future<Output = Result<Vec<Observed>, RuntimeError>> + Send;

    /// One container of ours, or nothing when it is gone or not ours.
    fn observe(
        &self,
        id: &ContainerId,
    ) -> impl Future<Output = Result<Option<Observed>, RuntimeError>> + Send;

    /// Creates a container. When one of this name already exists for the very same attempt and has not started, its
    /// id is returned.
    fn create(
        &self,
        spec: &ContainerSpec,
    ) -> impl Future<Output = Result<ContainerId, RuntimeError>> + Send;

    /// Starts a created container; one that already runs stays as it is.
    fn start(&self, id: &ContainerId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Sends a signal to the container's first process. Returns whether there was a running container to take it.
    fn signal(
        &self,
        id: &ContainerId,
        signal: Signal,
    ) -> impl Future<Output = Result<bool, RuntimeError>> + Send;

    /// Removes a container that does not run, with its log and anonymous volumes. A running one is refused.
    fn remove(&self, id: &ContainerId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// The id of an image that the engine holds, if it holds it.
    fn has_image(
        &self,
        image: &ImageName,
    ) -> impl Future<Output = Result<Option<ImageId>, RuntimeError>> + Send;

    /// Streams a saved image into the engine and proves that it is the wanted one. What else the stream brought into
    /// the engine is removed again.
    fn load_image(
        &self,
        wanted: &ImageId,
        tar: ImageStream,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Pulls an image by repository digest.
    fn pull(
        &self,
        image: &ImageName,
        progress: &watch::Sender<Transfer>,
    ) -> impl Future<Output = Result<ImageId, RuntimeError>> + Send;

    /// Subscribes to changes. The subscription renews itself until the receiver is dropped; when the receiver is
    /// slow, events are merged, since one pending event is as good as many.
    fn events(&self) -> mpsc::Receiver<EngineEvent>;
}

/// The attempts among `observed`: what the agent holds.
#[must_use]
pub fn attempts(observed: &[Observed]) -> BTreeSet<AttemptId> {
    observed.iter().filter_map(|container| container.attempt).collect()
}
