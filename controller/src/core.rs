//! The fleet: one synchronous state machine. No I/O, no clock, no randomness: time and fresh ids are fields of the
//! input, and everything that shall happen is returned as data. The driver makes the writes of a turn durable and only
//! then performs the rest; whatever is lost between the two can be derived again from the state.
//!
//! A job:
//! ```text
//!            submit                place                 outcome: completed
//!   (none) ─────────► queued ───────────────► active ─────────────────────► ended
//!                      ▲  │                     │ │                            ▲
//!                      │  │ cancel              │ │ outcome: failed, or too    │
//!                      │  └─────────────────────┼─┼─ many attempts ────────────┤
//!                      │   outcome: retryable,  │ │ cancel, then its outcome   │
//!                      └── interrupted by drain,┘ └────────────────────────────┘
//!                          attempt lost
//! ```
//! An attempt: `placed → staging → starting → running → (stopping) → collecting → ended`, or `lost` from any of them
//! when its node stays silent too long, was rebooted without it, or was revoked. The (generation, attempt) of the last
//! attempt of an active job is the fencing token: nothing else commits.

pub mod input;
pub mod keys;
pub mod record;

mod access;
mod attempts;
mod commit;
mod history;
mod invariants;
mod issued;
mod job;
mod link;
mod people;
mod report;
mod request;
mod schedule;
mod settings;
mod submit;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{
    AttemptId, BootId, Digest, FleetId, Generation, JobId, NodeId, ProjectName, RequestId,
    Revision, UserName,
};
use hone_proto::time::{BootNanos, Now};

pub use self::access::AccessFacts;
pub use self::attempts::Attempts;
use self::history::{Complaint, History};
pub use self::input::{
    Caller, Command, Commit, Effect, Heartbeat, Hello, Input, Reply, Session, Subject, Ticket,
    ToAgent,
};
pub use self::job::Job;
use self::keys::Key;
use self::record::{
    FleetEvent, JobRecord, Meta, NodeRecord, ObjectRecord, Positions, RequestRecord, Role,
    TokenRecord, UserRecord,
};
pub use self::settings::Settings;
use crate::placement::Capacity;

/// A node with what is not stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Stored facts.
    pub record: NodeRecord,
    /// What it has, in wire form; stored.
    pub inventory: Vec<u8>,
    /// How far its spool is durable; stored.
    pub positions: Option<Positions>,
    /// The stream that it has open.
    pub session: Option<Session>,
    /// When its newest Hello was said, by the clock of which boot.
    pub said: Option<(BootId, BootNanos)>,
    /// When it was last heard. After a start of the controller every node gets a fresh lease.
    pub heard: BootNanos,
    /// Set while it has been silent for longer than its lease.
    pub silent: bool,
    /// Attempts that were given up while the node could not be told; their promises count until it lets go.
    pub ghosts: BTreeSet<AttemptId>,
    /// The newest desired set that it said it works on.
    pub acknowledged: Revision,
    /// The most that it has offered since it connected, or since the controller started: what others hold of it for a
    /// while says nothing about what it could ever hold.
    pub most: Option<Capacity>,
    /// What was noted about what it sends, by kind.
    pub complaints: BTreeMap<&'static str, Complaint>,
}

/// The state of a whole fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    settings: Settings,
    meta: Meta,
    nodes: BTreeMap<NodeId, Node>,
    jobs: BTreeMap<JobId, Job>,
    users: BTreeMap<UserName, UserRecord>,
    tokens: BTreeMap<String, TokenRecord>,
    requests: BTreeMap<(UserName, RequestId), RequestRecord>,
    objects: BTreeMap<(ProjectName, Digest), ObjectRecord>,
    history: History,
    /// When this process was told of time for the first time: leases start there.
    started: Option<BootNanos>,
    /// When requests were answered in this life, by the clock that nobody sets.
    answered: BTreeMap<(UserName, RequestId), BootNanos>,
    /// When the controller began to suspect itself.
    suspects_since: Option<BootNanos>,
    /// Silent nodes whose loss it did not believe at once: they start no second suspicion.
    suspected: BTreeSet<NodeId>,
    dirty: BTreeSet<Key>,
    out: Vec<Effect>,
}

impl Fleet {
    /// A fleet with nothing in it but its first operator.
    #[must_use]
    pub fn found(
        settings: Settings,
        fleet: FleetId,
        first: UserName,
        now: Now,
    ) -> (Self, Vec<Effect>) {
        let meta =
            Meta { fleet, generation: Generation::new(1), last_job: JobId::new(0), last_event: 0 };
        let mut state = Self::empty(settings, meta);
        let admin = UserRecord {
            name: first.clone(),
            role: Role::Admin,
            invited_by: None,
            certificate: None,
            earlier: Vec::new(),
            revoked: false,
        };
        state.users.insert(first.clone(), admin);
        state.dirty.insert(Key::Meta);
        state.dirty.insert(Key::User(first.clone()));
        state.note(now, "fleet_founded", Some(first), |event| {
            event.text = "the fleet was made".to_owned();
        });
        let effects = state.finish();
        (state, effects)
    }

    fn empty(settings: Settings, meta: Meta) -> Self {
        Self {
            settings,
            meta,
            nodes: BTreeMap::new(),
            jobs: BTreeMap::new(),
            users: BTreeMap::new(),
            tokens: BTreeMap::new(),
            requests: BTreeMap::new(),
            objects: BTreeMap::new(),
            history: History::default(),
            started: None,
            answered: BTreeMap::new(),
            suspects_since: None,
            suspected: BTreeSet::new(),
            dirty: BTreeSet::new(),
            out: Vec::new(),
        }
    }

    /// Raises the generation: everything that a former life granted is stale now. For a start from an export.
    pub fn begin_generation(&mut self, now: Now) -> Vec<Effect> {
        self.begin_generation_above(now, self.meta.generation)
    }

    /// As [`Fleet::begin_generation`], and above `floor`: one export can be restored twice, and the two lives that
    /// follow must not grant the same.
    pub fn begin_generation_above(&mut self, now: Now, floor: Generation) -> Vec<Effect> {
        self.raise_generation(now, self.meta.generation.max(floor).next());
        self.finish()
    }

    fn raise_generation(&mut self, now: Now, to: Generation) {
        self.meta.generation = to;
        self.dirty.insert(Key::Meta);
        self.note(now, "generation_raised", None, |event| {
            event.text = format!("this is generation {to} of the controller's state");
        });
    }

    /// One turn: what is told, to what shall be done about it.
    pub fn handle(&mut self, now: Now, input: Input) -> Vec<Effect> {
        if self.started.is_none() {
            self.started = Some(now.boot);
            for node in self.nodes.values_mut() {
                node.heard = now.boot;
            }
        }
        match input {
            Input::Tick => self.on_tick(now),
            Input::Hello(hello) => self.on_hello(now, *hello),
            Input::Heartbeat(heartbeat) => self.on_heartbeat(now, heartbeat),
            Input::Events { node, spool, stream, events } => {
                self.on_events(now, &node, spool, stream, events);
            }
            Input::Closed { node, session } => self.on_closed(&node, session),
            Input::Request { ticket, caller, request, command } => {
                self.on_request(now, ticket, &caller, request, *command);
            }
            Input::Commit { ticket, node, commit } => {
                let result = self.on_commit(now, &node, commit);
                self.out.push(Effect::Reply(ticket, result));
            }
            Input::CommitObject { ticket, user, project, manifest, bytes } => {
                let object = ObjectRecord { by: user, at: now.wall, bytes };
                self.dirty.insert(Key::Object(project.clone(), manifest));
                self.objects.entry((project, manifest)).or_insert(object);
                self.out.push(Effect::Reply(ticket, Ok(Reply::Done)));
            }
            Input::Spend { ticket, public_id, fresh_node, display_name, for_node } => {
                let result = self.on_spend(now, &public_id, fresh_node, display_name, for_node);
                self.out.push(Effect::Reply(ticket, result));
            }
            Input::Issued { ticket, subject, certificate, with } => {
                let result = self.on_issued(subject, certificate, with.as_deref());
                self.out.push(Effect::Reply(ticket, result));
            }
        }
        self.finish()
    }

    /// Turns what changed into writes, ahead of everything else.
    fn finish(&mut self) -> Vec<Effect> {
        self.take_attempts_out();
        let dirty = std::mem::take(&mut self.dirty);
        let mut effects: Vec<Effect> = dirty
            .iter()
            .map(|key| match self.encode(key) {
                Some(value) => Effect::Put(key.to_string(), value),
                None => Effect::Delete(key.to_string()),
            })
            .collect();
        effects.append(&mut self.out);
        effects
    }

    fn add_node(&mut self, record: NodeRecord) {
        let node = Node {
            inventory: Vec::new(),
            positions: None,
            session: None,
            said: None,
            heard: self.started.unwrap_or_default(),
            silent: false,
            ghosts: BTreeSet::new(),
            acknowledged: Revision::default(),
            most: record.capacity.clone(),
            complaints: BTreeMap::new(),
            record,
        };
        self.nodes.insert(node.record.id.clone(), node);
    }

    fn not_found(what: &str, name: impl std::fmt::Display) -> Refusal {
        Refusal::new(Reason::NotFound, format!("there is no {what} {name}"))
    }

    /// Facts of the fleet.
    #[must_use]
    pub const fn meta(&self) -> &Meta {
        &self.meta
    }
    /// Bounds and periods.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }
    /// All machines.
    #[must_use]
    pub const fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }
    /// All jobs.
    #[must_use]
    pub const fn jobs(&self) -> &BTreeMap<JobId, Job> {
        &self.jobs
    }
    /// All people.
    #[must_use]
    pub const fn users(&self) -> &BTreeMap<UserName, UserRecord> {
        &self.users
    }
    /// All tokens that are kept.
    #[must_use]
    pub const fn tokens(&self) -> &BTreeMap<String, TokenRecord> {
        &self.tokens
    }
    /// Bulk data of users.
    #[must_use]
    pub const fn objects(&self) -> &BTreeMap<(ProjectName, Digest), ObjectRecord> {
        &self.objects
    }
    /// Results of requests that are kept.
    #[must_use]
    pub const fn requests(&self) -> &BTreeMap<(UserName, RequestId), RequestRecord> {
        &self.requests
    }
    /// What happened, oldest first.
    #[must_use]
    pub const fn history(&self) -> &BTreeMap<u64, FleetEvent> {
        self.history.lines()
    }

    /// What a node has free: its offer minus the promises of every attempt that may still run there.
    #[must_use]
    pub fn free_on(&self, node: &Node) -> Capacity {
        let offer = node.record.capacity.clone().unwrap_or_default();
        let promises: Vec<_> = self.held_by(&node.record).map(|(_, a)| &a.promise).collect();
        offer.minus(promises)
    }

    /// A node as people know it: by its host name, by its id where that is not known.
    #[must_use]
    pub fn name_of(&self, id: &NodeId) -> String {
        let host = self.nodes.get(id).map(|node| node.record.hostname.as_str());
        host.filter(|host| !host.is_empty()).map_or_else(|| id.to_string(), str::to_owned)
    }

    /// Attempts whose promises count on a node: open ones, and given-up ones that it has not let go of.
    pub fn held_by<'a>(
        &'a self,
        node: &'a NodeRecord,
    ) -> impl Iterator<Item = (&'a JobRecord, &'a record::AttemptRecord)> {
        let ghosts = self.nodes.get(&node.id).map(|node| &node.ghosts);
        self.jobs.values().flat_map(move |job| {
            let attempts = job.attempts.iter();
            attempts.map(move |attempt| (&job.record, attempt)).filter(move |(job, attempt)| {
                let is_ghost = ghosts.is_some_and(|g| g.contains(&job.attempt(attempt.token)));
                attempt.node == node.id && (attempt.is_open() || is_ghost)
            })
        })
    }
}
