//! Checkpoints: in order, kept until committed, removed past retention.

use super::*;

fn discard(attempt: AttemptId, step: u64) -> Effect {
    Effect::Discard { attempt, path: format!("checkpoint-{step}") }
}

#[test]
fn uploads_go_one_by_one_oldest_first() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    assert_eq!(world.found(a, &[10, 20]), upload(a, save(10)));
    assert_eq!(world.found(a, &[10, 20, 30]), vec![], "one at a time");
    assert_eq!(world.uploaded(a, save(10), Ok(())), upload(a, save(20)));
    assert_eq!(world.uploaded(a, save(20), Ok(())), upload(a, save(30)));
}

#[test]
fn committed_checkpoints_past_retention_are_deleted_oldest_first() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    world.found(a, &[10, 20, 30, 40]);
    assert_eq!(world.uploaded(a, save(10), Ok(())).len(), 1);
    assert_eq!(world.uploaded(a, save(20), Ok(())).len(), 1);
    let effects = world.uploaded(a, save(30), Ok(()));
    assert_eq!(effects[0], discard(a, 10));
    assert_eq!(world.uploaded(a, save(40), Ok(())), vec![discard(a, 20)]);
}

#[test]
fn a_deletion_that_a_crash_swallowed_is_made_up_for() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    world.found(a, &[10, 20, 30]);
    for step in [10, 20, 30] {
        world.uploaded(a, save(step), Ok(()));
    }
    world.restart();
    assert_eq!(world.found(a, &[10, 20, 30]), vec![discard(a, 10)]);
    assert_eq!(world.found(a, &[20, 30]), vec![]);
}

#[test]
fn what_the_controller_has_already_counts_as_committed() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    world.found(a, &[10, 20]);
    let effects = world.uploaded(a, save(10), Err(UploadError::Overtaken));
    assert_eq!(effects, upload(a, save(20)));
}

#[test]
fn an_upload_is_tried_for_ever_and_the_outcome_waits_for_it() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    world.exited(a, 75);
    world.tell(drained(a, &[10], Some(word("interrupted", 75))));
    for _ in 0..50 {
        let later = Err(UploadError::Later("cut".to_owned()));
        assert_eq!(world.uploaded(a, save(10), later), vec![]);
        assert_eq!(world.pass(Settings::default().pause_cap), upload(a, save(10)));
        assert_eq!(world.outcomes().len(), 0);
    }
    world.uploaded(a, save(10), Ok(()));
    assert_eq!(world.ended(), (OutcomeKind::Interrupted, "interrupted"));
}

#[test]
fn what_can_never_be_taken_is_told_once_and_passed_over() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    world.found(a, &[10, 20]);
    let never = Err(UploadError::Never("a name with a newline".to_owned()));
    assert_eq!(world.uploaded(a, save(10), never), upload(a, save(20)));
    assert_eq!(world.agent.state().attempts[&a].refused, [Step::new(10)].into());
    world.uploaded(a, save(20), Ok(()));
    assert_eq!(world.found(a, &[10, 20]), vec![discard(a, 10)], "a later one is there");
    assert_eq!(world.found(a, &[20, 30]), upload(a, save(30)));
    let notices = world.spool.iter().filter(|p| matches!(p, Payload::Notice { .. })).count();
    assert_eq!(notices, 1);
}

#[test]
fn a_wish_to_save_now_is_passed_on_once() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    let wish = Assignment { checkpoint_requests: 1, ..assignment(1) };
    let ask = vec![Effect::AskToSave { attempt: a, container: "c1".to_owned() }];
    assert_eq!(world.want(vec![wish.clone()]), ask);
    assert_eq!(world.want(vec![wish]), vec![]);
}

#[test]
fn an_attempt_is_not_removed_under_an_upload() {
    let mut world = World::new();
    let a = world.running(assignment(1));
    world.found(a, &[10]);
    assert_eq!(world.want(vec![]), vec![]);
    let effects = world.uploaded(a, save(10), Err(UploadError::Later("cut".to_owned())));
    assert_eq!(effects, vec![], "it pauses first");
    assert_eq!(world.pass(SECOND * 3), remove(a, Some("c1")));
}
