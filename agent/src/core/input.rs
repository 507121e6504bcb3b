//! What the reconciler is told, and what it wants done: data only.

use std::collections::BTreeMap;
use std::time::Duration;

use hone_proto::assignment::{Assignment, DesiredSet};
use hone_proto::event::Payload;
use hone_proto::id::{AttemptId, Step};
use hone_proto::quantity::Bytes;
use hone_proto::time::BootNanos;
use serde::{Deserialize, Serialize};

/// Something that the reconciler is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Time passed.
    Tick,
    /// The controller acknowledged the heartbeat that was sent at this time.
    Heard {
        /// When it was sent.
        sent: BootNanos,
    },
    /// What the controller wants.
    Desired(DesiredSet),
    /// The controller wants nothing of this node any more, for good.
    Dismissed {
        /// Why, for people.
        why: String,
    },
    /// All containers that carry this agent's labels.
    Observed {
        /// Which.
        containers: Vec<Seen>,
        /// When the list was asked for.
        asked: BootNanos,
    },
    /// Staging ended.
    Staged {
        /// Whose.
        attempt: AttemptId,
        /// How.
        result: Result<(), StepError>,
    },
    /// The container was made and started, with this id.
    Launched {
        /// Whose.
        attempt: AttemptId,
        /// How.
        result: Result<String, StepError>,
    },
    /// What the trainer has done so far.
    Progress {
        /// Whose.
        attempt: AttemptId,
        /// Newest step.
        step: Option<Step>,
        /// Complete checkpoints on disk.
        checkpoints: Vec<Found>,
    },
    /// What running attempts have written, and what is free on the disk that they share.
    Disk {
        /// By attempt.
        written: BTreeMap<AttemptId, Written>,
        /// Absent when the system does not tell.
        free: Option<Bytes>,
    },
    /// Everything that an ended container left has been read and spooled.
    Drained {
        /// Whose.
        attempt: AttemptId,
        /// What it left.
        drained: Box<Drained>,
    },
    /// An upload ended.
    Uploaded {
        /// Whose.
        attempt: AttemptId,
        /// Of what.
        upload: Upload,
        /// How long it took.
        took: Duration,
        /// How.
        result: Result<(), UploadError>,
    },
    /// The attempt's container and files are gone, or could not be removed yet.
    Removed {
        /// Whose.
        attempt: AttemptId,
        /// Whether they are gone.
        done: bool,
    },
    /// A container of unknown origin was dealt with, or could not be yet.
    Swept {
        /// Which.
        container: String,
    },
}

/// What an attempt's files take on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Space.
    pub bytes: Bytes,
    /// False when there is more than could be counted.
    pub whole: bool,
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepError {
    /// Whether trying again may help.
    pub retryable: bool,
    /// Stable word, such as `engine_unavailable`.
    pub cause: String,
    /// For people.
    pub message: String,
    /// Whether another node may succeed where this one cannot.
    pub elsewhere: bool,
}

/// Why an upload did not commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadError {
    /// The token is stale.
    Fenced,
    /// The controller has a later step already.
    Overtaken,
    /// It may work later.
    Later(String),
    /// It never will.
    Never(String),
}

/// A container as the engine shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub id: String,
    /// The attempt on its labels; `None` when they cannot be read.
    pub attempt: Option<AttemptId>,
    /// What it does.
    pub state: SeenState,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenState {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited {
        /// Exit code.
        code: i64,
        /// The engine saw an out-of-memory kill in it.
        oom: bool,
    },
}

/// A complete checkpoint on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its step.
    pub step: Step,
    /// Its folder, below the attempt's output.
    pub path: String,
}

/// What an ended container left.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Drained {
    /// Newest step.
    pub step: Option<Step>,
    /// Complete checkpoints.
    pub checkpoints: Vec<Found>,
    /// Folder of the package, when it is complete.
    pub package: Option<String>,
    /// The trainer's last word, when it is of this attempt.
    pub result: Option<TrainerWord>,
    /// Out-of-memory kills that the kernel counted in the container.
    pub oom_kills: u64,
}

/// The part of `result.json` that decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerWord {
    /// `completed`, `interrupted` or `failed`.
    pub status: String,
    /// The code that the trainer meant to exit with; launchers flatten the real one.
    pub code: i32,
    /// For people.
    pub message: String,
    /// The step that it reached.
    pub step: Option<Step>,
    /// The file as it is.
    pub json: String,
}

/// Something to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upload {
    /// A checkpoint.
    Checkpoint(Found),
    /// The package, of this step.
    Package(Found),
}

/// What the reconciler wants done. Each is safe to repeat.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make the state durable, before anything else.
    Keep,
    /// Put something into the spool, before anything else but `Keep`.
    Report(Payload),
    /// Fetch what the attempt needs; answered by `Staged`.
    Stage(Box<Assignment>, u32),
    /// Make and start the container; answered by `Launched`.
    Launch(Box<Assignment>, u32),
    /// Ask the trainer to save and stop.
    AskToStop {
        /// Whose.
        attempt: AttemptId,
        /// Which.
        container: String,
    },
    /// Ask the trainer to save and go on.
    AskToSave {
        /// Whose.
        attempt: AttemptId,
        /// Which.
        container: String,
    },
    /// SIGKILL.
    Kill {
        /// Which.
        container: String,
    },
    /// Read what the ended container left; answered by `Drained`.
    Drain(AttemptId),
    /// Upload and commit; answered by `Uploaded`.
    Upload {
        /// Whose.
        attempt: AttemptId,
        /// What.
        upload: Upload,
        /// The trace that it goes on in, as the assignment says.
        traceparent: String,
    },
    /// Delete a committed checkpoint that is past retention.
    Discard {
        /// Whose.
        attempt: AttemptId,
        /// Which folder.
        path: String,
    },
    /// Remove the container, running or not, and the attempt's files; answered by `Removed`.
    Remove {
        /// Whose.
        attempt: AttemptId,
        /// Its container, if one is known.
        container: Option<String>,
    },
    /// Kill and remove a container of unknown origin; answered by `Swept`.
    Sweep {
        /// Which.
        container: String,
    },
}
