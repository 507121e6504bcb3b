//! What the owner of a job is told about checkpoints that are not taken: each reason once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hone_proto::id::Step;

use super::{Keeper, Writes};
use crate::trainer::RelPath;

/// What is wrong for so long is told: a tool that is in the midst of a save, or of a removal, is through by then.
const LASTING: Duration = Duration::from_secs(60);

/// Most reasons that are told of one attempt: a tool may find ever new ones.
const MAX_TOLD: usize = 32;

/// Something that the job's owner should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// A word for its kind.
    pub code: &'static str,
    /// What happened, for people.
    pub message: String,
}

/// Reasons that were told, and notices that nobody has fetched yet.
#[derive(Debug, Default)]
pub(super) struct Told {
    reasons: BTreeSet<String>,
    waiting: Vec<Notice>,
}

impl Told {
    /// Tells it, unless its reason was told before.
    pub(super) fn tell(&mut self, code: &'static str, reason: &str, message: String) {
        if self.reasons.len() < MAX_TOLD && self.reasons.insert(reason.to_owned()) {
            self.waiting.push(Notice { code, message });
        }
    }

    /// The notices that are new.
    pub(super) fn take(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.waiting)
    }

    /// Whether all were fetched.
    pub(super) const fn is_silent(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Keeper {
    /// What is there and cannot be listed, once it has been so for a while: a folder that is being removed is no fault.
    pub(super) fn tell_faults(
        &mut self,
        faults: Vec<(RelPath, String)>,
        now: Instant,
        writes: Writes,
    ) {
        let mut since = BTreeMap::new();
        for (path, why) in faults {
            let first = self.faults.get(&path).copied().unwrap_or(now);
            if is_lasting(first, now, writes) {
                let message = format!("{path} is taken for no checkpoint: {why}");
                self.told.tell("checkpoint_unreadable", &why, message);
            }
            since.insert(path, first);
        }
        self.faults = since;
    }

    /// Why a candidate that has not changed for a while is not taken.
    pub(super) fn tell_wanting(&mut self, step: Step, now: Instant, writes: Writes) {
        let Some(seen) = self.seen.get(&step) else { return };
        let why = match &seen.wanting {
            Some(why) => why.clone(),
            None if writes == Writes::CutOff && seen.failed == 0 => format!(
                "its tool ended with an error less than {} s after the last change in it; a marker (trainer.checkpoint.\
                 complete.marker) would show that it is whole",
                self.rule.settle(self.fastest).as_secs()
            ),
            None => return,
        };
        if is_lasting(seen.since, now, writes) {
            let message = format!("the checkpoint of step {step} is not taken: {why}");
            self.told.tell("checkpoint_not_whole", &why, message);
        }
    }
}

fn is_lasting(since: Instant, now: Instant, writes: Writes) -> bool {
    writes != Writes::On || now.saturating_duration_since(since) >= LASTING
}
