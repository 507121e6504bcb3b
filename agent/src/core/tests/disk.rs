//! Promises of disk, and a disk that fills whatever was promised.

use super::*;
use crate::core::input::Written;

fn promised(job: u64, gib: u64) -> Assignment {
    let promise = Promise { disk: Bytes::gib(gib), ..Promise::default() };
    Assignment { promise, ..assignment(job) }
}

fn wrote(mib: u64) -> Written {
    Written { bytes: Bytes::mib(mib), whole: true }
}

impl World {
    fn measured(&mut self, written: &[(AttemptId, Written)], free: Bytes) -> Vec<Effect> {
        let written = written.iter().copied().collect();
        self.tell(Input::Disk { written, free: Some(free) })
    }
}

const PLENTY: Bytes = Bytes::gib(100);

fn asked(attempt: AttemptId) -> Effect {
    Effect::AskToStop { attempt, container: "c1".to_owned() }
}

fn kill() -> Effect {
    Effect::Kill { container: "c1".to_owned() }
}

#[test]
fn a_job_that_writes_more_than_its_disk_may_save_and_ends_as_failed() {
    let mut world = World::new();
    let id = world.running(promised(1, 10));
    assert_eq!(world.measured(&[(id, wrote(10 << 10))], PLENTY), vec![], "all of it may be used");
    assert_eq!(world.measured(&[(id, wrote((10 << 10) + 1))], PLENTY), vec![asked(id)]);
    assert_eq!(world.measured(&[(id, wrote(11 << 10))], PLENTY), vec![], "it is asked once");
    world.exited(id, 75);
    world.tell(drained(id, &[], Some(word("interrupted", 75))));
    assert_eq!(world.ended(), (OutcomeKind::Failed, "disk_exceeded"));
    let message = &world.outcomes()[0].message;
    for word in ["it wrote 10.0 GiB", "10.0 GiB of disk were promised", "raise `resources.disk`"] {
        assert!(message.contains(word), "{word:?} is missing: {message}");
    }
}

#[test]
fn a_job_that_goes_far_beyond_its_disk_is_killed() {
    let mut world = World::new();
    let id = world.running(promised(1, 10));
    world.measured(&[(id, wrote(11 << 10))], PLENTY);
    assert_eq!(world.measured(&[(id, wrote(16 << 10))], PLENTY), vec![kill()]);
    let mut world = World::new();
    let id = world.running(promised(1, 10));
    let effects = world.measured(&[(id, wrote(16 << 10))], PLENTY);
    assert!(effects.contains(&kill()), "{effects:?}");
    let mut world = World::new();
    let id = world.running(promised(1, 10));
    let uncounted = Written { whole: false, ..wrote(1) };
    let effects = world.measured(&[(id, uncounted)], PLENTY);
    assert!(effects.contains(&kill()), "files beyond counting: {effects:?}");
}

#[test]
fn a_stop_for_disk_outlives_the_agent() {
    let mut world = World::new();
    let id = world.running(promised(1, 10));
    world.measured(&[(id, wrote(16 << 10))], PLENTY);
    let text = serde_json::to_string(&world.kept).expect("text");
    world.kept = serde_json::from_str(&text).expect("the same");
    world.restart();
    world.exited(id, 137);
    world.tell(drained(id, &[], None));
    assert_eq!(world.ended(), (OutcomeKind::Failed, "disk_exceeded"));
}

#[test]
fn saves_that_pile_up_while_the_link_is_cut_go_before_the_job() {
    let mut world = World::new();
    // Two checkpoints are kept.
    let id = world.running(promised(1, 10));
    assert_eq!(world.found(id, &[10, 20, 30, 40, 50]), upload(id, save(10)));
    let effects = world.measured(&[(id, wrote(11 << 10))], PLENTY);
    let discard = |step| Effect::Discard { attempt: id, path: format!("checkpoint-{step}") };
    assert_eq!(effects, vec![discard(20), discard(30)], "not the one on its way, not the newest");
    let told = world.spool.iter().filter(
        |payload| matches!(payload, Payload::Notice { code, .. } if code == "checkpoint_given_up"),
    );
    assert_eq!(told.count(), 2);
    let again = world.found(id, &[20, 30]);
    assert_eq!(again, vec![discard(20), discard(30)], "taken from a tool once more, and not kept");
    assert_eq!(world.found(id, &[10, 40, 50]), vec![], "what waits is not given up");
    assert_eq!(world.measured(&[(id, wrote(9 << 10))], PLENTY), vec![], "there is room again");
    assert_eq!(world.uploaded(id, save(10), Ok(())), upload(id, save(40)));
    assert_eq!(
        world.measured(&[(id, wrote(11 << 10))], PLENTY),
        vec![asked(id)],
        "no more to give"
    );
}

#[test]
fn a_nearly_full_disk_stops_the_largest_writer_and_no_other() {
    let mut world = World::new();
    let first = world.running(promised(1, 100));
    let second = id(2);
    world.want(vec![promised(1, 100), promised(2, 100)]);
    world.staged(second);
    world.tell(Input::Launched { attempt: second, result: Ok("c2".to_owned()) });
    let mib = |n| Bytes::mib(n);
    let written = [(first, wrote(100)), (second, wrote(200))];
    assert_eq!(world.measured(&written, mib(1024)), vec![], "a GiB is enough");
    let stop = Effect::AskToStop { attempt: second, container: "c2".to_owned() };
    assert_eq!(world.measured(&written, mib(1000)), vec![stop]);
    assert_eq!(world.measured(&written, mib(900)), vec![], "its room is waited for");
    let kill = Effect::Kill { container: "c2".to_owned() };
    assert_eq!(world.measured(&written, mib(200)), vec![kill], "no time is left");
    let ended = SeenState::Exited { code: 137, oom: false };
    let ended = Seen { id: "c2".to_owned(), attempt: Some(second), state: ended };
    world.observe(vec![seen(first, SeenState::Running), ended]);
    world.tell(drained(second, &[], None));
    assert_eq!(world.ended(), (OutcomeKind::FailedRetryable, "node_disk_full"));
    assert_eq!(world.measured(&written[..1], PLENTY), vec![], "the other one goes on");
    assert_eq!(world.stage(first), Some(Stage::Running));
}
