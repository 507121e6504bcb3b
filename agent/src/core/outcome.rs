//! What the end of an attempt means. The trainer's own last word counts before the exit code, because launchers flatten
//! codes; an exit code counts before the engine's out-of-memory flag, which sticks when only a child was killed. A stop
//! that is under way is the outcome only where it explains the end: what failed by itself meanwhile has failed.

use hone_proto::event::{Outcome, OutcomeKind};
use hone_proto::id::AttemptId;

use super::input::{StepError, TrainerWord};
use super::state::{AttemptRecord, StopCause, Stopping};

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

/// Codes that a stop explains where the trainer left no word: the contract's own, signals that end a program which does
/// not know them, what launchers make of any of these, and an end that the engine missed. Others mean that it failed by
/// itself.
const OF_A_STOP: [i64; 7] = [0, 1, 75, 76, 130, 143, ENGINE];

/// What an engine says of a container whose end it missed.
const ENGINE: i64 = 255;

/// The code of a program that was killed.
const KILLED: i64 = 137;

/// The contract's code for "cannot write".
const CANNOT_WRITE: i64 = 73;

fn verdict(record: &AttemptRecord) -> Verdict {
    let word = record.drained.as_ref().and_then(|drained| drained.result.as_ref());
    if let Some(word) = word.filter(|word| word.status == "completed") {
        // A job that exports nothing has no package; the controller knows which of the two it is.
        return Verdict::new(OutcomeKind::Completed, "completed", word.message.clone());
    }
    let own = by_itself(record);
    let Some(stopping) = &record.stopping else { return own };
    let stopped = of_stop(stopping);
    // A limit that was broken is broken, whatever came of the stop: the next attempt would break it again.
    let weaker = stopped.kind == OutcomeKind::Failed && own.kind != OutcomeKind::Failed;
    if weaker || explains(record, stopping, word) {
        return stopped;
    }
    let message = format!("{}; it was being stopped: {}", own.message, stopping.why);
    Verdict { message, ..own }
}

fn of_stop(stopping: &Stopping) -> Verdict {
    let (kind, cause) = match stopping.cause {
        StopCause::Asked => (OutcomeKind::Interrupted, "stopped"),
        StopCause::MaxTime => (OutcomeKind::Failed, "max_time"),
        StopCause::Disk => (OutcomeKind::Failed, "disk_exceeded"),
        StopCause::NodeDisk => (OutcomeKind::FailedRetryable, "node_disk_full"),
    };
    Verdict::new(kind, cause, stopping.why.clone())
}

/// Whether the attempt ended because it was stopped, and not by itself meanwhile.
fn explains(record: &AttemptRecord, stopping: &Stopping, word: Option<&TrainerWord>) -> bool {
    let disk = matches!(stopping.cause, StopCause::Disk | StopCause::NodeDisk);
    let either =
        |code: i64| code == KILLED && stopping.killed.is_some() || code == CANNOT_WRITE && disk;
    // An engine that ends kills what is slow to end; only the kernel kills for want of memory.
    let memory = record.drained.as_ref().is_some_and(|drained| drained.oom_kills > 0);
    match (word, record.exit) {
        (Some(word), _) if word.status == "interrupted" => true,
        // It says that it failed: only a code of the stop itself says otherwise.
        (Some(word), _) => {
            let code = i64::from(word.code);
            matches!(code, 75 | 76 | 130 | 143) || either(code)
        }
        (None, Some((code, oom))) => {
            OF_A_STOP.contains(&code) || either(code) || code == KILLED && !oom && !memory
        }
        // It vanished while it was on its way out.
        (None, None) => true,
    }
}

/// What the end means when nobody asked for it.
fn by_itself(record: &AttemptRecord) -> Verdict {
    use OutcomeKind::{Failed, FailedRetryable, Interrupted};
    let drained = record.drained.as_ref();
    let word = drained.and_then(|drained| drained.result.as_ref());
    let Some((code, oom)) = record.exit else {
        return Verdict::new(FailedRetryable, "container_lost", "its container vanished");
    };
    let kills = drained.map_or(0, |drained| drained.oom_kills);
    if code == KILLED && (oom || kills > 0) {
        let limit = record.assignment.promise.ram;
        return Verdict::new(
            Failed,
            "oom_killed",
            format!("it needed more memory than its {limit}; raise `resources.memory`"),
        );
    }
    match word {
        None => {
            let message = format!("the container ended with code {code} and left no result");
            Verdict::new(FailedRetryable, "no_result", message)
        }
        // Tools that stop on request may exit with 0.
        Some(word) if word.status == "interrupted" => {
            Verdict::new(Interrupted, "interrupted", word.message.clone())
        }
        Some(word) => by_code(word.code, &word.message),
    }
}

/// The trainer's codes, as its contract lists them; for a trainer that says it has not completed.
fn by_code(code: i32, message: &str) -> Verdict {
    use OutcomeKind::{Failed, FailedRetryable, Interrupted};
    let (kind, cause) = match code {
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
