//! Every key of a spec changes what a tool is given, or its user is told that the tool decides it. The controller tells,
//! and its tests write down which keys it names: `tests/fixtures/left_to_tools.json`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

const LEFT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/left_to_tools.json"));

/// A key as it stands in a spec, where the agent finds it, and another value than that of [`base`].
fn changes() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("data.train.format", "/data/format", json!("alpaca")),
        ("data.eval.split_from", "/data/eval/split_from", json!("train")),
        ("data.eval.fraction", "/data/eval/fraction", json!(0.2)),
        ("data.eval.seed", "/data/eval/seed", json!(9)),
        ("data.template", "/data/template", json!("chatml")),
        ("data.system", "/data/system", json!("You answer.")),
        ("data.loss_on", "/data/loss_on", json!("all")),
        ("data.overlong", "/data/overlong", json!("drop")),
        ("data.bad_rows", "/data/bad_rows", json!("skip")),
        ("data.preload", "/data/preload", json!("memory")),
        ("method.type", "/method/type", json!("full")),
        ("method.lora.r", "/method/lora/r", json!(4)),
        ("method.lora.alpha", "/method/lora/alpha", json!(4)),
        ("method.lora.dropout", "/method/lora/dropout", json!(0.5)),
        ("method.lora.targets", "/method/lora/targets", json!(["q_proj"])),
        ("method.lora.rslora", "/method/lora/rslora", json!(true)),
        ("method.lora.dora", "/method/lora/dora", json!(true)),
        ("method.quant.bits", "/method/quant/bits", json!(8)),
        ("method.quant.type", "/method/quant/type", json!("fp4")),
        ("method.quant.double", "/method/quant/double", json!(false)),
        (
            "method.freeze.last_layers",
            "/method",
            json!({"type": "freeze", "freeze": {"last_layers": 3}}),
        ),
        (
            "method.freeze.modules",
            "/method",
            json!({"type": "freeze", "freeze": {"modules": ["lm_head"]}}),
        ),
        ("train.epochs", "/train/epochs", json!(3.0)),
        ("train.max_steps", "/train/max_steps", json!(50)),
        ("train.seq_len", "/train/seq_len", json!(64)),
        ("train.packing", "/train/packing", json!(true)),
        ("train.batch.effective", "/train/accumulation", json!(3)),
        ("train.batch.micro", "/train/micro_batch", json!(2)),
        ("train.optimizer.name", "/train/optimizer/name", json!("adafactor")),
        ("train.optimizer.bits", "/train/optimizer/bits", json!(8)),
        ("train.optimizer.paged", "/train/optimizer/paged", json!(true)),
        ("train.optimizer.lr", "/train/optimizer/lr", json!(0.5)),
        ("train.optimizer.weight_decay", "/train/optimizer/weight_decay", json!(0.5)),
        ("train.optimizer.betas", "/train/optimizer/betas", json!([0.8, 0.9])),
        ("train.schedule.type", "/train/schedule/type", json!("linear")),
        ("train.schedule.warmup", "/train/schedule/warmup", json!(0.5)),
        ("train.clip_norm", "/train/clip_norm", json!(0.5)),
        ("train.precision", "/train/precision", json!("fp16")),
        ("train.activation_checkpointing", "/train/gradient_checkpointing", json!(true)),
        ("train.sharding", "/train/sharding", json!("full")),
        ("train.seed", "/train/seed", json!(9)),
        ("train.log_every", "/train/log_every", json!(5)),
        ("train.eval_every", "/train/eval_every", json!(5)),
        ("checkpoint.every.steps", "/checkpoint", json!({"every_steps": 7})),
        ("checkpoint.every.epochs", "/checkpoint", json!({"every_epochs": 0.5})),
        ("evaluate.base_model", "/evaluate/base_model", json!(false)),
        ("log_level", "/log_level", json!("debug")),
    ]
}

fn base(kind: &str) -> Value {
    json!({
        "data": {"format": "messages", "template": "tokenizer", "system": null, "loss_on": "answers",
                 "overlong": "truncate", "bad_rows": "error", "preload": "auto",
                 "eval": {"split_from": null, "fraction": 0.05, "seed": 7}},
        "method": {"type": "lora", "quant": {"bits": 4, "type": "nf4", "double": true},
                   "lora": {"r": 8, "alpha": 16, "dropout": 0.0, "targets": "all-linear", "rslora": false, "dora": false}},
        "train": {"epochs": 2.0, "max_steps": null, "seq_len": 128, "packing": false, "micro_batch": 4, "accumulation": 2,
                  "optimizer": {"name": "adamw", "bits": 32, "paged": false, "lr": 2e-5, "weight_decay": 0.0,
                                "betas": [0.9, 0.999]},
                  "schedule": {"type": "cosine", "warmup": 0.03}, "clip_norm": 1.0, "precision": "bf16",
                  "gradient_checkpointing": false, "sharding": "none", "seed": 42, "log_every": 1, "eval_every": null},
        "checkpoint": {"every_steps": 10}, "evaluate": {"base_model": true}, "log_level": "info",
        "trainer": {"kind": kind},
    })
}

/// What the tool is given, or why it is refused.
fn given(spec: &Value) -> Result<Vec<(String, String)>, String> {
    let packages = [
        ("trl", "1.16.0"),
        ("axolotl", "0.18.0"),
        ("llamafactory", "0.9.5"),
        ("transformers", "5.23.0"),
    ];
    let packages = packages.map(|(name, version)| (name.to_owned(), version.to_owned()));
    let scene = Scene {
        versions: Versions { packages: packages.into_iter().collect(), ..Versions::default() },
        train: vec!["train.jsonl".to_owned()],
        eval: vec!["eval.jsonl".to_owned()],
        gpus: 1,
        ..Scene::default()
    };
    let job = ToolJob::of_spec(&spec.to_string()).expect("a spec").expect("a tool");
    render(&job, &scene).map(|rendered| rendered.files).map_err(|error| error.to_string())
}

#[test]
fn a_key_reaches_the_tool_or_its_user_is_told() {
    let left: Value = serde_json::from_str(LEFT).expect("JSON");
    for (kind, keys) in left.as_object().expect("a map") {
        let names = |which: &str| {
            let names = keys[which].as_array().expect("a list").iter().filter_map(Value::as_str);
            names.map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let mut found = [BTreeSet::new(), BTreeSet::new()];
        for (key, at, value) in changes() {
            let mut spec = base(kind);
            *spec.pointer_mut(at).unwrap_or_else(|| panic!("{at} is not in the spec")) = value;
            let reaches = given(&spec) != given(&base(kind));
            found[usize::from(reaches)].insert(key.to_owned());
        }
        assert!(given(&base(kind)).is_ok(), "{kind}");
        assert_eq!(found, [names("left"), names("taken")], "{kind}");
    }
}

#[test]
fn modules_by_name_are_refused_where_the_tool_would_train_others() {
    let mut spec = base("llamafactory");
    spec["method"] = json!({"type": "freeze", "freeze": {"modules": ["mlp.down_proj"]}});
    let refused = given(&spec).expect_err("it would train its own choice");
    assert!(refused.contains("last_layers"), "{refused}");
}
