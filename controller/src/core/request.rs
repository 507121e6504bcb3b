//! Changes that people ask for. The access table has admitted the call; ownership and effects are decided here, and the
//! result is kept, so that a retry with the same request id has one effect.

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{Digest, JobId, NodeId, RequestId, UserName};
use hone_proto::time::{Now, WallNanos};

use super::Fleet;
use super::input::{Caller, Command, Effect, Reply, Ticket};
use super::keys::Key;
use super::record::{
    End, JobRecord, JobState, NodeAdmin, RequestRecord, Role, StopWhy, TokenPurpose, TokenRecord,
    UserRecord, Wish,
};
use crate::placement;

/// Longest spec that is kept: a record holds 64 KiB.
pub(crate) const MAX_SPEC: usize = 60 * 1024;

impl Fleet {
    pub(super) fn on_request(
        &mut self,
        now: Now,
        ticket: Ticket,
        caller: &Caller,
        request: RequestId,
        command: Command,
    ) {
        let content = Digest::of(format!("{command:?}").as_bytes());
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

    fn submit(
        &mut self,
        now: Now,
        caller: &Caller,
        wish: Wish,
        spec_yaml: String,
    ) -> Result<Reply, Refusal> {
        if spec_yaml.len() > MAX_SPEC {
            return Err(Refusal::new(Reason::BadSpec, "the spec is longer than 60 KiB"));
        }
        for manifest in wish.inputs.iter().map(|i| i.manifest).chain(wish.image.manifest) {
            if !self.objects.contains_key(&(wish.project.clone(), manifest)) {
                return Err(Refusal::new(
                    Reason::MissingChunks,
                    format!("input {} has not been uploaded", manifest.short()),
                ));
            }
        }
        self.could_ever_fit(&wish)?;
        let id = self.meta.last_job.next();
        self.meta.last_job = id;
        self.dirty.insert(Key::Meta);
        let name = wish.name.clone();
        self.add_job(JobRecord {
            id,
            wish,
            owner: caller.user.clone(),
            submitted_at: now.wall,
            state: JobState::Queued { reason: String::new(), not_before: None },
            attempts: Vec::new(),
            latest: None,
            package: None,
            cancelled_by: None,
        });
        if let Some(job) = self.jobs.get_mut(&id) {
            job.spec_yaml = spec_yaml;
        }
        self.dirty.insert(Key::Spec(id));
        self.dirty.insert(Key::Progress(id));
        self.note(now, "job_submitted", Some(caller.user.clone()), |line| {
            line.job = Some(id);
            line.text = name.to_string();
        });
        self.touch_job(id);
        self.schedule(now);
        Ok(Reply::Job { job: id, repeated: false })
    }

    /// Refuses what no node of the fleet could hold even if it were empty. A fleet without nodes accepts: they may join.
    fn could_ever_fit(&self, wish: &Wish) -> Result<(), Refusal> {
        let offers: Vec<_> = self
            .nodes
            .values()
            .filter(|node| node.record.admin != NodeAdmin::Revoked)
            .filter_map(|node| Some((&node.record.id, node.record.capacity.as_ref()?)))
            .collect();
        let lacks: Vec<_> = offers
            .iter()
            .map(|(id, offer)| (*id, placement::shortfalls(&wish.demand, offer)))
            .collect();
        let nearest = lacks.iter().min_by_key(|(_, lacks)| lacks.len());
        match nearest {
            Some((node, lacks)) if !lacks.is_empty() => {
                let lacks: Vec<_> = lacks.iter().map(ToString::to_string).collect();
                Err(Refusal::new(
                    Reason::FitsNowhere,
                    format!(
                        "none of {} nodes could ever hold this job; the nearest, {node}, {}",
                        offers.len(),
                        lacks.join(", ")
                    ),
                ))
            }
            Some(_) | None => Ok(()),
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
        match job.record.state {
            JobState::Ended { .. } => return done,
            JobState::Queued { .. } => {
                job.record.cancelled_by = Some(caller.user.clone());
                self.end(now, id, End::Cancelled, "cancelled while it waited".to_owned());
            }
            JobState::Active => {
                job.record.cancelled_by.get_or_insert_with(|| caller.user.clone());
                self.stop_current(now, id, StopWhy::Cancel);
            }
        }
        self.note(now, "job_cancel_requested", Some(caller.user.clone()), |line| {
            line.job = Some(id);
        });
        done
    }

    /// Asks the current attempt to save and stop. One that cannot be told is given up at once.
    fn stop_current(&mut self, now: Now, id: JobId, why: StopWhy) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(attempt) = job.record.attempts.last_mut() else { return };
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
            return Err(Refusal::new(Reason::Conflict, format!("node {id} is revoked")));
        }
        node.record.admin = NodeAdmin::Drained;
        self.dirty.insert(Key::Node(id.clone()));
        self.note(now, "node_drained", Some(caller.user.clone()), |line| {
            line.node = Some(id.clone());
        });
        if stop_jobs {
            let on_it = |job: &&super::Job| job.record.current().is_some_and(|a| a.node == *id);
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
            let text = format!("node {id} is revoked for ever; let the machine join again");
            return Err(Refusal::new(Reason::Conflict, text));
        }
        node.record.admin = NodeAdmin::Ready;
        self.dirty.insert(Key::Node(id.clone()));
        self.note(now, "node_resumed", Some(caller.user.clone()), |line| {
            line.node = Some(id.clone());
        });
        self.refresh_disconnect_waits();
        self.schedule(now);
        Ok(Reply::Done)
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
            let text = format!("node {id} is connected; drain it, or stop its agent first");
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
                let attempt = job.record.current()?;
                (attempt.node == *id).then(|| job.record.attempt(attempt.token))
            })
            .collect();
        for attempt in attempts {
            self.lose(now, attempt, why);
        }
        self.schedule(now);
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of one command")]
    fn make_token(
        &mut self,
        now: Now,
        caller: &Caller,
        public_id: String,
        hash: String,
        purpose: TokenPurpose,
        role: Option<Role>,
        expires: WallNanos,
    ) -> Result<Reply, Refusal> {
        if let TokenPurpose::User(name) = &purpose {
            let role = role.unwrap_or(Role::Viewer);
            if self.users.get(name).is_some_and(|user| user.revoked) {
                let text = format!("{name} was revoked; invite them under another name");
                return Err(Refusal::new(Reason::Conflict, text));
            }
            if *name == caller.user && role < caller.role {
                let text = "you cannot lower your own role".to_owned();
                return Err(Refusal::new(Reason::Conflict, text));
            }
            let user = self.users.entry(name.clone()).or_insert_with(|| UserRecord {
                name: name.clone(),
                role,
                invited_by: Some(caller.user.clone()),
                certificate: None,
                revoked: false,
            });
            user.role = role;
            self.dirty.insert(Key::User(name.clone()));
            self.out.push(Effect::AccessChanged);
        }
        let what = match &purpose {
            TokenPurpose::Node => "for a node".to_owned(),
            TokenPurpose::User(name) => format!("for {name}"),
        };
        self.note(now, "token_made", Some(caller.user.clone()), |line| line.text = what);
        // Tokens that can never be spent again are of no use to anybody.
        let dead: Vec<_> = self
            .tokens
            .values()
            .filter(|token| token.spent || token.expires <= now.wall)
            .map(|token| token.public_id.clone())
            .collect();
        for id in dead {
            self.tokens.remove(&id);
            self.dirty.insert(Key::Token(id));
        }
        self.dirty.insert(Key::Token(public_id.clone()));
        let made_by = caller.user.clone();
        let record = TokenRecord {
            public_id: public_id.clone(),
            hash,
            purpose,
            made_by,
            expires,
            spent: false,
        };
        self.tokens.insert(public_id, record);
        Ok(Reply::Done)
    }

    fn revoke_user(
        &mut self,
        now: Now,
        caller: &Caller,
        name: &UserName,
    ) -> Result<Reply, Refusal> {
        let admins = self
            .users
            .values()
            .filter(|user| user.role == Role::Admin && !user.revoked && user.name != *name)
            .count();
        let user = self.users.get_mut(name).ok_or_else(|| Self::not_found("operator", name))?;
        if admins == 0 {
            let text = format!("{name} is the only admin; invite another one first");
            return Err(Refusal::new(Reason::Conflict, text));
        }
        user.revoked = true;
        self.dirty.insert(Key::User(name.clone()));
        self.note(now, "operator_revoked", Some(caller.user.clone()), |line| {
            line.text = name.to_string();
        });
        self.out.push(Effect::AccessChanged);
        Ok(Reply::Done)
    }
}
