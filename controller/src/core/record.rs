//! What the core keeps. Stored: facts that nobody else can supply (what was asked for, what was decided, what was
//! acknowledged). Not stored: leases, sessions, samples and everything that an agent repeats when it connects.

use std::collections::BTreeMap;
use std::time::Duration;

use hone_proto::assignment::{ImageRef, Input, Promise, Relaxation};
use hone_proto::event::{Outcome, Phase, Stream};
use hone_proto::id::{
    Attempt, AttemptId, BootId, Digest, FleetId, Generation, JobId, JobName, NodeId, ProjectName,
    Revision, Seq, SpoolId, Step, Token, UserName,
};
pub use hone_proto::identity::Role;
use hone_proto::quantity::Bytes;
use hone_proto::time::WallNanos;
use serde::{Deserialize, Serialize};

use crate::placement::{Capacity, Demand};

/// Facts of the fleet as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The fleet.
    pub fleet: FleetId,
    /// This life of the state.
    pub generation: Generation,
    /// The last job number given.
    pub last_job: JobId,
    /// The last event number given.
    pub last_event: u64,
}

/// One enrolled machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id.
    pub id: NodeId,
    /// Its host name, for listings.
    pub hostname: String,
    /// Who made the token that it spent.
    pub enrolled_by: UserName,
    /// When.
    pub enrolled_at: WallNanos,
    /// What people decided about it.
    pub admin: NodeAdmin,
    /// The certificate that it holds.
    pub certificate: Option<CertificateRecord>,
    /// The boot in which it last said hello.
    pub boot: Option<BootId>,
    /// What it last offered.
    pub capacity: Option<Capacity>,
    /// Version of its agent.
    pub agent_version: String,
    /// When it last said hello.
    pub last_hello: Option<WallNanos>,
    /// Raised with each change of its desired set.
    pub revision: Revision,
}

/// What people decided about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeAdmin {
    /// Jobs may be placed on it.
    Ready,
    /// Nothing more is placed on it.
    Drained,
    /// It may not speak any more.
    Revoked,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// SHA-256 of its public key, hexadecimal: how an expired but known key is recognised.
    pub key: String,
    /// When it ends.
    pub not_after: WallNanos,
}

/// How much of a node's spool is durable here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    /// The spool.
    pub spool: SpoolId,
    /// The last durable event of each stream.
    pub seqs: BTreeMap<Stream, Seq>,
}

/// One job.
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
    /// Its placements, oldest first.
    pub attempts: Vec<AttemptRecord>,
    /// The newest checkpoint that any attempt committed.
    pub latest: Option<Saved>,
    /// The package of the attempt that finished.
    pub package: Option<Saved>,
    /// Who asked to cancel it.
    pub cancelled_by: Option<UserName>,
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

/// One placement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Its fencing token.
    pub token: Token,
    /// Where.
    pub node: NodeId,
    /// When it was placed.
    pub placed_at: WallNanos,
    /// What was promised.
    pub promise: Promise,
    /// The checkpoint that it starts from.
    pub resume: Option<Saved>,
    /// Where it stands.
    pub state: AttemptState,
    /// Why it shall stop, once it shall.
    pub stop: Option<StopWhy>,
    /// How long its agent waits for a silent controller; `None` is for ever.
    pub disconnect_wait: Option<Duration>,
    /// Raised for each "save now".
    pub checkpoint_requests: u64,
}

/// Where an attempt stands, as far as the controller knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttemptState {
    /// Decided; nothing has been heard of it.
    Placed,
    /// What its agent last reported.
    Reported(Phase, String),
    /// Its agent reported the end.
    Ended(Outcome, WallNanos),
    /// Given up without having been heard.
    Lost {
        /// Why, for people.
        why: String,
        /// When.
        at: WallNanos,
    },
}

/// Why an attempt shall stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopWhy {
    /// Somebody cancelled the job.
    Cancel,
    /// Its node is being emptied.
    Drain,
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

/// One person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Their name.
    pub name: UserName,
    /// What they may do.
    pub role: Role,
    /// Who invited them; `None` is the first operator.
    pub invited_by: Option<UserName>,
    /// The certificate that they hold; `None` until the invitation is spent.
    pub certificate: Option<CertificateRecord>,
    /// Set once and for ever.
    pub revoked: bool,
}

/// One enrolment token, by the hash of its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Public part, by which it is found.
    pub public_id: String,
    /// Keyed hash of the secret part, hexadecimal.
    pub hash: String,
    /// What it is good for.
    pub purpose: TokenPurpose,
    /// Who made it.
    pub made_by: UserName,
    /// When it ends.
    pub expires: WallNanos,
    /// Set when it has been spent.
    pub spent: bool,
}

/// What a token enrols.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenPurpose {
    /// A machine.
    Node,
    /// This person.
    User(UserName),
}

/// The kept result of a mutating request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// When it was answered.
    pub at: WallNanos,
    /// What it was, so that the same id with another content is a conflict.
    pub content: Digest,
    /// The job that it made or changed.
    pub job: Option<JobId>,
}

/// Bulk data that a user committed: an input or an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Who.
    pub by: UserName,
    /// When.
    pub at: WallNanos,
    /// Sum of its files.
    pub bytes: Bytes,
}

/// One line of the fleet's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetEvent {
    /// Its number, from 1.
    pub number: u64,
    /// When.
    pub at: WallNanos,
    /// Stable word.
    pub kind: String,
    /// About which job.
    pub job: Option<JobId>,
    /// About which attempt.
    pub attempt: Option<Attempt>,
    /// About which node.
    pub node: Option<NodeId>,
    /// Who did it; `None` is the fleet itself.
    pub actor: Option<UserName>,
    /// For people.
    pub text: String,
}

impl JobRecord {
    /// The attempt that holds the fencing token, if the job is on a node.
    #[must_use]
    pub fn current(&self) -> Option<&AttemptRecord> {
        match self.state {
            JobState::Active => self.attempts.last(),
            JobState::Queued { .. } | JobState::Ended { .. } => None,
        }
    }

    /// Its id with this token.
    #[must_use]
    pub const fn attempt(&self, token: Token) -> AttemptId {
        AttemptId { job: self.id, token }
    }
}

impl AttemptRecord {
    /// Whether it may still run on its node.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        match self.state {
            AttemptState::Placed | AttemptState::Reported(..) => true,
            AttemptState::Ended(..) | AttemptState::Lost { .. } => false,
        }
    }
}
