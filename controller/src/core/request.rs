//! Changes that people ask for. The access table has admitted the call; ownership and effects are decided here, and the
//! result is kept, so that a retry with the same request id has one effect.

use hone_proto::error::{Reason, Refusal};
use hone_proto::event::Phase;
use hone_proto::id::{Digest, JobId, NodeId, RequestId, UserName};
use hone_proto::time::Now;

use super::Fleet;
use super::input::{Caller, Command, Effect, Reply, Ticket};
use super::keys::Key;
use super::record::{AttemptState, End, JobState, NodeAdmin, RequestRecord, Role, StopWhy, Wish};

/// What a request is, whoever repeats it: a retry runs in another trace than the first try.
fn content(command: &Command) -> Digest {
    let told = match command {
        Command::Submit { wish, spec_yaml } => {
            let wish = Wish { traceparent: String::new(), ..Wish::clone(wish) };
            let command = Command::Submit { wish: Box::new(wish), spec_yaml: spec_yaml.clone() };
            format!("{command:?}")
        }
        other => format!("{other:?}"),
    };
    Digest::of(told.as_bytes())
}

impl Fleet {
    pub(super) fn on_request(
        &mut self,
        now: Now,
        ticket: Ticket,
        caller: &Caller,
        request: RequestId,
        command: Command,
    ) {
        let content = content(&command);
        let key = (caller.user.clone(), request);
        // A token's secret is answered once and kept nowhere: a retry makes another, and the first expires unused.
        let kept = !matches!(command, Command::MakeToken { .. });
        let result = match self.requests.get(&key) {
            Some(known) if known.content == content => {
                Ok(known.job.map_or(Reply::Done, |job| Reply::Job { job, repeated: true }))
            }
            Some(_) => Err(Refusal::new(
                Reason::Conflict,
                "this request id was used before for something else",
            )),
            None if kept && self.asked_too_much(&key.0) => Err(Refusal::new(
                Reason::Overloaded,
                format!("{} has asked for too many changes within a day", key.0),
            )),
            None => self.command(now, caller, command),
        };
        if let Ok(reply) = &result
            && kept
            && !self.requests.contains_key(&key)
        {
            let job = match reply {
                Reply::Job { job, .. } => Some(*job),
                Reply::Done | Reply::Spent(_) => None,
            };
            self.dirty.insert(Key::Request(key.0.clone(), key.1.clone()));
            self.answered.insert(key.clone(), now.boot);
            self.requests.insert(key, RequestRecord { at: now.wall, content, job });
        }
        self.out.push(Effect::Reply(ticket, result));
    }

    /// Whether as many results of this person's requests are kept as may be.
    fn asked_too_much(&self, user: &UserName) -> bool {
        self.requests.keys().filter(|(by, _)| by == user).count() >= self.settings.most_requests
    }

    fn command(&mut self, now: Now, caller: &Caller, command: Command) -> Result<Reply, Refusal> {
        match command {
            Command::Submit { wish, spec_yaml } => self.submit(now, caller, *wish, spec_yaml),
            Command::Cancel(job) => self.cancel(now, caller, job),
            Command::Drain { node, stop_jobs } => self.drain(now, caller, &node, stop_jobs),
            Command::Resume(node) => self.resume(now, caller, &node),
            Command::RevokeNode(node) => self.revoke_node(now, caller, &node),
            Command::Lose(node) => self.lose_node(now, caller, &node),
            Command::MakeToken { public_id, hash, purpose, role, expires } => {
                self.make_token(now, caller, public_id, hash, purpose, role, expires)
            }
            Command::RevokeUser(user) => self.revoke_user(now, caller, &user),
        }
    }

    fn cancel(&mut self, now: Now, caller: &Caller, id: JobId) -> Result<Reply, Refusal> {
        let job = self.jobs.get_mut(&id).ok_or_else(|| Self::not_found("job", id))?;
        if job.record.owner != caller.user && caller.role < Role::Operator {
            return Err(Refusal::new(
                Reason::NotOwner,
                format!("job {id} belongs to {}", job.record.owner),
            ));
        }
        let done = Ok(Reply::Job { job: id, repeated: false });
        let waits = match job.record.state {
            JobState::Ended { .. } => return done,
            JobState::Queued { .. } => true,
            JobState::Active => false,
        };
        job.record.cancelled_by.get_or_insert_with(|| caller.user.clone());
        self.note(now, "job_cancel_requested", Some(caller.user.clone()), |line| {
            line.job = Some(id);
        });
        if waits {
            self.end(now, id, End::Cancelled, "cancelled while it waited".to_owned());
        } else {
            self.stop_current(now, id, StopWhy::Cancel);
        }
        done
    }

    /// Asks the current attempt to save and stop. One that cannot be told is given up at once.
    fn stop_current(&mut self, now: Now, id: JobId, why: StopWhy) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(attempt) = job.attempts.last_mut() else { return };
        // A cancel is stronger than a drain, and nothing takes a cancel back.
        if attempt.stop != Some(StopWhy::Cancel) {
            attempt.stop = Some(why);
        }
        let (node, token) = (attempt.node.clone(), attempt.token);
        let attempt = job.record.attempt(token);
        let silent = self.nodes.get(&node).is_none_or(|node| node.silent);
        if silent && why == StopWhy::Cancel {
            self.lose(now, attempt, "it was cancelled while its node was unreachable");
        }
        self.touch_job(id);
        self.touch_attempt(attempt);
        self.retarget(&node);
    }

    fn node_mut(&mut self, id: &NodeId) -> Result<&mut super::Node, Refusal> {
        self.nodes.get_mut(id).ok_or_else(|| Self::not_found("node", id))
    }

    fn drain(
        &mut self,
        now: Now,
        caller: &Caller,
        id: &NodeId,
        stop_jobs: bool,
    ) -> Result<Reply, Refusal> {
        let node = self.node_mut(id)?;
        if node.record.admin == NodeAdmin::Revoked {
            return Err(Refusal::new(
                Reason::Conflict,
                format!("node {} is revoked", self.name_of(id)),
            ));
        }
        node.record.admin = NodeAdmin::Drained;
        self.dirty.insert(Key::Node(id.clone()));
        self.note(now, "node_drained", Some(caller.user.clone()), |line| {
            line.node = Some(id.clone());
        });
        if stop_jobs {
            let on_it = |job: &&super::Job| job.current().is_some_and(|a| a.node == *id);
            let jobs: Vec<_> = self.jobs.values().filter(on_it).map(|job| job.record.id).collect();
            for job in jobs {
                self.stop_current(now, job, StopWhy::Drain);
            }
        }
        self.refresh_disconnect_waits();
        Ok(Reply::Done)
    }

    fn resume(&mut self, now: Now, caller: &Caller, id: &NodeId) -> Result<Reply, Refusal> {
        let node = self.node_mut(id)?;
        if node.record.admin == NodeAdmin::Revoked {
            let text = format!(
                "node {} is revoked for ever; let the machine join again",
                self.name_of(id)
            );
            return Err(Refusal::new(Reason::Conflict, text));
        }
        node.record.admin = NodeAdmin::Ready;
        self.dirty.insert(Key::Node(id.clone()));
        self.note(now, "node_resumed", Some(caller.user.clone()), |line| {
            line.node = Some(id.clone());
        });
        self.take_drain_back(id);
        self.refresh_disconnect_waits();
        self.schedule(now);
        Ok(Reply::Done)
    }

    /// Jobs that were to leave the node and have not begun to stop stay where they are.
    fn take_drain_back(&mut self, id: &NodeId) {
        let mut kept = Vec::new();
        for job in self.jobs.values_mut() {
            let current = job.current().is_some_and(|attempt| {
                let stops = matches!(
                    attempt.state,
                    AttemptState::Reported(Phase::Stopping | Phase::Collecting, _)
                );
                attempt.node == *id && attempt.stop == Some(StopWhy::Drain) && !stops
            });
            if let Some(attempt) = job.attempts.last_mut().filter(|_| current) {
                attempt.stop = None;
                kept.push(job.record.attempt(attempt.token));
            }
        }
        if !kept.is_empty() {
            kept.into_iter().for_each(|attempt| self.touch_attempt(attempt));
            self.retarget(id);
        }
    }

    fn revoke_node(&mut self, now: Now, caller: &Caller, id: &NodeId) -> Result<Reply, Refusal> {
        let node = self.node_mut(id)?;
        node.record.admin = NodeAdmin::Revoked;
        let session = node.session.take();
        self.dirty.insert(Key::Node(id.clone()));
        self.note(now, "node_revoked", Some(caller.user.clone()), |line| {
            line.node = Some(id.clone());
        });
        if let Some(session) = session {
            let refusal = Refusal::new(Reason::Revoked, "this node was revoked");
            self.out.push(Effect::Close(id.clone(), session, refusal));
        }
        self.out.push(Effect::AccessChanged);
        self.lose_all_on(now, id, "its node was revoked");
        self.refresh_disconnect_waits();
        Ok(Reply::Done)
    }

    fn lose_node(&mut self, now: Now, caller: &Caller, id: &NodeId) -> Result<Reply, Refusal> {
        let node = self.node_mut(id)?;
        if node.session.is_some() && !node.silent {
            let text = format!(
                "node {} is connected; drain it, or stop its agent first",
                self.name_of(id)
            );
            return Err(Refusal::new(Reason::Conflict, text));
        }
        node.silent = true;
        self.note(now, "node_lost", Some(caller.user.clone()), |line| {
            line.node = Some(id.clone());
        });
        self.lose_all_on(now, id, "an operator said that its node is lost");
        self.schedule(now);
        Ok(Reply::Done)
    }

    fn lose_all_on(&mut self, now: Now, id: &NodeId, why: &str) {
        let attempts: Vec<_> = self
            .jobs
            .values()
            .filter_map(|job| {
                let attempt = job.current()?;
                (attempt.node == *id).then(|| job.record.attempt(attempt.token))
            })
            .collect();
        for attempt in attempts {
            self.lose(now, attempt, why);
        }
        self.schedule(now);
    }
}
