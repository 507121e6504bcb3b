//! Scenarios of the fleet, told without a runtime, a socket or a clock. The longer ones with lossy networks and
//! crashes are in the simulation (`tests/`).

mod bounds;
mod losses;
mod people;

use std::collections::BTreeMap;
use std::time::Duration;

use hone_proto::assignment::{DesiredSet, ImageRef, Intent};
use hone_proto::error::Reason;
use hone_proto::event::{Event, Outcome, OutcomeKind, Payload, Phase, Stream};
use hone_proto::id::{AttemptId, Digest, Generation, JobId, NodeId, Revision, Seq, Step};
use hone_proto::quantity::{Bytes, MilliCpu};
use hone_proto::time::{BootNanos, Now, WallNanos};

use super::record::{End, JobState, OnDisconnect, Role, SavedKind, TokenPurpose, Wish};
use super::*;
use crate::placement::{Capacity, Demand};

mod growth;

/// A fleet with its store, so that every test also shows that the stored records are enough.
struct World {
    settings: Settings,
    fleet: Fleet,
    store: BTreeMap<String, Vec<u8>>,
    now: Now,
    seqs: BTreeMap<(NodeId, Stream), u64>,
    sessions: u64,
}

impl World {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let now = Now { wall: WallNanos::new(1_000_000_000_000), boot: BootNanos::new(1_000_000) };
        let (fleet, effects) = Fleet::found(
            settings.clone(),
            "fleet".parse().expect("id"),
            "ada".parse().expect("name"),
            now,
        );
        let mut world = Self {
            settings,
            fleet,
            store: BTreeMap::new(),
            now,
            seqs: BTreeMap::new(),
            sessions: 0,
        };
        world.keep(effects);
        world
    }

    fn keep(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut rest = Vec::new();
        for effect in effects {
            match effect {
                Effect::Put(key, value) => {
                    self.store.insert(key, value);
                }
                Effect::Delete(key) => {
                    self.store.remove(&key);
                }
                other => rest.push(other),
            }
        }
        rest
    }

    fn tell(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.fleet.handle(self.now, input);
        self.fleet.check_invariants().expect("the invariants hold");
        self.keep(effects)
    }

    fn pass(&mut self, span: Duration) -> Vec<Effect> {
        self.now = Now { wall: self.now.wall.plus(span), boot: self.now.boot.plus(span) };
        self.tell(Input::Tick)
    }

    /// The controller is killed and starts again from what is stored.
    fn restart(&mut self) {
        self.fleet = Fleet::load(self.settings.clone(), self.store.clone()).expect("it loads");
    }

    fn ask(
        &mut self,
        user: &str,
        role: Role,
        id: &str,
        command: Command,
    ) -> Result<Reply, Refusal> {
        let caller = Caller { user: user.parse().expect("name"), role };
        let request = id.parse().expect("id");
        let effects = self.tell(Input::Request {
            ticket: Ticket(7),
            caller,
            request,
            command: Box::new(command),
        });
        reply(effects)
    }

    fn node(&mut self, id: &str) -> NodeId {
        let public_id = format!("token-{id}");
        let made = Command::MakeToken {
            public_id: public_id.clone(),
            hash: "h".to_owned(),
            purpose: TokenPurpose::Node,
            role: None,
            expires: self.now.wall.plus(Duration::from_secs(900)),
        };
        self.ask("ada", Role::Admin, &public_id, made).expect("a token");
        let node: NodeId = id.parse().expect("id");
        let spent = self.spend(&public_id, id);
        assert_eq!(spent, Ok(Reply::Spent(Subject::Node(node.clone()))));
        self.hello(&node, &[]);
        node
    }

    fn spend(&mut self, public_id: &str, fresh: &str) -> Result<Reply, Refusal> {
        reply(self.tell(Input::Spend {
            ticket: Ticket(7),
            public_id: public_id.to_owned(),
            fresh_node: fresh.parse().expect("id"),
            display_name: fresh.to_owned(),
            for_node: true,
        }))
    }

    fn hello(&mut self, node: &NodeId, held: &[AttemptId]) -> Vec<Effect> {
        self.sessions += 1;
        let session = Session(self.sessions);
        self.tell(Input::Hello(Box::new(Hello {
            node: node.clone(),
            session,
            boot: "boot-1".parse().expect("id"),
            said: Some(self.now.boot),
            spool: format!("spool-{node}").parse().expect("id"),
            attempts: held.to_vec(),
            highest_generation: Generation::new(0),
            capacity: capacity(),
            inventory: vec![1],
            hostname: node.to_string(),
            version: "test".to_owned(),
        })))
    }

    fn beat(&mut self, node: &NodeId, held: &[AttemptId]) -> Vec<Effect> {
        let session = self.fleet.nodes[node].session.expect("a session");
        self.tell(Input::Heartbeat(Heartbeat {
            node: node.clone(),
            session,
            number: 1,
            revision: Revision::new(0),
            attempts: held.to_vec(),
            capacity: None,
        }))
    }

    /// A heartbeat of an agent that works on the newest desired set.
    fn acknowledge(&mut self, node: &NodeId, held: &[AttemptId]) {
        let known = &self.fleet.nodes[node];
        let heartbeat = Heartbeat {
            node: node.clone(),
            session: known.session.expect("a session"),
            number: 1,
            revision: known.record.revision,
            attempts: held.to_vec(),
            capacity: None,
        };
        self.tell(Input::Heartbeat(heartbeat));
    }

    fn report(&mut self, node: &NodeId, payload: Payload) -> Vec<Effect> {
        let stream = payload.stream();
        let seq = self.seqs.entry((node.clone(), stream)).or_default();
        *seq += 1;
        let event = Event {
            seq: Seq::new(*seq),
            at: self.now,
            boot: "boot-1".parse().expect("id"),
            payload,
        };
        self.tell(Input::Events {
            node: node.clone(),
            spool: format!("spool-{node}").parse().expect("id"),
            stream,
            events: vec![event],
        })
    }

    fn submit(&mut self, id: &str) -> JobId {
        let command =
            Command::Submit { wish: Box::new(wish()), spec_yaml: "version: 1".to_owned() };
        match self.ask("bob", Role::Submitter, id, command) {
            Ok(Reply::Job { job, .. }) => job,
            other => panic!("submit answered {other:?}"),
        }
    }

    fn commit(
        &mut self,
        node: &NodeId,
        attempt: AttemptId,
        kind: SavedKind,
        step: u64,
    ) -> Result<Reply, Refusal> {
        let manifest = Digest::of(format!("{attempt} {kind:?} {step}").as_bytes());
        let commit = Commit {
            attempt,
            kind,
            step: Step::new(step),
            manifest,
            bytes: Bytes::mib(1),
            files: 3,
        };
        reply(self.tell(Input::Commit { ticket: Ticket(7), node: node.clone(), commit }))
    }

    fn current(&self, job: JobId) -> Option<(AttemptId, NodeId)> {
        let job = &self.fleet.jobs[&job];
        job.current().map(|a| (job.record.attempt(a.token), a.node.clone()))
    }

    fn state(&self, job: JobId) -> &JobState {
        &self.fleet.jobs[&job].record.state
    }
}

fn reply(effects: Vec<Effect>) -> Result<Reply, Refusal> {
    effects
        .into_iter()
        .find_map(|effect| match effect {
            Effect::Reply(_, result) => Some(result),
            _ => None,
        })
        .expect("an answer")
}

fn desired(effects: &[Effect]) -> Option<&DesiredSet> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send(_, _, ToAgent::Desired(set)) => Some(set),
        _ => None,
    })
}

fn capacity() -> Capacity {
    Capacity { gpus: vec![], cpu: MilliCpu::cores(2), ram: Bytes::gib(8), disk: Bytes::gib(50) }
}

fn wish() -> Wish {
    Wish {
        name: "tune".parse().expect("name"),
        project: ProjectName::default_project(),
        demand: Demand { cpu: MilliCpu::cores(2), ram: Bytes::gib(4), ..Demand::default() },
        image: ImageRef { reference: "sha256:ab".to_owned(), manifest: None },
        image_labels: BTreeMap::new(),
        command: vec![],
        inputs: vec![],
        trainer_spec: r#"{"version":1,"job":{"id":"0","name":"tune","attempt":0}}"#.to_owned(),
        relaxations: vec![],
        keep_checkpoints: 2,
        grace: Duration::from_secs(60),
        on_disconnect: OnDisconnect::Auto,
        max_attempts: 3,
        max_time: None,
        exports: true,
        traceparent: TRACE.to_owned(),
    }
}

/// The trace of every submit.
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn outcome(attempt: AttemptId, kind: OutcomeKind) -> Payload {
    Payload::Outcome(Outcome {
        attempt,
        kind,
        exit_code: Some(1),
        cause: "test".to_owned(),
        message: "a test".to_owned(),
        step: None,
        result_json: String::new(),
    })
}

#[test]
fn a_job_runs_to_its_end_across_restarts_of_the_controller() {
    let mut world = World::new();
    let node = world.node("n1");
    let job = world.submit("r1");
    world.restart();
    world.hello(&node, &[]);
    let (attempt, on) = world.current(job).expect("it is placed");
    assert_eq!(on, node);
    let effects = world.beat(&node, &[attempt]);
    let set = desired(&effects).expect("an old revision is answered with the set");
    assert_eq!(set.assignments[0].intent, Intent::Run);
    assert!(set.assignments[0].trainer_spec.contains(r#""attempt":1"#));
    let phase = Payload::Phase { attempt, phase: Phase::Running, detail: String::new() };
    world.report(&node, phase);
    world.commit(&node, attempt, SavedKind::Checkpoint, 10).expect("a commit");
    world.commit(&node, attempt, SavedKind::Package, 20).expect("a commit");
    world.report(&node, outcome(attempt, OutcomeKind::Completed));
    assert!(matches!(world.state(job), JobState::Ended { end: End::Completed, .. }));
    world.restart();
    assert!(matches!(world.state(job), JobState::Ended { end: End::Completed, .. }));
}

#[test]
fn each_placement_goes_on_in_the_trace_of_its_submit_also_after_a_restart() {
    let mut world = World::new();
    let job = world.submit("r1");
    assert!(world.current(job).is_none(), "there is no node yet");
    world.restart();
    let node = world.node("n1");
    let (first, _) = world.current(job).expect("it is placed");
    let set = world.beat(&node, &[]);
    let set = desired(&set).expect("the node is told");
    assert_eq!(set.assignments[0].traceparent, TRACE);
    world.report(&node, outcome(first, OutcomeKind::FailedRetryable));
    let effects = world.pass(Duration::from_secs(10));
    let (second, _) = world.current(job).expect("it is placed again");
    let placed = Effect::Placed { attempt: second, node, traceparent: TRACE.to_owned() };
    assert!(effects.contains(&placed), "{effects:?}");
}

#[test]
fn completing_without_the_package_is_no_completion() {
    let mut world = World::new();
    let node = world.node("n1");
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    world.report(&node, outcome(attempt, OutcomeKind::Completed));
    assert!(matches!(world.state(job), JobState::Queued { .. }));
}

#[test]
fn a_retry_resumes_from_the_latest_commit_and_fences_the_attempt_before() {
    let mut world = World::new();
    let node = world.node("n1");
    let job = world.submit("r1");
    let (first, _) = world.current(job).expect("it is placed");
    world.commit(&node, first, SavedKind::Checkpoint, 10).expect("a commit");
    world.report(&node, outcome(first, OutcomeKind::FailedRetryable));
    assert!(world.current(job).is_none(), "a failed attempt is followed by a pause");
    world.pass(Duration::from_secs(10));
    let (second, _) = world.current(job).expect("it is placed again");
    assert!(second.token > first.token);
    let resume = world.fleet.jobs[&job].attempts.last().and_then(|a| a.resume.as_ref());
    let resume = resume.expect("a checkpoint");
    assert_eq!(resume.step, Step::new(10));
    let refused = world.commit(&node, first, SavedKind::Checkpoint, 30).expect_err("stale");
    assert_eq!(refused.reason, Reason::StaleAttempt);
    // What had been acknowledged is acknowledged again: the answer may have been lost.
    assert_eq!(world.commit(&node, first, SavedKind::Checkpoint, 10), Ok(Reply::Done));
    let back = world.commit(&node, second, SavedKind::Checkpoint, 10).expect_err("not past it");
    assert_eq!(back.reason, Reason::Conflict);
    world.commit(&node, second, SavedKind::Checkpoint, 20).expect("a commit");
}

#[test]
fn silence_is_not_death_until_another_node_could_help_and_the_wait_is_over() {
    let mut world = World::new();
    let first = world.node("n1");
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    world.report(&first, Payload::Phase { attempt, phase: Phase::Running, detail: String::new() });
    world.pass(Duration::from_secs(3 * 3600));
    assert!(world.fleet.nodes[&first].silent);
    assert_eq!(
        world.current(job).map(|(a, _)| a),
        Some(attempt),
        "no other node: it is waited for"
    );
    world.hello(&first, &[attempt]);
    let second = world.node("n2");
    world.acknowledge(&first, &[attempt]);
    for _ in 0..95 {
        world.pass(Duration::from_secs(20));
        world.beat(&second, &[]);
    }
    let (moved, on) = world.current(job).expect("it is placed elsewhere");
    assert_eq!((on, moved > attempt), (second, true));
    // The old node comes back: it is told to let go, and its promise counts until it has.
    let effects = world.hello(&first, &[attempt]);
    assert!(desired(&effects).expect("a set").assignments.is_empty());
    world.beat(&first, &[attempt]);
    assert!(!world.fleet.nodes[&first].ghosts.is_empty());
    world.beat(&first, &[]);
    assert!(world.fleet.nodes[&first].ghosts.is_empty());
}

#[test]
fn a_mass_loss_moves_nothing() {
    let mut world = World::new();
    for id in ["n1", "n2", "n3", "n4"] {
        world.node(id);
    }
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    world.pass(Duration::from_secs(31));
    assert!(world.fleet.suspects_itself(world.now));
    world.pass(Duration::from_secs(45 * 60));
    assert_eq!(world.current(job).map(|(a, _)| a), Some(attempt));
    world.pass(Duration::from_secs(20 * 60));
    assert!(world.current(job).is_none(), "after an hour the loss is believed");
}

#[test]
fn a_reboot_that_lost_the_attempt_settles_it_at_once() {
    let mut world = World::new();
    let node = world.node("n1");
    let job = world.submit("r1");
    let (first, _) = world.current(job).expect("it is placed");
    world.report(
        &node,
        Payload::Phase { attempt: first, phase: Phase::Running, detail: String::new() },
    );
    world.hello(&node, &[]);
    let (second, _) = world.current(job).expect("it is placed again");
    assert!(second.token > first.token);
}

#[test]
fn one_request_id_has_one_effect() {
    let mut world = World::new();
    world.node("n1");
    let job = world.submit("same");
    assert_eq!(world.submit("same"), job);
    world.restart();
    assert_eq!(world.submit("same"), job);
    let other = world.ask("bob", Role::Submitter, "same", Command::Cancel(job));
    assert_eq!(other.expect_err("a conflict").reason, Reason::Conflict);
    world.pass(Duration::from_secs(25 * 3600));
    assert_ne!(world.submit("same"), job, "after a day the id is free");
}

#[test]
fn a_job_is_cancelled_by_its_owner_or_an_operator() {
    let mut world = World::new();
    let node = world.node("n1");
    let job = world.submit("r1");
    let foreign = world.ask("eve", Role::Submitter, "c1", Command::Cancel(job));
    assert_eq!(foreign.expect_err("refused").reason, Reason::NotOwner);
    world.ask("eve", Role::Operator, "c2", Command::Cancel(job)).expect("an operator may");
    let (attempt, _) = world.current(job).expect("it saves first");
    world.report(&node, outcome(attempt, OutcomeKind::Interrupted));
    assert!(matches!(world.state(job), JobState::Ended { end: End::Cancelled, .. }));
    let by = world.fleet.jobs[&job].record.cancelled_by.as_ref().map(ToString::to_string);
    assert_eq!(by.as_deref(), Some("eve"));
}

#[test]
fn what_no_node_could_ever_hold_is_refused_and_changes_nothing() {
    let mut world = World::new();
    world.node("n1");
    let before = world.store.clone();
    let mut wish = wish();
    wish.demand.ram = Bytes::gib(64);
    let command = Command::Submit { wish: Box::new(wish), spec_yaml: String::new() };
    let refused = world.ask("bob", Role::Submitter, "r1", command).expect_err("refused");
    assert_eq!(refused.reason, Reason::FitsNowhere);
    assert!(refused.message.contains("misses 56.0 GiB RAM"), "{}", refused.message);
    assert_eq!(world.store, before);
}

#[test]
fn a_token_works_once_and_not_after_its_time() {
    let mut world = World::new();
    world.node("n1");
    assert_eq!(world.spend("token-n1", "n2").expect_err("spent").reason, Reason::TokenRefused);
    let made = Command::MakeToken {
        public_id: "late".to_owned(),
        hash: "h".to_owned(),
        purpose: TokenPurpose::Node,
        role: None,
        expires: world.now.wall.plus(Duration::from_secs(10)),
    };
    world.ask("ada", Role::Admin, "t", made).expect("a token");
    world.pass(Duration::from_secs(11));
    assert_eq!(world.spend("late", "n3").expect_err("expired").reason, Reason::TokenRefused);
}

#[test]
fn a_node_speaks_only_for_its_own_attempts() {
    let mut world = World::new();
    let first = world.node("n1");
    let job = world.submit("r1");
    let second = world.node("n2");
    let (attempt, on) = world.current(job).expect("it is placed");
    assert_eq!(on, first);
    world.report(&second, outcome(attempt, OutcomeKind::Failed));
    assert!(world.current(job).is_some(), "a foreign outcome has no effect");
    let refused = world.commit(&second, attempt, SavedKind::Checkpoint, 5).expect_err("foreign");
    assert_eq!(refused.reason, Reason::NotOwner);
}

#[test]
fn events_are_applied_once_and_in_order() {
    let mut world = World::new();
    let node = world.node("n1");
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    let log = |seq: u64| Event {
        seq: Seq::new(seq),
        at: Now::default(),
        boot: "boot-1".parse().expect("id"),
        payload: Payload::Notice {
            attempt,
            level: "info".to_owned(),
            code: "x".to_owned(),
            message: seq.to_string(),
        },
    };
    let send = |world: &mut World, seqs: &[u64]| {
        let effects = world.tell(Input::Events {
            node: node.clone(),
            spool: "spool-n1".parse().expect("id"),
            stream: Stream::Series,
            events: seqs.iter().map(|seq| log(*seq)).collect(),
        });
        let appended = effects.iter().filter(|e| matches!(e, Effect::Append { .. })).count();
        let acked = effects.iter().find_map(|e| match e {
            Effect::Send(_, _, ToAgent::Ack(position)) => Some(position.seq.get()),
            _ => None,
        });
        (appended, acked)
    };
    assert_eq!(send(&mut world, &[1, 2, 3]), (3, Some(3)));
    assert_eq!(send(&mut world, &[2, 3, 4]), (1, Some(4)), "known ones are skipped");
    assert_eq!(send(&mut world, &[6, 7]), (0, Some(4)), "a hole is asked for again");
    world.restart();
    world.hello(&node, &[attempt]);
    assert_eq!(send(&mut world, &[4, 5]), (1, Some(5)));
}

#[test]
fn a_restarted_controller_counts_what_a_returning_node_still_holds() {
    let mut world = World::new();
    let first = world.node("n1");
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    world.pass(Duration::from_secs(31));
    world.ask("ada", Role::Admin, "l1", Command::Lose(first.clone())).expect("it is silent");
    world.restart();
    world.hello(&first, &[attempt]);
    assert!(world.current(job).is_none(), "the node still runs what was given up");
    world.beat(&first, &[]);
    assert!(world.current(job).is_some(), "now it has room");
}

#[test]
fn a_hello_that_was_overtaken_by_a_newer_one_loses_nothing() {
    let mut world = World::new();
    let node = world.node("n1");
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    world.report(&node, Payload::Phase { attempt, phase: Phase::Running, detail: String::new() });
    world.sessions += 1;
    world.hello(&node, &[attempt]);
    let newest = world.fleet.nodes[&node].session;
    world.sessions -= 2;
    let effects = world.hello(&node, &[]);
    assert!(matches!(&effects[..], [Effect::Close(..)]), "{effects:?}");
    assert_eq!(world.current(job).map(|(a, _)| a), Some(attempt));
    assert_eq!(world.fleet.nodes[&node].session, newest);
}

#[test]
fn the_wait_in_force_follows_what_people_decide_about_other_nodes() {
    let mut world = World::new();
    world.node("n1");
    let job = world.submit("r1");
    let wait =
        |world: &World| world.fleet.jobs[&job].current().expect("it is placed").disconnect_wait;
    assert_eq!(wait(&world), None, "no other node could hold it");
    let other = world.node("n2");
    let auto = Some(Settings::default().auto_wait);
    assert_eq!(wait(&world), auto);
    let drain = Command::Drain { node: other.clone(), stop_jobs: false };
    world.ask("ada", Role::Admin, "d1", drain).expect("drained");
    assert_eq!(wait(&world), None);
    world.ask("ada", Role::Admin, "d2", Command::Resume(other.clone())).expect("resumed");
    assert_eq!(wait(&world), auto);
    world.ask("ada", Role::Admin, "d3", Command::RevokeNode(other)).expect("revoked");
    assert_eq!(wait(&world), None);
}

#[test]
fn a_wall_clock_that_is_set_delays_no_retry_and_forgets_no_request() {
    let mut world = World::new();
    let node = world.node("n1");
    world.now.wall = world.now.wall.plus(Duration::from_secs(7 * 24 * 3600));
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    world.report(&node, outcome(attempt, OutcomeKind::FailedRetryable));
    world.now.wall = WallNanos::new(1_000_000_000_000);
    world.pass(Duration::from_secs(1));
    assert!(world.current(job).is_some(), "the clock was set back by a week");
    world.now.wall = world.now.wall.plus(Duration::from_secs(30 * 24 * 3600));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.submit("r1"), job, "the clock was set ahead by a month");
}

#[test]
fn a_request_id_is_never_answered_for_something_else() {
    let mut world = World::new();
    let node = world.node("n1");
    let drain = |stop_jobs| Command::Drain { node: node.clone(), stop_jobs };
    world.ask("ada", Role::Admin, "same", drain(false)).expect("drained");
    assert_eq!(world.ask("ada", Role::Admin, "same", drain(false)), Ok(Reply::Done));
    let other = world.ask("ada", Role::Admin, "same", drain(true)).expect_err("another wish");
    assert_eq!(other.reason, Reason::Conflict);
}

#[test]
fn a_retried_wish_for_a_token_makes_a_token_that_works() {
    let mut world = World::new();
    for public_id in ["first", "second"] {
        let made = Command::MakeToken {
            public_id: public_id.to_owned(),
            hash: "h".to_owned(),
            purpose: TokenPurpose::Node,
            role: None,
            expires: world.now.wall.plus(Duration::from_secs(900)),
        };
        world.ask("ada", Role::Admin, "same", made).expect("a token");
    }
    world.spend("second", "n1").expect("the one that was answered last works");
}
