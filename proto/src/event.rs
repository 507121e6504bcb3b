//! What an agent reports: numbered, stamped where it happened, in three streams.

use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, BootId, Seq, SpoolId, Step};
use crate::time::Now;

/// The streams of a spool. Each is numbered and acknowledged by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// States and outcomes. Sent first, never dropped.
    State,
    /// Training metrics. Never dropped.
    Series,
    /// Log lines.
    Logs,
    /// Hardware rollups: the first to go when the spool is full.
    Hardware,
}

impl Stream {
    /// All, in the order in which they are sent.
    pub const ALL: [Self; 4] = [Self::State, Self::Series, Self::Logs, Self::Hardware];

    /// Its name in paths and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Series => "series",
            Self::Logs => "logs",
            Self::Hardware => "hardware",
        }
    }

    /// The stream of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.name() == name)
    }
}

/// Up to where one stream of one spool is durable at the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The spool.
    pub spool: SpoolId,
    /// The stream.
    pub stream: Stream,
    /// The last durable event; zero for none.
    pub seq: Seq,
}

/// Something that happened on a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its place in its stream.
    pub seq: Seq,
    /// When, by the node's clocks.
    pub at: Now,
    /// In which boot of the node.
    pub boot: BootId,
    /// What.
    pub payload: Payload,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// The attempt moved on within the agent.
    Phase {
        /// Which attempt.
        attempt: AttemptId,
        /// Where it is now.
        phase: Phase,
        /// For people.
        detail: String,
    },
    /// The attempt ended on this node.
    Outcome(Outcome),
    /// One training metrics record.
    Metrics(Metrics),
    /// The trainer began.
    Start(TrainerStart),
    /// The trainer entered or left one of its phases.
    TrainerPhase {
        /// Which attempt.
        attempt: AttemptId,
        /// `load_model`, `load_data`, `train`, `eval`, `save` or `export`; others may come.
        name: String,
        /// Entered, or left.
        begin: bool,
    },
    /// Something that the trainer wants people to see.
    Notice {
        /// Which attempt.
        attempt: AttemptId,
        /// How grave.
        level: String,
        /// Stable word.
        code: String,
        /// For people.
        message: String,
    },
    /// A log record.
    Log(LogRecord),
    /// Ten seconds of hardware samples, in wire form: the cores never look inside.
    Hardware(Box<crate::wire::NodeRollup>),
    /// Something was lost.
    Gap {
        /// Whose; `None` is the node itself.
        attempt: Option<AttemptId>,
        /// The stream's name.
        what: String,
        /// How many records.
        count: u64,
        /// For people.
        reason: String,
    },
}

impl Payload {
    /// The stream in which it travels.
    #[must_use]
    pub fn stream(&self) -> Stream {
        match self {
            Self::Phase { .. } | Self::Outcome(_) => Stream::State,
            Self::Metrics(_) | Self::Start(_) | Self::TrainerPhase { .. } | Self::Notice { .. } => {
                Stream::Series
            }
            Self::Log(_) => Stream::Logs,
            Self::Hardware(_) => Stream::Hardware,
            Self::Gap { what, .. } => {
                // A gap stands in the stream whose records it replaces.
                Stream::from_name(what).unwrap_or(Stream::Series)
            }
        }
    }

    /// The attempt that it is about; `None` is the node itself.
    #[must_use]
    pub fn attempt(&self) -> Option<AttemptId> {
        match self {
            Self::Phase { attempt, .. }
            | Self::TrainerPhase { attempt, .. }
            | Self::Notice { attempt, .. } => Some(*attempt),
            Self::Outcome(outcome) => Some(outcome.attempt),
            Self::Metrics(metrics) => Some(metrics.attempt),
            Self::Start(start) => Some(start.attempt),
            Self::Log(log) => Some(log.attempt),
            Self::Hardware(_) => None,
            Self::Gap { attempt, .. } => *attempt,
        }
    }
}

/// Where an attempt is within its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Image, inputs and the checkpoint to resume from are being fetched.
    Staging,
    /// The container is being made.
    Starting,
    /// The container runs.
    Running,
    /// Asked to save and stop.
    Stopping,
    /// The container ended; its last checkpoint and its package are on their way.
    Collecting,
}

impl Phase {
    /// The word that people see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Staging => "staging",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Collecting => "collecting",
        }
    }
}

/// How an attempt ended on its node: a claim of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which attempt.
    pub attempt: AttemptId,
    /// What it means.
    pub kind: OutcomeKind,
    /// The container's exit code; `None` when there was no container.
    pub exit_code: Option<i32>,
    /// Stable cause, such as `oom_killed`.
    pub cause: String,
    /// For people.
    pub message: String,
    /// Last step that the trainer reported.
    pub step: Option<Step>,
    /// `result.json` as it was written; empty when absent or stale.
    pub result_json: String,
}

/// What an outcome means for the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    /// Finished as specified.
    Completed,
    /// Stopped on request.
    Interrupted,
    /// Failed in a way that another attempt may not.
    FailedRetryable,
    /// Failed in a way that would repeat itself.
    Failed,
}

/// One training metrics record. (attempt, split, step) is its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// Which attempt.
    pub attempt: AttemptId,
    /// Optimizer steps completed.
    pub step: Step,
    /// `train`, `eval`, `eval_base`, `test`.
    pub split: String,
    /// Position in the data.
    pub epoch: Option<f64>,
    /// By canonical name; may be NaN or infinite.
    pub values: Vec<(String, f64)>,
}

impl Metrics {
    /// The value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

/// The trainer's first record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainerStart {
    /// Which attempt.
    pub attempt: AttemptId,
    /// Steps of the whole run.
    pub max_steps: Option<Step>,
    /// The step that it continues from; zero for a fresh start.
    pub resumed_from: Step,
    /// Parameters that learn.
    pub trainable_params: Option<u64>,
    /// All parameters.
    pub total_params: Option<u64>,
}

/// A log record: one line, or one whole traceback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Which attempt.
    pub attempt: AttemptId,
    /// `stdout` or `stderr`.
    pub output: String,
    /// How grave.
    pub level: Level,
    /// At most 16 KiB.
    pub text: String,
}

/// How grave a log record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For whoever looks for a fault.
    Debug,
    /// Ordinary.
    Info,
    /// Worth a look.
    Warning,
    /// Something failed.
    Error,
    /// Nothing works any more.
    Critical,
}

impl Level {
    /// All, least grave first.
    pub const ALL: [Self; 5] =
        [Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical];

    /// Its word, on the wire and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }

    /// The level of a word.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}
