//! When a tool saves, by what its user said of evaluations.

use serde_json::{Value, json};

use super::*;

fn rendered(
    kind: &str,
    every: Value,
    text: Option<&str>,
    command: &[&str],
) -> Result<Rendered, RenderError> {
    let mut trainer = json!({"kind": kind});
    if let Some(text) = text {
        trainer["config"] = json!({"name": "a.yaml", "text": text});
    }
    let spec = json!({"checkpoint": every, "train": {"epochs": 1.0}, "trainer": trainer});
    let job = ToolJob::of_spec(&spec.to_string()).expect("a spec").expect("a tool");
    let packages = [("trl", "1.16.0"), ("axolotl", "0.18.0"), ("transformers", "5.23.0")];
    let packages = packages.map(|(name, version)| (name.to_owned(), version.to_owned()));
    let scene = Scene {
        versions: Versions { packages: packages.into_iter().collect(), ..Versions::default() },
        train: vec!["train.jsonl".to_owned()],
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ..Scene::default()
    };
    render(&job, &scene)
}

fn saves(rendered: &Rendered) -> (Value, Value) {
    let (_, text) = rendered.files.last().expect("a file");
    let config: Value = serde_json::from_str(text).expect("JSON");
    (config["save_strategy"].clone(), config["save_steps"].clone())
}

#[test]
fn saves_that_are_tied_to_evaluations_stay_as_the_user_has_them() {
    let best = "load_best_model_at_end: true\neval_strategy: epoch\nsave_strategy: epoch\n";
    let unnamed = json!({"every_steps": 100});
    for kind in ["trl", "axolotl"] {
        let found = rendered(kind, unnamed.clone(), Some(best), &[]).expect(kind);
        assert_eq!(saves(&found), (json!("epoch"), Value::Null), "{kind}");
        assert!(found.told.contains("ties saves to evaluations"), "{}", found.told);
    }
    let plain = rendered("trl", unnamed, Some("eval_strategy: epoch"), &[]).expect("rendered");
    assert_eq!(saves(&plain), (json!("steps"), json!(100)));
}

#[test]
fn an_interval_that_the_trainer_would_refuse_is_refused_with_its_keys() {
    let best = |rest: &str| format!("load_best_model_at_end: true\n{rest}");
    for (every, text, fits) in [
        (json!({"every_steps": 40}), "eval_strategy: steps\neval_steps: 20", true),
        (json!({"every_steps": 40}), "eval_strategy: steps\neval_steps: 30", false),
        (json!({"every_steps": 40}), "eval_strategy: steps\nlogging_steps: 8", true),
        (json!({"every_steps": 40}), "eval_strategy: epoch", false),
        (json!({"every_epochs": 1.0}), "eval_strategy: epoch", true),
        (json!({"every_epochs": 1.0}), "seed: 1", false),
        (
            json!({"every_epochs": 0.5}),
            "eval_strategy: steps\neval_steps: 0.1\nnum_train_epochs: 1",
            true,
        ),
        (
            json!({"every_epochs": 0.5}),
            "eval_strategy: steps\neval_steps: 10\nnum_train_epochs: 1",
            false,
        ),
    ] {
        let found = rendered("trl", every, Some(&best(text)), &[]);
        assert_eq!(found.is_ok(), fits, "{text}: {found:?}");
        let Err(error) = found else { continue };
        let told = error.to_string();
        assert!(told.contains("`eval_steps`") && told.contains("`checkpoint.every`"), "{told}");
    }
}

#[test]
fn a_script_whose_command_ties_its_saves_gets_no_flags_for_them() {
    let flags = |more: &[&str]| {
        let command = [&["python3", "t.py"], more].concat();
        let found = rendered("hf", json!({"every_steps": 100}), None, &command).expect("rendered");
        found.command.iter().any(|word| word == "--save_strategy")
    };
    assert!(flags(&["--eval_strategy", "epoch"]));
    assert!(!flags(&["--load_best_model_at_end", "--eval_strategy", "epoch"]));
    assert!(!flags(&["--load_best_model_at_end=True", "--eval_strategy", "epoch"]));
    assert!(flags(&["--load_best_model_at_end", "False"]));
}

#[test]
fn a_part_of_the_run_goes_by_its_length_in_the_users_file() {
    let half = json!({"every_epochs": 0.5});
    let of = |text: &str| saves(&rendered("trl", half.clone(), Some(text), &[]).expect("rendered"));
    assert_eq!(of("num_train_epochs: 2"), (json!("steps"), json!(0.25)));
    assert_eq!(of("max_steps: 50\nnum_train_epochs: 2"), (json!("epoch"), Value::Null));
    assert_eq!(of("seed: 1"), (json!("epoch"), Value::Null), "its own default is its own affair");
    let told = rendered("trl", half, Some("seed: 1"), &[]).expect("rendered").told;
    assert!(told.contains("0.5 epochs"), "{told}");
}

#[test]
fn saves_of_a_configuration_by_hone_fall_on_its_evaluations() {
    let spec = json!({"checkpoint": {"every_steps": 100}, "train": {"eval_every": 30},
                      "trainer": {"kind": "trl", "override": {"load_best_model_at_end": true}}});
    let job = ToolJob::of_spec(&spec.to_string()).expect("a spec").expect("a tool");
    let packages = [("trl", "1.16.0")].map(|(name, version)| (name.to_owned(), version.to_owned()));
    let mut scene = Scene {
        versions: Versions { packages: packages.into_iter().collect(), ..Versions::default() },
        train: vec!["train.jsonl".to_owned()],
        ..Scene::default()
    };
    assert!(render(&job, &scene).is_err(), "there is nothing to evaluate on");
    scene.eval = vec!["eval.jsonl".to_owned()];
    let found = render(&job, &scene).expect("rendered");
    assert_eq!(saves(&found), (json!("steps"), json!(30)));
}

#[test]
fn weights_are_saved_as_what_a_complete_checkpoint_is_known_by() {
    let of = |kind: &str, version: &str, text: Option<&str>, command: &[&str]| {
        let mut trainer = json!({"kind": kind});
        if let Some(text) = text {
            trainer["config"] = json!({"name": "a.yaml", "text": text});
        }
        let job = ToolJob::of_spec(&json!({"trainer": trainer}).to_string());
        let packages = [("trl", "0.24.0"), ("axolotl", "0.13.0"), ("transformers", version)];
        let packages = packages.map(|(name, version)| (name.to_owned(), version.to_owned()));
        let scene = Scene {
            versions: Versions { packages: packages.into_iter().collect(), ..Versions::default() },
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            ..Scene::default()
        };
        let job = job.expect("a spec").expect("a tool");
        let found = render(&job, &scene).expect("rendered");
        let flags = found.command.join(" ");
        let text = found.files.last().map(|(_, text)| text.clone());
        text.map_or(flags, |text| text)
    };
    for kind in ["trl", "axolotl"] {
        let own = of(kind, "4.57.6", Some("save_safetensors: false"), &[]);
        assert!(own.contains(r#""save_safetensors": true"#), "{kind}: {own}");
        let silent = of(kind, "4.57.6", Some("seed: 1"), &[]);
        assert!(!silent.contains("save_safetensors"), "its own default: {kind}: {silent}");
    }
    let flags = of("hf", "4.57.6", None, &["c", "--save_safetensors", "False"]);
    assert!(
        flags.contains("--save_safetensors False") && flags.contains("--save_safetensors True")
    );
    let five = of("trl", "5.23.0", Some("save_safetensors: false"), &[]);
    assert!(five.contains(r#""save_safetensors": false"#), "it knows no such key: {five}");
}
