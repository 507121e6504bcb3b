//! What must hold after every turn, whatever happened: the part of the fleet's invariants that the core can see.

use std::collections::BTreeSet;

use super::Fleet;
use super::record::{AttemptState, JobState, NodeAdmin};
use crate::placement::Capacity;

impl Fleet {
    /// The first invariant that does not hold, in words.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.check_jobs()?;
        self.check_promises()?;
        let last = self.history.lines().keys().next_back().copied().unwrap_or(0);
        if last > self.meta.last_event {
            return Err(format!("event {last} is newer than the last number given"));
        }
        Ok(())
    }

    fn check_jobs(&self) -> Result<(), String> {
        for (id, job) in &self.jobs {
            let record = &job.record;
            if *id != record.id || *id > self.meta.last_job {
                return Err(format!("job {id} stands under a number that was not given to it"));
            }
            let open = job.attempts.iter().filter(|attempt| attempt.is_open()).count();
            let active = matches!(record.state, JobState::Active);
            if open != usize::from(active) {
                return Err(format!("job {id} is {:?} with {open} open attempts", record.state));
            }
            let tokens = job.attempts.iter().map(|attempt| attempt.token);
            if !tokens.clone().zip(tokens.skip(1)).all(|(a, b)| a < b) {
                return Err(format!("job {id} granted a fencing token out of order"));
            }
            if job.attempts.iter().any(|a| a.token.generation > self.meta.generation) {
                return Err(format!("job {id} holds a token of a generation to come"));
            }
            let steps: Vec<_> = job
                .saved
                .values()
                .filter(|saved| saved.kind == super::record::SavedKind::Checkpoint)
                .map(|saved| saved.step)
                .collect();
            if !steps.windows(2).all(|pair| pair[0] < pair[1]) {
                return Err(format!("job {id} has checkpoints out of order: {steps:?}"));
            }
            if record.latest.as_ref().map(|saved| saved.step) != steps.last().copied() {
                return Err(format!("the latest checkpoint of job {id} is not the last one"));
            }
            let tokens = job.saved.values().map(|saved| saved.token);
            if !tokens.clone().zip(tokens.skip(1)).all(|(a, b)| a <= b) {
                return Err(format!("an older attempt of job {id} committed after a newer one"));
            }
            if let JobState::Ended { end: super::record::End::Completed, .. } = record.state
                && record.wish.exports
                && record.package.is_none()
            {
                return Err(format!("job {id} completed without its package"));
            }
            if let Some(attempt) = job.attempts.last()
                && active
                && matches!(attempt.state, AttemptState::Lost { .. } | AttemptState::Ended(..))
            {
                return Err(format!("job {id} is active with a closed attempt"));
            }
        }
        Ok(())
    }

    /// No GPU is promised twice. (Sums are checked when a promise is made: an offer may shrink afterwards.)
    fn check_promises(&self) -> Result<(), String> {
        for node in self.nodes.values() {
            if node.record.admin == NodeAdmin::Revoked {
                continue;
            }
            let mut gpus = BTreeSet::new();
            for (job, attempt) in self.held_by(&node.record) {
                for gpu in &attempt.promise.gpus {
                    if !gpus.insert(gpu) {
                        return Err(format!(
                            "{gpu} of node {} is promised twice, once to job {}",
                            node.record.id, job.id
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the promises on a node exceed this offer; for checks at the moment of a promise.
    #[must_use]
    pub fn exceeds(&self, node: &super::Node, offer: &Capacity) -> bool {
        let mut cpu = 0_u64;
        let (mut ram, mut disk) = (0_u64, 0_u64);
        for (_, attempt) in self.held_by(&node.record) {
            cpu += u64::from(attempt.promise.cpu.get());
            ram = ram.saturating_add(attempt.promise.ram.get());
            disk = disk.saturating_add(attempt.promise.disk.get());
        }
        cpu > u64::from(offer.cpu.get()) || ram > offer.ram.get() || disk > offer.disk.get()
    }
}
