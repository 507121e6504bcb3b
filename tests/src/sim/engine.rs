//! A container engine and the trainers in it, as far as an agent can see them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hone_agent::core::input::{Found, TrainerWord};
use hone_agent::core::{Seen, SeenState};
use hone_proto::event::{Level, LogRecord, Metrics, Payload, TrainerStart};
use hone_proto::id::{AttemptId, Step};

use super::chance::Chance;

/// How one run of a trainer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Temper {
    /// Trains to the end and saves when asked.
    Good,
    /// Dies at this step, with or without a last word, with this exit code.
    Dies { at: u64, word: Option<i32>, code: i64 },
    /// Does not hear that it shall stop.
    Deaf,
}

/// One container.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) id: String,
    /// What its labels say; `None` when they cannot be read.
    pub(super) attempt: Option<AttemptId>,
    /// Not of this agent: it never sees it.
    pub(super) foreign: bool,
    pub(super) state: SeenState,
    pub(super) temper: Temper,
    pub(super) pace: Duration,
    pub(super) stopping: bool,
    pub(super) since: u64,
}

/// What a trainer reads and leaves on disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Files {
    pub(super) total: u64,
    pub(super) every: u64,
    pub(super) resume: u64,
    pub(super) step: u64,
    pub(super) metrics: Vec<Payload>,
    pub(super) logs: Vec<Payload>,
    pub(super) checkpoints: BTreeSet<u64>,
    pub(super) package: bool,
    pub(super) word: Option<TrainerWord>,
}

/// The engine of one machine.
#[derive(Debug, Clone, Default)]
pub(super) struct Engine {
    pub(super) containers: Vec<Container>,
    pub(super) files: BTreeMap<AttemptId, Files>,
    /// It answers nobody until then.
    pub(super) hangs_until: u64,
    made: u64,
}

pub(super) fn path(step: u64) -> String {
    format!("checkpoint-{step}")
}

impl Engine {
    /// A container; the one that exists already when the attempt has one.
    pub(super) fn create(&mut self, attempt: Option<AttemptId>, temper: Temper) -> String {
        let same = self.containers.iter().find(|c| attempt.is_some() && c.attempt == attempt);
        if let Some(same) = same {
            return same.id.clone();
        }
        self.made += 1;
        let id = format!("c{}", self.made);
        self.containers.push(Container {
            id: id.clone(),
            attempt,
            foreign: false,
            state: SeenState::Created,
            temper,
            pace: Duration::from_secs(5),
            stopping: false,
            since: 0,
        });
        id
    }

    pub(super) fn get(&mut self, id: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|c| c.id == id)
    }

    /// Starts what was only made. One that ended is not started again. True when it starts now.
    pub(super) fn start(&mut self, id: &str, now: u64) -> bool {
        match self.get(id) {
            Some(container) if container.state == SeenState::Created => {
                container.state = SeenState::Running;
                container.since = now;
                true
            }
            _ => false,
        }
    }

    pub(super) fn list(&self) -> Vec<Seen> {
        self.containers
            .iter()
            .filter(|c| !c.foreign)
            .map(|c| Seen { id: c.id.clone(), attempt: c.attempt, state: c.state })
            .collect()
    }

    pub(super) fn exit(&mut self, id: &str, code: i64, oom: bool) {
        if let Some(container) = self.get(id)
            && container.state == SeenState::Running
        {
            container.state = SeenState::Exited { code, oom };
        }
    }

    /// Everything that runs ends: the machine or the engine went down under it.
    pub(super) fn end_all(&mut self, code: i64) {
        for container in &mut self.containers {
            if container.state == SeenState::Running {
                container.state = SeenState::Exited { code, oom: false };
            }
        }
    }

    /// Kills and removes; true when it is gone.
    pub(super) fn remove(&mut self, of: impl Fn(&Container) -> bool) {
        self.containers.retain(|c| c.foreign || !of(c));
    }

    pub(super) fn found(&self, attempt: AttemptId) -> Vec<Found> {
        let steps = self.files.get(&attempt).map(|f| f.checkpoints.clone()).unwrap_or_default();
        steps.into_iter().map(|s| Found { step: Step::new(s), path: path(s) }).collect()
    }
}

fn word(status: &str, code: i32, step: u64) -> TrainerWord {
    TrainerWord {
        status: status.to_owned(),
        code,
        message: status.to_owned(),
        step: Some(Step::new(step)),
        json: format!("{{\"status\":\"{status}\"}}"),
    }
}

impl Files {
    pub(super) fn new(total: u64, every: u64, resume: u64) -> Self {
        Self { total, every, resume, step: resume, ..Self::default() }
    }

    pub(super) fn begin(&mut self, attempt: AttemptId) {
        if self.metrics.is_empty() {
            self.metrics.push(Payload::Start(TrainerStart {
                attempt,
                max_steps: Some(Step::new(self.total)),
                resumed_from: Step::new(self.resume),
                trainable_params: Some(1),
                total_params: Some(2),
            }));
        }
    }

    /// One step of training. What the process ends with, if it ends.
    pub(super) fn train(
        &mut self,
        attempt: AttemptId,
        temper: Temper,
        chance: &mut Chance,
    ) -> Option<(i64, bool)> {
        self.begin(attempt);
        if let Temper::Dies { at, word: meant, code } = temper
            && self.step >= at
        {
            self.word = meant.map(|meant| word("failed", meant, self.step));
            if let Some(word) = &mut self.word
                && chance.one_in(4)
            {
                // A traceback as long as a file may be.
                word.json = format!("{{\"trace\":\"{}\"}}", "x".repeat(100_000));
                word.message = "y".repeat(80_000);
            }
            return Some((code, false));
        }
        if self.step < self.total {
            self.step += 1;
            self.metrics.push(Payload::Metrics(Metrics {
                attempt,
                step: Step::new(self.step),
                split: "train".to_owned(),
                epoch: None,
                values: vec![("loss".to_owned(), 1.0)],
            }));
            if chance.one_in(2) {
                self.logs.push(Payload::Log(LogRecord {
                    attempt,
                    output: "stderr".to_owned(),
                    level: Level::Info,
                    text: format!("step {}", self.step),
                }));
            }
            if self.step.is_multiple_of(self.every) {
                self.checkpoints.insert(self.step);
            }
            return None;
        }
        self.checkpoints.insert(self.total);
        self.package = true;
        self.word = Some(word("completed", 0, self.step));
        Some((0, false))
    }

    /// The save that a request to stop asked for is done.
    pub(super) fn stopped(&mut self) {
        if self.step > self.resume {
            self.checkpoints.insert(self.step);
        }
        self.word = Some(word("interrupted", 75, self.step));
    }
}
