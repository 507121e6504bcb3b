//! Jobs: tokens are granted in order and never twice, what is committed is what its maker made, the latest checkpoint
//! never goes back, an end is an end; and what is dropped from history is nothing that anybody needs.

use std::collections::BTreeMap;

use hone_agent::core::SeenState;
use hone_controller::core::Job;
use hone_controller::core::record::{JobState, Saved, SavedKind};
use hone_proto::id::{AttemptId, JobId, Token};

use super::{Checker, Shadow};
use crate::sim::agent::Machine;
use crate::sim::hub::settings;
use crate::sim::world::Step;

impl Checker {
    pub(super) fn job_changed(&mut self, id: JobId, job: &Job, machines: &[Machine]) -> Step {
        let after = shadow_of(job);
        let before = self.jobs.get(&id).cloned().unwrap_or_default();
        if before.ended.is_some() && before.ended != after.ended {
            return Err(format!("job {id} ended and then became {:?}", job.record.state));
        }
        let former = self.granted.get(&id).and_then(|all| all.last()).copied();
        self.tokens_changed(id, job, &before, &after)?;
        dropped_attempts(id, &before, &after, machines)?;
        self.saved_changed(id, former, &before, &after)?;
        dropped_saved(id, job, &before, &after)?;
        self.jobs.insert(id, after);
        Ok(())
    }

    fn tokens_changed(&mut self, id: JobId, job: &Job, before: &Shadow, after: &Shadow) -> Step {
        let granted = self.granted.entry(id).or_default();
        for token in &after.tokens {
            let newer = granted.last().is_none_or(|last| token > last);
            if newer {
                granted.push(*token);
            } else if !before.tokens.contains(token) {
                return Err(format!("job {id} granted {token} again, or late"));
            }
        }
        if granted.len() as u64 != u64::from(job.attempts.placed()) {
            let count = job.attempts.placed();
            return Err(format!("job {id} was placed {} times and says {count}", granted.len()));
        }
        Ok(())
    }

    fn saved_changed(
        &mut self,
        id: JobId,
        former: Option<Token>,
        before: &Shadow,
        after: &Shadow,
    ) -> Step {
        let mut newest = latest(&before.saved);
        let last = before.saved.keys().next_back();
        for (place, saved) in &after.saved {
            if let Some(known) = before.saved.get(place) {
                if known != saved {
                    return Err(format!("job {id} changed what it had committed"));
                }
                continue;
            }
            // Within one turn an attempt may commit and the next be placed.
            let current = former == Some(saved.token)
                || after.tokens.iter().any(|t| *t == saved.token && former.is_none_or(|f| *t > f));
            let maker = self.made.get(&saved.manifest);
            let made = maker.is_some_and(|(attempt, step)| {
                (attempt.token, attempt.job, *step) == (saved.token, id, saved.step)
            });
            let late = last.is_some_and(|last| place <= last) || before.ended.is_some();
            if !made || !current || late {
                return Err(format!(
                    "job {id} took step {} of {maker:?} in the name of {}, current was {former:?}",
                    saved.step, saved.token
                ));
            }
            if saved.kind == SavedKind::Checkpoint {
                if newest.is_some_and(|newest| saved.step <= newest) {
                    return Err(format!("job {id} went back to step {}", saved.step));
                }
                newest = Some(saved.step);
            }
            self.committed.insert((id, saved.manifest), saved.clone());
        }
        Ok(())
    }
}

fn latest(saved: &BTreeMap<u32, Saved>) -> Option<hone_proto::id::Step> {
    let steps = saved.values().filter(|saved| saved.kind == SavedKind::Checkpoint);
    steps.map(|saved| saved.step).next_back()
}

/// The newest attempt stays, and so does one that still runs.
fn dropped_attempts(id: JobId, before: &Shadow, after: &Shadow, machines: &[Machine]) -> Step {
    let dropped = before.tokens.iter().filter(|token| !after.tokens.contains(token));
    for token in dropped {
        let attempt = AttemptId { job: id, token: *token };
        if after.tokens.len() < settings().keep_attempts {
            return Err(format!("{attempt} was dropped although there was room"));
        }
        let runs = machines.iter().any(|machine| {
            let mut containers = machine.engine.containers.iter();
            !machine.revoked
                && containers.any(|c| c.attempt == Some(attempt) && c.state == SeenState::Running)
        });
        if runs {
            return Err(format!("{attempt} was dropped and still runs"));
        }
    }
    Ok(())
}

/// What is retired is beyond the bound, and neither the latest nor what a resume needs.
fn dropped_saved(id: JobId, job: &Job, before: &Shadow, after: &Shadow) -> Step {
    let retired = before.saved.iter().filter(|(place, _)| !after.saved.contains_key(place));
    for (_, saved) in retired {
        let resume = job.current().and_then(|attempt| attempt.resume.as_ref());
        let needed = [job.record.latest.as_ref(), job.record.package.as_ref(), resume];
        let room = after.saved.len() < settings().keep_saved;
        if room || needed.iter().flatten().any(|one| one.manifest == saved.manifest) {
            return Err(format!("job {id} retired step {} too early", saved.step));
        }
    }
    Ok(())
}

pub(super) fn shadow_of(job: &Job) -> Shadow {
    let ended = matches!(job.record.state, JobState::Ended { .. });
    Shadow {
        ended: ended.then(|| job.record.state.clone()),
        tokens: job.attempts.iter().map(|attempt| attempt.token).collect(),
        saved: job.saved.clone(),
    }
}
