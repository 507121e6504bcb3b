//! What an agent does besides thinking: staging, containers, reading what trainers leave, uploads, removals.

use std::time::Duration;

use hone_agent::core::input::{Input, StepError, UploadError};
use hone_agent::core::{Effect, Upload};
use hone_controller::core::record::SavedKind;
use hone_controller::core::{Commit, Reply};
use hone_proto::assignment::Assignment;
use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{AttemptId, Digest};
use hone_proto::quantity::Bytes;

use super::agent::Machine;
use super::engine::Files;
use super::link::nanos;
use super::world::{Happening, Step, World};

pub(super) fn failed(cause: &str, retryable: bool, elsewhere: bool) -> StepError {
    let message = cause.replace('_', " ");
    StepError { retryable, cause: cause.to_owned(), message, elsewhere }
}

impl World {
    /// Begins an effect. Those that take their time are carried out later, also when the agent has died meanwhile: an
    /// engine does what it was told, unless its machine went down.
    pub(super) fn start_effect(&mut self, node: usize, effect: Effect) {
        let span = match &effect {
            Effect::Stage(..) => self.chance.span(300, 20_000),
            Effect::Launch(..) => self.chance.span(300, 5_000),
            Effect::Remove { .. } | Effect::Sweep { .. } => self.chance.span(50, 4_000),
            Effect::Upload { .. } => self.chance.span(200, 12_000),
            Effect::Drain(attempt) => {
                if let Some(process) = &mut self.machines[node].agent {
                    process.draining.insert(*attempt);
                }
                return;
            }
            _ => self.chance.span(0, 100),
        };
        if let Effect::Remove { attempt, .. } = &effect
            && let Some(process) = &mut self.machines[node].agent
        {
            // Its files are touched no more; its readers' positions stay until the agent lets go of it.
            process.removing.insert(*attempt);
        }
        let Machine { life, boots, .. } = self.machines[node];
        let effect = Box::new(effect);
        self.after(nanos(span), Happening::Done { node, life, boots, effect });
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
            Effect::Upload { attempt, upload, .. } => {
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
                if !hangs && !self.is_broken(super::Sabotage::NeverSweep) {
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
            self.after(0, Happening::Told(node, life, vec![input]));
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
