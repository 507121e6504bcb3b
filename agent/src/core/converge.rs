//! The difference between what is wanted and what is seen.

use hone_proto::event::Phase;
use hone_proto::id::AttemptId;
use hone_proto::time::Now;

use super::input::{Effect, Seen, SeenState};
use super::state::{Stage, StopCause, Stopping};
use super::{Agent, Busy, outcome};

impl Agent {
    /// Emits what is missing for every attempt, and sweeps what nobody knows.
    pub(super) fn converge(&mut self, now: Now) {
        for id in self.held() {
            let Some(record) = self.state.attempts.get(&id) else { continue };
            if !record.wanted || record.fenced && record.stage != Stage::Ended {
                self.let_go(now, id);
                continue;
            }
            match record.stage {
                Stage::Staging => self.converge_staging(now, id),
                Stage::Staged => self.converge_staged(now, id),
                Stage::Running => self.converge_running(now, id),
                Stage::Draining => {
                    self.report_phase(id, Phase::Collecting, String::new());
                    self.once(id, Busy::Draining, |_| Effect::Drain(id));
                }
                Stage::Collecting => self.converge_collecting(now, id),
                Stage::Ended => {}
            }
        }
    }

    /// Emits an effect unless it is under way already.
    pub(super) fn once(
        &mut self,
        id: AttemptId,
        busy: Busy,
        effect: impl FnOnce(&super::AttemptRecord) -> Effect,
    ) {
        if let Some(record) = self.state.attempts.get(&id)
            && self.busy.insert((id, busy))
        {
            self.out.push(effect(record));
        }
    }

    /// The controller names the attempt no more, or a later one exists: nothing of it counts.
    fn let_go(&mut self, now: Now, id: AttemptId) {
        // Staging and uploads end by themselves; removing their files under them would only make noise.
        let under_way = [Busy::Staging, Busy::Launching, Busy::Draining, Busy::Uploading];
        if under_way.iter().any(|busy| self.busy.contains(&(id, *busy))) {
            return;
        }
        if self.waits(now, id) {
            return;
        }
        self.once(id, Busy::Removing, |record| Effect::Remove {
            attempt: id,
            container: record.container.clone(),
        });
    }

    pub(super) fn waits(&self, now: Now, id: AttemptId) -> bool {
        // Boot time starts again with a reboot; a pause from before it is over.
        let record = self.state.attempts.get(&id);
        let until = record.and_then(|record| record.not_before);
        until.is_some_and(|until| {
            now.boot < until && until.since(now.boot) <= self.settings.pause_cap
        })
    }

    fn converge_staging(&mut self, now: Now, id: AttemptId) {
        if self.stops_before_start(id) {
            return;
        }
        self.report_phase(id, Phase::Staging, String::new());
        if !self.waits(now, id) {
            self.once(id, Busy::Staging, |r| Effect::Stage(Box::new(r.assignment.clone()), r.uid));
        }
    }

    fn converge_staged(&mut self, now: Now, id: AttemptId) {
        if self.stops_before_start(id) {
            return;
        }
        self.report_phase(id, Phase::Starting, String::new());
        if !self.waits(now, id) {
            self.once(id, Busy::Launching, |r| {
                Effect::Launch(Box::new(r.assignment.clone()), r.uid)
            });
        }
    }

    /// What has not started ends at once when a stop is wanted.
    fn stops_before_start(&mut self, id: AttemptId) -> bool {
        let Some(record) = self.state.attempts.get(&id) else { return false };
        let Some(reason) = self.stop_wish(record) else { return false };
        // A launch of this life, or of one before that could not keep its end, may have started the container.
        let may_run = record.stage == Stage::Staged && !self.looked;
        if may_run || self.busy.contains(&(id, Busy::Launching)) {
            return may_run;
        }
        let outcome = outcome::of_stop_before_start(id, reason);
        self.conclude(id, outcome);
        true
    }

    fn converge_running(&mut self, now: Now, id: AttemptId) {
        let why = self.reason_to_stop(now, id);
        let Some(record) = self.state.attempts.get_mut(&id) else { return };
        let Some(container) = record.container.clone() else { return };
        if record.stopping.is_none()
            && let Some((why, cause)) = why
        {
            let since = now.boot;
            record.stopping = Some(Stopping { since, why, killed: None, cause, at_once: false });
            self.changed = true;
        }
        if let Some(stopping) = &record.stopping {
            let why = stopping.why.clone();
            self.report_phase(id, Phase::Stopping, why);
            let stop = Effect::AskToStop { attempt: id, container: container.clone() };
            self.once(id, Busy::Stopping, |_| stop);
        } else {
            self.report_phase(id, Phase::Running, String::new());
        }
        let Some(record) = self.state.attempts.get_mut(&id) else { return };
        let grace = record.assignment.grace;
        let again = self.settings.kill_again;
        if let Some(stopping) = &mut record.stopping {
            let over = stopping.at_once
                || now.boot.since(stopping.since) > grace
                || now.boot < stopping.since;
            let due = stopping.killed.is_none_or(|at| now.boot.since(at) > again);
            if over && due {
                stopping.killed = Some(now.boot);
                self.changed = true;
                self.out.push(Effect::Kill { container });
                return;
            }
        } else if record.checkpoint_requests < record.assignment.checkpoint_requests {
            record.checkpoint_requests = record.assignment.checkpoint_requests;
            self.changed = true;
            self.out.push(Effect::AskToSave { attempt: id, container });
        }
        self.next_upload(now, id);
    }

    /// Why a running attempt shall stop, and what that means for its outcome.
    fn reason_to_stop(&self, now: Now, id: AttemptId) -> Option<(String, StopCause)> {
        let record = self.state.attempts.get(&id)?;
        if let Some(reason) = self.stop_wish(record) {
            return Some((reason.to_owned(), StopCause::Asked));
        }
        if let Some(limit) = record.assignment.max_time
            && let Some(launched) = record.launched
            && now.boot.since(launched.boot) > limit
        {
            let hours = limit.as_secs_f64() / 3600.0;
            let why = format!("it ran for longer than its {hours:.1} hours");
            return Some((why, StopCause::MaxTime));
        }
        // The controller will place the job elsewhere at the end of the wait; by then this one must be silent.
        let wait = record.assignment.disconnect_wait?;
        let heard = self.state.last_heard.max(record.launched.map(|at| at.boot))?;
        let needed = record.last_save.saturating_add(record.assignment.grace);
        // Never less than half of the wait: a wait that is shorter than a save would end every run at once.
        let patience = wait.saturating_sub(needed).max(wait / 2);
        (now.boot.since(heard) > patience)
            .then(|| ("the controller has been silent for too long".to_owned(), StopCause::Asked))
    }

    /// Containers with this agent's labels that no attempt explains. An engine can start one although the call to
    /// create it failed.
    pub(super) fn sweep(&mut self, seen: &[Seen]) {
        let unknown: Vec<_> = seen
            .iter()
            .filter(|container| match container.attempt {
                None => true,
                Some(id) => match self.state.attempts.get(&id) {
                    None => true,
                    // A second container of an attempt that has one, or one whose launch was said to have failed.
                    Some(record) => {
                        let other = match &record.container {
                            Some(known) => *known != container.id,
                            None => record.stage == Stage::Ended,
                        };
                        other && container.state != SeenState::Created
                    }
                },
            })
            .map(|container| container.id.clone())
            .collect();
        for container in unknown {
            if self.sweeping.insert(container.clone()) {
                self.out.push(Effect::Sweep { container });
            }
        }
    }
}
