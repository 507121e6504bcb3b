//! `trl sft`, from its own keys (TRL 1.x, `trl/scripts/sft.py`, `trainer/sft_config.py`, `trainer/model_config.py`).
//! Version 1.16.0 was run with what is rendered here: `tests/fixtures/recipes/trl`.

use serde_json::json;

use super::rows::{files_of, one_loader};
use super::{
    DATA, MODEL, RenderError, Rendered, Scene, TOOL_DIR, begin, finish, hugging_face, lora,
    require, told,
};
use crate::adapters::config::Config;
use crate::adapters::job::ToolJob;

/// The rendered configuration.
const NAME: &str = "trl.yaml";
/// Its names for an adapter.
const LORA: lora::Names = lora::Names { rank: "lora_r", rslora: "use_rslora", dora: "use_dora" };
/// Formats that TRL reads as they are.
const NATIVE: [&str; 4] = ["auto", "messages", "prompt_completion", "text"];

pub(super) fn render(job: &ToolJob, scene: &Scene) -> Result<Rendered, RenderError> {
    require(scene, "trl")?;
    // The command line passes it on from 1.15 on; before that it is taken and forgotten.
    if scene.resumes && scene.command.is_empty() && !scene.versions.at_least("trl", [1, 15]) {
        return Err(RenderError::Unsupported(
            "`trl sft` before 1.15 cannot continue from a checkpoint: take an image with a newer one, or a script of \
             your own with `kind: hf`"
                .to_owned(),
        ));
    }
    let mut config = begin(job)?;
    if job.config.is_none() {
        whole(&mut config, job, scene)?;
    }
    hugging_face::overlay(&mut config, job, scene);
    finish(&mut config, job, scene)?;
    Ok(Rendered {
        command: ["trl", "sft", "--config"]
            .into_iter()
            .map(str::to_owned)
            .chain([format!("{TOOL_DIR}/{NAME}")])
            .collect(),
        environment: Vec::new(),
        files: vec![(NAME.to_owned(), config.to_file())],
        told: told(job, scene, &config, None) + loss_on(job),
        stop: hugging_face::stop(scene),
        trigger: None,
        pushes: hugging_face::pushes(scene),
        // Its launcher counts for itself, and may be configured in the image.
        ranks: None,
    })
}

/// What people are told of the tokens that count, where they are not those of the spec: it masks questions of pairs by
/// itself, and those of messages only with templates that mark the answers.
fn loss_on(job: &ToolJob) -> &'static str {
    let pairs = job.word("/data/format") == Some("prompt_completion");
    let answers = job.word("/data/loss_on").is_none_or(|word| word != "all");
    if job.config.is_some() || pairs || !answers {
        return "";
    }
    "; of messages it learns the questions too: write them as prompt and completion for the answers alone"
}

/// A configuration from the spec alone.
fn whole(config: &mut Config, job: &ToolJob, scene: &Scene) -> Result<(), RenderError> {
    let format = job.word("/data/format").unwrap_or("auto");
    if !NATIVE.contains(&format) {
        return Err(RenderError::Format {
            tool: "TRL",
            format: format.to_owned(),
            hint: "write them as messages, or as prompt and completion",
        });
    }
    config.fill("model_name_or_path", MODEL);
    let loader = one_loader("TRL", scene.train.iter().chain(&scene.eval))?;
    if scene.eval.is_empty() {
        let files = files_of("train", &scene.train);
        config.fill("datasets", json!([{"path": loader, "data_files": files, "split": "train"}]));
    } else {
        // The loader of local folders takes one named `eval` for the split `test`.
        config.fill("dataset_name", DATA);
        config.fill("dataset_train_split", "train");
        config.fill("dataset_test_split", "test");
    }
    config.fill("max_length", job.whole("/train/seq_len").unwrap_or(1024));
    config.fill("packing", job.flag("/train/packing").unwrap_or(false));
    method(config, job, scene)?;
    hugging_face::training(config, job, scene)
}

fn method(config: &mut Config, job: &ToolJob, scene: &Scene) -> Result<(), RenderError> {
    // It would load float32 by itself, four bytes for each frozen weight.
    let frozen = if scene.gpus > 0 { "bfloat16" } else { "float32" };
    match job.word("/method/type").unwrap_or("lora") {
        "full" => {
            config.fill("dtype", "float32");
            return Ok(());
        }
        "lora" => {}
        other => {
            return Err(RenderError::Unsupported(format!(
                "TRL has no method `{other}`: use `lora` or `full`"
            )));
        }
    }
    config.fill("dtype", frozen);
    config.fill("use_peft", true);
    let targets = lora::targets(job).map_or(json!(["all-linear"]), |names| json!(names));
    lora::fill(config, job, &LORA, ("lora_target_modules", targets));
    match job.whole("/method/quant/bits") {
        Some(4) => {
            config.fill("load_in_4bit", true);
            config.fill("bnb_4bit_quant_type", job.word("/method/quant/type").unwrap_or("nf4"));
            config.fill("use_bnb_nested_quant", job.flag("/method/quant/double").unwrap_or(true));
        }
        Some(8) => config.fill("load_in_8bit", true),
        _ => {}
    }
    Ok(())
}
