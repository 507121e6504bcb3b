//! An attempt as it is kept.

use std::time::Duration;

use hone_proto::assignment::Promise;
use hone_proto::event::{Outcome, OutcomeKind, Phase};
use hone_proto::id::{NodeId, Token};
use hone_proto::time::WallNanos;
use serde::{Deserialize, Serialize};

use super::Saved;

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
    /// The same as of the last desired set that its agent acknowledged: what it does when it hears nothing more.
    #[serde(default)]
    pub acknowledged_wait: Option<Duration>,
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

impl AttemptRecord {
    /// Whether it may still run on its node.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        match self.state {
            AttemptState::Placed | AttemptState::Reported(..) => true,
            AttemptState::Ended(..) | AttemptState::Lost { .. } => false,
        }
    }

    /// Whether it stopped because its node was being emptied.
    #[must_use]
    pub fn was_moved(&self) -> bool {
        let interrupted = |outcome: &Outcome| outcome.kind == OutcomeKind::Interrupted;
        matches!(&self.state, AttemptState::Ended(outcome, _) if interrupted(outcome))
            && self.stop == Some(StopWhy::Drain)
    }

    /// How long its agent may go on without being heard; `None` is for ever. A changed wait that was sent but never
    /// acknowledged may have arrived or not: the longer one counts.
    #[must_use]
    pub fn longest_wait(&self) -> Option<Duration> {
        Some(self.disconnect_wait?.max(self.acknowledged_wait?))
    }
}
