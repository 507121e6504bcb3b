//! Who runs where: placing what waits, believing silence, giving up what is lost.

use std::collections::BTreeSet;

use hone_proto::assignment::Promise;
use hone_proto::id::{AttemptId, JobId, NodeId, Token};
use hone_proto::time::{BootNanos, Now, WallNanos};

use super::keys::Key;
use super::record::{AttemptRecord, AttemptState, End, JobRecord, JobState, NodeAdmin, StopWhy};
use super::{Fleet, Node};
use crate::placement::{self, Shortfall};

impl Fleet {
    pub(super) fn on_tick(&mut self, now: Now) {
        self.expire_leases(now);
        self.give_up_lost(now);
        self.forget_old_requests(now);
        self.schedule(now);
    }

    /// A node that missed its lease is unreachable. Nothing is killed: silence is not death.
    fn expire_leases(&mut self, now: Now) {
        let lease = self.settings.lease;
        let newly: Vec<NodeId> = self
            .nodes
            .values_mut()
            .filter(|node| node.record.admin != NodeAdmin::Revoked)
            .filter(|node| node.record.last_hello.is_some())
            .filter(|node| !node.silent && now.boot.since(node.heard) > lease)
            .map(|node| {
                node.silent = true;
                node.record.id.clone()
            })
            .collect();
        for id in newly {
            self.note(now, "node_unreachable", None, |line| {
                line.node = Some(id.clone());
                line.text = "nothing was heard for a whole lease; its jobs go on".to_owned();
            });
            let jobs: Vec<JobId> = self.jobs_on(&id);
            for job in jobs {
                self.out.push(super::Effect::JobChanged(job));
            }
        }
        self.suspect(now);
    }

    fn jobs_on(&self, node: &NodeId) -> Vec<JobId> {
        let on = |job: &&super::Job| job.current().is_some_and(|a| a.node == *node);
        self.jobs.values().filter(on).map(|job| job.record.id).collect()
    }

    /// Three or more nodes and at least half of the fleet fell silent within one lease: the fault is probably here. Nodes
    /// that an earlier suspicion covered and that never returned count neither as lost again nor as part of the fleet:
    /// the loss of others beside them is a new one, and is held for as long.
    fn suspect(&mut self, now: Now) {
        let silent =
            |id: &NodeId| self.nodes.get(id).is_some_and(|node| node.silent && counts(node));
        let mut covered: BTreeSet<NodeId> =
            self.suspected.iter().filter(|id| silent(id)).cloned().collect();
        let fleet = self.nodes.values().filter(|node| counts(node)).count();
        if !is_mass(covered.len(), fleet) {
            self.suspects_since = None;
        }
        let fresh: Vec<(&NodeId, BootNanos)> = self
            .nodes
            .iter()
            .filter(|(id, node)| node.silent && counts(node) && !covered.contains(*id))
            .map(|(id, node)| (id, node.heard))
            .collect();
        let lease = self.settings.lease;
        let within = |first: BootNanos| {
            let together = move |heard: BootNanos| heard >= first && heard.since(first) <= lease;
            fresh.iter().filter(move |(_, heard)| together(*heard))
        };
        let group = fresh.iter().max_by_key(|(_, heard)| within(*heard).count());
        let group: Vec<NodeId> = group
            .map(|(_, first)| within(*first).map(|(id, _)| (*id).clone()).collect())
            .unwrap_or_default();
        if is_mass(group.len(), fleet - covered.len()) {
            self.suspects_since = Some(now.boot);
            let together = group.len();
            covered.extend(group);
            self.note(now, "mass_loss", None, |line| {
                line.text = format!("{together} nodes fell silent together; nothing is moved");
            });
        }
        self.suspected = covered;
    }

    /// Whether the controller holds re-placement because it suspects itself.
    #[must_use]
    pub fn suspects_itself(&self, now: Now) -> bool {
        self.suspects_since
            .is_some_and(|since| now.boot.since(since) < self.settings.mass_loss_hold)
    }

    /// Attempts whose node stayed silent for longer than the agent would have waited.
    fn give_up_lost(&mut self, now: Now) {
        if self.suspects_itself(now) {
            return;
        }
        let lost: Vec<AttemptId> = self
            .jobs
            .values()
            .filter_map(|job| {
                let attempt = job.current()?;
                let node = self.nodes.get(&attempt.node)?;
                let wait = attempt.longest_wait()?;
                let over = now.boot.since(node.heard) > wait + self.settings.lost_margin;
                (node.silent && over).then(|| job.record.attempt(attempt.token))
            })
            .collect();
        for id in lost {
            self.lose(now, id, "its node stayed silent");
        }
    }

    /// Gives an attempt up. Its token is stale from here on; its promise counts until its node lets go of it.
    pub(super) fn lose(&mut self, now: Now, id: AttemptId, why: &str) {
        let Some(job) = self.jobs.get_mut(&id.job) else { return };
        let tries = job.tries();
        let more = tries < job.record.wish.max_attempts;
        let Some(attempt) = job.attempts.get_mut(id.token) else { return };
        if !attempt.is_open() {
            return;
        }
        attempt.state = AttemptState::Lost { why: why.to_owned(), at: now.wall };
        let (node, stop) = (attempt.node.clone(), attempt.stop);
        self.touch_attempt(id);
        if let Some(node) = self.nodes.get_mut(&node) {
            node.ghosts.insert(id);
        }
        self.note(now, "attempt_lost", None, |line| {
            line.job = Some(id.job);
            line.attempt = Some(id.token.attempt);
            line.node = Some(node.clone());
            line.text = why.to_owned();
        });
        match stop {
            Some(StopWhy::Cancel) => self.end(now, id.job, End::Cancelled, "cancelled".to_owned()),
            None | Some(StopWhy::Drain) if more => {
                let number = id.token.attempt;
                self.requeue(id.job, &format!("attempt {number} was lost: {why}"), None);
            }
            None | Some(StopWhy::Drain) => {
                let message = format!("gave up after {tries} attempts; the last was lost: {why}");
                self.end(now, id.job, End::Failed, message);
            }
        }
        self.retarget(&node);
    }

    fn forget_old_requests(&mut self, now: Now) {
        let keep = self.settings.keep_requests;
        let old: Vec<_> = self
            .requests
            .iter()
            .filter(|(_, record)| now.wall.since(record.at) > keep)
            .map(|(key, _)| key)
            .filter(|key| {
                let here = self.answered.get(*key).copied().or(self.started);
                here.is_none_or(|at| now.boot.since(at) > self.settings.keep_requests_at_least)
            })
            .cloned()
            .collect();
        for (user, id) in old {
            self.answered.remove(&(user.clone(), id.clone()));
            self.requests.remove(&(user.clone(), id.clone()));
            self.dirty.insert(Key::Request(user, id));
        }
    }

    /// Places what waits, in the order of submission, as far as it fits.
    pub(super) fn schedule(&mut self, now: Now) {
        // A pause that is longer than any pause was made by a wall clock that has been set back since.
        let cap = self.settings.retry_cap;
        let over = |until: WallNanos| until <= now.wall || until.since(now.wall) > cap;
        let waiting: Vec<JobId> = self
            .jobs
            .values()
            .filter(|job| match &job.record.state {
                JobState::Queued { not_before, .. } => not_before.is_none_or(over),
                JobState::Active | JobState::Ended { .. } => false,
            })
            .map(|job| job.record.id)
            .collect();
        for id in waiting {
            let Some(job) = self.jobs.get(&id) else { continue };
            let candidates = self
                .nodes
                .values()
                .filter(|node| self.standing(node).is_empty())
                .map(|node| (&node.record.id, self.free_on(node)));
            match placement::choose(&job.record.wish.demand, candidates) {
                Some((node, promise)) => self.place(now, id, node, promise),
                None => self.explain_wait(id),
            }
        }
    }

    fn explain_wait(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let reason = self.why_waiting(&job.record);
        if let JobState::Queued { reason: known, .. } = &job.record.state
            && *known == reason
        {
            return;
        }
        self.requeue(id, &reason, None);
    }

    /// One line: the nearest miss, or that there is no node at all.
    fn why_waiting(&self, job: &JobRecord) -> String {
        let mut verdicts = self.verdicts(job);
        verdicts.sort_by_key(|(_, lacks)| lacks.len());
        match verdicts.first() {
            None => "no node has joined yet".to_owned(),
            Some((node, lacks)) => {
                let lacks: Vec<_> = lacks.iter().map(ToString::to_string).collect();
                let others = match verdicts.len() - 1 {
                    0 => String::new(),
                    n => format!(" (and {n} more nodes that cannot take it)"),
                };
                format!("node {} {}{others}", self.name_of(node), lacks.join(", "))
            }
        }
    }

    /// What each node lacks for a job now; empty lists are nodes that could take it.
    #[must_use]
    pub fn verdicts(&self, job: &JobRecord) -> Vec<(NodeId, Vec<Shortfall>)> {
        self.nodes
            .values()
            .filter(|node| node.record.admin != NodeAdmin::Revoked)
            .map(|node| {
                let mut lacks = self.standing(node);
                if node.record.capacity.is_some() {
                    lacks.extend(placement::shortfalls(&job.wish.demand, &self.free_on(node)));
                }
                (node.record.id.clone(), lacks)
            })
            .collect()
    }

    /// What keeps a node from taking any job at all.
    fn standing(&self, node: &Node) -> Vec<Shortfall> {
        let mut lacks = Vec::new();
        match node.record.admin {
            NodeAdmin::Ready => {}
            NodeAdmin::Drained => lacks.push(Shortfall::Drained),
            NodeAdmin::Revoked => lacks.push(Shortfall::Revoked),
        }
        if node.record.capacity.is_none() {
            lacks.push(Shortfall::NeverSeen);
        } else if node.silent || node.session.is_none() {
            lacks.push(Shortfall::Unreachable);
        }
        if lacks.is_empty() && self.held_by(&node.record).count() >= self.settings.most_per_node {
            lacks.push(Shortfall::Full);
        }
        lacks
    }

    fn place(&mut self, now: Now, id: JobId, node: NodeId, promise: Promise) {
        let generation = self.meta.generation;
        let Some(job) = self.jobs.get(&id) else { return };
        let disconnect_wait = self.disconnect_wait(&job.record, &node);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let last = job.attempts.last().map(|a| a.token.attempt).unwrap_or_default();
        let token = Token { generation, attempt: last.next() };
        let resume = job.record.latest.clone();
        job.attempts.add(AttemptRecord {
            token,
            node: node.clone(),
            placed_at: now.wall,
            promise,
            resume: resume.clone(),
            state: AttemptState::Placed,
            stop: None,
            disconnect_wait,
            acknowledged_wait: disconnect_wait,
            checkpoint_requests: 0,
        });
        job.record.state = JobState::Active;
        self.out.push(super::Effect::Placed {
            attempt: job.record.attempt(token),
            node: node.clone(),
            traceparent: job.record.wish.traceparent.clone(),
        });
        self.note(now, "attempt_placed", None, |line| {
            line.job = Some(id);
            line.attempt = Some(token.attempt);
            line.node = Some(node.clone());
            line.text = match resume {
                Some(saved) => format!("continues from the checkpoint of step {}", saved.step),
                None => "starts from the base model".to_owned(),
            };
        });
        self.touch_job(id);
        self.touch_attempt(AttemptId { job: id, token });
        self.drop_old_attempts(id);
        self.retarget(&node);
    }
}

/// Whether a node counts as part of the fleet where losses are concerned.
fn counts(node: &Node) -> bool {
    node.record.admin != NodeAdmin::Revoked && node.record.last_hello.is_some()
}

/// Whether so many nodes of a fleet are more than chance takes at once.
const fn is_mass(lost: usize, fleet: usize) -> bool {
    lost >= 3 && lost * 2 >= fleet
}
