//! What the fleet keeps is bounded before anything changes: nothing that people or nodes send can grow it past what its
//! store takes.

use super::*;
use crate::core::record::FleetEvent;

fn lines<'a>(world: &'a World, kind: &str) -> Vec<&'a FleetEvent> {
    world.fleet.history().values().filter(|line| line.kind == kind).collect()
}

fn submit(world: &mut World, id: &str, wish: Wish) -> Result<Reply, Refusal> {
    let command = Command::Submit { wish: Box::new(wish), spec_yaml: String::new() };
    world.ask("bob", Role::Submitter, id, command)
}

#[test]
fn a_job_whose_record_would_not_fit_is_refused_and_changes_nothing() {
    let mut world = World::new();
    world.node("n1");
    let before = world.store.clone();
    // Far below every bound of the spec's parser, and twice as long once each quote is escaped.
    let command = vec!["\"".repeat(4_000); 14];
    let refused = submit(&mut world, "r1", Wish { command, ..wish() }).expect_err("too large");
    assert_eq!(refused.reason, Reason::BadSpec);
    assert_eq!(world.store, before);
    assert!(world.fleet.jobs.is_empty(), "no job is kept in memory either");
    let command = vec!["a".repeat(4_000); 6];
    submit(&mut world, "r2", Wish { command, ..wish() }).expect("this one has room");
}

/// Checked before gigabytes are uploaded for it, and refused after: that was so for want of the bound in the check.
#[test]
fn what_passes_the_check_before_an_upload_is_taken_after_it() {
    let mut world = World::new();
    world.node("n1");
    let bob = "bob".parse().expect("a name");
    let largest = |extra: usize| Wish {
        command: vec!["a".repeat(extra)],
        traceparent: "0".repeat(55),
        ..wish()
    };
    let takes =
        |world: &World, extra: usize| world.fleet.could_take(&bob, &largest(extra), "").is_ok();
    let most =
        (0..40_000).rev().step_by(100).find(|extra| takes(&world, *extra)).expect("some length");
    assert!(most > 30_000, "{most}");
    submit(&mut world, "r1", largest(most)).expect("it was said to be possible");
    submit(&mut world, "r2", largest(most + 1_000)).expect_err("nor is the check too strict");
}

/// The largest job that is taken, and the longest reports that a node can make of it, each as the listener takes them.
#[test]
fn whatever_becomes_of_the_largest_job_its_records_can_be_stored() {
    let mut world = World::new();
    let node = world.node("n1");
    let bob = "bob".parse().expect("a name");
    let with = |extra: usize| Wish { command: vec!["a".repeat(extra)], ..wish() };
    let takes = |extra: &usize| world.fleet.could_take(&bob, &with(*extra), "").is_ok();
    let most = (0..40_000).rev().step_by(100).find(takes).expect("some length");
    let Ok(Reply::Job { job, .. }) = submit(&mut world, "r1", with(most)) else { panic!("taken") };
    // Six bytes for each of these once they are stored.
    let long = "\u{1}".repeat(100_000);
    for step in 1..=20 {
        let Some((attempt, _)) = world.current(job) else { break };
        world.commit(&node, attempt, SavedKind::Checkpoint, step).expect("a commit");
        let phase = Payload::Phase { attempt, phase: Phase::Running, detail: long.clone() };
        let ended = Payload::Outcome(Outcome {
            attempt,
            kind: OutcomeKind::FailedRetryable,
            exit_code: Some(1),
            cause: long.clone(),
            message: long.clone(),
            step: Some(Step::new(step)),
            result_json: long.clone(),
        });
        for payload in [phase, ended] {
            let stream = payload.stream();
            let event =
                Event { seq: Seq::new(1), at: world.now, boot: "b".parse().expect("id"), payload };
            let taken = hone_proto::convert::event::reported(stream, event.into()).expect("taken");
            world.report(&node, taken.payload);
        }
        world.pass(Duration::from_secs(301));
        world.hello(&node, &[]);
    }
    let longest = world.store.values().map(Vec::len).max();
    assert!(longest > Some(32_000), "{longest:?}");
    for (key, value) in &world.store {
        assert!(value.len() <= crate::store::MAX_RECORD, "{key}: {} bytes", value.len());
    }
    assert!(matches!(world.state(job), JobState::Ended { .. }));
}

#[test]
fn any_number_of_splits_keeps_the_record_of_a_run_small() {
    let mut world = World::new();
    let node = world.node("n1");
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    for split in 0..2_000 {
        let metrics = hone_proto::event::Metrics {
            attempt,
            step: Step::new(1),
            split: format!("eval-{split}"),
            epoch: None,
            values: vec![("eval_nll_sum".to_owned(), 1.0), ("eval_tokens".to_owned(), 1.0)],
        };
        world.report(&node, Payload::Metrics(metrics));
    }
    let longest = world.store.values().map(Vec::len).max();
    assert!(longest < Some(crate::store::MAX_RECORD), "{longest:?}");
}

#[test]
fn reports_about_foreign_attempts_are_counted_and_push_nothing_out_of_the_history() {
    let mut world = World::new();
    let node = world.node("n1");
    let job = world.submit("r1");
    let (own, _) = world.current(job).expect("it is placed");
    let foreign = AttemptId { job: JobId::new(99), ..own };
    for _ in 0..100 {
        world.report(&node, outcome(foreign, OutcomeKind::Failed));
    }
    assert_eq!(lines(&world, "foreign_report").len(), 1);
    world.pass(Duration::from_secs(3601));
    world.hello(&node, &[own]);
    world.report(&node, outcome(foreign, OutcomeKind::Failed));
    let told = lines(&world, "foreign_report");
    assert_eq!(told.len(), 2);
    assert!(told[1].text.contains("99 more"), "{}", told[1].text);
}

#[test]
fn what_people_did_stays_in_the_history_however_much_a_node_reports() {
    let mut world = World::new();
    world.fleet.settings.keep_history = 20;
    let node = world.node("n1");
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    for phase in [Phase::Starting, Phase::Staging].into_iter().cycle().take(200) {
        world.report(&node, Payload::Phase { attempt, phase, detail: String::new() });
    }
    for kind in ["token_made", "node_enrolled", "job_submitted"] {
        assert_eq!(lines(&world, kind).len(), 1, "{kind}");
    }
    assert_eq!(lines(&world, "attempt_phase").len(), 20);
    let stored = world.store.keys().filter(|key| key.starts_with("event/")).count();
    assert_eq!(stored, world.fleet.history().len());
    world.restart();
    assert_eq!(stored, world.fleet.history().len(), "both rings are read back");
}

#[test]
fn a_lost_report_of_a_state_is_seen_by_people() {
    let mut world = World::new();
    let node = world.node("n1");
    let gap = Payload::Gap {
        attempt: None,
        what: "state".to_owned(),
        count: 1,
        reason: "phase 99 that this release does not know".to_owned(),
    };
    world.report(&node, gap);
    let told = lines(&world, "reports_lost");
    assert!(told.len() == 1 && told[0].text.contains("phase 99"), "{told:?}");
}

#[test]
fn a_fleet_restored_from_an_export_steps_over_what_its_agents_gave_up_since() {
    let mut world = World::new();
    let node = world.node("n1");
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    let notice = |message: &str| Payload::Notice {
        attempt,
        level: "info".to_owned(),
        code: "x".to_owned(),
        message: message.to_owned(),
    };
    let told = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Send(_, _, ToAgent::Ack(position)) => Some(position.seq.get()),
            _ => None,
        })
    };
    world.report(&node, notice("1"));
    let export = world.store.clone();
    for _ in 2..=500 {
        world.report(&node, notice("acknowledged, and gone from the spool"));
    }
    world.store = export;
    world.restart();
    let raised = world.fleet.begin_generation(world.now);
    world.keep(raised);
    world.hello(&node, &[attempt]);
    // As a spool sends it that holds nothing before event 501.
    let gap = Payload::Gap {
        attempt: None,
        what: "series".to_owned(),
        count: 499,
        reason: "it is gone".to_owned(),
    };
    world.seqs.insert((node.clone(), Stream::Series), 499);
    assert_eq!(told(&world.report(&node, gap)), Some(500));
    assert_eq!(told(&world.report(&node, notice("501"))), Some(501));
}
