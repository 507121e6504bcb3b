//! How the run of a tool ended, in the words of hone's own trainer.
//!
//! An exit code of 0 proves nothing: a tool that saves on SIGTERM goes on as if training had ended and exits with 0, and
//! a launcher exits with 1 after a clean save. The number of steps decides; the code says whether what came after the
//! last step went well.

use hone_proto::id::Step;
use serde_json::json;

use crate::core::input::TrainerWord;
use crate::tools::elastic::RankError;
use crate::tools::signs::{Cause, Sign};

/// What is known of a run that ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Evidence {
    /// The container's exit code; absent when it vanished.
    pub exit: Option<i64>,
    /// It was asked to stop before it ended.
    pub asked: bool,
    /// Steps completed, as the newest state file or metric says.
    pub step: Option<Step>,
    /// Steps of the whole run, as the state file or the spec says.
    pub max_steps: Option<Step>,
    /// The tool ended before its last step because its metric stopped improving.
    pub early_stop: bool,
    /// What its last lines tell of a failure.
    pub sign: Option<Sign>,
    /// What the first of several processes that failed said of it.
    pub rank: Option<RankError>,
}

/// The contract's codes.
const COMPLETED: i32 = 0;
const FAULT: i32 = 70;
const INTERRUPTED: i32 = 75;
const EARLY_STOP: i32 = 84;

/// Ended by SIGINT, SIGKILL, SIGUSR1 or SIGTERM: somebody ended it, and what it printed before, a warning perhaps, is not
/// why.
const BY_SIGNAL: [i64; 4] = [130, KILLED, 138, 143];
const KILLED: i64 = 137;

/// What torchrun raises when it is signalled itself.
const SIGNALLED: &str = "SignalException";

/// The last word on a run, as hone's own trainer would have left it.
#[must_use]
pub fn verdict(evidence: &Evidence) -> TrainerWord {
    let done = match (evidence.step, evidence.max_steps) {
        (Some(step), Some(max)) => Some(step >= max && max > Step::default()),
        // It was told how long to run, and nothing was seen of it.
        (None, Some(_)) => Some(false),
        (_, None) => None,
    };
    let steps = match (evidence.step, evidence.max_steps) {
        (Some(step), Some(max)) => format!("step {step} of {max}"),
        (Some(step), None) => format!("step {step}"),
        (None, _) => "no step that was seen".to_owned(),
    };
    match (evidence.exit, done) {
        (Some(0), _) if evidence.early_stop => {
            word("completed", EARLY_STOP, format!("stopped early at {steps}"), evidence)
        }
        // Many tools save and exit with 0 when they are asked to stop: only its length could say that it was done.
        (Some(0), None) if evidence.asked => {
            let message = format!("it was asked to stop and ended at {steps}");
            word("interrupted", INTERRUPTED, message, evidence)
        }
        (Some(0), Some(true) | None) => {
            word("completed", COMPLETED, format!("it ended at {steps}"), evidence)
        }
        (Some(0), Some(false)) => {
            let message = format!("it ended with code 0 after {steps}, before the last");
            word("interrupted", INTERRUPTED, message, evidence)
        }
        (Some(code), _) if evidence.asked && of_a_stop(code, evidence) => {
            let message = format!("it was asked to stop and ended with code {code} at {steps}");
            word("interrupted", INTERRUPTED, message, evidence)
        }
        (Some(code), _) => failed(code, &steps, evidence),
        (None, _) => word("failed", FAULT, format!("its container vanished at {steps}"), evidence),
    }
}

/// Whether a stop that was asked for is why it ended with this code: a signal that the tool, or the first of its processes,
/// does not know, or a launcher that makes 1 of that. What failed by itself meanwhile has failed. What was killed may
/// have been killed for want of memory, which is not known here.
fn of_a_stop(code: i64, evidence: &Evidence) -> bool {
    let own = evidence.rank.as_ref().map_or(code, |rank| ended_with(rank, code));
    if BY_SIGNAL.contains(&own) {
        return own != KILLED;
    }
    let said = evidence.rank.as_ref().is_none_or(|rank| rank.message.contains(SIGNALLED));
    // Processes lose each other when they end one after the other.
    let fatal = |sign: &Sign| !matches!(sign.cause, Cause::Launcher | Cause::Communication);
    own == 1 && said && !evidence.sign.as_ref().is_some_and(fatal)
}

/// The code of the process that failed first, below a launcher that ended with `code`.
fn ended_with(rank: &RankError, code: i64) -> i64 {
    rank.exit.filter(|own| *own != 0).map_or(code, as_shells_say)
}

fn failed(code: i64, steps: &str, evidence: &Evidence) -> TrainerWord {
    // That a launcher ended says nothing, when the process that made it end has told why.
    let sign = evidence.sign.as_ref();
    let sign = sign.filter(|sign| sign.cause != Cause::Launcher || evidence.rank.is_none());
    let (own, ended) = match &evidence.rank {
        Some(rank) => {
            let own = ended_with(rank, code);
            (own, format!("a process failed with code {own} at {steps}: {}", rank.message))
        }
        None => (code, format!("it ended with code {code} at {steps}")),
    };
    let message = match sign {
        Some(sign) if BY_SIGNAL.contains(&own) => {
            format!("{ended}; its output says: {}", sign.line)
        }
        Some(sign) => {
            let (what, hint) = (sign.cause.what(), sign.cause.hint());
            let message = format!("{what}; {hint} (at {steps}): {}", sign.line);
            return word("failed", sign.cause.code(), message, evidence);
        }
        None => ended,
    };
    // Killed by a signal, or refused its arguments: the code says so itself. What else it means is its own secret.
    let known = if own == 2 || own >= 128 { i32::try_from(own).unwrap_or(FAULT) } else { FAULT };
    word("failed", known, message, evidence)
}

/// A signal is negative among launchers, and above 128 everywhere else.
const fn as_shells_say(exit: i64) -> i64 {
    if exit < 0 { 128_i64.saturating_sub(exit) } else { exit }
}

fn word(status: &str, code: i32, message: String, evidence: &Evidence) -> TrainerWord {
    let json = json!({
        "v": 1, "by": "agent", "status": status, "code": code, "reason": message,
        "step": evidence.step.map(Step::get), "max_steps": evidence.max_steps.map(Step::get),
        "exit": evidence.exit,
    });
    TrainerWord {
        status: status.to_owned(),
        code,
        message,
        step: evidence.step,
        json: json.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::signs::Cause;

    fn of(exit: Option<i64>, step: u64, max: Option<u64>) -> (String, i32) {
        let evidence = Evidence {
            exit,
            step: Some(Step::new(step)),
            max_steps: max.map(Step::new),
            ..Evidence::default()
        };
        let word = verdict(&evidence);
        assert_eq!(word.step, Some(Step::new(step)));
        (word.status, word.code)
    }

    #[test]
    fn steps_decide_and_not_the_exit_code() {
        let is = |status: &str, code: i32| (status.to_owned(), code);
        assert_eq!(of(Some(0), 40, Some(40)), is("completed", 0));
        assert_eq!(of(Some(0), 22, Some(40)), is("interrupted", 75), "saved upon SIGTERM");
        assert_eq!(of(Some(1), 40, Some(40)), is("failed", 70), "its last save failed");
        assert_eq!(of(Some(143), 22, Some(40)), is("failed", 143));
        assert_eq!(of(Some(2), 0, Some(40)), is("failed", 2));
        assert_eq!(of(Some(0), 5, None), is("completed", 0), "nothing says how long it is");
        assert_eq!(of(None, 40, Some(40)), is("failed", 70));
        let unseen =
            Evidence { exit: Some(0), max_steps: Some(Step::new(9)), ..Evidence::default() };
        assert_eq!(verdict(&unseen).status, "interrupted");
    }

    #[test]
    fn an_end_that_was_asked_for_completes_only_a_run_whose_last_step_was_seen() {
        let of = |step: Option<u64>, max: Option<u64>| {
            let (step, max_steps) = (step.map(Step::new), max.map(Step::new));
            let exit = Some(0);
            let asked = true;
            let word = verdict(&Evidence { exit, asked, step, max_steps, ..Evidence::default() });
            (word.status, word.code)
        };
        let interrupted = ("interrupted".to_owned(), 75);
        assert_eq!(of(Some(5), None), interrupted, "nothing says how long it is");
        assert_eq!(of(None, None), interrupted);
        assert_eq!(of(Some(39), Some(40)), interrupted);
        assert_eq!(of(Some(40), Some(40)), ("completed".to_owned(), 0));
    }

    #[test]
    fn what_the_output_names_is_the_cause_and_an_early_stop_is_an_end() {
        let sign = Sign {
            cause: Cause::GpuMemory,
            line: "torch.OutOfMemoryError: CUDA out of memory".to_owned(),
        };
        let evidence = Evidence { exit: Some(1), sign: Some(sign), ..Evidence::default() };
        let word = verdict(&evidence);
        assert_eq!((word.code, word.status.as_str()), (80, "failed"));
        assert!(word.message.contains("CUDA out of memory"), "{}", word.message);
        let early = Evidence {
            exit: Some(0),
            step: Some(Step::new(10)),
            max_steps: Some(Step::new(40)),
            early_stop: true,
            ..Evidence::default()
        };
        assert_eq!((verdict(&early).status.as_str(), verdict(&early).code), ("completed", 84));
    }

    #[test]
    fn a_launcher_that_was_asked_to_stop_ends_with_1_and_has_not_failed() {
        let sign = |cause| Some(Sign { cause, line: "x".to_owned() });
        let rank = |message: &str, exit| {
            Some(RankError { message: message.to_owned(), exit, trace: String::new() })
        };
        let of = |exit: i64, asked: bool, sign: Option<Sign>, rank: Option<RankError>| {
            let exit = Some(exit);
            let word = verdict(&Evidence { exit, asked, sign, rank, ..Evidence::default() });
            (word.status == "interrupted", word.code)
        };
        let stopped = (true, 75);
        let by_torchrun = rank("SignalException: Process 7 got signal: 15", None);
        assert_eq!(of(1, true, None, None), stopped);
        assert_eq!(of(1, true, None, by_torchrun.clone()), stopped);
        assert_eq!(of(1, true, sign(Cause::Launcher), rank("", Some(-15))), stopped);
        assert_eq!(of(1, true, sign(Cause::Communication), None), stopped);
        assert_eq!(of(143, true, sign(Cause::NoFlashAttention), None), stopped);
        assert_eq!(of(1, false, None, by_torchrun), (false, 70), "nobody asked");
        assert_eq!(of(1, true, sign(Cause::GpuMemory), None), (false, 80), "it failed by itself");
        assert_eq!(of(1, true, None, rank("ValueError: x", Some(1))), (false, 70));
        assert_eq!(of(137, true, None, None), (false, 137), "for want of memory, perhaps");
        assert_eq!(of(139, true, None, None), (false, 139), "it crashed");
    }

    #[test]
    fn what_was_printed_does_not_explain_the_end_of_what_was_killed() {
        let line = "flash_attn: No module named flash_attn".to_owned();
        let sign = Some(Sign { cause: Cause::NoFlashAttention, line });
        let of = |code: i64, asked: bool| {
            let sign = sign.clone();
            let exit = Some(code);
            let word = verdict(&Evidence { exit, asked, sign, ..Evidence::default() });
            assert!(word.message.contains("No module named"), "{}", word.message);
            (word.status, word.code)
        };
        for (code, known) in [(130, 130), (137, 137), (138, 138), (143, 143), (1, 78), (135, 78)] {
            assert_eq!(of(code, false), ("failed".to_owned(), known), "{code}");
        }
        let rank = RankError { message: String::new(), exit: Some(-9), trace: String::new() };
        let (exit, rank) = (Some(1), Some(rank));
        let word = verdict(&Evidence { exit, sign, rank, ..Evidence::default() });
        assert_eq!(word.code, 137, "a launcher's child was killed");
    }

    #[test]
    fn the_process_that_failed_first_explains_what_its_launcher_says() {
        let launcher = Sign { cause: Cause::Launcher, line: "ChildFailedError".to_owned() };
        let rank = |exit| RankError {
            message: "ValueError: the loss is wrong".to_owned(),
            exit,
            trace: String::new(),
        };
        let of = |cause, rank: Option<RankError>| {
            let sign = Some(Sign { cause, ..launcher.clone() });
            let word = verdict(&Evidence { exit: Some(1), sign, rank, ..Evidence::default() });
            (word.code, word.message.contains("the loss is wrong"))
        };
        assert_eq!(of(Cause::Launcher, None), (70, false));
        assert_eq!(of(Cause::Launcher, Some(rank(Some(1)))), (70, true), "its own secret");
        assert_eq!(of(Cause::Launcher, Some(rank(Some(-9)))), (137, true), "killed");
        assert_eq!(of(Cause::Launcher, Some(rank(Some(i64::MIN)))), (70, true));
        assert_eq!(of(Cause::GpuMemory, Some(rank(None))), (80, false), "it has a name");
    }
}
