//! What an end means: the trainer's last word, then the exit code, then the kernel's counters.

use super::super::outcome::{of_exit, of_failed_step};
use super::super::state::{AttemptRecord, StopCause, Stopping};
use super::*;

struct End {
    exit: Option<(i64, bool)>,
    word: Option<TrainerWord>,
    kills: u64,
    stop: Option<StopCause>,
    /// The agent killed it after the grace.
    killed: bool,
}

impl End {
    fn code(code: i64) -> Self {
        Self { exit: Some((code, false)), word: None, kills: 0, stop: None, killed: false }
    }
    fn said(code: i64, status: &str, meant: i32) -> Self {
        Self { word: Some(word(status, meant)), ..Self::code(code) }
    }
}

fn stopped(end: End, cause: StopCause) -> End {
    End { stop: Some(cause), ..end }
}

fn killed(end: End, cause: StopCause) -> End {
    End { killed: true, ..stopped(end, cause) }
}

fn classify(end: End) -> (OutcomeKind, String) {
    let mut record = AttemptRecord::new(assignment(1), 1);
    record.exit = end.exit;
    record.drained = Some(Drained {
        step: None,
        checkpoints: vec![],
        package: None,
        result: end.word,
        oom_kills: end.kills,
    });
    record.stopping = end.stop.map(|cause| Stopping {
        since: BootNanos::default(),
        why: "told".to_owned(),
        killed: end.killed.then(BootNanos::default),
        cause,
        at_once: false,
    });
    let outcome = of_exit(id(1), &record);
    (outcome.kind, outcome.cause)
}

#[test]
fn every_end_has_its_meaning() {
    use OutcomeKind::{Completed, Failed, FailedRetryable, Interrupted};
    let table = [
        (End::said(0, "completed", 0), Completed, "completed"),
        // Launchers flatten codes; the word counts.
        (End::said(1, "completed", 0), Completed, "completed"),
        (End::said(255, "interrupted", 75), Interrupted, "interrupted"),
        (End::said(1, "interrupted", 76), Interrupted, "interrupted"),
        (End::said(1, "failed", 2), Failed, "bad_arguments"),
        (End::said(1, "failed", 65), Failed, "data_unusable"),
        (End::said(1, "failed", 66), Failed, "input_missing"),
        (End::said(1, "failed", 73), FailedRetryable, "cannot_write"),
        (End::said(1, "failed", 78), Failed, "spec_unsupported"),
        (End::said(1, "failed", 80), Failed, "gpu_out_of_memory"),
        (End::said(1, "failed", 81), Failed, "host_memory"),
        (End::said(1, "failed", 82), Failed, "loss_not_finite"),
        (End::said(1, "failed", 83), FailedRetryable, "gpu_fault"),
        (End::said(1, "failed", 143), FailedRetryable, "killed"),
        (End::said(1, "failed", 1), FailedRetryable, "trainer_fault"),
        // No word: no code counts as success, since the engine's own codes are not evidence.
        (End::code(0), FailedRetryable, "no_result"),
        (End::code(255), FailedRetryable, "no_result"),
        (End::code(137), FailedRetryable, "no_result"),
        // Out of memory needs the code and a counter; each alone is something else.
        (End { exit: Some((137, true)), ..End::code(137) }, Failed, "oom_killed"),
        (End { kills: 1, ..End::code(137) }, Failed, "oom_killed"),
        (End { kills: 1, ..End::code(1) }, FailedRetryable, "no_result"),
        (End { kills: 1, ..End::said(0, "completed", 0) }, Completed, "completed"),
        (End { exit: None, ..End::code(0) }, FailedRetryable, "container_lost"),
        (End::said(0, "interrupted", 0), Interrupted, "interrupted"),
        (End::said(0, "failed", 0), FailedRetryable, "trainer_fault"),
        // A stop that was asked for, in time or not.
        (killed(End::code(137), StopCause::Asked), Interrupted, "stopped"),
        (stopped(End::said(0, "interrupted", 75), StopCause::Asked), Interrupted, "stopped"),
        (stopped(End::said(0, "completed", 0), StopCause::Asked), Completed, "completed"),
        (stopped(End::said(0, "interrupted", 75), StopCause::MaxTime), Failed, "max_time"),
        (stopped(End::said(0, "completed", 0), StopCause::MaxTime), Completed, "completed"),
        // The disk: the job's own fault, or the machine's.
        (stopped(End::said(0, "interrupted", 75), StopCause::Disk), Failed, "disk_exceeded"),
        (killed(End::code(137), StopCause::NodeDisk), FailedRetryable, "node_disk_full"),
    ];
    for (place, (end, kind, cause)) in table.into_iter().enumerate() {
        assert_eq!(classify(end), (kind, cause.to_owned()), "line {place}");
    }
}

#[test]
fn a_stop_hides_no_failure_and_excuses_what_it_caused() {
    use OutcomeKind::{Failed, FailedRetryable, Interrupted};
    use StopCause::{Asked, Disk, MaxTime, NodeDisk};
    let table = [
        // Out of memory while it was being stopped, and not by this agent's own kill.
        (stopped(End { kills: 1, ..End::code(137) }, Asked), Failed, "oom_killed"),
        (stopped(End { exit: Some((137, true)), ..End::code(137) }, MaxTime), Failed, "oom_killed"),
        (killed(End { kills: 1, ..End::code(137) }, Asked), Interrupted, "stopped"),
        // The trainer's own word, also when it had to be killed afterwards.
        (stopped(End::said(1, "failed", 82), Asked), Failed, "loss_not_finite"),
        (killed(End::said(137, "failed", 80), Asked), Failed, "gpu_out_of_memory"),
        (stopped(End::said(1, "failed", 83), Asked), FailedRetryable, "gpu_fault"),
        (stopped(End::said(1, "failed", 1), Asked), FailedRetryable, "trainer_fault"),
        (stopped(End::said(0, "interrupted", 0), Asked), Interrupted, "stopped"),
        (stopped(End::said(143, "failed", 143), Asked), Interrupted, "stopped"),
        // Without one: what signals and launchers make of a stop, and what they do not.
        (stopped(End::code(143), Asked), Interrupted, "stopped"),
        (stopped(End::code(75), Asked), Interrupted, "stopped"),
        (stopped(End::code(1), Asked), Interrupted, "stopped"),
        (stopped(End::code(0), Asked), Interrupted, "stopped"),
        (stopped(End { exit: None, ..End::code(0) }, Asked), Interrupted, "stopped"),
        // An engine that ends, as on a machine that is shut down, kills, or does not know what became of it.
        (stopped(End::code(137), Asked), Interrupted, "stopped"),
        (stopped(End::code(255), Asked), Interrupted, "stopped"),
        (stopped(End::said(255, "failed", 83), Asked), FailedRetryable, "gpu_fault"),
        (stopped(End::code(139), Asked), FailedRetryable, "no_result"),
        (stopped(End::code(82), Asked), FailedRetryable, "no_result"),
        // A broken limit stays one, and a full disk explains that nothing could be written.
        (stopped(End::code(139), MaxTime), Failed, "max_time"),
        (stopped(End::said(1, "failed", 82), MaxTime), Failed, "loss_not_finite"),
        (stopped(End::said(1, "failed", 73), Disk), Failed, "disk_exceeded"),
        (stopped(End::said(1, "failed", 73), NodeDisk), FailedRetryable, "node_disk_full"),
        (stopped(End::said(1, "failed", 73), Asked), FailedRetryable, "cannot_write"),
    ];
    for (place, (end, kind, cause)) in table.into_iter().enumerate() {
        assert_eq!(classify(end), (kind, cause.to_owned()), "line {place}");
    }
}

#[test]
fn a_step_that_cannot_be_done_here_may_be_done_elsewhere() {
    let kind = |elsewhere| of_failed_step(id(1), &failed(false, elsewhere)).kind;
    assert_eq!(kind(true), OutcomeKind::FailedRetryable);
    assert_eq!(kind(false), OutcomeKind::Failed);
}

#[test]
fn a_node_that_is_revoked_stops_what_runs_and_begins_nothing() {
    let mut world = World::new();
    let running = world.running(assignment(1));
    world.want(vec![assignment(1), assignment(2)]);
    assert_eq!(world.stage(id(2)), Some(Stage::Staging));
    let effects = world.tell(Input::Dismissed { why: "the node was revoked".to_owned() });
    let stop = Effect::AskToStop { attempt: running, container: "c1".to_owned() };
    assert_eq!(effects, vec![stop]);
    assert_eq!(world.stage(id(2)), Some(Stage::Ended), "what has not started never does");
    assert_eq!(world.pass(GRACE + SECOND), vec![Effect::Kill { container: "c1".to_owned() }]);
    world.exited(running, 137);
    world.tell(drained(running, &[], None));
    let outcomes: Vec<_> = world.outcomes().iter().map(|o| (o.kind, o.cause.clone())).collect();
    let stopped = (OutcomeKind::Interrupted, "stopped".to_owned());
    assert_eq!(outcomes, [stopped.clone(), stopped]);
    world.restart();
    let effects = world.want(vec![assignment(3)]);
    let staged = effects.iter().any(|effect| matches!(effect, Effect::Stage(..)));
    assert!(staged, "only that life was told: {effects:?}");
}
