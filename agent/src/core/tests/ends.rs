//! What an end means: the trainer's last word, then the exit code, then the kernel's counters.

use super::super::outcome::{of_exit, of_failed_step};
use super::super::state::{AttemptRecord, Stopping};
use super::*;

struct End {
    exit: Option<(i64, bool)>,
    word: Option<TrainerWord>,
    kills: u64,
    stop: Option<bool>,
}

impl End {
    fn code(code: i64) -> Self {
        Self { exit: Some((code, false)), word: None, kills: 0, stop: None }
    }
    fn said(code: i64, status: &str, meant: i32) -> Self {
        Self { word: Some(word(status, meant)), ..Self::code(code) }
    }
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
    record.stopping = end.stop.map(|failure| Stopping {
        since: BootNanos::default(),
        why: "told".to_owned(),
        killed: None,
        failure,
    });
    let outcome = of_exit(id(1), &record);
    (outcome.kind, outcome.cause)
}

#[test]
fn every_end_has_its_meaning() {
    use OutcomeKind::{Completed, Failed, FailedRetryable, Interrupted};
    let stopped = |end: End, failure| End { stop: Some(failure), ..end };
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
        // A stop that was asked for, in time or not.
        (stopped(End::code(137), false), Interrupted, "stopped"),
        (stopped(End::said(0, "interrupted", 75), false), Interrupted, "stopped"),
        (stopped(End::said(0, "completed", 0), false), Completed, "completed"),
        (stopped(End::said(0, "interrupted", 75), true), Failed, "max_time"),
        (stopped(End::said(0, "completed", 0), true), Completed, "completed"),
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
