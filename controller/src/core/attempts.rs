//! The attempts of one job, by number. They are kept up to a bound: a job that moves for a year must not outgrow
//! memory, nor what is read at a start.

use std::collections::BTreeMap;

use hone_proto::id::{Attempt, AttemptId, JobId, Token};

use super::Fleet;
use super::keys::Key;
use super::record::{AttemptRecord, AttemptState, NodeAdmin};

/// The attempts of one job that are kept, oldest first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Attempts(BTreeMap<Attempt, AttemptRecord>);

impl Attempts {
    /// Those that are kept, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &AttemptRecord> + Clone {
        self.0.values()
    }

    /// The one with this token.
    #[must_use]
    pub fn get(&self, token: Token) -> Option<&AttemptRecord> {
        self.0.get(&token.attempt).filter(|attempt| attempt.token == token)
    }

    /// The newest.
    #[must_use]
    pub fn last(&self) -> Option<&AttemptRecord> {
        self.0.values().next_back()
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the job was never placed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How often the job was placed. Attempts are numbered from 1 without holes and the newest is never dropped, so
    /// that this stays true however many are forgotten.
    #[must_use]
    pub fn placed(&self) -> u32 {
        self.last().map_or(0, |attempt| attempt.token.attempt.get())
    }

    /// How many are not kept any more.
    #[must_use]
    pub fn dropped(&self) -> u32 {
        self.placed().saturating_sub(u32::try_from(self.0.len()).unwrap_or(u32::MAX))
    }

    pub(super) fn by_number(&self, number: Attempt) -> Option<&AttemptRecord> {
        self.0.get(&number)
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut AttemptRecord> {
        self.0.get_mut(&token.attempt).filter(|attempt| attempt.token == token)
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut AttemptRecord> {
        self.0.values_mut().next_back()
    }

    pub(super) fn add(&mut self, attempt: AttemptRecord) {
        self.0.insert(attempt.token.attempt, attempt);
    }

    /// Drops the oldest beyond `keep` that have ended and that nobody needs. Returns those that are gone.
    fn drop_oldest(
        &mut self,
        keep: usize,
        needed: impl Fn(&AttemptRecord) -> bool,
    ) -> Vec<AttemptRecord> {
        let surplus = self.0.len().saturating_sub(keep);
        let older = self.0.iter().rev().skip(1).map(|(_, attempt)| attempt).rev();
        let dropped: Vec<_> = older
            .filter(|attempt| !attempt.is_open() && !needed(attempt))
            .map(|attempt| attempt.token.attempt)
            .take(surplus)
            .collect();
        dropped.iter().filter_map(|number| self.0.remove(number)).collect()
    }
}

impl Fleet {
    /// An attempt has changed: it is written, and those who watch its job look again.
    pub(super) fn touch_attempt(&mut self, id: AttemptId) {
        self.dirty.insert(Key::Attempt(id.job, id.token.attempt));
        self.out.push(super::Effect::JobChanged(id.job));
    }

    /// Forgets the oldest attempts of a job beyond the bound. One that its node may still hold stays: its promise
    /// counts. Of a node that is not connected nobody knows what it holds, least of all after a restart.
    pub(super) fn drop_old_attempts(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let nodes = &self.nodes;
        let held = |attempt: &AttemptRecord| {
            nodes.get(&attempt.node).is_some_and(|node| {
                let lost = matches!(attempt.state, AttemptState::Lost { .. });
                let unheard = node.session.is_none() && node.record.admin != NodeAdmin::Revoked;
                node.ghosts.contains(&AttemptId { job: id, token: attempt.token })
                    || lost && unheard
            })
        };
        for attempt in job.attempts.drop_oldest(self.settings.keep_attempts, held) {
            job.record.tries_dropped += u32::from(!attempt.was_moved());
            self.dirty.insert(Key::Job(id));
            self.dirty.insert(Key::Attempt(id, attempt.token.attempt));
        }
    }
}
