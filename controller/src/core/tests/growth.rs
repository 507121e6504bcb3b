//! What grows has a bound, and what was stored before it had one is read for ever.

use super::*;

impl World {
    /// Keys and sizes of what is stored under a kind.
    fn stored(&self, kind: &str) -> Vec<usize> {
        let of_kind = self.store.iter().filter(|(key, _)| key.starts_with(kind));
        of_kind.map(|(_, value)| value.len()).collect()
    }

    /// The job leaves its node, which is free again afterwards.
    fn moves(&mut self, round: u32, node: &NodeId, job: JobId) {
        let drain = Command::Drain { node: node.clone(), stop_jobs: true };
        self.ask("ada", Role::Admin, &format!("d{round}"), drain).expect("drained");
        let (attempt, on) = self.current(job).expect("it is placed");
        assert_eq!(on, *node);
        self.report(node, outcome(attempt, OutcomeKind::Interrupted));
        let resume = Command::Resume(node.clone());
        self.ask("ada", Role::Admin, &format!("r{round}"), resume).expect("resumed");
        self.store.retain(|key, _| !key.starts_with("request/"));
        self.fleet.requests.clear();
    }
}

fn submit(wish: Wish) -> Command {
    Command::Submit { wish: Box::new(wish), spec_yaml: "version: 1".to_owned() }
}

/// The simulation's seed 3: after some sixty moves the job's record did not fit the store, and the controller ended.
#[test]
fn a_job_that_moves_for_ever_stays_as_small_as_it_was() {
    let mut world = World::with(Settings { keep_attempts: 3, ..Settings::default() });
    let node = world.node("n1");
    let job = world.submit("r1");
    world.moves(0, &node, job);
    let before = world.stored("job/");
    for round in 1..200 {
        world.moves(round, &node, job);
        if round % 50 == 0 {
            world.restart();
            let held: Vec<_> = world.current(job).into_iter().map(|(id, _)| id).collect();
            world.hello(&node, &held);
        }
    }
    let job = &world.fleet.jobs[&job];
    assert_eq!(world.stored("job/"), before, "attempts leave no trace in the job's record");
    assert_eq!((job.attempts.placed(), job.attempts.dropped()), (201, 198));
    let sizes = world.stored("attempt/");
    assert_eq!(sizes.len(), 3, "the current one and two before it");
    assert!(sizes.iter().all(|size| *size < 4_000), "{sizes:?}");
}

#[test]
fn an_attempt_is_written_when_it_changes_and_its_job_is_not() {
    let mut world = World::new();
    let node = world.node("n1");
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    let before = world.store.clone();
    let phase = Payload::Phase { attempt, phase: Phase::Running, detail: "step 3".to_owned() };
    world.report(&node, phase);
    let changed: Vec<_> = world
        .store
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(*value))
        .filter_map(|(key, _)| key.split('/').next())
        .collect();
    assert_eq!(changed, ["attempt", "event", "meta", "positions"]);
}

#[test]
fn an_attempt_that_its_node_may_still_hold_is_not_dropped() {
    let mut world = World::with(Settings { keep_attempts: 1, ..Settings::default() });
    let first = world.node("n1");
    let job = world.submit("r1");
    let (lost, on) = world.current(job).expect("it is placed");
    assert_eq!(on, first);
    world.pass(Duration::from_secs(31));
    let second = world.node("n2");
    world.ask("ada", Role::Admin, "l1", Command::Lose(first.clone())).expect("it is silent");
    // A restart forgets who held what; only the node can tell.
    world.restart();
    let held = |world: &World| world.current(job).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    let now_held = held(&world);
    world.hello(&second, &now_held);
    for round in 0..5 {
        world.moves(round, &second, job);
    }
    assert!(world.fleet.jobs[&job].attempts.get(lost.token).is_some(), "n1 was not heard");
    world.hello(&first, &[lost]);
    assert_eq!(world.fleet.held_by(&world.fleet.nodes[&first].record).count(), 1);
    world.moves(6, &second, job);
    assert!(world.fleet.jobs[&job].attempts.get(lost.token).is_some(), "n1 holds it");
    world.beat(&first, &[]);
    let drain = Command::Drain { node: first, stop_jobs: false };
    world.ask("ada", Role::Admin, "away", drain).expect("drained");
    world.moves(7, &second, job);
    assert!(world.fleet.jobs[&job].attempts.get(lost.token).is_none(), "nobody needs it");
}

#[test]
fn checkpoints_beyond_the_bound_are_retired_but_never_one_that_is_needed() {
    let mut world = World::with(Settings { keep_saved: 4, ..Settings::default() });
    let node = world.node("n1");
    let job = world.submit("r1");
    let (first, _) = world.current(job).expect("it is placed");
    for step in 1..=9 {
        world.commit(&node, first, SavedKind::Checkpoint, step).expect("a commit");
    }
    let steps = |world: &World| -> Vec<u64> {
        world.fleet.jobs[&job].saved.values().map(|saved| saved.step.get()).collect()
    };
    assert_eq!(steps(&world), [6, 7, 8, 9]);
    world.restart();
    assert_eq!(steps(&world), [6, 7, 8, 9]);
    world.hello(&node, &[first]);
    world.report(&node, outcome(first, OutcomeKind::FailedRetryable));
    world.pass(Duration::from_secs(10));
    let (second, _) = world.current(job).expect("it is placed again");
    for step in 10..=15 {
        world.commit(&node, second, SavedKind::Checkpoint, step).expect("a commit");
    }
    assert_eq!(steps(&world), [9, 13, 14, 15], "the second attempt may still fetch step 9");
    assert_eq!(world.stored("saved/").len(), 4);
    let retired = world.fleet.history().values().filter(|e| e.kind == "checkpoint_retired").count();
    assert_eq!(retired, 11, "each is told in the history");
}

#[test]
fn one_person_asks_for_so_much_a_day_and_nobody_else_waits_for_it() {
    let mut world = World::with(Settings { most_requests: 3, ..Settings::default() });
    world.node("n1");
    for request in ["a", "b", "c"] {
        world.submit(request);
    }
    let refused = world.ask("bob", Role::Submitter, "d", submit(wish())).expect_err("enough");
    assert_eq!(refused.reason, Reason::Overloaded);
    world.submit("a");
    world.ask("eve", Role::Submitter, "d", submit(wish())).expect("another person");
    world.pass(Duration::from_secs(25 * 3600));
    world.submit("d");
}

#[test]
fn a_node_carries_so_many_jobs_that_its_desired_set_can_be_read() {
    let mut world = World::with(Settings { most_per_node: 2, ..Settings::default() });
    let node = world.node("n1");
    let mut small = wish();
    small.demand = Demand::default();
    for request in ["a", "b", "c"] {
        world.ask("bob", Role::Submitter, request, submit(small.clone())).expect("submitted");
    }
    let JobState::Queued { reason, .. } = world.state(JobId::new(3)) else {
        panic!("the third waits")
    };
    assert_eq!(reason, "node n1 carries as many jobs as a node may");
    let (first, _) = world.current(JobId::new(1)).expect("it is placed");
    world.report(&node, outcome(first, OutcomeKind::Failed));
    assert!(world.current(JobId::new(3)).is_some());
}

/// As the release before attempts were records of their own left it: one attempt that failed, one that was lost, one
/// that runs.
fn version_1() -> BTreeMap<String, Vec<u8>> {
    let lines = include_str!("../fixtures/v1.records").lines();
    let record = |line: &str| {
        let (key, value) = line.split_once('\t')?;
        Some((key.to_owned(), value.as_bytes().to_vec()))
    };
    lines.map(|line| record(line).expect("a key and a value")).collect()
}

#[test]
fn version_1_of_a_job_is_read_for_ever_and_written_anew_when_it_changes() {
    let mut world = World::new();
    world.store = version_1();
    world.restart();
    world.fleet.check_invariants().expect("the invariants hold");
    let job = JobId::new(1);
    assert_eq!(world.fleet.jobs[&job].attempts.placed(), 3);
    let (attempt, node) = world.current(job).expect("it runs");
    assert!(world.stored("attempt/").is_empty(), "reading alone writes nothing");
    world.sessions = 10;
    world.hello(&node, &[attempt]);
    let phase = Payload::Phase { attempt, phase: Phase::Stopping, detail: String::new() };
    world.seqs.insert((node.clone(), Stream::State), 4);
    world.report(&node, phase);
    assert_eq!(world.stored("attempt/").len(), 3, "all of them come out at once");
    let text = String::from_utf8_lossy(&world.store["job/00000000000000000001"]).into_owned();
    assert!(text.starts_with(r#"{"version":2,"#) && !text.contains("attempts\":["), "{text}");
    let before = world.fleet.jobs.clone();
    world.restart();
    assert_eq!(world.fleet.jobs, before);
}

#[test]
fn a_record_of_a_newer_release_is_refused() {
    let mut records = version_1();
    let job = records.get_mut("job/00000000000000000001").expect("the job");
    *job = String::from_utf8_lossy(job).replacen('{', r#"{"version":3,"#, 1).into_bytes();
    let refused = Fleet::load(Settings::default(), records).expect_err("too new");
    assert_eq!(refused.why, "it has version 3; this release knows up to 2");
}
