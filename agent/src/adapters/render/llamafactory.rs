//! `llamafactory-cli train`, from its own keys (0.9.x, `hparams/`, `data/README.md`) and those of `TrainingArguments`.
//! Version 0.9.5 was run with what is rendered here: `tests/fixtures/recipes/llamafactory`.

use serde_json::{Map, Value, json};

use super::rows::{files_of, require_known};
use super::{
    MODEL, RenderError, Rendered, Scene, TOOL_DIR, begin, finish, hugging_face, lora, require, told,
};
use crate::adapters::config::Config;
use crate::adapters::job::ToolJob;

/// The rendered configuration.
const NAME: &str = "llamafactory.yaml";
/// Where it looks its data sets up.
const DATASETS: &str = "dataset_info.json";
/// Ends of the names of files that it reads (`extras/constants.py`).
const FILES: [&str; 6] = ["arrow", "csv", "json", "jsonl", "parquet", "txt"];
/// Its names for an adapter.
const LORA: lora::Names = lora::Names { rank: "lora_rank", rslora: "use_rslora", dora: "use_dora" };

pub(super) fn render(job: &ToolJob, scene: &Scene) -> Result<Rendered, RenderError> {
    require(scene, "llamafactory")?;
    let mut config = begin(job)?;
    let mut files = Vec::new();
    if job.config.is_none() {
        files.push((DATASETS.to_owned(), data_sets(job, scene)?.to_string()));
        whole(&mut config, job, scene)?;
    }
    hugging_face::overlay(&mut config, job, scene);
    // Every example of its own sets it, and so throws away what it could continue from.
    config.lay("overwrite_output_dir", false);
    finish(&mut config, job, scene)?;
    files.push((NAME.to_owned(), config.to_file()));
    let mut environment = Vec::new();
    if scene.gpus > 1 {
        environment.push(("FORCE_TORCHRUN".to_owned(), "1".to_owned()));
        environment.push(("NPROC_PER_NODE".to_owned(), scene.gpus.to_string()));
    }
    Ok(Rendered {
        command: vec![
            "llamafactory-cli".to_owned(),
            "train".to_owned(),
            format!("{TOOL_DIR}/{NAME}"),
        ],
        environment,
        files,
        told: told(job, scene, &config, None),
        stop: hugging_face::stop(scene),
        trigger: None,
        pushes: hugging_face::pushes(scene),
        ranks: Some(scene.gpus.max(1)),
    })
}

/// The names under which a data set of this job is known.
fn names(channel: &str, files: &[String]) -> Vec<String> {
    (0..files.len()).map(|number| format!("{channel}{number}")).collect()
}

fn data_sets(job: &ToolJob, scene: &Scene) -> Result<Value, RenderError> {
    let shape = match job.word("/data/format").unwrap_or("auto") {
        "auto" | "messages" => json!({
            "formatting": "sharegpt", "columns": {"messages": "messages"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                     "assistant_tag": "assistant", "system_tag": "system"},
        }),
        "sharegpt" => {
            json!({"formatting": "sharegpt", "columns": {"messages": "conversations"}})
        }
        "alpaca" => json!({"formatting": "alpaca"}),
        "prompt_completion" => {
            json!({"formatting": "alpaca", "columns": {"prompt": "prompt", "response": "completion"}})
        }
        other => {
            return Err(RenderError::Format {
                tool: "LLaMA-Factory",
                format: other.to_owned(),
                hint: "write them as messages or alpaca, or bring a configuration of your own",
            });
        }
    };
    require_known("LLaMA-Factory", &FILES, scene.train.iter().chain(&scene.eval))?;
    let mut all = Map::new();
    for (channel, files) in [("train", &scene.train), ("eval", &scene.eval)] {
        for (name, path) in names(channel, files).into_iter().zip(files_of(channel, files)) {
            let mut one = shape.clone();
            one["file_name"] = json!(path);
            all.insert(name, one);
        }
    }
    Ok(Value::Object(all))
}

/// A configuration from the spec alone.
fn whole(config: &mut Config, job: &ToolJob, scene: &Scene) -> Result<(), RenderError> {
    config.fill("model_name_or_path", MODEL);
    config.fill("stage", "sft");
    config.fill("do_train", true);
    config.fill("dataset_dir", TOOL_DIR);
    config.fill("dataset", names("train", &scene.train).join(","));
    if !scene.eval.is_empty() {
        config.fill("eval_dataset", names("eval", &scene.eval).join(","));
    }
    config.fill("cutoff_len", job.whole("/train/seq_len").unwrap_or(1024));
    if job.flag("/train/packing").unwrap_or(false) {
        config.fill("packing", true);
        config.fill("neat_packing", true);
    }
    match job.word("/method/type").unwrap_or("lora") {
        "full" => config.fill("finetuning_type", "full"),
        "freeze" => {
            config.fill("finetuning_type", "freeze");
            let Some(layers) = job.whole("/method/freeze/last_layers") else {
                // Its own key for names means parts of a block, and it would train them in its two last blocks alone.
                let what = "LLaMA-Factory trains whole last blocks: use `method.freeze.last_layers`, or bring a \
                            configuration of your own";
                return Err(RenderError::Unsupported(what.to_owned()));
            };
            config.fill("freeze_trainable_layers", layers);
        }
        "lora" => adapter(config, job),
        other => {
            let what = format!("hone writes no LLaMA-Factory configuration for method `{other}`");
            return Err(RenderError::Unsupported(what));
        }
    }
    hugging_face::training(config, job, scene)?;
    // It saves memory so by itself; its own key alone says no.
    let saves_memory = job.flag("/train/gradient_checkpointing").unwrap_or(false);
    config.drop("gradient_checkpointing");
    config.fill("disable_gradient_checkpointing", !saves_memory);
    Ok(())
}

fn adapter(config: &mut Config, job: &ToolJob) {
    config.fill("finetuning_type", "lora");
    let targets = lora::targets(job).map_or_else(
        || "all".to_owned(),
        |names| names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
    );
    lora::fill(config, job, &LORA, ("lora_target", json!(targets)));
    if let Some(bits) = job.whole("/method/quant/bits") {
        config.fill("quantization_bit", bits);
        config.fill("quantization_method", "bnb");
        if bits == 4 {
            config.fill("quantization_type", job.word("/method/quant/type").unwrap_or("nf4"));
            config.fill("double_quantization", job.flag("/method/quant/double").unwrap_or(true));
        }
    }
}
