//! What every tool on Hugging Face's `Trainer` is told, by the version of transformers; and scripts of users' own.

use serde_json::{Value, json};

use super::batch::Batch;
use super::{
    OUTPUT, RESUME, RenderError, Rendered, Scene, TENSORBOARD, TOOL_DIR, begin, finish, told,
};
use crate::adapters::config::Config;
use crate::adapters::job::{StopSignal, ToolJob};

/// Steps between two records at most: progress is on the screen, and a figure that is not a number is seen.
const MAX_LOGGING_STEPS: u64 = 10;

/// Paths, logging, saves and resume, which are hone's to decide; everything else stays the user's.
pub(super) fn overlay(config: &mut Config, job: &ToolJob, scene: &Scene) {
    let five = scene.versions.at_least("transformers", [5, 0]);
    config.lay("output_dir", OUTPUT);
    config.lay("logging_strategy", "steps");
    config.lay("logging_steps", logging_steps(config, job));
    config.lay("logging_first_step", true);
    // It would replace a loss that is not a number by the mean of those before.
    config.lay("logging_nan_inf_filter", false);
    config.lay("include_num_input_tokens_seen", true);
    let board = scene.versions.has("tensorboard") || scene.versions.has("tensorboardx");
    config.lay("report_to", if board { json!(["tensorboard"]) } else { json!(["none"]) });
    if board && !five {
        config.lay("logging_dir", TENSORBOARD);
    } else if config.get("logging_dir").is_some() {
        // Newer ones take it from the environment alone.
        config.drop("logging_dir");
    }
    // Its bar gives the step where nothing better does.
    config.lay("disable_tqdm", board);
    super::saves::overlay(config, job, scene, super::trigger(job).is_some(), 3);
    config.lay("push_to_hub", false);
    // It would retry with another batch and say nothing.
    config.lay("auto_find_batch_size", false);
    if stops_on_signal(scene) {
        config.lay("enable_jit_checkpoint", true);
    }
    if scene.resumes {
        config.lay("resume_from_checkpoint", RESUME);
    } else {
        config.drop("resume_from_checkpoint");
    }
}

/// Steps between two records: the user's file or the spec says it, within bounds.
pub(super) fn logging_steps(config: &Config, job: &ToolJob) -> u64 {
    let every = match config.get("logging_steps").and_then(Value::as_u64) {
        Some(steps) if job.config.is_some() => steps,
        _ => job.whole("/train/log_every").unwrap_or(1),
    };
    every.clamp(1, MAX_LOGGING_STEPS)
}

/// The spec's schedule, which has a warm-up before it, under the `Trainer`'s name.
pub(super) fn schedule(job: &ToolJob) -> &'static str {
    match job.word("/train/schedule/type") {
        Some("constant") => "constant_with_warmup",
        Some("linear") => "linear",
        _ => "cosine",
    }
}

/// The spec's optimizer where it is not the default one, under the `Trainer`'s name.
pub(super) fn optimizer(job: &ToolJob) -> Option<&'static str> {
    let eight = job.whole("/train/optimizer/bits") == Some(8);
    let paged = job.flag("/train/optimizer/paged").unwrap_or(false);
    match (job.word("/train/optimizer/name"), eight, paged) {
        (Some("adafactor"), _, _) => Some("adafactor"),
        (_, true, true) => Some("paged_adamw_8bit"),
        (_, true, false) => Some("adamw_bnb_8bit"),
        (_, false, true) => Some("paged_adamw_32bit"),
        (_, false, false) => None,
    }
}

/// When the held-out rows are measured, where there are any: every so many steps, else after each pass.
pub(super) fn evaluation(config: &mut Config, job: &ToolJob, scene: &Scene) {
    match (job.whole("/train/eval_every"), scene.eval.is_empty()) {
        (Some(every), false) => {
            config.fill("eval_strategy", "steps");
            config.fill("eval_steps", every);
        }
        (None, false) => config.fill("eval_strategy", "epoch"),
        (_, true) => {}
    }
}

/// From 5.0 on it saves upon SIGTERM, each rank by its own clock: with several they may choose different steps.
pub(super) fn stops_on_signal(scene: &Scene) -> bool {
    scene.versions.at_least("transformers", [5, 0]) && scene.gpus <= 1
}

/// How a tool on this version is stopped.
pub(super) fn stop(scene: &Scene) -> StopSignal {
    if stops_on_signal(scene) { StopSignal::Term } else { StopSignal::None }
}

/// Whether this version pushes its progress.
pub(super) fn pushes(scene: &Scene) -> bool {
    scene.versions.at_least("transformers", [5, 4])
}

/// What the spec says of optimisation, under the names of `TrainingArguments`.
///
/// # Errors
/// When the batch cannot be shared among the GPUs.
pub(super) fn training(
    config: &mut Config,
    job: &ToolJob,
    scene: &Scene,
) -> Result<(), RenderError> {
    let numbers = [
        ("learning_rate", "/train/optimizer/lr"),
        ("weight_decay", "/train/optimizer/weight_decay"),
        ("adam_beta1", "/train/optimizer/betas/0"),
        ("adam_beta2", "/train/optimizer/betas/1"),
        ("max_grad_norm", "/train/clip_norm"),
        ("num_train_epochs", "/train/epochs"),
    ];
    for (key, at) in numbers {
        if let Some(number) = job.number(at) {
            config.fill(key, number);
        }
    }
    let wholes = [("max_steps", "/train/max_steps"), ("seed", "/train/seed")];
    for (key, at) in wholes {
        if let Some(number) = job.whole(at) {
            config.fill(key, number);
        }
    }
    if let Some(name) = optimizer(job) {
        config.fill("optim", name);
    }
    let batch = Batch::of(job, scene)?;
    config.fill("gradient_accumulation_steps", batch.accumulation);
    config.fill("per_device_train_batch_size", batch.micro);
    config.fill("per_device_eval_batch_size", batch.micro);
    config.fill("lr_scheduler_type", schedule(job));
    let warmup = job.number("/train/schedule/warmup").unwrap_or(0.0);
    // Newer ones take a number below 1 for a part of the run; older ones have a key of its own for that.
    let key = if scene.versions.at_least("transformers", [5, 0]) {
        "warmup_steps"
    } else {
        "warmup_ratio"
    };
    config.fill(key, warmup);
    let precision = job.word("/train/precision").unwrap_or("auto");
    config.fill("bf16", precision == "bf16" || precision == "auto" && scene.gpus > 0);
    config.fill("fp16", precision == "fp16");
    config
        .fill("gradient_checkpointing", job.flag("/train/gradient_checkpointing").unwrap_or(false));
    if scene.gpus == 0 {
        config.fill("use_cpu", true);
    }
    evaluation(config, job, scene);
    Ok(())
}

/// A script of the user's own: what is hone's to decide goes into its configuration file when it has one, else onto its
/// command line.
pub(super) fn render(job: &ToolJob, scene: &Scene) -> Result<Rendered, RenderError> {
    let mut config = begin(job)?;
    // All else that the spec says of training is the script's own affair, and has defaults there.
    if let Some(steps) = job.whole("/train/max_steps") {
        config.fill("max_steps", steps);
    }
    overlay(&mut config, job, scene);
    if job.resume.is_some() {
        config.drop("resume_from_checkpoint");
    }
    finish(&mut config, job, scene)?;
    let mut command = scene.command.clone();
    let mut files = Vec::new();
    match &job.config {
        Some(file) => {
            // Where the command names the file it is meant by that; else it is the last argument.
            if !super::name_config(&mut command, &file.name, &file.name) {
                command.push(format!("{TOOL_DIR}/{}", file.name));
            }
            files.push((file.name.clone(), config.to_file()));
        }
        None => command.extend(config.to_flags()),
    }
    let trigger = super::trigger(job);
    Ok(Rendered {
        command,
        environment: Vec::new(),
        files,
        told: told(job, scene, &config, trigger.as_deref()),
        stop: stop(scene),
        trigger,
        pushes: pushes(scene),
        ranks: None,
    })
}
