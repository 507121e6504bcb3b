//! What the owner of a job is told about checkpoints that are not taken: each reason once.

use std::collections::BTreeSet;

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
