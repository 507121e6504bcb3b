//! What an agent keeps over a crash: one file, versioned and checksummed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hone_proto::assignment::Assignment;
use hone_proto::event::Phase;
use hone_proto::id::{AttemptId, BootId, Generation, Revision, Step};
use hone_proto::time::{BootNanos, Now};
use serde::{Deserialize, Serialize};

use super::input::{Drained, Found};

/// Everything that the reconciler keeps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AgentState {
    /// Highest generation of the controller that was ever seen.
    pub generation: Generation,
    /// Revision of the desired set that is worked on.
    pub revision: Revision,
    /// The boot in which this was kept.
    #[serde(default)]
    pub boot: Option<BootId>,
    /// When the newest heartbeat that the controller acknowledged was sent; of this boot only.
    pub last_heard: Option<BootNanos>,
    /// The last uid that was given to an attempt, counted from the start of the range.
    pub next_uid: u32,
    /// The attempts held.
    #[serde(with = "by_attempt")]
    pub attempts: BTreeMap<AttemptId, AttemptRecord>,
}

impl AgentState {
    /// Forgets what was measured by the clock of another boot. True when it was another.
    pub(super) fn begin_boot(&mut self, boot: BootId) -> bool {
        if self.boot.as_ref() == Some(&boot) {
            return false;
        }
        self.boot = Some(boot);
        self.last_heard = None;
        for record in self.attempts.values_mut() {
            record.not_before = None;
            // Whatever ran has ended with its boot: any list of the engine is newer.
            record.launched = record.launched.map(|at| Now { boot: BootNanos::default(), ..at });
            if let Some(stopping) = &mut record.stopping {
                stopping.since = BootNanos::default();
                stopping.killed = None;
            }
        }
        true
    }
}

/// One attempt as its agent keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// What the controller last said of it.
    pub assignment: Assignment,
    /// False once the controller names it no more.
    pub wanted: bool,
    /// Where it stands.
    pub stage: Stage,
    /// Place of its uid in the agent's range.
    pub uid: u32,
    /// Its container, once there is one.
    pub container: Option<String>,
    /// When the container was launched.
    pub launched: Option<Now>,
    /// Exit code and out-of-memory flag as the engine reported them; `None` when the container vanished.
    pub exit: Option<(i64, bool)>,
    /// When it was asked to stop, by which clock the grace runs, and why.
    pub stopping: Option<Stopping>,
    /// The phase that was last reported.
    pub reported: Option<Phase>,
    /// Newest step that the trainer reported.
    pub step: Option<Step>,
    /// Complete checkpoints on disk that are not committed yet.
    pub found: BTreeMap<Step, String>,
    /// Committed checkpoints that are still on disk.
    pub committed: BTreeMap<Step, String>,
    /// Checkpoints that the controller will never take.
    #[serde(default)]
    pub refused: BTreeSet<Step>,
    /// What was read after the container had ended.
    pub drained: Option<Drained>,
    /// Whether the package is committed.
    pub packaged: bool,
    /// Set when the controller called the token stale: nothing of this attempt counts any more.
    pub fenced: bool,
    /// How many "save now" have been passed on.
    pub checkpoint_requests: u64,
    /// How long the last upload of a checkpoint took: what a save before a cut must allow for.
    pub last_save: Duration,
    /// Failed tries of the step at hand.
    pub tries: u32,
    /// Not to be tried again before.
    pub not_before: Option<BootNanos>,
}

impl AttemptRecord {
    /// A new one, with nothing done yet.
    #[must_use]
    pub fn new(assignment: Assignment, uid: u32) -> Self {
        Self {
            assignment,
            wanted: true,
            stage: Stage::Staging,
            uid,
            container: None,
            launched: None,
            exit: None,
            stopping: None,
            reported: None,
            step: None,
            found: BTreeMap::new(),
            committed: BTreeMap::new(),
            refused: BTreeSet::new(),
            drained: None,
            packaged: false,
            fenced: false,
            checkpoint_requests: 0,
            last_save: Duration::ZERO,
            tries: 0,
            not_before: None,
        }
    }

    /// Steps that need no further attention.
    #[must_use]
    pub fn settled(&self) -> BTreeSet<Step> {
        self.committed.keys().copied().collect()
    }

    /// Remembers complete checkpoints that are new. Returns those that are of no use any more: a later one is committed,
    /// or their deletion was lost with a crash. One that was given up comes again when its tool, from which it is taken
    /// anew, still has it.
    pub fn add_found(&mut self, checkpoints: Vec<Found>) -> (bool, Vec<Found>) {
        let newest = self.committed.keys().next_back().copied();
        let waiting = self.found.keys().next_back().copied().max(newest);
        let (mut any, mut useless) = (false, Vec::new());
        for found in checkpoints {
            if [&self.found, &self.committed].iter().any(|m| m.contains_key(&found.step)) {
                continue;
            }
            if self.refused.contains(&found.step) {
                if waiting.is_some_and(|later| found.step < later) {
                    useless.push(found);
                }
            } else if newest.is_some_and(|step| found.step < step) {
                useless.push(found);
            } else {
                self.found.insert(found.step, found.path);
                any = true;
            }
        }
        (any, useless)
    }
}

/// Where an attempt stands within its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Image, inputs and resume checkpoint are being fetched.
    Staging,
    /// Everything is there; the container is not.
    Staged,
    /// The container was launched.
    Running,
    /// The container ended; what it left is being read.
    Draining,
    /// What it left is being uploaded.
    Collecting,
    /// The outcome is spooled.
    Ended,
}

/// A stop under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// When it was asked for.
    pub since: BootNanos,
    /// Why, for people.
    pub why: String,
    /// When it was last killed, after the grace.
    pub killed: Option<BootNanos>,
    /// What it means for the attempt's outcome.
    #[serde(default)]
    pub cause: StopCause,
    /// No time for a save: it is killed.
    #[serde(default)]
    pub at_once: bool,
}

/// What a stop means for the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// Somebody asked for it, or the controller is silent: an interruption.
    #[default]
    Asked,
    /// It ran for longer than it may.
    MaxTime,
    /// It wrote more than it was promised.
    Disk,
    /// The node's disk is nearly full; another node may take it.
    NodeDisk,
}

/// Maps with ids as keys have no JSON form; a list of pairs has.
mod by_attempt {
    use super::{AttemptId, AttemptRecord, BTreeMap};
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<AttemptId, AttemptRecord>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<AttemptId, AttemptRecord>, D::Error> {
        Ok(Vec::<(AttemptId, AttemptRecord)>::deserialize(from)?.into_iter().collect())
    }
}
