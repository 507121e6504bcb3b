//! What the recipes of `tests/fixtures` gave real tools is what hone renders: those runs then prove that the tools take
//! it. `HONE_BLESS=1 cargo test -p hone-agent --lib recipe` writes it anew after a change here; run
//! `tests/fixtures/make` then.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;

const RECIPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/recipes");

/// The job of every recipe: 20 steps, a checkpoint and an evaluation every 10.
fn job(trainer: serde_json::Value) -> ToolJob {
    let spec = json!({
        "data": {"format": "messages", "overlong": "truncate"},
        "method": {"type": "lora", "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "targets": "all-linear"}},
        "train": {"epochs": null, "max_steps": 20, "seq_len": 128, "micro_batch": 4, "accumulation": 1,
                  "optimizer": {"name": "adamw", "lr": 1e-2, "weight_decay": 0.0, "betas": [0.9, 0.999]},
                  "schedule": {"type": "cosine", "warmup": 0.1}, "clip_norm": 1.0, "precision": "auto",
                  "gradient_checkpointing": false, "seed": 42, "log_every": 1, "eval_every": 10},
        "checkpoint": {"every_steps": 10}, "trainer": trainer,
    });
    ToolJob::of_spec(&spec.to_string()).expect("a spec").expect("a tool")
}

fn scene(packages: &[(&str, &str)], command: &[&str]) -> Scene {
    let owned = |(name, version): &(&str, &str)| ((*name).to_owned(), (*version).to_owned());
    Scene {
        versions: Versions {
            packages: packages.iter().map(owned).collect(),
            ..Versions::default()
        },
        train: vec!["train.jsonl".to_owned()],
        eval: vec!["eval.jsonl".to_owned()],
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ..Scene::default()
    }
}

/// A script of a user's own, with the arguments that hone leaves to its user.
const SCRIPT: [&str; 18] = [
    "python3",
    "/opt/tool/train.py",
    "--model_name_or_path",
    "/hone/input/model",
    "--train_file",
    "/hone/input/pairs/train.jsonl",
    "--eval_file",
    "/hone/input/pairs/eval.jsonl",
    "--per_device_train_batch_size",
    "4",
    "--learning_rate",
    "0.01",
    "--eval_strategy",
    "steps",
    "--eval_steps",
    "10",
    "--seed",
    "42",
];

/// Files of a recipe by their names, as rendered.
fn rendered(job: &ToolJob, scene: &Scene) -> Vec<(String, String)> {
    let Rendered { command, environment, files, .. } = render(job, scene).expect("rendered");
    let line = |(name, value): &(String, String)| format!("{name}={value}\n");
    let mut all = files;
    all.push(("command".to_owned(), command.iter().map(|word| format!("{word}\n")).collect()));
    all.push(("environment".to_owned(), environment.iter().map(line).collect()));
    all
}

fn check(folder: &Path, files: &[(String, String)]) {
    let writes = std::env::var_os("HONE_BLESS").is_some();
    for (name, text) in files {
        let path: PathBuf = folder.join(name);
        if writes {
            std::fs::create_dir_all(folder).expect("made");
            std::fs::write(&path, text).expect("written");
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(&kept, text, "{} is not what hone renders", path.display());
    }
    let kept = std::fs::read_dir(folder).expect("a folder").count();
    assert_eq!(kept, files.len(), "{} holds other files too", folder.display());
}

#[test]
fn recipes_hold_what_hone_renders() {
    let board = ("tensorboard", "2.20.0");
    let tools = [
        ("hf4", "hf", scene(&[("transformers", "4.57.6")], &SCRIPT)),
        ("hf5", "hf", scene(&[("transformers", "5.23.0"), board], &SCRIPT)),
        ("trl", "trl", scene(&[("trl", "1.16.0"), ("transformers", "5.23.0"), board], &[])),
        (
            "axolotl",
            "axolotl",
            scene(&[("axolotl", "0.18.0"), ("transformers", "5.14.1"), board], &[]),
        ),
        (
            "llamafactory",
            "llamafactory",
            scene(&[("llamafactory", "0.9.5"), ("transformers", "5.6.0"), board], &[]),
        ),
    ];
    for (recipe, kind, scene) in tools {
        let job = job(json!({"kind": kind}));
        let folder = Path::new(RECIPES).join(recipe);
        check(&folder.join("first"), &rendered(&job, &scene));
        let again = Scene { resumes: true, ..scene };
        check(&folder.join("resumed"), &rendered(&job, &again));
    }
}
