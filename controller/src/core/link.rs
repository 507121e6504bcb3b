//! What nodes say about being alive, and what they are told to carry.

use std::collections::BTreeSet;

use hone_proto::assignment::{Assignment, DesiredSet, Intent};
use hone_proto::error::{Reason, Refusal};
use hone_proto::event::{Position, Stream};
use hone_proto::id::{AttemptId, NodeId, Revision, Seq};
use hone_proto::time::Now;

use super::Fleet;
use super::input::{Effect, Heartbeat, Hello, Session, ToAgent};
use super::keys::Key;
use super::record::{
    AttemptRecord, AttemptState, JobRecord, NodeAdmin, OnDisconnect, Positions, StopWhy,
};
use crate::placement;

impl Fleet {
    pub(super) fn on_hello(&mut self, now: Now, hello: Hello) {
        let Some(node) = self.nodes.get_mut(&hello.node) else {
            let refusal = Self::not_found("node", &hello.node);
            self.out.push(Effect::Close(hello.node, hello.session, refusal));
            return;
        };
        if node.record.admin == NodeAdmin::Revoked {
            let refusal = Refusal::new(Reason::Revoked, "this node was revoked");
            self.out.push(Effect::Close(hello.node, hello.session, refusal));
            return;
        }
        // Sessions are numbered as they open. A Hello that was overtaken by a newer one describes the past; so does one that
        // lay on a broken stream and was read after the one of the stream that followed.
        let overtaken = node.session.is_some_and(|open| open > hello.session);
        let older = node
            .said
            .as_ref()
            .zip(hello.said)
            .is_some_and(|((boot, newest), said)| *boot == hello.boot && said < *newest);
        if overtaken || older {
            let refusal = Refusal::new(Reason::Conflict, "a newer session of this node is known");
            self.out.push(Effect::Close(hello.node, hello.session, refusal));
            return;
        }
        node.said = hello.said.map(|said| (hello.boot.clone(), said));
        if let Some(old) = node.session.replace(hello.session) {
            let refusal =
                Refusal::new(Reason::Conflict, "a newer session of this node replaced it");
            self.out.push(Effect::Close(hello.node.clone(), old, refusal));
        }
        let was_silent = std::mem::replace(&mut node.silent, false);
        let rebooted = node.record.boot.as_ref().is_some_and(|boot| *boot != hello.boot);
        node.heard = now.boot;
        node.record.boot = Some(hello.boot);
        node.most = Some(hello.capacity.clone());
        node.record.capacity = Some(hello.capacity);
        node.record.hostname = hello.hostname;
        node.record.agent_version = hello.version;
        node.record.last_hello = Some(now.wall);
        node.inventory = hello.inventory;
        if node.positions.as_ref().is_none_or(|known| known.spool != hello.spool) {
            node.positions = Some(Positions { spool: hello.spool, seqs: Default::default() });
            self.dirty.insert(Key::Positions(hello.node.clone()));
        }
        self.dirty.insert(Key::Node(hello.node.clone()));
        self.dirty.insert(Key::Inventory(hello.node.clone()));
        if hello.highest_generation > self.meta.generation {
            // This state was restored from an export that is older than what the node has seen.
            self.raise_generation(now, hello.highest_generation.next());
        }
        if was_silent || rebooted {
            self.note(now, "node_returned", None, |event| {
                event.node = Some(hello.node.clone());
                let how = if rebooted { "after a reboot" } else { "after a silence" };
                event.text = format!("the node is back {how}");
            });
        }
        self.lose_forgotten(now, &hello.node, &hello.attempts);
        self.still_held(&hello.node, &hello.attempts);
        let positions = self.positions(&hello.node);
        let generation = self.meta.generation;
        let welcome = ToAgent::Welcome { generation, positions };
        self.out.push(Effect::Send(hello.node.clone(), hello.session, welcome));
        self.refresh_disconnect_waits();
        self.schedule(now);
        self.send_desired(&hello.node);
    }

    /// What is durable of each stream of a node's spool.
    fn positions(&self, node: &NodeId) -> Vec<Position> {
        let Some(known) = self.nodes.get(node).and_then(|node| node.positions.as_ref()) else {
            return Vec::new();
        };
        Stream::ALL
            .into_iter()
            .map(|stream| Position {
                spool: known.spool.clone(),
                stream,
                seq: known.seqs.get(&stream).copied().unwrap_or(Seq::new(0)),
            })
            .collect()
    }

    /// Open attempts that had started on the node and that it holds no more: its disk was wiped, or it was rebooted
    /// and lost them. Nothing will ever be heard of them.
    fn lose_forgotten(&mut self, now: Now, node: &NodeId, held: &[AttemptId]) {
        let forgotten: Vec<_> = self
            .jobs
            .values()
            .filter_map(|job| {
                let attempt = job.current()?;
                let started = matches!(attempt.state, AttemptState::Reported(..));
                let id = job.record.attempt(attempt.token);
                (attempt.node == *node && started && !held.contains(&id)).then_some(id)
            })
            .collect();
        for id in forgotten {
            self.lose(now, id, "its node came back without it");
        }
    }

    pub(super) fn on_heartbeat(&mut self, now: Now, beat: Heartbeat) {
        let Some(node) = self.nodes.get_mut(&beat.node) else { return };
        if node.session != Some(beat.session) {
            return;
        }
        let was_silent = std::mem::replace(&mut node.silent, false);
        node.heard = now.boot;
        let mut changed = was_silent;
        if let Some(capacity) = beat.capacity
            && node.record.capacity.as_ref() != Some(&capacity)
        {
            node.most.get_or_insert_default().grow(&capacity);
            node.record.capacity = Some(capacity);
            self.dirty.insert(Key::Node(beat.node.clone()));
            changed = true;
        }
        changed |= self.let_go(&beat.node, &beat.attempts);
        self.acknowledge_waits(&beat.node, beat.revision);
        let ack = ToAgent::HeartbeatAck(beat.number);
        self.out.push(Effect::Send(beat.node.clone(), beat.session, ack));
        if was_silent {
            self.note(now, "node_returned", None, |event| {
                event.node = Some(beat.node.clone());
                event.text = "the node is heard again".to_owned();
            });
        }
        if changed {
            self.refresh_disconnect_waits();
            self.schedule(now);
        }
        // The set may have been lost with a broken stream, or changed since.
        if self.nodes.get(&beat.node).is_some_and(|node| node.record.revision != beat.revision) {
            self.send_desired(&beat.node);
        }
    }

    /// Given-up attempts that the node still holds: their promises count. Not stored, since the node repeats them; a
    /// controller that started again would otherwise promise what they occupy.
    fn still_held(&mut self, id: &NodeId, held: &[AttemptId]) {
        let lost = |held: &&AttemptId| {
            self.jobs.get(&held.job).is_some_and(|job| {
                job.attempts.get(held.token).is_some_and(|attempt| {
                    attempt.node == *id && matches!(attempt.state, AttemptState::Lost { .. })
                })
            })
        };
        let ghosts: BTreeSet<_> = held.iter().filter(lost).copied().collect();
        if let Some(node) = self.nodes.get_mut(id) {
            node.ghosts = ghosts;
        }
    }

    /// Forgets given-up attempts that the node holds no more. True when a promise came free.
    fn let_go(&mut self, node: &NodeId, held: &[AttemptId]) -> bool {
        let Some(node) = self.nodes.get_mut(node) else { return false };
        let before = node.ghosts.len();
        let held: BTreeSet<_> = held.iter().collect();
        node.ghosts.retain(|ghost| held.contains(ghost));
        node.ghosts.len() != before
    }

    pub(super) fn on_closed(&mut self, node: &NodeId, session: Session) {
        // Nothing else follows from a broken stream: silence is measured by the lease.
        if let Some(node) = self.nodes.get_mut(node)
            && node.session == Some(session)
        {
            node.session = None;
        }
    }

    /// Raises the node's revision: what it shall carry has changed.
    pub(super) fn retarget(&mut self, node: &NodeId) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.record.revision = node.record.revision.next();
            self.dirty.insert(Key::Node(node.record.id.clone()));
        }
        self.send_desired(node);
    }

    /// Sends the whole desired set. Sending it again changes nothing.
    fn send_desired(&mut self, id: &NodeId) {
        let Some(node) = self.nodes.get(id) else { return };
        let Some(session) = node.session else { return };
        let assignments = self
            .jobs
            .values()
            .filter_map(|job| {
                let attempt = job.current()?;
                (attempt.node == *id).then(|| assignment(&job.record, attempt))
            })
            .collect();
        let desired = DesiredSet {
            revision: node.record.revision,
            generation: self.meta.generation,
            assignments,
        };
        let at_end = Effect::Send(id.clone(), session, ToAgent::Desired(desired));
        // Within one turn only the last set counts.
        self.out.retain(
            |effect| !matches!(effect, Effect::Send(node, _, ToAgent::Desired(_)) if node == id),
        );
        self.out.push(at_end);
    }

    /// The agent works on the newest desired set: what that says is what it does when it hears nothing more.
    fn acknowledge_waits(&mut self, id: &NodeId, revision: Revision) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        if node.record.revision != revision || node.acknowledged == revision {
            return;
        }
        node.acknowledged = revision;
        for job in self.jobs.values_mut() {
            let current = job.current().is_some_and(|attempt| {
                attempt.node == *id && attempt.acknowledged_wait != attempt.disconnect_wait
            });
            if let Some(attempt) = job.attempts.last_mut().filter(|_| current) {
                attempt.acknowledged_wait = attempt.disconnect_wait;
                self.dirty.insert(Key::Attempt(job.record.id, attempt.token.attempt));
            }
        }
    }

    /// `on_disconnect: auto` waits for ever while no other node could hold the job; that changes with the fleet. An
    /// agent that cannot be told keeps the wait that it has heard.
    pub(super) fn refresh_disconnect_waits(&mut self) {
        let mut stale = BTreeSet::new();
        let waits: Vec<_> = self
            .jobs
            .values()
            .filter_map(|job| {
                let attempt = job.current()?;
                let node = self.nodes.get(&attempt.node)?;
                if node.silent || node.session.is_none() {
                    return None;
                }
                let wait = self.disconnect_wait(&job.record, &attempt.node);
                (wait != attempt.disconnect_wait)
                    .then(|| (job.record.attempt(attempt.token), attempt.node.clone(), wait))
            })
            .collect();
        for (id, node, wait) in waits {
            let job = self.jobs.get_mut(&id.job);
            if let Some(attempt) = job.and_then(|job| job.attempts.get_mut(id.token)) {
                attempt.disconnect_wait = wait;
                self.dirty.insert(Key::Attempt(id.job, id.token.attempt));
                stale.insert(node);
            }
        }
        for node in stale {
            self.retarget(&node);
        }
    }

    /// The wait in force for a job on this node; `None` is for ever.
    pub(super) fn disconnect_wait(
        &self,
        job: &JobRecord,
        on: &NodeId,
    ) -> Option<std::time::Duration> {
        match job.wish.on_disconnect {
            OnDisconnect::Forever => None,
            OnDisconnect::Wait(wait) => Some(wait),
            OnDisconnect::Auto => {
                let elsewhere = self.nodes.values().any(|node| {
                    node.record.id != *on
                        && node.record.admin == NodeAdmin::Ready
                        && node.record.capacity.as_ref().is_some_and(|offer| {
                            placement::shortfalls(&job.wish.demand, offer).is_empty()
                        })
                });
                elsewhere.then_some(self.settings.auto_wait)
            }
        }
    }
}

/// The whole of what an agent needs to know of an attempt.
fn assignment(job: &JobRecord, attempt: &AttemptRecord) -> Assignment {
    let intent = match attempt.stop {
        None => Intent::Run,
        Some(StopWhy::Cancel) => {
            let by = job.cancelled_by.as_ref().map_or("somebody", |user| user.as_str());
            Intent::Stop { reason: format!("cancelled by {by}") }
        }
        Some(StopWhy::Drain) => Intent::Stop { reason: "its node is being drained".to_owned() },
    };
    Assignment {
        attempt: job.attempt(attempt.token),
        job_name: job.wish.name.clone(),
        project: job.wish.project.clone(),
        owner: job.owner.clone(),
        intent,
        image: job.wish.image.clone(),
        command: job.wish.command.clone(),
        trainer_spec: numbered(&job.wish.trainer_spec, job.attempt(attempt.token)),
        inputs: job.wish.inputs.clone(),
        resume: attempt.resume.as_ref().map(|saved| saved.manifest),
        promise: attempt.promise.clone(),
        relaxations: job.wish.relaxations.clone(),
        keep_checkpoints: job.wish.keep_checkpoints,
        grace: job.wish.grace,
        disconnect_wait: attempt.disconnect_wait,
        checkpoint_requests: attempt.checkpoint_requests,
        traceparent: job.wish.traceparent.clone(),
        max_time: job.wish.max_time,
    }
}

/// The trainer's spec with its job and attempt numbers filled in.
fn numbered(template: &str, id: AttemptId) -> String {
    let Ok(mut spec) = serde_json::from_str::<serde_json::Value>(template) else {
        return template.to_owned();
    };
    if let Some(job) = spec.get_mut("job").and_then(serde_json::Value::as_object_mut) {
        job.insert("id".to_owned(), id.job.to_string().into());
        job.insert("attempt".to_owned(), id.token.attempt.get().into());
    }
    spec.to_string()
}
