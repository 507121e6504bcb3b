//! Containers and the trainers in them: made, started, asked to stop; and what they leave, read into the spool.

use hone_agent::core::SeenState;
use hone_agent::core::input::{Drained, Input, StepError};
use hone_agent::core::state::Stage;
use hone_proto::assignment::Assignment;
use hone_proto::event::{Payload, Stream};
use hone_proto::id::AttemptId;

use super::Sabotage;
use super::engine::Temper;
use super::link::nanos;
use super::perform::failed;
use super::world::{Happening, World};

/// Events of one reading.
const BATCH: usize = 20;

impl World {
    /// Made and started, or one of both, or neither; and the answer does not always say which.
    pub(super) fn launch(
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
        let again = self.is_broken(Sabotage::StartsAgain);
        let engine = &mut self.machines[node].engine;
        let id = engine.create(Some(attempt), temper);
        if let Some(container) = engine.get(&id).filter(|_| again) {
            container.state = SeenState::Created;
        }
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

    pub(super) fn ask_to_stop(&mut self, node: usize, id: &str) {
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
            .filter(|(id, _)| !process.removing.contains(id))
            .map(|(id, r)| (*id, r.exit.is_some_and(|(_, oom)| oom)))
            .collect();
        for (attempt, _) in attempts {
            // Two readers: one that has to wait does not hold up the other.
            let (metrics, logs) = (self.read_metrics(node, attempt), self.read_logs(node, attempt));
            let all = metrics && logs;
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
            self.count("trainer's files are the buffer");
            if !self.is_broken(Sabotage::DropsMetrics) {
                return false;
            }
            self.machines[node].spool.lane(Stream::Series).drop_oldest();
        }
        let machine = &mut self.machines[node];
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
}
