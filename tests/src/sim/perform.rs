//! What an agent does besides thinking: staging, containers, reading what trainers leave, uploads, removals.

use std::time::Duration;

use hone_agent::core::input::{Drained, Input, StepError, UploadError};
use hone_agent::core::state::Stage;
use hone_agent::core::{Effect, SeenState, Upload};
use hone_controller::core::record::SavedKind;
use hone_controller::core::{Commit, Reply};
use hone_proto::assignment::Assignment;
use hone_proto::error::{Reason, Refusal};
use hone_proto::event::{Payload, Stream};
use hone_proto::id::{AttemptId, Digest};
use hone_proto::quantity::Bytes;

use super::engine::{Files, Temper};
use super::link::nanos;
use super::world::{Happening, Step, World};

/// Events of one reading.
const BATCH: usize = 20;

fn failed(cause: &str, retryable: bool, elsewhere: bool) -> StepError {
    let message = cause.replace('_', " ");
    StepError { retryable, cause: cause.to_owned(), message, elsewhere }
}

impl World {
    /// Begins an effect. Those that take their time are carried out later, also when the agent has died meanwhile: an
    /// engine does what it was told.
    pub(super) fn start_effect(&mut self, node: usize, effect: Effect) {
        let span = match &effect {
            Effect::Stage(..) => self.chance.span(300, 20_000),
            Effect::Launch(..) => self.chance.span(300, 5_000),
            Effect::Remove { .. } | Effect::Sweep { .. } => self.chance.span(50, 4_000),
            Effect::Upload(..) => self.chance.span(200, 12_000),
            Effect::Drain(attempt) => {
                if let Some(process) = &mut self.machines[node].agent {
                    process.draining.insert(*attempt);
                }
                return;
            }
            _ => self.chance.span(0, 100),
        };
        if let Effect::Remove { attempt, .. } = &effect {
            self.machines[node].spool.forget(*attempt);
        }
        let life = self.machines[node].life;
        self.after(nanos(span), Happening::Done(node, life, Box::new(effect)));
    }

    pub(super) fn done(&mut self, node: usize, life: u64, effect: Effect) -> Step {
        let machine = &mut self.machines[node];
        if machine.life != life && (machine.agent.is_some() || self.chance.one_in(2)) {
            return Ok(());
        }
        let hangs = machine.engine.hangs_until > self.now;
        let input = match effect {
            Effect::Stage(assignment, _) => {
                let attempt = assignment.attempt;
                let result = self.stage(node, &assignment, hangs);
                Some(Input::Staged { attempt, result })
            }
            Effect::Launch(assignment, _) => {
                let attempt = assignment.attempt;
                let result = self.launch(node, &assignment, hangs)?;
                Some(Input::Launched { attempt, result })
            }
            Effect::AskToStop { container, .. } => {
                if !hangs {
                    self.ask_to_stop(node, &container);
                }
                None
            }
            Effect::Kill { container } => {
                if !hangs {
                    self.machines[node].engine.exit(&container, 137, false);
                }
                None
            }
            Effect::Upload(attempt, upload) => {
                self.upload(node, life, attempt, upload);
                None
            }
            Effect::Discard { attempt, path } => {
                if let Some(files) = self.machines[node].engine.files.get_mut(&attempt) {
                    files.checkpoints.retain(|step| super::engine::path(*step) != path);
                }
                None
            }
            Effect::Remove { attempt, container } => {
                if !hangs {
                    let engine = &mut self.machines[node].engine;
                    engine.remove(|c| {
                        c.attempt == Some(attempt) || Some(&c.id) == container.as_ref()
                    });
                    engine.files.remove(&attempt);
                }
                Some(Input::Removed { attempt, done: !hangs })
            }
            Effect::Sweep { container } => {
                if !hangs && self.config.sabotage != Some(super::Sabotage::NeverSweep) {
                    self.machines[node].engine.remove(|c| c.id == container);
                }
                Some(Input::Swept { container })
            }
            Effect::AskToSave { .. } | Effect::Keep | Effect::Report(_) | Effect::Drain(_) => None,
        };
        match input {
            Some(input) => self.tell(node, life, vec![input]),
            None => Ok(()),
        }
    }

    fn stage(
        &mut self,
        node: usize,
        assignment: &Assignment,
        hangs: bool,
    ) -> Result<(), StepError> {
        let unreachable = self.hub.fleet.is_none() || self.machines[node].cut_until > self.now;
        if hangs || unreachable {
            return Err(failed("controller_unreachable", true, true));
        }
        if !self.calm && self.chance.one_in(60) {
            return Err(failed("disk_full", self.chance.one_in(2), true));
        }
        // The trainer's spec says how the run goes.
        let spec: serde_json::Value = serde_json::from_str(&assignment.trainer_spec)
            .map_err(|_| failed("bad_spec", false, false))?;
        let number = |name: &str| spec.get(name).and_then(serde_json::Value::as_u64).unwrap_or(1);
        let resume = assignment.resume.map_or(0, |manifest| {
            self.checker.step_of(assignment.attempt.job, manifest).unwrap_or(0)
        });
        let files = Files::new(number("total"), number("every"), resume);
        self.machines[node].engine.files.entry(assignment.attempt).or_insert(files);
        Ok(())
    }

    /// Made and started, or one of both, or neither; and the answer does not always say which.
    fn launch(
        &mut self,
        node: usize,
        assignment: &Assignment,
        hangs: bool,
    ) -> Result<Result<String, StepError>, String> {
        let attempt = assignment.attempt;
        if hangs {
            return Ok(Err(failed("engine_unavailable", true, true)));
        }
        let luck = if self.calm { 99 } else { self.chance.between(0, 99) };
        if luck == 0 {
            return Ok(Err(failed("engine_refused", false, true)));
        }
        if luck < 3 {
            return Ok(Err(failed("engine_unavailable", true, true)));
        }
        let temper = self.temper();
        let engine = &mut self.machines[node].engine;
        let id = engine.create(Some(attempt), temper);
        if luck < 5 {
            return Ok(Err(failed("engine_unavailable", true, true)));
        }
        if engine.start(&id, self.now) {
            let wipes = self.machines[node].wipes;
            self.checker.started(attempt, wipes)?;
            self.count("containers");
            let pace = self.chance.span(2_000, 16_000);
            if let Some(container) = self.machines[node].engine.get(&id) {
                container.pace = pace;
            }
            let boots = self.machines[node].boots;
            self.after(nanos(pace), Happening::Trains(node, id.clone(), boots));
        }
        match luck {
            5 | 6 => Ok(Err(failed("engine_unavailable", true, true))),
            7 => Ok(Err(failed("engine_refused", false, true))),
            _ => Ok(Ok(id)),
        }
    }

    fn temper(&mut self) -> Temper {
        if self.calm {
            return Temper::Good;
        }
        match self.chance.between(0, 19) {
            0 => Temper::Deaf,
            1 => Temper::Dies { at: self.chance.between(0, 30), word: None, code: 1 },
            2 => Temper::Dies { at: self.chance.between(0, 30), word: Some(1), code: 1 },
            3 => Temper::Dies { at: self.chance.between(5, 30), word: Some(65), code: 65 },
            4 => Temper::Dies { at: self.chance.between(5, 30), word: None, code: 137 },
            _ => Temper::Good,
        }
    }

    pub(super) fn trains(&mut self, node: usize, id: &str, boots: u64) {
        let machine = &mut self.machines[node];
        if machine.boots != boots {
            return;
        }
        let Some(container) = machine.engine.get(id).filter(|c| c.state == SeenState::Running)
        else {
            return;
        };
        if container.stopping {
            return;
        }
        let (temper, pace, attempt) = (container.temper, container.pace, container.attempt);
        let Some(attempt) = attempt else { return };
        let ended = match machine.engine.files.get_mut(&attempt) {
            Some(files) => files.train(attempt, temper, &mut self.chance),
            // A stray of nobody's: it runs on.
            None => return,
        };
        match ended {
            Some((code, oom)) => machine.engine.exit(id, code, oom),
            None => {
                self.count("steps");
                self.after(nanos(pace), Happening::Trains(node, id.to_owned(), boots));
            }
        }
    }

    fn ask_to_stop(&mut self, node: usize, id: &str) {
        let boots = self.machines[node].boots;
        let Some(container) = self.machines[node].engine.get(id) else { return };
        if container.temper == Temper::Deaf || container.stopping {
            return;
        }
        container.stopping = true;
        let save = nanos(self.chance.span(200, 25_000));
        self.after(save, Happening::Saved(node, id.to_owned(), boots));
    }

    pub(super) fn saved(&mut self, node: usize, id: &str, boots: u64) {
        let machine = &mut self.machines[node];
        if machine.boots != boots {
            return;
        }
        let Some(container) = machine.engine.get(id).filter(|c| c.state == SeenState::Running)
        else {
            return;
        };
        if let Some(files) = container.attempt.and_then(|a| machine.engine.files.get_mut(&a)) {
            files.stopped();
        }
        machine.engine.exit(id, 75, false);
    }

    /// Reads what trainers left since the last look into the spool, and says how far they are.
    pub(super) fn read_trainers(&mut self, node: usize) -> Vec<Input> {
        let mut inputs = Vec::new();
        let machine = &self.machines[node];
        let Some(process) = &machine.agent else { return inputs };
        if machine.full_until > self.now {
            return inputs;
        }
        let attempts: Vec<_> = process
            .agent
            .state()
            .attempts
            .iter()
            .filter(|(_, r)| matches!(r.stage, Stage::Running | Stage::Draining))
            .map(|(id, r)| (*id, r.exit.is_some_and(|(_, oom)| oom)))
            .collect();
        for (attempt, _) in attempts {
            let all = self.read_metrics(node, attempt) && self.read_logs(node, attempt);
            let machine = &mut self.machines[node];
            let checkpoints = machine.engine.found(attempt);
            let position = machine.spool.lane(Stream::Series).cursor(attempt);
            let files = machine.engine.files.get(&attempt);
            let step = files.and_then(|files| {
                files.metrics.iter().take(position).rev().find_map(|payload| match payload {
                    Payload::Metrics(metrics) => Some(metrics.step),
                    _ => None,
                })
            });
            let drains = machine.agent.as_ref().is_some_and(|p| p.draining.contains(&attempt));
            if !drains {
                inputs.push(Input::Progress { attempt, step, checkpoints });
            } else if all {
                let drained = Drained {
                    step,
                    checkpoints,
                    package: files.filter(|f| f.package).map(|_| "package".to_owned()),
                    result: files.and_then(|f| f.word.clone()),
                    oom_kills: 0,
                };
                if let Some(process) = &mut machine.agent {
                    process.draining.remove(&attempt);
                }
                inputs.push(Input::Drained { attempt, drained: Box::new(drained) });
            }
        }
        inputs
    }

    /// True when there is nothing more. A full lane is no end: the trainer's own file is the buffer.
    fn read_metrics(&mut self, node: usize, attempt: AttemptId) -> bool {
        let now = self.now;
        let machine = &mut self.machines[node];
        let position = machine.spool.lane(Stream::Series).cursor(attempt);
        let Some(files) = machine.engine.files.get(&attempt) else { return true };
        let fresh: Vec<_> = files.metrics.iter().skip(position).take(BATCH).cloned().collect();
        let all = position + fresh.len() == files.metrics.len();
        if fresh.is_empty() {
            return true;
        }
        if machine.spool.lane(Stream::Series).is_full() {
            self.count("series lane full");
            return false;
        }
        let count = fresh.len();
        for payload in fresh {
            let event = machine.event(now, payload);
            machine.spool.lane(Stream::Series).append(event);
        }
        machine.spool.lane(Stream::Series).read_up_to(attempt, position + count);
        all
    }

    fn read_logs(&mut self, node: usize, attempt: AttemptId) -> bool {
        let now = self.now;
        let machine = &mut self.machines[node];
        let position = machine.spool.lane(Stream::Logs).cursor(attempt);
        let Some(files) = machine.engine.files.get(&attempt) else { return true };
        let fresh: Vec<_> = files.logs.iter().skip(position).cloned().collect();
        let count = fresh.len();
        let mut dropped = 0;
        if machine.spool.lane(Stream::Logs).is_full() {
            dropped = machine.spool.lane(Stream::Logs).drop_oldest();
        }
        for payload in fresh {
            let event = machine.event(now, payload);
            machine.spool.lane(Stream::Logs).append(event);
        }
        machine.spool.lane(Stream::Logs).read_up_to(attempt, position + count);
        if dropped > 0 {
            self.count("logs dropped");
        }
        true
    }

    fn upload(&mut self, node: usize, life: u64, attempt: AttemptId, upload: Upload) {
        let now = self.now;
        let (kind, found) = match &upload {
            Upload::Checkpoint(found) => (SavedKind::Checkpoint, found.clone()),
            Upload::Package(found) => (SavedKind::Package, found.clone()),
        };
        let machine = &mut self.machines[node];
        let Some(process) = &mut machine.agent else { return };
        let files = machine.engine.files.get(&attempt);
        let there = files.is_some_and(|files| match kind {
            SavedKind::Checkpoint => files.checkpoints.contains(&found.step.get()),
            SavedKind::Package => files.package,
        });
        let broken = !self.calm && self.chance.one_in(150);
        if !there || broken {
            let result = Err(UploadError::Never("it is not what it says".to_owned()));
            let input = Input::Uploaded { attempt, upload, took: Duration::ZERO, result };
            self.after(0, Happening::Told(node, life, Box::new(input)));
            return;
        }
        process.next_call += 1;
        let call = process.next_call;
        process.calls.insert(call, (attempt, upload, now));
        let commit = Commit {
            attempt,
            kind,
            step: found.step,
            manifest: Digest::of(format!("{attempt} {kind:?} {}", found.step).as_bytes()),
            bytes: Bytes::mib(1),
            files: 2,
        };
        let delay = nanos(self.chance.span(2, 3_000));
        self.after(delay, Happening::Calls { node, life, call, commit });
    }

    /// A commit reaches the controller, perhaps twice, perhaps long after.
    pub(super) fn calls(&mut self, node: usize, life: u64, call: u64, commit: Commit) {
        if self.machines[node].cut_until > self.now || self.machines[node].revoked {
            let delay = nanos(self.chance.span(1_000, 20_000));
            self.after(delay, Happening::CommitLost { node, life, call });
            return;
        }
        if self.old_commits.len() < 200 {
            self.old_commits.push((node, commit.clone()));
        }
        self.checker.uploads(&commit);
        self.hub_commit_call(node, life, call, commit);
    }

    pub(super) fn committed(
        &mut self,
        node: usize,
        life: u64,
        call: u64,
        result: Option<Result<Reply, Refusal>>,
    ) -> Step {
        let now = self.now;
        let machine = &mut self.machines[node];
        if machine.life != life {
            return Ok(());
        }
        let Some(process) = &mut machine.agent else { return Ok(()) };
        let Some((attempt, upload, since)) = process.calls.remove(&call) else { return Ok(()) };
        let result = match result {
            None => Err(UploadError::Later("no answer".to_owned())),
            Some(Ok(_)) => {
                self.checker.told_committed(attempt, &upload)?;
                Ok(())
            }
            Some(Err(refusal)) => Err(match refusal.reason {
                Reason::StaleAttempt | Reason::NotOwner => UploadError::Fenced,
                Reason::Conflict => UploadError::Overtaken,
                _ => UploadError::Later(refusal.message),
            }),
        };
        let took = Duration::from_nanos(now - since);
        self.tell(node, life, vec![Input::Uploaded { attempt, upload, took, result }])
    }
}
