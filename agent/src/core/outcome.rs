//! What the end of an attempt means. The trainer's own last word counts before the exit code, because launchers flatten
//! codes; an exit code counts before the engine's out-of-memory flag, which sticks when only a child was killed.

use hone_proto::event::{Outcome, OutcomeKind};
use hone_proto::id::AttemptId;

use super::input::StepError;
use super::state::AttemptRecord;

/// The outcome of a step that cannot be done here.
#[must_use]
pub fn of_failed_step(attempt: AttemptId, error: &StepError) -> Outcome {
    let kind = if error.elsewhere { OutcomeKind::FailedRetryable } else { OutcomeKind::Failed };
    plain(attempt, kind, &error.cause, &error.message)
}

/// The outcome of an attempt that was stopped before its container ran.
#[must_use]
pub fn of_stop_before_start(attempt: AttemptId, reason: &str) -> Outcome {
    let message = format!("stopped before it started: {reason}");
    plain(attempt, OutcomeKind::Interrupted, "stopped", &message)
}

fn plain(attempt: AttemptId, kind: OutcomeKind, cause: &str, message: &str) -> Outcome {
    Outcome {
        attempt,
        kind,
        exit_code: None,
        cause: cause.to_owned(),
        message: message.to_owned(),
        step: None,
        result_json: String::new(),
    }
}

/// The outcome of an attempt whose container ended and whose remains are all committed.
#[must_use]
pub fn of_exit(attempt: AttemptId, record: &AttemptRecord) -> Outcome {
    let verdict = verdict(record);
    let drained = record.drained.as_ref();
    let word = drained.and_then(|drained| drained.result.as_ref());
    Outcome {
        attempt,
        kind: verdict.kind,
        exit_code: record.exit.and_then(|(code, _)| i32::try_from(code).ok()),
        cause: verdict.cause.to_owned(),
        message: verdict.message,
        step: record.step,
        result_json: word.map(|word| word.json.clone()).unwrap_or_default(),
    }
}

struct Verdict {
    kind: OutcomeKind,
    cause: &'static str,
    message: String,
}

impl Verdict {
    fn new(kind: OutcomeKind, cause: &'static str, message: impl Into<String>) -> Self {
        Self { kind, cause, message: message.into() }
    }
}

fn verdict(record: &AttemptRecord) -> Verdict {
    use OutcomeKind::{Completed, Failed, FailedRetryable, Interrupted};
    let drained = record.drained.as_ref();
    let word = drained.and_then(|drained| drained.result.as_ref());
    if let Some(word) = word.filter(|word| word.status == "completed") {
        // A job that exports nothing has no package; the controller knows which of the two it is.
        return Verdict::new(Completed, "completed", word.message.clone());
    }
    if let Some(stopping) = &record.stopping {
        let kind = if stopping.failure { Failed } else { Interrupted };
        let cause = if stopping.failure { "max_time" } else { "stopped" };
        return Verdict::new(kind, cause, stopping.why.clone());
    }
    let Some((code, oom)) = record.exit else {
        return Verdict::new(FailedRetryable, "container_lost", "its container vanished");
    };
    let kills = drained.map_or(0, |drained| drained.oom_kills);
    if code == 137 && (oom || kills > 0) {
        let limit = record.assignment.promise.ram;
        return Verdict::new(
            Failed,
            "oom_killed",
            format!("it needed more memory than its {limit}; raise `resources.memory`"),
        );
    }
    let Some(word) = word else {
        let message = format!("the container ended with code {code} and left no result");
        return Verdict::new(FailedRetryable, "no_result", message);
    };
    by_code(word.code, &word.message)
}

/// The trainer's codes, as its contract lists them.
fn by_code(code: i32, message: &str) -> Verdict {
    use OutcomeKind::{Completed, Failed, FailedRetryable, Interrupted};
    let (kind, cause) = match code {
        0 | 84 => (Completed, "completed"),
        2 => (Failed, "bad_arguments"),
        65 => (Failed, "data_unusable"),
        66 => (Failed, "input_missing"),
        73 => (FailedRetryable, "cannot_write"),
        75 | 76 => (Interrupted, "interrupted"),
        78 => (Failed, "spec_unsupported"),
        80 => (Failed, "gpu_out_of_memory"),
        81 => (Failed, "host_memory"),
        82 => (Failed, "loss_not_finite"),
        83 => (FailedRetryable, "gpu_fault"),
        128.. => (FailedRetryable, "killed"),
        _ => (FailedRetryable, "trainer_fault"),
    };
    Verdict::new(kind, cause, message)
}
