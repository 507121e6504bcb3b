//! How often a tool on the `Trainer` saves: by steps, or by parts of a run. Minutes and the cost of a save it does not
//! know: they are asked for from outside where it can be asked ([`trigger`](crate::adapters::trigger)), else they become a
//! number of steps, and people are told so.

use serde_json::Value;

use crate::adapters::config::Config;
use crate::adapters::job::ToolJob;

/// Steps between two checkpoints where nothing better can be told to the tool.
const STEPS: u64 = 100;
/// More steps than a run has: it saves at its end, and when it is asked.
const NEVER: u64 = 1_000_000_000;

/// When the tool is to save.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Saves {
    /// Each so many steps.
    Steps(u64),
    /// At the end of each pass over the rows.
    Epoch,
    /// Each time that this part of the run is done, above 0 and below 1.
    Part(f64),
}

impl Saves {
    /// By the spec. Steps are what a tool knows best: where they are given with something else, they count.
    fn of(job: &ToolJob, asked: bool) -> Self {
        if let Some(steps) = job.whole("/checkpoint/every_steps") {
            return Self::Steps(steps);
        }
        let Some(epochs) = job.number("/checkpoint/every_epochs") else {
            return Self::Steps(if asked && by_time(job) { NEVER } else { STEPS });
        };
        // A run that is bounded by steps has an unknown number of passes.
        let bounded = job.whole("/train/max_steps").is_some();
        let part = job.number("/train/epochs").filter(|_| !bounded).map(|all| epochs / all);
        match part {
            Some(part) if part > 0.0 && part < 1.0 => Self::Part(part),
            _ => Self::Epoch,
        }
    }
}

/// Whether the spec asks for checkpoints by minutes, or by what a save costs.
fn by_time(job: &ToolJob) -> bool {
    job.number("/checkpoint/every_minutes").is_some() || job.flag("/checkpoint/auto") == Some(true)
}

/// Lays it over the configuration, under the names of `TrainingArguments`. `asked`: it saves as well when it is asked to.
pub(super) fn lay(config: &mut Config, job: &ToolJob, asked: bool) {
    let (strategy, every) = match Saves::of(job, asked) {
        Saves::Steps(steps) => ("steps", Some(Value::from(steps))),
        Saves::Part(part) => ("steps", Some(Value::from(part))),
        Saves::Epoch => ("epoch", None),
    };
    config.lay("save_strategy", strategy);
    match every {
        Some(every) => config.lay("save_steps", every),
        None => config.drop("save_steps"),
    }
}

/// Whether the user had it save weights alone, against what hone lays over the configuration.
pub(in crate::adapters) fn weights_only(job: &ToolJob) -> bool {
    job.overrides.get("save_only_model").and_then(Value::as_bool).unwrap_or(false)
}

/// What of the spec's word the tool cannot be told.
pub(super) fn told(job: &ToolJob) -> Option<String> {
    if !by_time(job) {
        return None;
    }
    let instead = match Saves::of(job, false) {
        Saves::Steps(steps) => format!("every {steps} steps"),
        Saves::Epoch => "at the end of each epoch".to_owned(),
        Saves::Part(part) => format!("{:.0} times", (1.0 / part).ceil()),
    };
    let unknown =
        if job.flag("/checkpoint/auto") == Some(true) { "what a save costs" } else { "minutes" };
    Some(format!("it knows no checkpoints by {unknown}, and saves {instead}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(checkpoint: Value, train: Value) -> ToolJob {
        let spec = json!({"checkpoint": checkpoint, "train": train, "trainer": {"kind": "trl"}});
        ToolJob::of_spec(&spec.to_string()).expect("a spec").expect("a tool")
    }

    #[test]
    fn steps_and_epochs_are_kept_and_what_it_cannot_do_is_told() {
        let two = json!({"epochs": 2.0});
        for (checkpoint, train, saves, is_told) in [
            (json!({"every_steps": 7, "every_minutes": 5.0}), &two, Saves::Steps(7), true),
            (json!({"every_epochs": 0.5}), &two, Saves::Part(0.25), false),
            (json!({"every_epochs": 1.0}), &two, Saves::Part(0.5), false),
            (json!({"every_epochs": 2.0}), &two, Saves::Epoch, false),
            (json!({"every_epochs": 1.0}), &json!({"max_steps": 50}), Saves::Epoch, false),
            (json!({"auto": true}), &two, Saves::Steps(STEPS), true),
            (json!({}), &two, Saves::Steps(STEPS), false),
        ] {
            let job = job(checkpoint, train.clone());
            assert_eq!(Saves::of(&job, false), saves, "{:?}", job.spec);
            assert_eq!(told(&job).is_some(), is_told, "{:?}", job.spec);
        }
    }

    #[test]
    fn a_part_of_the_run_is_given_as_one() {
        let mut config = Config::default();
        lay(&mut config, &job(json!({"every_epochs": 0.5}), json!({"epochs": 2.0})), false);
        assert_eq!(config.get("save_steps"), Some(&json!(0.25)));
        assert_eq!(config.get("save_strategy"), Some(&json!("steps")));
        lay(&mut config, &job(json!({"every_epochs": 3.0}), json!({"epochs": 2.0})), false);
        assert_eq!(config.get("save_steps"), None);
        assert_eq!(config.get("save_strategy"), Some(&json!("epoch")));
    }

    #[test]
    fn a_tool_that_can_be_asked_needs_no_steps_of_ours() {
        let two = json!({"epochs": 2.0});
        for (checkpoint, saves) in [
            (json!({"every_minutes": 5.0}), Saves::Steps(NEVER)),
            (json!({"auto": true}), Saves::Steps(NEVER)),
            (json!({"every_minutes": 5.0, "every_steps": 7}), Saves::Steps(7)),
            (json!({"every_minutes": 5.0, "every_epochs": 0.5}), Saves::Part(0.25)),
            (json!({}), Saves::Steps(STEPS)),
        ] {
            assert_eq!(Saves::of(&job(checkpoint, two.clone()), true), saves);
        }
    }
}
