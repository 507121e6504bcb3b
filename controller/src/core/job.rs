//! A job with what is stored beside its record.

use std::collections::BTreeMap;

use hone_proto::id::Attempt;

use super::attempts::Attempts;
use super::keys::Key;
use super::record::{AttemptRecord, JobRecord, JobState, Progress, Saved};
use super::{Fleet, JobId};

/// A job with what is stored beside its record.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Stored facts.
    pub record: JobRecord,
    /// Its placements.
    pub attempts: Attempts,
    /// As the user wrote it.
    pub spec_yaml: String,
    /// How far the run is.
    pub progress: Progress,
    /// What it committed and keeps, by the order of the commits.
    pub saved: BTreeMap<u32, Saved>,
    /// An earlier release stored it with its attempts inside the record: with its next change they come out.
    pub(super) attempts_inside: bool,
}

impl Job {
    pub(super) fn new(record: JobRecord) -> Self {
        Self {
            record,
            attempts: Attempts::default(),
            spec_yaml: String::new(),
            progress: Progress::default(),
            saved: BTreeMap::new(),
            attempts_inside: false,
        }
    }

    /// The attempt that holds the fencing token, if the job is on a node.
    #[must_use]
    pub fn current(&self) -> Option<&AttemptRecord> {
        match self.record.state {
            JobState::Active => self.attempts.last(),
            JobState::Queued { .. } | JobState::Ended { .. } => None,
        }
    }

    /// Placements that count against `max_attempts`: a move away from a drained node is nobody's failure.
    #[must_use]
    pub fn tries(&self) -> u32 {
        let tried = self.attempts.iter().filter(|attempt| !attempt.was_moved()).count();
        self.record.tries_dropped.saturating_add(u32::try_from(tried).unwrap_or(u32::MAX))
    }

    /// Adds what was committed. Names its place.
    pub(super) fn add_saved(&mut self, saved: Saved) -> u32 {
        let place = self.saved.keys().next_back().map_or(0, |last| last.saturating_add(1));
        self.saved.insert(place, saved);
        place
    }

    /// Retires the oldest checkpoint beyond `keep`. What the job, its package or a resume rests on stays.
    pub(super) fn retire_oldest(&mut self, keep: usize) -> Option<(u32, Saved)> {
        if self.saved.len() <= keep {
            return None;
        }
        let resume = self.current().and_then(|attempt| attempt.resume.as_ref());
        let needed = [self.record.latest.as_ref(), self.record.package.as_ref(), resume];
        let needed = |saved: &Saved| needed.iter().flatten().any(|one| **one == *saved);
        let place = self.saved.iter().find(|(_, saved)| !needed(saved)).map(|(place, _)| *place)?;
        self.saved.remove(&place).map(|saved| (place, saved))
    }
}

impl Fleet {
    pub(super) fn add_job(&mut self, record: JobRecord) {
        self.jobs.insert(record.id, Job::new(record));
    }

    pub(super) fn touch_job(&mut self, job: JobId) {
        self.dirty.insert(Key::Job(job));
        self.out.push(super::Effect::JobChanged(job));
    }

    /// Of jobs that change and still have their attempts inside the stored record: record and attempts are written
    /// together, so that every crash leaves the one form or the other.
    pub(super) fn take_attempts_out(&mut self) {
        let changed: Vec<JobId> = self
            .dirty
            .iter()
            .filter_map(|key| match key {
                Key::Job(id) | Key::Attempt(id, _) => Some(*id),
                _ => None,
            })
            .collect();
        for id in changed {
            let Some(job) = self.jobs.get_mut(&id).filter(|job| job.attempts_inside) else {
                continue;
            };
            job.attempts_inside = false;
            let numbers: Vec<Attempt> = job.attempts.iter().map(|a| a.token.attempt).collect();
            self.dirty.insert(Key::Job(id));
            self.dirty.extend(numbers.into_iter().map(|number| Key::Attempt(id, number)));
        }
    }
}
