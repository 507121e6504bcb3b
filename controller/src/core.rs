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
mod commit;
mod invariants;
mod link;
mod report;
mod request;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{
    AttemptId, Digest, FleetId, Generation, JobId, NodeId, ProjectName, RequestId, UserName,
};
use hone_proto::time::{BootNanos, Now};

pub use self::access::AccessFacts;
pub use self::input::{
    Caller, Command, Commit, Effect, Heartbeat, Hello, Input, Reply, Session, Subject, Ticket,
    ToAgent,
};
use self::keys::Key;
use self::record::{
    FleetEvent, JobRecord, Meta, NodeRecord, ObjectRecord, Positions, Progress, RequestRecord,
    Role, Saved, TokenRecord, UserRecord,
};
use crate::placement::Capacity;

/// Bounds and periods of the core, each with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long a silent node is believed. 30 s: three missed heartbeats of ten seconds' patience, far above a slow
    /// handshake, far below what people notice.
    pub lease: Duration,
    /// What `on_disconnect: auto` waits where another node could hold the job.
    pub auto_wait: Duration,
    /// By how much the controller waits longer than the agent: it bounds the overlap of two attempts.
    pub lost_margin: Duration,
    /// How long the controller suspects itself after a mass loss, unless somebody says otherwise.
    pub mass_loss_hold: Duration,
    /// First pause after a failed attempt; doubles up to `retry_cap`.
    pub retry_base: Duration,
    /// Longest pause after a failed attempt.
    pub retry_cap: Duration,
    /// How long the result of a request is kept.
    pub keep_requests: Duration,
    /// How long at least, by the clock that nobody sets: a wall clock that jumps a day ahead must not turn a retry into
    /// a second job.
    pub keep_requests_at_least: Duration,
    /// Lines of history that are kept.
    pub keep_history: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            auto_wait: Duration::from_secs(30 * 60),
            lost_margin: Duration::from_secs(60),
            mass_loss_hold: Duration::from_secs(3600),
            retry_base: Duration::from_secs(2),
            retry_cap: Duration::from_secs(300),
            keep_requests: Duration::from_secs(24 * 3600),
            keep_requests_at_least: Duration::from_secs(3600),
            keep_history: 10_000,
        }
    }
}

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
    /// When it was last heard. After a start of the controller every node gets a fresh lease.
    pub heard: BootNanos,
    /// Set while it has been silent for longer than its lease.
    pub silent: bool,
    /// Attempts that were given up while the node could not be told; their promises count until it lets go.
    pub ghosts: BTreeSet<AttemptId>,
}

/// A job with what is stored beside its record.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Stored facts.
    pub record: JobRecord,
    /// As the user wrote it.
    pub spec_yaml: String,
    /// How far the run is.
    pub progress: Progress,
    /// What it committed, oldest first.
    pub saved: Vec<Saved>,
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
    history: BTreeMap<u64, FleetEvent>,
    /// When this process was told of time for the first time: leases start there.
    started: Option<BootNanos>,
    /// When requests were answered in this life, by the clock that nobody sets.
    answered: BTreeMap<(UserName, RequestId), BootNanos>,
    /// When the controller began to suspect itself.
    suspects_since: Option<BootNanos>,
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
            history: BTreeMap::new(),
            started: None,
            answered: BTreeMap::new(),
            suspects_since: None,
            dirty: BTreeSet::new(),
            out: Vec::new(),
        }
    }

    /// Raises the generation: everything that a former life granted is stale now. For a start from an export.
    pub fn begin_generation(&mut self, now: Now) -> Vec<Effect> {
        self.raise_generation(now, self.meta.generation.next());
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
            Input::Issued { ticket, subject, certificate } => {
                let result = self.on_issued(subject, certificate);
                self.out.push(Effect::Reply(ticket, result));
            }
        }
        self.finish()
    }

    /// Turns what changed into writes, ahead of everything else.
    fn finish(&mut self) -> Vec<Effect> {
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

    /// Adds a line to the history, and drops the oldest past the bound.
    fn note(
        &mut self,
        now: Now,
        kind: &str,
        actor: Option<UserName>,
        fill: impl FnOnce(&mut FleetEvent),
    ) {
        self.meta.last_event += 1;
        let number = self.meta.last_event;
        let mut event = FleetEvent {
            number,
            at: now.wall,
            kind: kind.to_owned(),
            job: None,
            attempt: None,
            node: None,
            actor,
            text: String::new(),
        };
        fill(&mut event);
        self.history.insert(number, event);
        self.dirty.insert(Key::Meta);
        self.dirty.insert(Key::Event(number));
        if let Some(old) = number.checked_sub(self.settings.keep_history)
            && self.history.remove(&old).is_some()
        {
            self.dirty.insert(Key::Event(old));
        }
    }

    fn add_node(&mut self, record: NodeRecord) {
        let node = Node {
            inventory: Vec::new(),
            positions: None,
            session: None,
            heard: self.started.unwrap_or_default(),
            silent: false,
            ghosts: BTreeSet::new(),
            record,
        };
        self.nodes.insert(node.record.id.clone(), node);
    }

    fn add_job(&mut self, record: JobRecord) {
        let job =
            Job { spec_yaml: String::new(), progress: Progress::default(), saved: vec![], record };
        self.jobs.insert(job.record.id, job);
    }

    fn touch_job(&mut self, job: JobId) {
        self.dirty.insert(Key::Job(job));
        self.out.push(Effect::JobChanged(job));
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
        &self.history
    }

    /// What a node has free: its offer minus the promises of every attempt that may still run there.
    #[must_use]
    pub fn free_on(&self, node: &Node) -> Capacity {
        let offer = node.record.capacity.clone().unwrap_or_default();
        let promises: Vec<_> = self.held_by(&node.record).map(|(_, a)| &a.promise).collect();
        offer.minus(promises)
    }

    /// Attempts whose promises count on a node: open ones, and given-up ones that it has not let go of.
    pub fn held_by<'a>(
        &'a self,
        node: &'a NodeRecord,
    ) -> impl Iterator<Item = (&'a JobRecord, &'a record::AttemptRecord)> {
        let ghosts = self.nodes.get(&node.id).map(|node| &node.ghosts);
        self.jobs.values().flat_map(move |job| {
            let attempts = job.record.attempts.iter();
            attempts.map(move |attempt| (&job.record, attempt)).filter(move |(job, attempt)| {
                let is_ghost = ghosts.is_some_and(|g| g.contains(&job.attempt(attempt.token)));
                attempt.node == node.id && (attempt.is_open() || is_ghost)
            })
        })
    }
}
