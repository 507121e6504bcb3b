//! What nodes report: applied exactly once, in each stream's order, and acknowledged after it is durable.

use hone_proto::event::{
    Event, Metrics, Outcome, OutcomeKind, Payload, Position, Stream, TrainerStart,
};
use hone_proto::id::{AttemptId, NodeId, Seq, SpoolId};
use hone_proto::time::Now;

use super::Fleet;
use super::input::{Effect, ToAgent};
use super::keys::Key;
use super::record::{AttemptState, End, Evaluation, JobState, StopWhy};

/// Splits of one job whose newest evaluation is kept: `eval`, `eval_base`, and a few of the trainer's own.
const MAX_SPLITS: usize = 16;

impl Fleet {
    pub(super) fn on_events(
        &mut self,
        now: Now,
        id: &NodeId,
        spool: SpoolId,
        stream: Stream,
        events: Vec<Event>,
    ) {
        let Some(node) = self.nodes.get(id) else { return };
        let Some(session) = node.session else { return };
        let Some(positions) = node.positions.as_ref().filter(|known| known.spool == spool) else {
            return;
        };
        let mut last = positions.seqs.get(&stream).copied().unwrap_or(Seq::new(0));
        for event in events {
            // What is known already is skipped; after a hole the agent sends again from our position.
            if event.seq <= last {
                continue;
            }
            if event.seq != last.next() && !covers_hole(&event, last) {
                break;
            }
            last = event.seq;
            self.apply(now, id, event);
        }
        if let Some(positions) = self.nodes.get_mut(id).and_then(|node| node.positions.as_mut()) {
            positions.seqs.insert(stream, last);
            self.dirty.insert(Key::Positions(id.clone()));
        }
        let ack = ToAgent::Ack(Position { spool, stream, seq: last });
        self.out.push(Effect::Send(id.clone(), session, ack));
    }

    fn apply(&mut self, now: Now, node: &NodeId, event: Event) {
        if let Payload::Gap { count, reason, .. } = &event.payload
            && event.payload.stream() == Stream::State
        {
            self.complain(now, "reports_lost", node, |line| {
                line.job = event.payload.attempt().map(|attempt| attempt.job);
                line.text = format!("{count} of the node's state reports are lost: {reason}");
            });
        }
        let Some(attempt) = event.payload.attempt() else {
            self.out.push(Effect::AppendNode { node: node.clone(), event: Box::new(event) });
            return;
        };
        // A node speaks only for attempts that were placed on it.
        let owns = self.jobs.get(&attempt.job).is_some_and(|job| {
            job.attempts.get(attempt.token).is_some_and(|known| known.node == *node)
        });
        if !owns {
            self.complain(now, "foreign_report", node, |line| {
                line.job = Some(attempt.job);
                line.text = format!(
                    "the node reported on {attempt}, which is not its own or too old to be kept"
                );
            });
            return;
        }
        match &event.payload {
            Payload::Phase { attempt, phase, detail } => {
                self.on_phase(now, *attempt, *phase, detail);
            }
            Payload::Outcome(outcome) => self.on_outcome(now, outcome.clone()),
            Payload::Metrics(metrics) => self.on_metrics(metrics),
            Payload::Start(start) => self.on_start(start),
            Payload::TrainerPhase { .. }
            | Payload::Notice { .. }
            | Payload::Log(_)
            | Payload::Hardware(_)
            | Payload::Gap { .. } => {}
        }
        let stream = event.payload.stream();
        if stream != Stream::State {
            self.out.push(Effect::Append { job: attempt.job, stream, event: Box::new(event) });
        }
    }

    fn on_phase(&mut self, now: Now, id: AttemptId, phase: hone_proto::event::Phase, detail: &str) {
        let Some(job) = self.jobs.get_mut(&id.job) else { return };
        let Some(attempt) = job.attempts.get_mut(id.token) else { return };
        if !attempt.is_open() {
            return;
        }
        let entered =
            !matches!(&attempt.state, AttemptState::Reported(known, _) if *known == phase);
        attempt.state = AttemptState::Reported(phase, detail.to_owned());
        let node = attempt.node.clone();
        if entered {
            self.note(now, "attempt_phase", None, |line| {
                line.job = Some(id.job);
                line.attempt = Some(id.token.attempt);
                line.node = Some(node);
                line.text = format!("{} {detail}", phase.name()).trim_end().to_owned();
            });
        }
        self.touch_attempt(id);
    }

    fn on_start(&mut self, start: &TrainerStart) {
        let Some(job) = self.jobs.get_mut(&start.attempt.job) else { return };
        job.progress.max_steps = start.max_steps;
        job.progress.trainable_params = start.trainable_params;
        job.progress.total_params = start.total_params;
        if job.current().is_some_and(|a| a.token == start.attempt.token) {
            // An attempt that resumed earlier than its predecessor came is not as far.
            job.progress.step = Some(start.resumed_from);
        }
        self.dirty.insert(Key::Progress(start.attempt.job));
    }

    fn on_metrics(&mut self, metrics: &Metrics) {
        let Some(job) = self.jobs.get_mut(&metrics.attempt.job) else { return };
        if job.attempts.last().is_none_or(|a| a.token != metrics.attempt.token) {
            return;
        }
        if job.progress.step.is_none_or(|step| metrics.step > step) {
            job.progress.step = Some(metrics.step);
        }
        if let (Some(nll_sum), Some(tokens)) =
            (metrics.get("eval_nll_sum"), metrics.get("eval_tokens"))
            && nll_sum.is_finite()
            && (1.0..9e15).contains(&tokens)
        {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the range was checked"
            )]
            let tokens = tokens as u64;
            let evaluation = Evaluation { nll_sum, tokens, step: metrics.step };
            let known = &mut job.progress.evaluations;
            if known.len() < MAX_SPLITS || known.contains_key(&metrics.split) {
                known.insert(metrics.split.clone(), evaluation);
            }
        }
        self.dirty.insert(Key::Progress(metrics.attempt.job));
    }

    fn on_outcome(&mut self, now: Now, outcome: Outcome) {
        let id = outcome.attempt;
        let Some(job) = self.jobs.get_mut(&id.job) else { return };
        let current = job.current().is_some_and(|a| a.token == id.token);
        let Some(attempt) = job.attempts.get_mut(id.token) else { return };
        if matches!(attempt.state, AttemptState::Ended(..)) {
            return;
        }
        attempt.state = AttemptState::Ended(outcome.clone(), now.wall);
        let node = attempt.node.clone();
        let stop = attempt.stop;
        self.note(now, "attempt_ended", None, |line| {
            line.job = Some(id.job);
            line.attempt = Some(id.token.attempt);
            line.node = Some(node.clone());
            line.text = format!("{}: {}", outcome.cause, outcome.message);
        });
        if current {
            self.conclude(now, &outcome, stop);
            self.retarget(&node);
            self.schedule(now);
        }
        self.touch_attempt(id);
    }

    /// What the end of the current attempt means for its job.
    fn conclude(&mut self, now: Now, outcome: &Outcome, stop: Option<StopWhy>) {
        let id = outcome.attempt;
        let Some(job) = self.jobs.get(&id.job) else { return };
        let tries = job.tries();
        let more = tries < job.record.wish.max_attempts;
        let packaged = job.record.package.as_ref().is_some_and(|p| p.token == id.token)
            || !job.record.wish.exports;
        let message = outcome.message.clone();
        match (outcome.kind, stop) {
            (OutcomeKind::Completed, _) if packaged => {
                self.end(now, id.job, End::Completed, "finished as specified".to_owned());
            }
            (_, Some(StopWhy::Cancel)) => {
                self.end(now, id.job, End::Cancelled, format!("cancelled; {message}"));
            }
            (OutcomeKind::Interrupted, Some(StopWhy::Drain)) => {
                self.requeue(id.job, "it moves away from a drained node", None);
            }
            (OutcomeKind::Failed, _) => self.end(now, id.job, End::Failed, message),
            (
                OutcomeKind::Completed | OutcomeKind::Interrupted | OutcomeKind::FailedRetryable,
                _,
            ) if more => {
                let pause = self.settings.retry_base.saturating_mul(1 << tries.min(16));
                let until = now.wall.plus(pause.min(self.settings.retry_cap));
                let number = id.token.attempt;
                self.requeue(id.job, &format!("attempt {number} failed: {message}"), Some(until));
            }
            (
                OutcomeKind::Completed | OutcomeKind::Interrupted | OutcomeKind::FailedRetryable,
                _,
            ) => {
                let message = format!("gave up after {tries} attempts; the last: {message}");
                self.end(now, id.job, End::Failed, message);
            }
        }
    }

    pub(super) fn end(&mut self, now: Now, id: hone_proto::id::JobId, end: End, message: String) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.record.state = JobState::Ended { end, at: now.wall, message: message.clone() };
        let kind = match end {
            End::Completed => "job_completed",
            End::Failed => "job_failed",
            End::Cancelled => "job_cancelled",
        };
        let actor = job.record.cancelled_by.clone().filter(|_| end == End::Cancelled);
        self.note(now, kind, actor, |line| {
            line.job = Some(id);
            line.text = message;
        });
        self.touch_job(id);
    }

    pub(super) fn requeue(
        &mut self,
        id: hone_proto::id::JobId,
        reason: &str,
        not_before: Option<hone_proto::time::WallNanos>,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.record.state = JobState::Queued { reason: reason.to_owned(), not_before };
        self.touch_job(id);
    }
}

/// Whether this is a gap record that stands for everything between `last` and itself.
fn covers_hole(event: &Event, last: Seq) -> bool {
    match &event.payload {
        Payload::Gap { count, .. } => event.seq.get().saturating_sub(*count) <= last.get(),
        _ => false,
    }
}
