//! What must hold, checked from outside: against what machines really run, what spools really held, what people were
//! really told. In words of the design's list of invariants:
//!
//! (2) only the current attempt commits; (3) the latest checkpoint never goes back; (4) what was acknowledged is never
//! forgotten, and ends once; (5) promises never exceed an offer when they are made; (6) acknowledged events are applied
//! once and in order, without silent gaps; (7) nothing is lost to a crash; (8) no container runs that nobody tracks (in
//! `agent`); (10) what is refused changes nothing; (12) a replayed store satisfies all of this (in `hub`).

mod events;
mod jobs;
mod places;

use std::collections::{BTreeMap, BTreeSet};

use hone_agent::core::Upload;
use hone_controller::core::record::{AttemptState, JobState, Saved, SavedKind};
use hone_controller::core::{Commit, Effect, Fleet, Input, Job, Reply, ToAgent};
use hone_controller::placement::Capacity;
use hone_proto::assignment::DesiredSet;
use hone_proto::error::Refusal;
use hone_proto::event::Stream;
use hone_proto::id::{
    AttemptId, Digest, Generation, JobId, NodeId, Revision, SpoolId, Step as TrainerStep, Token,
};

use self::jobs::shadow_of;
use super::agent::Machine;
use super::hub::Journalled;
use super::world::Step;

/// What is known of a job from outside, as far as it is durable.
#[derive(Debug, Clone, Default, PartialEq)]
struct Shadow {
    ended: Option<JobState>,
    /// Tokens of the attempts that are kept.
    tokens: Vec<Token>,
    saved: BTreeMap<u32, Saved>,
}

/// A turn that has become durable.
pub(super) struct Durable<'a> {
    pub(super) keys: &'a [String],
    pub(super) journal: &'a [Journalled],
    pub(super) machines: &'a [Machine],
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub(super) struct Checker {
    jobs: BTreeMap<JobId, Shadow>,
    /// Every token that was ever granted, in order.
    granted: BTreeMap<JobId, Vec<Token>>,
    /// Everything that was ever committed.
    committed: BTreeMap<(JobId, Digest), Saved>,
    /// What people were told: which job their wish became.
    promised: BTreeMap<u64, JobId>,
    /// Who really made which manifest, and of which step.
    made: BTreeMap<Digest, (AttemptId, TrainerStep)>,
    /// How often the container of an attempt was started on one life of a disk.
    started: BTreeMap<(AttemptId, u64), u32>,
    /// What nodes really offered last.
    offers: BTreeMap<NodeId, Capacity>,
    offering: Option<(NodeId, Option<Capacity>)>,
    /// The newest attempt that memory knows, to notice new ones.
    placed: BTreeMap<JobId, Token>,
    /// The last event of each stream that is durable.
    applied: BTreeMap<(SpoolId, Stream), u64>,
    /// Steps of each attempt whose metrics are durable.
    steps: BTreeMap<AttemptId, TrainerStep>,
    desired: BTreeMap<(NodeId, Generation, Revision), DesiredSet>,
    /// Attempts of which a wiped disk held the only copy of something.
    wiped: BTreeSet<AttemptId>,
}

impl Checker {
    pub(super) fn jobs(&self) -> impl Iterator<Item = JobId> + '_ {
        self.jobs.keys().copied()
    }

    /// The step of a manifest that a job committed.
    pub(super) fn step_of(&self, job: JobId, manifest: Digest) -> Option<u64> {
        self.committed.get(&(job, manifest)).map(|saved| saved.step.get())
    }

    /// An input is about to be handled.
    pub(super) fn hears(&mut self, input: &Input) {
        self.offering = match input {
            Input::Hello(hello) => Some((hello.node.clone(), Some(hello.capacity.clone()))),
            Input::Heartbeat(beat) => Some((beat.node.clone(), beat.capacity.clone())),
            _ => None,
        };
    }

    /// An input was handled.
    pub(super) fn handled(
        &mut self,
        input: &Input,
        out: &[Effect],
        fleet: &Fleet,
        machines: &[Machine],
    ) -> Step {
        let session = match input {
            Input::Hello(hello) => Some(hello.session),
            Input::Heartbeat(beat) => Some(beat.session),
            _ => None,
        };
        if let Some((node, Some(offer))) = self.offering.take()
            && fleet.nodes().get(&node).is_some_and(|n| n.session == session)
        {
            self.offers.insert(node, offer);
        }
        refused_changes_nothing(input, out)?;
        self.new_promises(fleet, machines)
    }

    /// The process started again from what was durable.
    pub(super) fn loaded(&mut self, fleet: &Fleet) -> Step {
        let newest = |job: &Job| job.attempts.last().map(|attempt| attempt.token);
        self.placed = fleet.jobs().iter().filter_map(|(id, j)| Some((*id, newest(j)?))).collect();
        for (id, shadow) in &self.jobs {
            let job = fleet.jobs().get(id);
            let job = job.ok_or_else(|| format!("job {id} was forgotten by a restart"))?;
            if shadow_of(job) != *shadow {
                return Err(format!("job {id} is not what it was before a restart"));
            }
        }
        for (id, job) in &self.promised {
            if !fleet.jobs().contains_key(job) {
                return Err(format!("wish {id} was answered with job {job}, which is gone"));
            }
        }
        Ok(())
    }

    /// A turn became durable.
    pub(super) fn durable(&mut self, fleet: &Fleet, turn: Durable<'_>) -> Step {
        let numbers = turn.keys.iter().filter_map(|key| {
            let (kind, rest) = key.split_once('/')?;
            let number = rest.split('/').next()?;
            matches!(kind, "job" | "saved" | "attempt").then(|| number.parse().ok()).flatten()
        });
        for number in numbers.collect::<BTreeSet<u64>>() {
            let id = JobId::new(number);
            let job = fleet.jobs().get(&id).ok_or_else(|| format!("job {id} was deleted"))?;
            self.job_changed(id, job, turn.machines)?;
        }
        self.journalled(fleet, &turn)
    }

    /// Somebody is told the answer to a wish.
    pub(super) fn promised(&mut self, wish: u64, result: &Result<Reply, Refusal>) -> Step {
        let Ok(Reply::Job { job, .. }) = result else { return Ok(()) };
        if !self.jobs.contains_key(job) {
            return Err(format!("wish {wish} was answered with job {job}, which is not durable"));
        }
        match self.promised.insert(wish, *job) {
            Some(other) if other != *job => {
                Err(format!("wish {wish} became job {other} and then job {job}"))
            }
            _ => Ok(()),
        }
    }

    /// A manifest is about to be committed by this attempt.
    pub(super) fn uploads(&mut self, commit: &Commit) {
        self.made.insert(commit.manifest, (commit.attempt, commit.step));
    }

    /// An agent learns that something is committed.
    pub(super) fn told_committed(&self, attempt: AttemptId, upload: &Upload) -> Step {
        let (kind, step) = match upload {
            Upload::Checkpoint(found) => (SavedKind::Checkpoint, found.step),
            Upload::Package(found) => (SavedKind::Package, found.step),
        };
        let same = |s: &Saved| s.token == attempt.token && s.kind == kind && s.step == step;
        let known = self.committed.iter().any(|((job, _), s)| *job == attempt.job && same(s));
        let text = || format!("{attempt} was told that {kind:?} {step} is committed; it is not");
        if known { Ok(()) } else { Err(text()) }
    }

    /// A container of an attempt was started.
    pub(super) fn started(&mut self, attempt: AttemptId, wipes: u64) -> Step {
        let count = self.started.entry((attempt, wipes)).or_default();
        *count += 1;
        if *count > 1 { Err(format!("{attempt} was started twice")) } else { Ok(()) }
    }

    /// A container that no agent knows of is gone without a trace.
    pub(super) fn never_seen(&mut self, attempt: AttemptId, wipes: u64) {
        self.started.remove(&(attempt, wipes));
    }

    /// The controller says something to a node.
    pub(super) fn said(&mut self, node: &NodeId, message: &ToAgent) -> Step {
        match message {
            ToAgent::Welcome { positions, .. } => positions.iter().try_for_each(|p| self.acked(p)),
            ToAgent::Ack(position) => self.acked(position),
            ToAgent::HeartbeatAck(_) => Ok(()),
            ToAgent::Desired(set) => {
                let key = (node.clone(), set.generation, set.revision);
                let known = self.desired.entry(key).or_insert_with(|| set.clone());
                if known == set {
                    return Ok(());
                }
                Err(format!("revision {} of {node} means two different things", set.revision))
            }
        }
    }

    /// Everything has come to its end.
    pub(super) fn last_look(&self, fleet: &Fleet) -> Step {
        self.loaded_again(fleet)?;
        for (id, job) in fleet.jobs() {
            for attempt in job.attempts.iter() {
                let attempt_id = job.record.attempt(attempt.token);
                // What a trainer said last reached the controller, and so did every step before it.
                if let AttemptState::Ended(outcome, _) = &attempt.state
                    && !self.wiped.contains(&attempt_id)
                    && outcome.step > self.steps.get(&attempt_id).copied()
                    && outcome.step.is_some_and(|step| step.get() > resumed(attempt))
                {
                    return Err(format!(
                        "{attempt_id} ended at step {:?}, metrics of job {id} end at {:?}",
                        outcome.step,
                        self.steps.get(&attempt_id)
                    ));
                }
            }
        }
        Ok(())
    }

    fn loaded_again(&self, fleet: &Fleet) -> Step {
        let gone = self.promised.values().find(|job| !fleet.jobs().contains_key(job));
        gone.map_or(Ok(()), |job| Err(format!("job {job} was promised and is gone")))
    }
}

fn resumed(attempt: &hone_controller::core::record::AttemptRecord) -> u64 {
    attempt.resume.as_ref().map_or(0, |saved| saved.step.get())
}

/// An answer of no leaves no trace but a line of history.
fn refused_changes_nothing(input: &Input, out: &[Effect]) -> Step {
    let refused = out.iter().any(|effect| matches!(effect, Effect::Reply(_, Err(_))));
    let harmless = |key: &str| key == "meta" || key.starts_with("event/");
    let wrote = out.iter().find(|effect| match effect {
        Effect::Put(key, _) | Effect::Delete(key) => !harmless(key),
        Effect::Append { .. } | Effect::AppendNode { .. } => true,
        _ => false,
    });
    match wrote {
        Some(Effect::Put(key, _) | Effect::Delete(key)) if refused => {
            Err(format!("{input:?} was refused and changed {key}"))
        }
        Some(_) if refused => Err(format!("{input:?} was refused and appended an event")),
        _ => Ok(()),
    }
}
