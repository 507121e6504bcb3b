//! A job as it is kept: what was asked for, where it stands, what it saved.

use std::collections::BTreeMap;
use std::time::Duration;

use hone_proto::assignment::{ImageRef, Input, Relaxation};
use hone_proto::id::{AttemptId, Digest, JobId, JobName, ProjectName, Step, Token, UserName};
use hone_proto::quantity::Bytes;
use hone_proto::time::WallNanos;
use serde::{Deserialize, Serialize};

use crate::placement::Demand;

/// One job. Its attempts are records of their own: each is written when it changes, and their number never weighs on
/// this one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its number.
    pub id: JobId,
    /// What was asked for.
    pub wish: Wish,
    /// Who submitted it.
    pub owner: UserName,
    /// When.
    pub submitted_at: WallNanos,
    /// Where it stands.
    pub state: JobState,
    /// The newest checkpoint that any attempt committed.
    pub latest: Option<Saved>,
    /// The package of the attempt that finished.
    pub package: Option<Saved>,
    /// Who asked to cancel it.
    pub cancelled_by: Option<UserName>,
    /// How many of the attempts that are not kept any more counted as tries.
    #[serde(default)]
    pub tries_dropped: u32,
}

/// What a user asked for, validated and complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// The user's name for it.
    pub name: JobName,
    /// Whose it is.
    pub project: ProjectName,
    /// What it needs of a node.
    pub demand: Demand,
    /// What to run.
    pub image: ImageRef,
    /// Labels of the image that describe its stack.
    pub image_labels: BTreeMap<String, String>,
    /// Overrides the image's command when not empty.
    pub command: Vec<String>,
    /// What to stage.
    pub inputs: Vec<Input>,
    /// The resolved spec as JSON; its `job.id` and `job.attempt` are filled in at placement.
    pub trainer_spec: String,
    /// Named relaxations.
    pub relaxations: Vec<Relaxation>,
    /// Committed checkpoints that stay on the node.
    pub keep_checkpoints: u32,
    /// From the request to stop until the container is killed.
    pub grace: Duration,
    /// What a silent controller means.
    pub on_disconnect: OnDisconnect,
    /// Placements at most.
    pub max_attempts: u32,
    /// Wall budget of one attempt.
    pub max_time: Option<Duration>,
    /// A job that exports nothing completes without a package.
    pub exports: bool,
    /// W3C trace context of the submit.
    pub traceparent: String,
}

/// How long an agent waits for a silent controller before it saves and stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// For ever while no other node could hold the job, else 30 minutes.
    Auto,
    /// For ever.
    Forever,
    /// So long.
    Wait(Duration),
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It waits for a place.
    Queued {
        /// Why, for people; empty before the first try.
        reason: String,
        /// Not before this time, after a failure.
        not_before: Option<WallNanos>,
    },
    /// Its last attempt is on a node.
    Active,
    /// It ended.
    Ended {
        /// How.
        end: End,
        /// When.
        at: WallNanos,
        /// For people.
        message: String,
    },
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// As specified.
    Completed,
    /// It cannot succeed, or tried too often.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

/// Something that an attempt committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Its manifest.
    pub manifest: Digest,
    /// The step that it holds.
    pub step: Step,
    /// Who committed it.
    pub token: Token,
    /// Sum of its files.
    pub bytes: Bytes,
    /// Number of its files.
    pub files: u64,
    /// When it became visible.
    pub at: WallNanos,
    /// Checkpoint, or package.
    pub kind: SavedKind,
}

/// What was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SavedKind {
    /// Training state to resume from.
    Checkpoint,
    /// What a finished job exports.
    Package,
}

/// What is known of a run from its series, kept apart because it changes with every step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Newest step.
    pub step: Option<Step>,
    /// Steps of the whole run.
    pub max_steps: Option<Step>,
    /// Parameters that learn.
    pub trainable_params: Option<u64>,
    /// All parameters.
    pub total_params: Option<u64>,
    /// Newest evaluation by split: `eval_base` and `eval`.
    pub evaluations: BTreeMap<String, Evaluation>,
}

/// One evaluation over all held-out rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Summed negative log-likelihood in nats.
    pub nll_sum: f64,
    /// Tokens that it sums over.
    pub tokens: u64,
    /// At which step.
    pub step: Step,
}

impl Evaluation {
    /// exp(ΣNLL / Σtokens), the corpus perplexity.
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^53")]
        let tokens = self.tokens as f64;
        (self.nll_sum / tokens).exp()
    }
}

impl JobRecord {
    /// Its id with this token.
    #[must_use]
    pub const fn attempt(&self, token: Token) -> AttemptId {
        AttemptId { job: self.id, token }
    }
}
