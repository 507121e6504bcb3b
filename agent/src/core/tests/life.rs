//! The course of an attempt, and what a crash, a cut or a strange engine makes of it.

use super::*;

#[test]
fn an_attempt_is_staged_launched_drained_uploaded_and_reported() {
    let mut world = World::new();
    let a = id(1);
    assert!(
        matches!(&world.want(vec![assignment(1)])[..], [Effect::Stage(of, 1)] if of.attempt == a)
    );
    assert!(matches!(&world.staged(a)[..], [Effect::Launch(of, 1)] if of.attempt == a));
    assert_eq!(world.launched(a), vec![]);
    world.observe(vec![seen(a, SeenState::Running)]);
    assert_eq!(world.found(a, &[10]), upload(a, save(10)));
    assert_eq!(world.uploaded(a, save(10), Ok(())), vec![]);
    assert_eq!(world.exited(a, 0), vec![Effect::Drain(a)]);
    let effects = world.tell(drained(a, &[10, 20], Some(word("completed", 0))));
    assert_eq!(effects, upload(a, save(20)));
    assert_eq!(world.uploaded(a, save(20), Ok(())), upload(a, package(20)));
    assert_eq!(world.outcomes(), Vec::<&Outcome>::new(), "not before all is committed");
    assert_eq!(world.uploaded(a, package(20), Ok(())), vec![]);
    assert_eq!(world.ended(), (OutcomeKind::Completed, "completed"));
    use Phase::{Collecting, Running, Staging, Starting};
    assert_eq!(world.phases(), vec![Staging, Starting, Running, Collecting]);
    assert_eq!(world.pass(SECOND), vec![], "the container stays until its outcome is acknowledged");
    assert_eq!(world.want(vec![]), remove(a, Some("c1")));
    world.tell(Input::Removed { attempt: a, done: true });
    assert_eq!(world.agent.held(), vec![]);
}

#[test]
fn a_stop_before_the_start_ends_at_once_and_its_late_answer_changes_nothing() {
    let mut world = World::new();
    let a = id(1);
    world.want(vec![assignment(1)]);
    assert_eq!(world.want(vec![stopping(1)]), vec![]);
    assert_eq!(world.ended(), (OutcomeKind::Interrupted, "stopped"));
    assert_eq!(world.staged(a), vec![]);
    assert_eq!(world.stage(a), Some(Stage::Ended));
    assert_eq!(world.outcomes().len(), 1);
}

#[test]
fn a_stop_lets_the_trainer_save_and_kills_it_after_the_grace() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    let ask = vec![Effect::AskToStop { attempt: a, container: "c1".to_owned() }];
    let kill = vec![Effect::Kill { container: "c1".to_owned() }];
    assert_eq!(world.want(vec![stopping(1)]), ask);
    assert_eq!(world.phases().last(), Some(&Phase::Stopping));
    assert_eq!(world.pass(GRACE), vec![]);
    assert_eq!(world.pass(SECOND), kill);
    assert_eq!(world.pass(SECOND), vec![]);
    assert_eq!(world.pass(SECOND * 10), kill, "the engine may not have heard it");
    assert_eq!(world.exited(a, 137), vec![Effect::Drain(a)]);
    assert_eq!(world.tell(drained(a, &[10], None)), upload(a, save(10)));
    world.uploaded(a, save(10), Ok(()));
    assert_eq!(world.ended(), (OutcomeKind::Interrupted, "stopped"));
}

#[test]
fn a_request_to_stop_that_a_crash_swallowed_is_made_again_and_the_grace_goes_on() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    let ask = vec![Effect::AskToStop { attempt: a, container: "c1".to_owned() }];
    assert_eq!(world.want(vec![stopping(1)]), ask);
    world.pass(GRACE / 2);
    world.restart();
    assert_eq!(world.pass(SECOND), ask);
    assert_eq!(world.pass(GRACE / 2), vec![Effect::Kill { container: "c1".to_owned() }]);
}

#[test]
fn a_crash_at_any_point_is_followed_by_what_was_under_way() {
    let mut world = World::new();
    let a = id(1);
    let again = |world: &mut World, effects: Vec<Effect>| {
        world.restart();
        assert_eq!(world.pass(SECOND), effects);
        world.restart();
        assert_eq!(world.pass(SECOND), effects, "however often");
    };
    let effects = world.want(vec![assignment(1)]);
    again(&mut world, effects);
    let effects = world.staged(a);
    again(&mut world, effects);
    world.launched(a);
    again(&mut world, vec![]);
    let effects = world.found(a, &[10]);
    again(&mut world, effects);
    world.uploaded(a, save(10), Ok(()));
    again(&mut world, vec![]);
    let effects = world.exited(a, 0);
    again(&mut world, effects);
    let effects = world.tell(drained(a, &[10], Some(word("completed", 0))));
    assert_eq!(effects, upload(a, package(10)));
    again(&mut world, effects);
    world.uploaded(a, package(10), Ok(()));
    again(&mut world, vec![]);
    let effects = world.want(vec![]);
    assert_eq!(effects, remove(a, Some("c1")));
    again(&mut world, effects);
    assert_eq!(world.outcomes().len(), 1);
}

#[test]
fn a_container_whose_launch_was_not_answered_is_adopted() {
    for state in [SeenState::Running, SeenState::Exited { code: 0, oom: false }] {
        let mut world = World::new();
        let a = id(1);
        world.want(vec![assignment(1)]);
        world.staged(a);
        world.restart();
        world.observe(vec![seen(a, state)]);
        assert_eq!(world.stage(a), Some(Stage::Running));
        assert_eq!(world.phases().last(), Some(&Phase::Running));
        let late = Err(failed(false, false));
        world.tell(Input::Launched { attempt: a, result: late });
        assert_eq!(world.stage(a), Some(Stage::Running), "a late failure of the call is no news");
        assert_eq!(world.outcomes().len(), 0);
    }
}

#[test]
fn a_container_that_is_only_created_is_launched() {
    let mut world = World::new();
    let a = id(1);
    world.want(vec![assignment(1)]);
    world.staged(a);
    world.restart();
    let effects = world.observe(vec![seen(a, SeenState::Created)]);
    assert!(matches!(&effects[..], [Effect::Launch(..)]), "{effects:?}");
}

#[test]
fn a_stop_after_a_restart_waits_for_the_engines_list_before_it_says_that_nothing_ran() {
    let mut world = World::new();
    let a = id(1);
    world.want(vec![assignment(1)]);
    world.staged(a);
    world.restart();
    assert_eq!(world.want(vec![stopping(1)]), vec![]);
    assert_eq!(world.outcomes().len(), 0);
    let effects = world.observe(vec![seen(a, SeenState::Running)]);
    assert_eq!(effects, vec![Effect::AskToStop { attempt: a, container: "c1".to_owned() }]);
}

#[test]
fn a_container_that_vanished_is_drained_and_another_attempt_may_follow() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    assert_eq!(world.observe(vec![]), vec![Effect::Drain(a)]);
    world.tell(drained(a, &[], None));
    assert_eq!(world.ended(), (OutcomeKind::FailedRetryable, "container_lost"));
}

#[test]
fn a_list_that_was_asked_for_before_the_launch_proves_nothing() {
    let mut world = World::new();
    let a = id(1);
    world.want(vec![assignment(1)]);
    let asked = world.now.boot;
    world.staged(a);
    world.now.boot = asked.plus(SECOND);
    world.launched(a);
    assert_eq!(world.tell(Input::Observed { containers: vec![], asked }), vec![]);
    assert_eq!(world.stage(a), Some(Stage::Running));
}

#[test]
fn containers_that_nobody_knows_are_swept_once_per_list() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    let stray =
        |name: &str, attempt| Seen { id: name.to_owned(), attempt, state: SeenState::Running };
    let list = vec![
        seen(a, SeenState::Running),
        stray("unreadable", None),
        stray("unknown", Some(id(9))),
        stray("second", Some(a)),
    ];
    let sweep = |name: &str| Effect::Sweep { container: name.to_owned() };
    let all = vec![sweep("unreadable"), sweep("unknown"), sweep("second")];
    assert_eq!(world.observe(list.clone()), all);
    assert_eq!(world.observe(list.clone()), vec![], "it is under way");
    for effect in &all {
        let Effect::Sweep { container } = effect else { continue };
        let swept = world.tell(Input::Swept { container: container.clone() });
        assert_eq!(swept, vec![], "an old list is no reason to ask again");
    }
    assert_eq!(world.observe(list), all, "the engine may have failed");
    assert_eq!(world.stage(a), Some(Stage::Running));
}

#[test]
fn a_container_whose_launch_was_said_to_have_failed_is_swept() {
    let mut world = World::new();
    let a = id(1);
    world.want(vec![assignment(1)]);
    world.staged(a);
    world.tell(Input::Launched { attempt: a, result: Err(failed(false, true)) });
    assert_eq!(world.ended(), (OutcomeKind::FailedRetryable, "engine_unavailable"));
    let effects = world.observe(vec![seen(a, SeenState::Running)]);
    assert_eq!(effects, vec![Effect::Sweep { container: "c1".to_owned() }]);
}

#[test]
fn a_second_container_that_ended_does_not_end_the_first() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    let exited = SeenState::Exited { code: 1, oom: false };
    let other = Seen { id: "c0".to_owned(), attempt: Some(a), state: exited };
    world.observe(vec![other, seen(a, SeenState::Running)]);
    assert_eq!(world.stage(a), Some(Stage::Running));
}

#[test]
fn an_attempt_that_the_controller_names_no_more_is_killed_and_removed() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    assert_eq!(world.want(vec![]), remove(a, Some("c1")));
    assert_eq!(world.pass(SECOND), vec![], "it is under way");
    let failed = Input::Removed { attempt: a, done: false };
    assert_eq!(world.tell(failed), vec![], "an engine that is down is not asked in a loop");
    assert_eq!(world.pass(SECOND * 3), remove(a, Some("c1")));
    world.tell(Input::Removed { attempt: a, done: true });
    assert_eq!(world.agent.held(), vec![]);
    assert_eq!(world.outcomes().len(), 0);
}

#[test]
fn a_set_that_was_overtaken_or_is_of_an_older_generation_is_not_obeyed() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    let set = |generation, revision| {
        Input::Desired(DesiredSet {
            revision: Revision::new(revision),
            generation: Generation::new(generation),
            assignments: vec![],
        })
    };
    for (generation, revision) in [(0, 99), (1, 0), (1, 1)] {
        assert_eq!(world.tell(set(generation, revision)), vec![], "{generation} {revision}");
        assert_eq!(world.stage(a), Some(Stage::Running));
    }
    assert_eq!(world.tell(set(2, 0)), remove(a, Some("c1")), "a later generation counts from zero");
    assert_eq!(world.agent.generation(), Generation::new(2));
}

#[test]
fn a_fenced_attempt_is_not_brought_back_by_the_set_that_named_it() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    world.found(a, &[10]);
    let effects = world.uploaded(a, save(10), Err(UploadError::Fenced));
    assert_eq!(effects, remove(a, Some("c1")));
    world.tell(Input::Removed { attempt: a, done: true });
    world.revision -= 1;
    assert_eq!(world.want(vec![assignment(1)]), vec![]);
    assert_eq!(world.agent.held(), vec![]);
    assert_eq!(world.outcomes().len(), 0);
}

#[test]
fn a_silent_controller_is_waited_for_and_the_save_begins_in_time() {
    let mut world = World::new();
    let wait = Duration::from_secs(600);
    let a = world.running(Assignment { disconnect_wait: Some(wait), ..assignment(1) });
    world.found(a, &[10]);
    let took = Duration::from_secs(90);
    world.tell(Input::Uploaded { attempt: a, upload: save(10), took, result: Ok(()) });
    world.tell(Input::Heard { sent: world.now.boot });
    assert_eq!(world.pass(wait - took - GRACE), vec![]);
    let effects = world.pass(SECOND);
    assert_eq!(effects, vec![Effect::AskToStop { attempt: a, container: "c1".to_owned() }]);
    world.exited(a, 75);
    world.tell(drained(a, &[], Some(word("interrupted", 75))));
    assert_eq!(world.ended(), (OutcomeKind::Interrupted, "stopped"));
}

#[test]
fn a_wait_shorter_than_a_save_does_not_end_every_run_at_once() {
    let mut world = World::new();
    let wait = Duration::from_secs(40);
    world.running(Assignment { disconnect_wait: Some(wait), ..assignment(1) });
    world.tell(Input::Heard { sent: world.now.boot });
    assert_eq!(world.pass(wait / 2), vec![]);
    assert_eq!(world.pass(SECOND).len(), 1);
}

#[test]
fn an_agent_that_starts_again_does_not_take_an_old_record_for_a_long_silence() {
    let mut world = World::new();
    let wait = Duration::from_secs(1800);
    world.running(Assignment { disconnect_wait: Some(wait), ..assignment(1) });
    for _ in 0..200 {
        world.pass(SECOND * 10);
        world.tell(Input::Heard { sent: world.now.boot });
    }
    world.restart();
    assert_eq!(world.pass(SECOND), vec![]);
}

#[test]
fn no_wait_is_for_ever() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    world.tell(Input::Heard { sent: world.now.boot });
    assert_eq!(world.pass(Duration::from_secs(30 * 24 * 3600)), vec![]);
    assert_eq!(world.stage(a), Some(Stage::Running));
}

#[test]
fn a_reboot_forgets_the_clock_before_it() {
    let mut world = World::new();
    let wait = Some(Duration::from_secs(600));
    let a = world.running(Assignment { disconnect_wait: wait, ..assignment(1) });
    world.tell(Input::Heard { sent: world.now.boot });
    world.found(a, &[10]);
    world.uploaded(a, save(10), Err(UploadError::Later("down".to_owned())));
    // The clock of the new boot is far behind the old one's; after a short uptime it may be ahead as well.
    for boot_at in [BootNanos::new(5), world.now.boot.plus(Duration::from_secs(7200))] {
        world.agent = Agent::new(Settings::default(), world.kept.clone(), boot("two"));
        world.now.boot = boot_at;
        assert_eq!(world.agent.state().last_heard, None);
        let effects = world.exited(a, 137);
        let all = vec![Effect::Drain(a)];
        assert_eq!(effects, all);
    }
}

#[test]
fn a_run_past_its_budget_fails_whatever_the_wall_clock_says() {
    let mut world = World::new();
    let limit = Duration::from_secs(3600);
    let a = world.running(Assignment { max_time: Some(limit), ..assignment(1) });
    world.now.wall = world.now.wall.plus(Duration::from_secs(48 * 3600));
    assert_eq!(world.pass(SECOND), vec![], "a clock that was set is not time that passed");
    world.now.wall = WallNanos::new(0);
    assert_eq!(world.pass(limit).len(), 1);
    world.exited(a, 75);
    world.tell(drained(a, &[], Some(word("interrupted", 75))));
    assert_eq!(world.ended(), (OutcomeKind::Failed, "max_time"));
}

#[test]
fn a_step_that_fails_is_tried_again_with_pauses_and_then_given_back() {
    let mut world = World::new();
    let a = id(1);
    world.want(vec![assignment(1)]);
    let tries = Settings::default().tries;
    for attempt in 1..tries {
        let result = Err(failed(true, true));
        assert_eq!(world.tell(Input::Staged { attempt: a, result }), vec![], "try {attempt}");
        assert_eq!(world.pass(SECOND).len(), 0);
        assert_eq!(world.pass(Settings::default().pause_cap).len(), 1);
    }
    world.tell(Input::Staged { attempt: a, result: Err(failed(true, true)) });
    assert_eq!(world.ended(), (OutcomeKind::FailedRetryable, "engine_unavailable"));
}

#[test]
fn a_launch_that_fails_is_not_reported_as_running() {
    let mut world = World::new();
    let a = id(1);
    world.want(vec![assignment(1)]);
    world.staged(a);
    world.tell(Input::Launched { attempt: a, result: Err(failed(true, true)) });
    assert_eq!(world.phases().last(), Some(&Phase::Starting));
    world.pass(SECOND * 5);
    world.launched(a);
    assert_eq!(world.phases().last(), Some(&Phase::Running));
}

#[test]
fn each_attempt_has_a_uid_of_its_own() {
    let mut world = World::new();
    let effects = world.want(vec![assignment(1), assignment(2)]);
    let uids: Vec<_> = effects
        .iter()
        .map(|effect| match effect {
            Effect::Stage(_, uid) => *uid,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(uids, vec![1, 2]);
}
