//! Tests of the spec: what is refused and how it is said, what is read, and that the table of keys tells the truth.

mod left;
mod refused;
mod table;
mod tools;

use std::path::Path;

use hone_proto::assignment::{Channel, Relaxation};
use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{Attempt, Digest, JobId};
use hone_proto::quantity::{Bytes, MilliCpu};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const MINIMAL: &str = "model: ./model\ndata: ./train.jsonl\n";
const QUICKSTART: &str = include_str!("../../../deploy/examples/quickstart.yaml");
const FULL: &str = include_str!("../../../deploy/examples/full.yaml");
/// The examples of other tools than hone's own trainer.
const TOOLS: [&str; 5] = [
    include_str!("../../../deploy/examples/trl.yaml"),
    include_str!("../../../deploy/examples/hf.yaml"),
    include_str!("../../../deploy/examples/axolotl.yaml"),
    include_str!("../../../deploy/examples/llamafactory.yaml"),
    include_str!("../../../deploy/examples/custom-keras.yaml"),
];

fn good(text: &str) -> JobSpec {
    parse(text, "job.yaml").unwrap_or_else(|error| panic!("{error}"))
}

fn canonical(text: &str) -> Value {
    serde_json::from_str(&good(text).canonical()).expect("canonical JSON")
}

fn resolved(text: &str) -> Value {
    let spec =
        resolve(&good(text), JobId::new(12), Attempt::new(1), Some(Digest::of(b"model")), None);
    serde_json::from_str(&spec.to_json()).expect("JSON")
}

#[test]
fn both_examples_are_read() {
    let quick = good(QUICKSTART);
    assert_eq!(quick.name().as_str(), "quickstart");
    assert_eq!(quick.demand().gpus, 0);
    assert_eq!(quick.channels(), [Channel::Model, Channel::Train]);
    let full = good(FULL);
    assert_eq!(full.name().as_str(), "support-bot-v3");
    assert_eq!(full.demand().vram, Bytes::new(24_000_000_000));
    assert_eq!(full.max_time(), Some(Duration::from_secs(6 * 3600)));
    assert_eq!(full.command(), ["python3", "-m", "hone_trainer"]);
}

#[test]
fn the_trainer_is_told_exactly_the_contract() {
    let text = "
name: n
model: {path: ./m, name: base}
data: {train: {path: ./t.jsonl, format: alpaca}, eval: {fraction: 0.1, seed: 3}}
method: {type: lora, lora: {r: 8, targets: [q_proj]}}
train: {max_steps: 120, seq_len: 256, batch: {effective: 8, micro: 4}, eval_every: 50}
checkpoint: {every: {steps: 20}}
";
    let spec_digest = good(text).digest().to_string();
    let expected = json!({
        "version": 1,
        "job": {"id": "12", "name": "n", "project": "default", "attempt": 1},
        "model": {"name": "base", "trust_remote_code": false, "digest": Digest::of(b"model").to_string()},
        "data": {"format": "alpaca", "template": "tokenizer", "loss_on": "answers", "overlong": "truncate",
                 "bad_rows": "error", "preload": "auto", "eval": {"fraction": 0.1, "seed": 3}},
        "method": {"type": "lora", "lora": {"r": 8, "alpha": 16, "dropout": 0.0, "targets": ["q_proj"],
                                            "rslora": false, "dora": false}},
        "train": {"epochs": null, "max_steps": 120, "seq_len": 256, "packing": false, "micro_batch": 4, "accumulation": 2,
                  "optimizer": {"name": "adamw", "bits": 32, "paged": false, "lr": 0.0002, "weight_decay": 0.0, "betas": [0.9, 0.999]},
                  "schedule": {"type": "cosine", "warmup": 0.03}, "clip_norm": 1.0, "precision": "auto",
                  "gradient_checkpointing": false, "sharding": "none", "seed": 42, "log_every": 1, "eval_every": 50},
        "checkpoint": {"every_steps": 20},
        "evaluate": {"base_model": true},
        "export": ["adapter"],
        "log_level": "info",
        "spec_digest": spec_digest,
    });
    assert_eq!(resolved(text), expected);
}

#[test]
fn what_depends_on_the_method_follows_it() {
    let full = resolved(&format!("{MINIMAL}method: full\n"));
    assert_eq!(full["method"], json!({"type": "full"}));
    assert_eq!(full["export"], json!(["model"]));
    assert_eq!(full["train"]["optimizer"]["lr"], json!(2e-5));
    let lora = resolved(&format!("{MINIMAL}data: \n").replace("data: \n", "method: lora\n"));
    assert_eq!(lora["method"]["lora"]["targets"], json!("all-linear"));
    assert_eq!(lora["train"]["optimizer"]["lr"], json!(2e-4));
    assert_eq!(lora["train"]["epochs"], json!(1.0));
}

#[test]
fn how_data_is_read_reaches_the_trainer() {
    let text = "
model: ./m
data:
  train: rows.parquet
  template: chatml
  system: |
    You answer.
    In one line.
  loss_on: last_answer
  bad_rows: skip
  preload: memory
train: {packing: true}
";
    let found = resolved(text);
    let expected = json!({"format": "auto", "template": "chatml", "system": "You answer.\nIn one line.\n",
        "loss_on": "last_answer", "overlong": "truncate", "bad_rows": "skip", "preload": "memory",
        "eval": {"fraction": 0.05, "seed": 7}});
    assert_eq!(found["data"], expected);
    assert_eq!(found["train"]["packing"], json!(true));
    assert_eq!(resolved(MINIMAL)["data"].get("system"), None);
}

#[test]
fn sharding_reaches_the_trainer_and_is_left_to_other_tools() {
    let text = "train: {sharding: full}\nresources: {gpus: 2}\n";
    assert_eq!(resolved(&format!("{MINIMAL}{text}"))["train"]["sharding"], json!("full"));
    let other = "train: {sharding: full}\ntrainer: {kind: trl, image: i}\n";
    let told = good(&format!("{MINIMAL}{other}")).warnings().join("\n");
    assert!(told.contains("`train.sharding`"), "{told}");
}

#[test]
fn each_method_says_what_it_trains_and_how_the_rest_is_kept() {
    let quant =
        resolved(&format!("{MINIMAL}method: {{quant: {{bits: 8}}, lora: {{dora: true}}}}\n"));
    assert_eq!(quant["method"]["quant"], json!({"bits": 8, "type": "nf4", "double": true}));
    assert_eq!(quant["method"]["lora"]["dora"], json!(true));
    let blocks =
        resolved(&format!("{MINIMAL}method: {{type: freeze, freeze: {{last_layers: 2}}}}\n"));
    assert_eq!(blocks["method"], json!({"type": "freeze", "freeze": {"last_layers": 2}}));
    assert_eq!(blocks["export"], json!(["model"]));
    assert_eq!(blocks["train"]["optimizer"]["lr"], json!(2e-5));
    let named =
        resolved(&format!("{MINIMAL}method: {{type: freeze, freeze: {{modules: [lm_head]}}}}\n"));
    assert_eq!(named["method"]["freeze"], json!({"modules": ["lm_head"]}));
}

#[test]
fn checkpoints_come_by_steps_epochs_minutes_or_by_what_they_cost() {
    let told =
        |text: &str| resolved(&format!("{MINIMAL}checkpoint: {text}\n"))["checkpoint"].clone();
    assert_eq!(told("{}"), json!({"every_steps": 100}));
    assert_eq!(told("{every: {minutes: 15}}"), json!({"every_minutes": 15.0}));
    assert_eq!(
        told("{every: {steps: 20, epochs: 0.5}}"),
        json!({"every_steps": 20, "every_epochs": 0.5})
    );
    assert_eq!(told("{every: auto}"), json!({"auto": true}));
    let again = canonical(&good(&format!("{MINIMAL}checkpoint: {{every: auto}}\n")).canonical());
    assert_eq!(again["checkpoint"]["every"], json!("auto"));
}

#[test]
fn rows_of_their_own_are_a_channel_of_their_own() {
    let text = "model: ./m\ndata: {train: ./t.jsonl, eval: ./e.jsonl}\n";
    assert_eq!(good(text).channels(), [Channel::Model, Channel::Train, Channel::Eval]);
    assert_eq!(resolved(text)["data"]["eval"], json!({"channel": "eval"}));
}

#[test]
fn demand_and_the_rest_reach_placement() {
    let text = format!(
        "{MINIMAL}resources: {{gpus: {{count: 2, vram: 24 GiB}}, cpu: 1.5, memory: 8GiB, disk: 3GB, shm: 1GiB, network: egress,
  max_hours: 0.5, max_attempts: 2}}
container: {{user: image}}
checkpoint: {{keep: {{last: 3}}}}
on_disconnect: {{wait: 45m}}
"
    );
    let spec = good(&text);
    let demand = Demand {
        gpus: 2,
        vram: Bytes::gib(24),
        cpu: MilliCpu::new(1500),
        ram: Bytes::gib(8),
        disk: Bytes::new(3_000_000_000),
        shm: Bytes::gib(1),
    };
    assert_eq!(spec.demand(), demand);
    assert_eq!(spec.relaxations(), [Relaxation::NetworkEgress, Relaxation::UserImage]);
    assert_eq!(spec.on_disconnect(), OnDisconnect::Wait(Duration::from_secs(45 * 60)));
    assert_eq!(spec.max_time(), Some(Duration::from_secs(1800)));
    assert_eq!((spec.max_attempts(), spec.keep_checkpoints()), (2, 3));
    assert_eq!(good(MINIMAL).relaxations(), []);
    assert_eq!(good(MINIMAL).on_disconnect(), OnDisconnect::Auto);
}

#[test]
fn the_same_meaning_has_the_same_digest() {
    let long = "model: {path: ./model, name: model}
data: {train: {path: ./train.jsonl, format: auto}, eval: {seed: 7}}
train: {epochs: 1, batch: {effective: 1.6e+1, micro: auto}, eval_every: null}
resources: {memory: 4096MiB, gpus: 0}
";
    assert_eq!(good(MINIMAL).digest(), good(long).digest());
    let other = format!("{MINIMAL}train: {{seed: 43}}\n");
    assert_ne!(good(MINIMAL).digest(), good(&other).digest());
}

#[test]
fn the_canonical_form_is_a_spec_that_means_the_same() {
    for text in [
        MINIMAL,
        QUICKSTART,
        FULL,
        "model: ./m\ndata: {train: ./t.jsonl, eval: ./e.jsonl}\nmethod: full\n",
    ] {
        let once = good(text).canonical();
        assert_eq!(good(&once).canonical(), once);
    }
}

#[test]
fn a_name_comes_from_the_model_where_none_is_given() {
    for (path, name) in
        [("./Tiny Llama", "tiny-llama"), ("../..", "model"), ("./_x/", "x"), ("./ÄÖ", "job")]
    {
        let spec = good(&format!("model: {path}\ndata: ./d.jsonl\n"));
        assert_eq!(spec.name().as_str(), name, "{path}");
    }
}

#[test]
fn inputs_are_found_beside_the_spec_and_what_misses_names_its_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let file =
        |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
    std::fs::create_dir(dir.path().join("model")).expect("made");
    let spec =
        good("model: ./model\ndata:\n  train: {path: ./train.jsonl}\n  eval: ./eval.jsonl\n");

    file("eval.jsonl", "");
    let error = local_inputs(&spec, dir.path()).expect_err("three problems");
    let found: Vec<_> =
        error.problems().iter().map(|p| (p.line, p.column, p.path.as_str())).collect();
    assert_eq!(found, [(1, 8, "model.path"), (3, 17, "data.train.path"), (4, 9, "data.eval.path")]);
    let text = error.to_string().replace(&dir.path().display().to_string(), "DIR");
    assert!(text.contains("job.yaml:3:17: data.train.path: there is no `DIR/./train.jsonl`\n3 |   train: {path: ./train.jsonl}\n  |                 ^^^^^^^^^^^^^\nhint: "), "{text}");
    assert!(text.contains("no config.json") && text.contains("is empty"), "{text}");

    file("model/config.json", "{}");
    file("train.jsonl", "{}\n");
    file("eval.jsonl", "{}\n");
    let inputs = local_inputs(&spec, dir.path()).expect("all there");
    let names: Vec<_> =
        inputs.iter().map(|i| (i.channel, i.path.file_name().expect("a name"))).collect();
    assert_eq!(
        names,
        [
            (Channel::Model, "model".as_ref()),
            (Channel::Train, "train.jsonl".as_ref()),
            (Channel::Eval, "eval.jsonl".as_ref())
        ]
    );
    file("plain", "");
    let wrong = good("model: ./plain\ndata: ./train.jsonl\n");
    let error = local_inputs(&wrong, dir.path()).expect_err("a file is no model");
    assert!(error.to_string().contains("is not a directory"), "{error}");
    assert!(local_inputs(&spec, Path::new("/nonexistent")).is_err());
}

#[test]
fn a_refusal_fits_a_header_and_keeps_whole_problems() {
    let many: String = (0..500).map(|n| format!("key{n:03}{}: 1\n", "x".repeat(80))).collect();
    let error = parse(&many, "job.yaml").expect_err("nothing of it is known");
    assert_eq!(error.problems().len(), MAX_PROBLEMS);
    assert_eq!(error.problems().len() + error.omitted(), 502, "model and data miss too");
    let refusal = Refusal::from(&error);
    assert_eq!(refusal.reason, Reason::BadSpec);
    assert!(refusal.message.len() <= 4096, "{}", refusal.message.len());
    assert!(refusal.message.contains("502 problems") && refusal.message.ends_with(" more"));
}

proptest! {
    #[test]
    fn no_text_panics(text in "(?s).{0,200}") {
        if let Err(error) = parse(&text, "x") {
            prop_assert!(!error.problems().is_empty());
            let shown = error.to_string();
            prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_bytes(&bytes, "x").map_err(|error| error.to_string());
    }

    #[test]
    fn no_value_of_a_known_key_panics(
        at in 0..KEYS.len(),
        value in prop_oneof![
            "[ -~]{0,20}",
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>().prop_map(|n| format!("{n:e}")),
            "\\[[a-z0-9, ]{0,12}\\]",
            "\\{[a-z]{1,5}: [a-z0-9]{0,4}\\}",
        ],
    ) {
        // A path such as `a.b.c` becomes nested flow mappings.
        let names: Vec<_> = KEYS[at].path.split('.').collect();
        let (open, close): (String, String) =
            (names.iter().map(|n| format!("{{{n}: ")).collect(), "}".repeat(names.len()));
        if let Ok(spec) = parse(&format!("{open}{value}{close}"), "x") {
            prop_assert_eq!(parse(&spec.canonical(), "x").map(|s| s.digest()).ok(), Some(spec.digest()));
        }
    }

    #[test]
    fn the_batch_is_always_exact(effective in 1_u32..=65_536) {
        let train = &resolved(&format!("{MINIMAL}train: {{batch: {effective}}}\n"))["train"];
        let (micro, accumulation) = (train["micro_batch"].as_u64(), train["accumulation"].as_u64());
        let (micro, accumulation) = (micro.expect("a number"), accumulation.expect("a number"));
        prop_assert_eq!(micro * accumulation, u64::from(effective));
        prop_assert!((1..=8).contains(&micro));
        prop_assert!((micro + 1..=8).all(|larger| !u64::from(effective).is_multiple_of(larger)));
    }
}
