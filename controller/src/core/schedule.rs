//! Who runs where: placing what waits, believing silence, giving up what is lost.

use hone_proto::assignment::Promise;
use hone_proto::id::{AttemptId, JobId, NodeId, Token};
use hone_proto::time::{Now, WallNanos};

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
        let on = |job: &&super::Job| job.record.current().is_some_and(|a| a.node == *node);
        self.jobs.values().filter(on).map(|job| job.record.id).collect()
    }

    /// Three or more nodes and at least half of the fleet fell silent within one lease: the fault is probably here.
    fn suspect(&mut self, now: Now) {
        let seen: Vec<&Node> = self
            .nodes
            .values()
            .filter(|n| n.record.admin != NodeAdmin::Revoked && n.record.last_hello.is_some())
            .collect();
        let mut since: Vec<_> = seen.iter().filter(|n| n.silent).map(|n| n.heard).collect();
        since.sort_unstable();
        let together = since
            .iter()
            .map(|first| {
                let within = |other: &&hone_proto::time::BootNanos| {
                    **other >= *first && other.since(*first) <= self.settings.lease
                };
                since.iter().filter(within).count()
            })
            .max()
            .unwrap_or(0);
        let mass = together >= 3 && together * 2 >= seen.len();
        match (mass, self.suspects_since) {
            (true, None) => {
                self.suspects_since = Some(now.boot);
                self.note(now, "mass_loss", None, |line| {
                    line.text = format!("{together} nodes fell silent together; nothing is moved");
                });
            }
            (false, Some(_)) => self.suspects_since = None,
            (true, Some(_)) | (false, None) => {}
        }
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
                let attempt = job.record.current()?;
                let node = self.nodes.get(&attempt.node)?;
                let wait = attempt.disconnect_wait?;
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
        let tries = u32::try_from(job.record.attempts.len()).unwrap_or(u32::MAX);
        let more = tries < job.record.wish.max_attempts;
        let Some(attempt) = job.record.attempts.iter_mut().find(|a| a.token == id.token) else {
            return;
        };
        if !attempt.is_open() {
            return;
        }
        attempt.state = AttemptState::Lost { why: why.to_owned(), at: now.wall };
        let (node, stop) = (attempt.node.clone(), attempt.stop);
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
                self.requeue(id.job, &format!("attempt {tries} was lost: {why}"), None);
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
                format!("node {node} {}{others}", lacks.join(", "))
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
        lacks
    }

    fn place(&mut self, now: Now, id: JobId, node: NodeId, promise: Promise) {
        let generation = self.meta.generation;
        let Some(job) = self.jobs.get(&id) else { return };
        let disconnect_wait = self.disconnect_wait(&job.record, &node);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let last = job.record.attempts.last().map(|a| a.token.attempt).unwrap_or_default();
        let token = Token { generation, attempt: last.next() };
        let resume = job.record.latest.clone();
        job.record.attempts.push(AttemptRecord {
            token,
            node: node.clone(),
            placed_at: now.wall,
            promise,
            resume: resume.clone(),
            state: AttemptState::Placed,
            stop: None,
            disconnect_wait,
            checkpoint_requests: 0,
        });
        job.record.state = JobState::Active;
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
        self.retarget(&node);
    }
}
