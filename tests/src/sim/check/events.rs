//! Events: applied once, in order, as they happened, without silent gaps; acknowledged when they are durable.

use hone_controller::core::Fleet;
use hone_controller::core::record::AttemptState;
use hone_proto::event::{Event, Payload, Position, Stream};
use hone_proto::id::{AttemptId, SpoolId};

use super::{Checker, Durable, resumed};
use crate::sim::agent::Machine;
use crate::sim::spool::Spool;
use crate::sim::world::Step;

impl Checker {
    pub(super) fn acked(&self, position: &Position) -> Step {
        let key = (position.spool.clone(), position.stream);
        let durable = self.applied.get(&key).copied().unwrap_or(0);
        if position.seq.get() > durable {
            return Err(format!(
                "{} of {} is acknowledged up to {}, durable up to {durable}",
                position.stream.name(),
                position.spool,
                position.seq
            ));
        }
        Ok(())
    }

    /// A machine lost power: whatever the controller has of its spool must still be there, or its number would be given
    /// to something else, which the controller would take for known.
    pub(in crate::sim) fn survived(&self, spool: &Spool) -> Step {
        for (stream, lane) in &spool.lanes {
            let key = (spool.id.clone(), *stream);
            let applied = self.applied.get(&key).copied().unwrap_or(0);
            if applied > lane.last() as u64 {
                return Err(format!(
                    "{} of {} is stored up to {applied}; a power cut left {} of it",
                    stream.name(),
                    spool.id,
                    lane.last()
                ));
            }
        }
        Ok(())
    }

    /// A disk is wiped: what the controller does not have of its spool is gone, and nobody can be blamed for it.
    pub(in crate::sim) fn wiped(&mut self, spool: &Spool) {
        for (stream, lane) in &spool.lanes {
            let key = (spool.id.clone(), *stream);
            let applied = self.applied.get(&key).copied().unwrap_or(0);
            let lost = lane.all.iter().skip(usize::try_from(applied).unwrap_or(usize::MAX));
            self.wiped.extend(lost.filter_map(|event| event.payload.attempt()));
        }
    }

    pub(super) fn journalled(&mut self, fleet: &Fleet, turn: &Durable<'_>) -> Step {
        for line in turn.journal {
            let machine = turn.machines.iter().find(|machine| machine.id == line.node);
            self.event(fleet, &line.spool, &line.event, machine)?;
        }
        for key in turn.keys {
            if let Some(node) = key.strip_prefix("positions/")
                && let Some(machine) = turn.machines.iter().find(|m| m.id.as_str() == node)
            {
                self.positions(fleet, machine)?;
            }
        }
        Ok(())
    }

    fn event(
        &mut self,
        fleet: &Fleet,
        spool: &SpoolId,
        event: &Event,
        machine: Option<&Machine>,
    ) -> Step {
        let stream = event.payload.stream();
        let mine = machine.filter(|machine| machine.spool.id == *spool);
        let last = self.applied.entry((spool.clone(), stream)).or_default();
        if let Some(machine) = mine {
            *last = past_dropped(fleet, machine, stream, *last, event.seq.get().saturating_sub(1));
        }
        let at = || format!("event {} of {} in {spool}", event.seq, stream.name());
        let gap = match &event.payload {
            Payload::Gap { count, attempt: None, .. } => Some(*count),
            _ => None,
        };
        let seq = event.seq.get();
        if seq <= *last {
            return Err(format!("{} is stored twice", at()));
        }
        if seq - *last > gap.unwrap_or(1) {
            return Err(format!("{} follows {last} in silence", at()));
        }
        if gap.is_some() && stream == Stream::Series {
            return Err(format!("{}: training metrics were dropped", at()));
        }
        *last = seq;
        if let Some(machine) = mine.filter(|_| gap.is_none()) {
            let index = usize::try_from(seq - 1).unwrap_or(usize::MAX);
            let lane = machine.spool.lanes.get(&stream);
            if lane.and_then(|lane| lane.all.get(index)) != Some(event) {
                return Err(format!("{} is not what happened", at()));
            }
        }
        if let Payload::Metrics(metrics) = &event.payload {
            self.metrics(fleet, metrics.attempt, metrics.step)?;
        }
        Ok(())
    }

    /// Steps of an attempt are complete and unique.
    fn metrics(&mut self, fleet: &Fleet, id: AttemptId, step: hone_proto::id::Step) -> Step {
        let job = fleet.jobs().get(&id.job);
        let attempt = job.and_then(|job| job.attempts.get(id.token));
        let from = attempt.map_or(0, resumed);
        let last = self.steps.get(&id).map_or(from, |step| step.get());
        if step.get() != last + 1 {
            return Err(format!("metrics of {id}: step {step} follows step {last}"));
        }
        self.steps.insert(id, step);
        Ok(())
    }

    /// Positions say what is stored; what travels in the stream of states has had its effect.
    fn positions(&mut self, fleet: &Fleet, machine: &Machine) -> Step {
        let node = fleet.nodes().get(&machine.id);
        let Some(positions) = node.and_then(|node| node.positions.as_ref()) else { return Ok(()) };
        for stream in Stream::ALL {
            let now = positions.seqs.get(&stream).map_or(0, |seq| seq.get());
            let key = (positions.spool.clone(), stream);
            let mut before = self.applied.get(&key).copied().unwrap_or(0);
            if stream != Stream::State && machine.spool.id == positions.spool {
                before = past_dropped(fleet, machine, stream, before, now);
            }
            if now < before || stream != Stream::State && now > before {
                return Err(format!(
                    "the position of {} in {} is {now}, stored is up to {before}",
                    stream.name(),
                    positions.spool
                ));
            }
            if stream == Stream::State && machine.spool.id == positions.spool {
                let range = before..now;
                for index in range.filter_map(|index| usize::try_from(index).ok()) {
                    let lane = machine.spool.lanes.get(&stream);
                    let event = lane.and_then(|lane| lane.all.get(index));
                    let event = event.ok_or("a state that was never reported was applied")?;
                    had_effect(fleet, event)?;
                }
            }
            self.applied.insert(key, now);
        }
        Ok(())
    }
}

/// How far one gets from `from` to `to` over events of attempts that are not kept any more.
fn past_dropped(fleet: &Fleet, machine: &Machine, stream: Stream, from: u64, to: u64) -> u64 {
    let Some(lane) = machine.spool.lanes.get(&stream) else { return from };
    let mut at = from;
    while at < to {
        let event = usize::try_from(at).ok().and_then(|index| lane.all.get(index));
        let attempt = event.and_then(|event| event.payload.attempt());
        if !attempt.is_some_and(|attempt| is_dropped(fleet, attempt)) {
            break;
        }
        at += 1;
    }
    at
}

/// An attempt so old that the controller keeps it no more: what is still told of it is nobody's.
fn is_dropped(fleet: &Fleet, id: AttemptId) -> bool {
    fleet.jobs().get(&id.job).is_some_and(|job| {
        let newest = job.attempts.last().map(|attempt| attempt.token);
        newest.is_some_and(|newest| id.token < newest) && job.attempts.get(id.token).is_none()
    })
}

fn had_effect(fleet: &Fleet, event: &Event) -> Step {
    let Payload::Outcome(outcome) = &event.payload else { return Ok(()) };
    let id = outcome.attempt;
    let ended = fleet.jobs().get(&id.job).is_some_and(|job| {
        let attempt = job.attempts.get(id.token);
        attempt.is_some_and(|a| matches!(a.state, AttemptState::Ended(..)))
    });
    if ended || is_dropped(fleet, id) {
        Ok(())
    } else {
        Err(format!("the outcome of {id} was taken and had no effect"))
    }
}
