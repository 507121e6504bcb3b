//! `axolotl train`, from its own keys (`src/axolotl/utils/schemas/`). Version 0.18.0 was run with what is rendered here:
//! `tests/fixtures/recipes/axolotl`.

use serde_json::{Value, json};

use super::batch::Batch;
use super::rows::{files_of, loader};
use super::{
    MODEL, OUTPUT, RenderError, Rendered, Scene, TENSORBOARD, TOOL_DIR, begin, finish,
    hugging_face, lora, require, told,
};
use crate::adapters::config::Config;
use crate::adapters::job::{StopSignal, ToolJob};
use crate::adapters::trigger;

/// The rendered configuration.
const NAME: &str = "axolotl.yaml";
/// Its names for an adapter.
const LORA: lora::Names =
    lora::Names { rank: "lora_r", rslora: "peft_use_rslora", dora: "peft_use_dora" };

pub(super) fn render(job: &ToolJob, scene: &Scene) -> Result<Rendered, RenderError> {
    require(scene, "axolotl")?;
    let mut config = begin(job)?;
    if job.config.is_none() {
        whole(&mut config, job, scene)?;
    }
    let trigger = trigger_of(scene);
    overlay(&mut config, job, scene, trigger);
    finish(&mut config, job, scene)?;
    let launcher: &[&str] =
        if scene.gpus > 1 { &["--launcher", "torchrun"] } else { &["--launcher", "python"] };
    let mut command: Vec<String> =
        vec!["axolotl".to_owned(), "train".to_owned(), format!("{TOOL_DIR}/{NAME}")];
    command.extend(launcher.iter().map(|word| (*word).to_owned()));
    if scene.gpus > 1 {
        command.extend(["--".to_owned(), format!("--nproc_per_node={}", scene.gpus)]);
    }
    Ok(Rendered {
        command,
        environment: vec![("AXOLOTL_TEE_STDOUT".to_owned(), "0".to_owned())],
        files: vec![(NAME.to_owned(), config.to_file())],
        told: told(job, scene, &config, trigger),
        // It does not pass on what makes the `Trainer` save upon a signal: SIGTERM would end it where it is.
        stop: StopSignal::None,
        trigger: trigger.map(str::to_owned),
        pushes: hugging_face::pushes(scene),
        ranks: Some(scene.gpus.max(1)),
    })
}

/// The file that makes it save, which releases from 0.14 on look for.
fn trigger_of(scene: &Scene) -> Option<&'static str> {
    scene.versions.at_least("axolotl", [0, 14]).then_some(trigger::AXOLOTL)
}

/// Its own names for what is hone's to decide. It passes over keys that it does not know and says nothing.
fn overlay(config: &mut Config, job: &ToolJob, scene: &Scene, trigger: Option<&str>) {
    config.lay("output_dir", OUTPUT);
    config.lay("dataset_prepared_path", "/hone/cache/prepared");
    config.lay("logging_steps", hugging_face::logging_steps(config, job));
    super::saves::overlay(config, job, scene, trigger.is_some(), 4);
    if let Some(name) = trigger {
        // With several processes each look is a broadcast, for which all of them wait.
        let every = if scene.gpus > 1 { 10 } else { 1 };
        let look = json!({"enabled": true, "check_interval": every, "trigger_file_path": name});
        config.lay("dynamic_checkpoint", look);
    }
    config.lay("use_tensorboard", true);
    if !scene.versions.at_least("transformers", [5, 0]) {
        config.lay("logging_dir", TENSORBOARD);
    }
    config.lay("include_tokens_per_second", false);
    config.drop("hub_model_id");
    config.drop("auto_resume_from_checkpoints");
    if scene.resumes {
        config.lay("resume_from_checkpoint", super::RESUME);
    } else {
        config.drop("resume_from_checkpoint");
    }
}

/// A configuration from the spec alone.
fn whole(config: &mut Config, job: &ToolJob, scene: &Scene) -> Result<(), RenderError> {
    config.fill("base_model", MODEL);
    let shape = shape(job)?;
    let of = |channel: &str, names: &[String]| -> Result<Vec<Value>, RenderError> {
        let with = |(path, name): (String, &String)| {
            let mut one = shape.clone();
            one["path"] = json!(path);
            one["ds_type"] = json!(loader("Axolotl", name)?);
            Ok(one)
        };
        files_of(channel, names).into_iter().zip(names).map(with).collect()
    };
    config.fill("datasets", of("train", &scene.train)?);
    if !scene.eval.is_empty() {
        let mut eval = of("eval", &scene.eval)?;
        eval.iter_mut().for_each(|one| one["split"] = json!("train"));
        config.fill("test_datasets", eval);
    }
    config.fill("sequence_len", job.whole("/train/seq_len").unwrap_or(1024));
    let batch = Batch::of(job, scene)?;
    config.fill("micro_batch_size", batch.micro);
    config.fill("gradient_accumulation_steps", batch.accumulation);
    config.fill("optimizer", hugging_face::optimizer(job).unwrap_or("adamw_torch_fused"));
    config.fill("learning_rate", job.number("/train/optimizer/lr").unwrap_or(2e-4));
    config.fill("lr_scheduler", hugging_face::schedule(job));
    config.fill("warmup_ratio", job.number("/train/schedule/warmup").unwrap_or(0.03));
    config.fill("weight_decay", job.number("/train/optimizer/weight_decay").unwrap_or(0.0));
    for (key, at) in
        [("adam_beta1", "/train/optimizer/betas/0"), ("adam_beta2", "/train/optimizer/betas/1")]
    {
        if let Some(number) = job.number(at) {
            config.fill(key, number);
        }
    }
    config.fill("max_grad_norm", job.number("/train/clip_norm").unwrap_or(1.0));
    config.fill("seed", job.whole("/train/seed").unwrap_or(42));
    let precision = job.word("/train/precision").unwrap_or("auto");
    config
        .fill("bf16", if precision == "auto" { json!("auto") } else { json!(precision == "bf16") });
    config.fill("fp16", precision == "fp16");
    config
        .fill("gradient_checkpointing", job.flag("/train/gradient_checkpointing").unwrap_or(false));
    let packs = job.flag("/train/packing").unwrap_or(false);
    config.fill("sample_packing", packs);
    if packs && !scene.eval.is_empty() {
        // It would drop held-out rows that fill no whole batch, and fails where none are left.
        config.fill("eval_sample_packing", false);
    }
    config.fill(
        "excess_length_strategy",
        match job.word("/data/overlong") {
            Some("drop") => "drop",
            Some("error") => "raise",
            _ => "truncate",
        },
    );
    hugging_face::evaluation(config, job, scene);
    match (job.whole("/train/max_steps"), job.number("/train/epochs")) {
        (Some(steps), _) => config.fill("max_steps", steps),
        (None, epochs) => config.fill("num_epochs", epochs.map_or(json!(1), lora::whole_or_real)),
    }
    method(config, job, scene)
}

/// What a row looks like.
fn shape(job: &ToolJob) -> Result<Value, RenderError> {
    Ok(match job.word("/data/format").unwrap_or("auto") {
        "auto" | "messages" => json!({"type": "chat_template"}),
        "sharegpt" => json!({
            "type": "chat_template", "field_messages": "conversations",
            "message_property_mappings": {"role": "from", "content": "value"},
        }),
        "alpaca" => json!({"type": "alpaca"}),
        "text" => json!({"type": "completion"}),
        other => {
            return Err(RenderError::Format {
                tool: "Axolotl",
                format: other.to_owned(),
                hint: "write them as messages, or bring a configuration of your own",
            });
        }
    })
}

fn method(config: &mut Config, job: &ToolJob, scene: &Scene) -> Result<(), RenderError> {
    match job.word("/method/type").unwrap_or("lora") {
        "full" => return Ok(()),
        "lora" => {}
        other => {
            return Err(RenderError::Unsupported(format!(
                "hone writes no Axolotl configuration for method `{other}`: bring your own"
            )));
        }
    }
    let bits = job.whole("/method/quant/bits");
    config.fill("adapter", if bits == Some(4) { "qlora" } else { "lora" });
    match bits {
        Some(4) => {
            config.fill("load_in_4bit", true);
            let kind = job.word("/method/quant/type").unwrap_or("nf4");
            let double = job.flag("/method/quant/double").unwrap_or(true);
            if (kind, double) != ("nf4", true) {
                let four =
                    json!({"bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": double});
                config.fill("bnb_config_kwargs", four);
            }
        }
        Some(8) => config.fill("load_in_8bit", true),
        _ => {}
    }
    let targets = match lora::targets(job) {
        Some(names) => ("lora_target_modules", json!(names)),
        None => ("lora_target_linear", json!(true)),
    };
    lora::fill(config, job, &LORA, targets);
    if scene.gpus == 0 {
        // It turns them on by itself, and they run on nothing but a GPU.
        for kernel in ["lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"] {
            config.fill(kernel, false);
        }
    }
    Ok(())
}
