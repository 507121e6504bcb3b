//! How often a tool on the `Trainer` saves: by steps, or by parts of a run. Minutes and the cost of a save it does not
//! know: they are asked for from outside where it can be asked ([`trigger`](crate::adapters::trigger)), else they become a
//! number of steps, and people are told so.

use serde_json::Value;

use super::said::Said;
use super::{RenderError, Scene};
use crate::adapters::config::Config;
use crate::adapters::job::{ToolJob, ToolKind};

/// Steps between two checkpoints where nothing better can be told to the tool; a spec that names no interval says this.
const STEPS: u64 = 100;
/// Checkpoints that the tool keeps: one is being written, one may be on its way out, and one is whole.
const LEAST_KEPT: u64 = 3;
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
    fn of(said: &Said<'_>, asked: bool) -> Self {
        let job = said.job;
        if let Some(steps) = job.whole("/checkpoint/every_steps") {
            return Self::Steps(steps);
        }
        let Some(epochs) = job.number("/checkpoint/every_epochs") else {
            return Self::Steps(if asked && by_time(job) { NEVER } else { STEPS });
        };
        // A run that is bounded by steps has an unknown number of passes.
        let bounded = said.number("max_steps").is_some_and(|steps| steps > 0.0);
        let all = said.number("num_train_epochs").or_else(|| said.number("num_epochs"));
        match all.filter(|_| !bounded).map(|all| epochs / all) {
            Some(part) if part > 0.0 && part < 1.0 => Self::Part(part),
            _ => Self::Epoch,
        }
    }
}

/// Whether the spec asks for checkpoints by minutes, or by what a save costs.
fn by_time(job: &ToolJob) -> bool {
    job.number("/checkpoint/every_minutes").is_some() || job.flag("/checkpoint/auto") == Some(true)
}

/// Whether the spec names an interval that the tool knows.
fn is_named(job: &ToolJob) -> bool {
    job.whole("/checkpoint/every_steps").is_some_and(|steps| steps != STEPS)
        || job.number("/checkpoint/every_epochs").is_some()
}

/// Whether the user's own saves stay as they are: the best checkpoint can be loaded at the end only where saves and
/// evaluations fall together, which the user's own keys say.
fn are_the_users(said: &Said<'_>) -> bool {
    let own = said.job.config.is_some() || said.job.kind == ToolKind::Hf;
    own && said.is_true(BEST)
        && !is_named(said.job)
        && said.word("save_strategy").is_none_or(|strategy| strategy != "no")
}

/// The key that ties saves to evaluations.
const BEST: &str = "load_best_model_at_end";

/// What is hone's to decide of checkpoints, under the names of `TrainingArguments`: when they are saved, how many stay
/// (`kept` where nobody says), and what is in them. `asked`: it saves as well when it is asked to.
pub(super) fn overlay(config: &mut Config, job: &ToolJob, scene: &Scene, asked: bool, kept: u64) {
    lay(config, job, scene, asked);
    let kept = config.get("save_total_limit").and_then(Value::as_u64).unwrap_or(kept);
    config.lay("save_total_limit", kept.max(LEAST_KEPT));
    config.lay("save_only_model", false);
    lay_format(config, job, scene);
}

/// Lays the intervals over the configuration.
fn lay(config: &mut Config, job: &ToolJob, scene: &Scene, asked: bool) {
    let said = Said { config, job, scene };
    if are_the_users(&said) {
        return;
    }
    let evaluated = evaluations(&said).filter(|_| said.is_true(BEST) && !is_named(job));
    let (strategy, every) = match (evaluated, Saves::of(&said, asked)) {
        (Some((strategy, every)), _) => (strategy, every.map(super::lora::whole_or_real)),
        (None, Saves::Steps(steps)) => ("steps".to_owned(), Some(Value::from(steps))),
        (None, Saves::Part(part)) => ("steps".to_owned(), Some(Value::from(part))),
        (None, Saves::Epoch) => ("epoch".to_owned(), None),
    };
    config.lay("save_strategy", strategy);
    match every {
        Some(every) => config.lay("save_steps", every),
        None => config.drop("save_steps"),
    }
    // Axolotl's own word for the same.
    config.drop("saves_per_epoch");
}

/// Has weights saved as safetensors, which is what a complete checkpoint is known by. Only against what the user says:
/// the `Trainer` does so by itself, and from 5.0 on knows nothing else.
fn lay_format(config: &mut Config, job: &ToolJob, scene: &Scene) {
    let said = Said { config, job, scene };
    let five = scene.versions.at_least("transformers", [5, 0]);
    if !five && said.get("save_safetensors").is_some_and(|value| value != Value::Bool(true)) {
        config.lay("save_safetensors", true);
    }
}

/// When the held-out rows are measured: the strategy, and steps or a part of the run.
fn evaluations(said: &Said<'_>) -> Option<(String, Option<f64>)> {
    let strategy = said.word("eval_strategy").or_else(|| said.word("evaluation_strategy"));
    let every = said.number("eval_steps");
    match strategy {
        Some(strategy) if strategy == "steps" => {
            // Without a number it goes by that of its records.
            Some((strategy, every.or_else(|| said.number("logging_steps"))))
        }
        Some(strategy) => Some((strategy, None)),
        None => every.map(|every| ("steps".to_owned(), Some(every))),
    }
}

/// Refuses saves that the `Trainer` would refuse at each start, where they come from the spec.
///
/// # Errors
/// When the best checkpoint is to be loaded at the end, and saves do not fall on evaluations.
pub(super) fn require_evaluations(said: &Said<'_>) -> Result<(), RenderError> {
    if !said.is_true(BEST) || are_the_users(said) {
        return Ok(());
    }
    let saved = (said.word("save_strategy").unwrap_or_default(), said.number("save_steps"));
    let fits = match evaluations(said) {
        Some((strategy, _)) if strategy != saved.0 => false,
        Some((_, Some(evaluated))) if saved.0 == "steps" => {
            saved.1.is_some_and(|saved| is_multiple(saved, evaluated))
        }
        Some(_) => true,
        None => false,
    };
    if fits {
        return Ok(());
    }
    Err(RenderError::Unsupported(format!(
        "with `{BEST}` every save falls on an evaluation, and `checkpoint.every` says otherwise than `eval_strategy` \
         and `eval_steps`: set it to a multiple of them, or leave it out and give `save_strategy` and `save_steps` in \
         your configuration"
    )))
}

/// Whether one number of steps is a multiple of the other, as the `Trainer` sees it: parts of a run beside parts alone.
fn is_multiple(saved: f64, evaluated: f64) -> bool {
    let times = saved / evaluated;
    (saved < 1.0) == (evaluated < 1.0) && times >= 1.0 && (times - times.round()).abs() < 1e-6
}

/// Whether the user had it save weights alone, against what hone lays over the configuration.
pub(in crate::adapters) fn weights_only(job: &ToolJob) -> bool {
    job.overrides.get("save_only_model").and_then(Value::as_bool).unwrap_or(false)
}

/// What of the spec's word the tool cannot be told. `asked`: it saves as well when it is asked to.
pub(super) fn told(said: &Said<'_>, asked: bool) -> Vec<String> {
    let job = said.job;
    if are_the_users(said) {
        return vec![format!(
            "it saves as you say yourself, since `{BEST}` ties saves to evaluations"
        )];
    }
    let saves = Saves::of(said, asked);
    let instead = match saves {
        Saves::Steps(steps) => format!("every {steps} steps"),
        Saves::Epoch => "at the end of each epoch".to_owned(),
        Saves::Part(part) => format!("{:.0} times", (1.0 / part).ceil()),
    };
    let mut told = Vec::new();
    if by_time(job) && !asked {
        let auto = job.flag("/checkpoint/auto") == Some(true);
        let unknown = if auto { "what a save costs" } else { "minutes" };
        told.push(format!("it knows no checkpoints by {unknown}, and saves {instead}"));
    }
    if let Some(epochs) = job.number("/checkpoint/every_epochs") {
        let dropped = match saves {
            Saves::Steps(_) => true,
            Saves::Epoch => (epochs - 1.0).abs() > f64::EPSILON,
            Saves::Part(_) => false,
        };
        if dropped {
            told.push(format!("it cannot save every {epochs} epochs too, and saves {instead}"));
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(checkpoint: Value, trainer: Value) -> ToolJob {
        let spec = json!({"checkpoint": checkpoint, "trainer": trainer});
        ToolJob::of_spec(&spec.to_string()).expect("a spec").expect("a tool")
    }

    /// What `check` finds where the configuration says this of the run's length.
    fn with<T>(checkpoint: Value, length: &Value, check: impl FnOnce(&Said<'_>) -> T) -> T {
        let mut config = Config::default();
        for (key, value) in length.as_object().expect("a map") {
            config.fill(key, value.clone());
        }
        let job = job(checkpoint, json!({"kind": "trl"}));
        check(&Said { config: &config, job: &job, scene: &Scene::default() })
    }

    #[test]
    fn steps_and_epochs_are_kept_and_what_it_cannot_do_is_told() {
        let two = json!({"num_train_epochs": 2.0, "max_steps": -1});
        let axolotl = json!({"num_epochs": 3});
        for (checkpoint, length, saves, is_told) in [
            (json!({"every_steps": 7, "every_minutes": 5.0}), &two, Saves::Steps(7), true),
            (json!({"every_steps": 7, "every_epochs": 0.5}), &two, Saves::Steps(7), true),
            (json!({"every_epochs": 0.5}), &two, Saves::Part(0.25), false),
            (json!({"every_epochs": 1.5}), &axolotl, Saves::Part(0.5), false),
            (json!({"every_epochs": 1.0}), &two, Saves::Part(0.5), false),
            (json!({"every_epochs": 2.0}), &two, Saves::Epoch, true),
            (json!({"every_epochs": 1.0}), &json!({"max_steps": 50}), Saves::Epoch, false),
            (json!({"every_epochs": 0.5}), &json!({}), Saves::Epoch, true),
            (json!({"auto": true}), &two, Saves::Steps(STEPS), true),
            (json!({}), &two, Saves::Steps(STEPS), false),
        ] {
            with(checkpoint, length, |said| {
                assert_eq!(Saves::of(said, false), saves, "{:?}", said.job.spec);
                assert_eq!(!told(said, false).is_empty(), is_told, "{:?}", said.job.spec);
            });
        }
    }

    #[test]
    fn a_part_of_the_run_is_given_as_one() {
        let saves = |epochs| {
            let mut config = Config::default();
            config.fill("num_train_epochs", 2.0);
            let job = job(json!({"every_epochs": epochs}), json!({"kind": "trl"}));
            lay(&mut config, &job, &Scene::default(), false);
            (config.get("save_strategy").cloned(), config.get("save_steps").cloned())
        };
        assert_eq!(saves(0.5), (Some(json!("steps")), Some(json!(0.25))));
        assert_eq!(saves(3.0), (Some(json!("epoch")), None));
    }

    #[test]
    fn a_tool_that_can_be_asked_needs_no_steps_of_ours() {
        let two = json!({"num_train_epochs": 2.0});
        for (checkpoint, saves) in [
            (json!({"every_minutes": 5.0}), Saves::Steps(NEVER)),
            (json!({"auto": true}), Saves::Steps(NEVER)),
            (json!({"every_minutes": 5.0, "every_steps": 7}), Saves::Steps(7)),
            (json!({"every_minutes": 5.0, "every_epochs": 0.5}), Saves::Part(0.25)),
            (json!({}), Saves::Steps(STEPS)),
        ] {
            with(checkpoint, &two, |said| assert_eq!(Saves::of(said, true), saves));
        }
    }
}
