//! What people ask for: retries, sizes, revocation, drain.

use super::*;
use crate::core::record::{AttemptState, CertificateRecord, StopWhy};

fn submit(world: &mut World, id: &str, wish: Wish) -> Result<Reply, Refusal> {
    let command = Command::Submit { wish: Box::new(wish), spec_yaml: String::new() };
    world.ask("bob", Role::Submitter, id, command)
}

fn token(world: &mut World, by: &str, public_id: &str, purpose: TokenPurpose) {
    let made = Command::MakeToken {
        public_id: public_id.to_owned(),
        hash: "h".to_owned(),
        purpose,
        role: Some(Role::Admin),
        expires: world.now.wall.plus(Duration::from_secs(900)),
    };
    world.ask(by, Role::Admin, public_id, made).expect("a token");
}

fn spend(world: &mut World, public_id: &str, for_node: bool) -> Result<Reply, Refusal> {
    reply(world.tell(Input::Spend {
        ticket: Ticket(7),
        public_id: public_id.to_owned(),
        fresh_node: "fresh".parse().expect("id"),
        display_name: "fresh".to_owned(),
        for_node,
    }))
}

#[test]
fn a_retried_submit_in_another_trace_is_the_same_submit() {
    let mut world = World::new();
    world.node("n1");
    let traced = |trace: &str| Wish { traceparent: trace.to_owned(), ..wish() };
    let first = submit(&mut world, "same", traced("00-aa-01-01")).expect("a job");
    let Reply::Job { job, .. } = first else { panic!("{first:?}") };
    let again = submit(&mut world, "same", traced("00-bb-02-01"));
    assert_eq!(again, Ok(Reply::Job { job, repeated: true }));
    let other = Wish { max_attempts: 9, ..traced("00-aa-01-01") };
    let refused = submit(&mut world, "same", other).expect_err("another wish");
    assert_eq!(refused.reason, Reason::Conflict);
}

#[test]
fn the_disk_that_a_job_needs_counts_what_was_committed_and_not_what_a_client_says() {
    let mut world = World::new();
    world.node("n1");
    let mut commit = |name: &str, bytes| {
        let manifest = Digest::of(name.as_bytes());
        world.tell(Input::CommitObject {
            ticket: Ticket(7),
            user: "bob".parse().expect("name"),
            project: ProjectName::default_project(),
            manifest,
            bytes,
        });
        manifest
    };
    let model = commit("model", Bytes::gib(40));
    let image = commit("image", Bytes::gib(20));
    let huge = commit("huge", Bytes::new(u64::MAX));
    let with = |manifests: &[Digest], image| {
        let input = |manifest: &Digest| hone_proto::assignment::Input {
            channel: hone_proto::assignment::Channel::Model,
            manifest: *manifest,
        };
        let image = ImageRef { reference: "sha256:ab".to_owned(), manifest: image };
        Wish { inputs: manifests.iter().map(input).collect(), image, ..wish() }
    };
    let refused = submit(&mut world, "r1", with(&[model], Some(image))).expect_err("60 of 50 GiB");
    assert_eq!(refused.reason, Reason::FitsNowhere);
    assert!(refused.message.contains("10.0 GiB disk"), "{}", refused.message);
    let refused = submit(&mut world, "r2", with(&[huge, model], None)).expect_err("no wrap");
    assert_eq!(refused.reason, Reason::FitsNowhere);
    submit(&mut world, "r3", with(&[model], None)).expect("40 of 50 GiB");
}

#[test]
fn what_a_revoked_person_handed_out_or_was_handed_lets_nobody_in() {
    let mut world = World::new();
    let eve = || "eve".parse().expect("name");
    token(&mut world, "ada", "for-eve", TokenPurpose::User(eve()));
    spend(&mut world, "for-eve", false).expect("eve joins");
    token(&mut world, "eve", "by-eve", TokenPurpose::Node);
    token(&mut world, "ada", "eve-again", TokenPurpose::User(eve()));
    token(&mut world, "ada", "by-ada", TokenPurpose::Node);
    let left = world.fleet.tokens.clone();
    world.ask("ada", Role::Admin, "r1", Command::RevokeUser(eve())).expect("revoked");
    for (public_id, for_node) in [("by-eve", true), ("eve-again", false)] {
        let refused = spend(&mut world, public_id, for_node).expect_err("revoked");
        assert_eq!(refused.reason, Reason::TokenRefused, "{public_id}");
        assert!(!world.store.contains_key(&format!("token/{public_id}")), "{public_id}");
        // The same where the token is there for whatever reason.
        world.fleet.tokens.insert(public_id.to_owned(), left[public_id].clone());
        let refused = spend(&mut world, public_id, for_node).expect_err("revoked");
        assert_eq!(refused.reason, Reason::TokenRefused, "{public_id}");
    }
    spend(&mut world, "by-ada", true).expect("other tokens are as good as before");
}

#[test]
fn a_certificate_is_not_issued_to_whom_was_revoked_meanwhile() {
    let mut world = World::new();
    let node = world.node("n1");
    world.ask("ada", Role::Admin, "r1", Command::RevokeNode(node.clone())).expect("revoked");
    let key = "k".to_owned();
    let certificate = CertificateRecord { key, not_after: world.now.wall, follows: None };
    let subject = Subject::Node(node);
    let issued = Input::Issued { ticket: Ticket(7), subject, certificate, with: None };
    let refused = reply(world.tell(issued));
    assert_eq!(refused.expect_err("revoked").reason, Reason::Revoked);
}

#[test]
fn a_drained_node_takes_no_job() {
    let mut world = World::new();
    let node = world.node("n1");
    let drain = Command::Drain { node: node.clone(), stop_jobs: false };
    world.ask("ada", Role::Admin, "d1", drain).expect("drained");
    let job = world.submit("r1");
    assert!(world.current(job).is_none());
    world.ask("ada", Role::Admin, "d2", Command::Resume(node)).expect("resumed");
    assert!(world.current(job).is_some());
}

#[test]
fn jobs_leave_a_drained_node_with_their_checkpoint_as_often_as_it_takes() {
    let mut world = World::new();
    let nodes = [world.node("n1"), world.node("n2")];
    let job = world.submit("r1");
    // More moves than the job may have attempts.
    for round in 1..=5_u64 {
        let (attempt, on) = world.current(job).expect("it is placed");
        world.commit(&on, attempt, SavedKind::Checkpoint, round * 10).expect("a commit");
        let drain = Command::Drain { node: on.clone(), stop_jobs: true };
        world.ask("ada", Role::Admin, &format!("d{round}"), drain).expect("drained");
        let set = world.beat(&on, &[attempt]);
        let intent = &desired(&set).expect("a set").assignments[0].intent;
        assert!(matches!(intent, Intent::Stop { .. }), "{intent:?}");
        world.report(&on, outcome(attempt, OutcomeKind::Interrupted));
        let (_, next) = world.current(job).expect("it moves at once");
        assert_ne!(next, on);
        let resume = world.fleet.jobs[&job].current().and_then(|a| a.resume.clone());
        assert_eq!(resume.map(|saved| saved.step), Some(Step::new(round * 10)));
        let back = nodes.iter().find(|node| **node == on).expect("one of the two");
        let resume = Command::Resume(back.clone());
        world.ask("ada", Role::Admin, &format!("u{round}"), resume).expect("resumed");
    }
}

#[test]
fn resume_takes_back_a_drain_that_no_job_has_begun_to_follow() {
    let mut world = World::new();
    let node = world.node("n1");
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    let stop = |world: &World| world.fleet.jobs[&job].current().and_then(|a| a.stop);
    let change = |world: &mut World, id: &str, command| {
        world.ask("ada", Role::Admin, id, command).expect("changed");
    };
    let drain = || Command::Drain { node: node.clone(), stop_jobs: true };
    change(&mut world, "d1", drain());
    assert_eq!(stop(&world), Some(StopWhy::Drain));
    change(&mut world, "d2", Command::Resume(node.clone()));
    assert_eq!(stop(&world), None);
    let set = world.beat(&node, &[attempt]);
    assert_eq!(desired(&set).expect("a set").assignments[0].intent, Intent::Run);
    // One that stops already goes on stopping, and is placed again.
    change(&mut world, "d3", drain());
    world.report(&node, Payload::Phase { attempt, phase: Phase::Stopping, detail: String::new() });
    change(&mut world, "d4", Command::Resume(node.clone()));
    assert_eq!(stop(&world), Some(StopWhy::Drain));
    world.report(&node, outcome(attempt, OutcomeKind::Interrupted));
    assert!(world.current(job).is_some_and(|(next, _)| next > attempt));
    let job = &world.fleet.jobs[&job];
    let first = job.attempts.get(attempt.token).map(|attempt| &attempt.state);
    assert!(matches!(first, Some(AttemptState::Ended(..))) && job.tries() == 1);
}

#[test]
fn bulk_data_of_an_attempt_is_its_node_s_only_while_it_is_current() {
    let mut world = World::new();
    let node = world.node("n1");
    let other = world.node("n2");
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    let refused = |world: &World, node: &NodeId| {
        world.fleet.holds(node, attempt).map_err(|refusal| refusal.reason)
    };
    assert!(refused(&world, &node).is_ok());
    assert_eq!(refused(&world, &other), Err(Reason::NotOwner));
    world.report(&node, outcome(attempt, OutcomeKind::Failed));
    assert_eq!(refused(&world, &node), Err(Reason::StaleAttempt));
    assert!(world.fleet.owns(&node, attempt).is_ok(), "a lost answer to a commit is given again");
}

/// Somebody's download for a minute was reason enough to refuse what the node holds every other day.
#[test]
fn what_a_node_offers_less_of_for_a_while_waits_and_is_not_refused() {
    let mut world = World::new();
    let node = world.node("n1");
    let most = world.fleet.nodes[&node].most.clone().expect("it said hello");
    let session = world.fleet.nodes[&node].session.expect("a session");
    world.tell(Input::Heartbeat(Heartbeat {
        node: node.clone(),
        session,
        number: 1,
        revision: Revision::new(0),
        attempts: vec![],
        capacity: Some(Capacity { gpus: vec![], disk: Bytes::default(), ..most }),
    }));
    let demand = Demand { disk: Bytes::gib(10), ..wish().demand };
    let submitted = submit(&mut world, "r1", Wish { demand, ..wish() });
    let Ok(Reply::Job { job, .. }) = submitted else { panic!("{submitted:?}") };
    assert!(matches!(world.state(job), JobState::Queued { .. }), "nothing holds it now");
    assert_eq!(world.fleet.nodes[&node].most, Some(most));
}
