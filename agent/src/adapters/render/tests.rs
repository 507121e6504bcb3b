//! What each tool is given, by version and by what its user brought.

use serde_json::{Map, Value, json};

use super::*;

fn job(trainer: Value) -> ToolJob {
    let spec = json!({
        "data": {"format": "messages", "overlong": "truncate"},
        "method": {"type": "lora", "lora": {"r": 8, "alpha": 16, "dropout": 0.0, "targets": "all-linear"}},
        "train": {"epochs": null, "max_steps": 40, "seq_len": 128, "micro_batch": 4, "accumulation": 2,
                  "optimizer": {"name": "adamw", "lr": 2e-5, "weight_decay": 0.0, "betas": [0.9, 0.999]},
                  "schedule": {"type": "cosine", "warmup": 0.03}, "clip_norm": 1.0, "precision": "auto",
                  "gradient_checkpointing": false, "seed": 42, "log_every": 1},
        "checkpoint": {"every_steps": 10}, "trainer": trainer,
    });
    ToolJob::of_spec(&spec.to_string()).expect("a spec").expect("a tool")
}

fn scene(packages: &[(&str, &str)]) -> Scene {
    let packages =
        packages.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned()));
    Scene {
        versions: Versions { packages: packages.collect(), ..Versions::default() },
        train: vec!["train.jsonl".to_owned()],
        ..Scene::default()
    }
}

const NEW: [(&str, &str); 3] =
    [("trl", "1.16.0"), ("transformers", "5.23.0"), ("tensorboard", "2.20.0")];

fn config(rendered: &Rendered) -> Map<String, Value> {
    let (_, text) = rendered.files.last().expect("a file");
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn trl_gets_a_whole_configuration_from_the_spec() {
    let rendered = render(&job(json!({"kind": "trl"})), &scene(&NEW)).expect("rendered");
    assert_eq!(rendered.command, ["trl", "sft", "--config", "/hone/tool/trl.yaml"]);
    let config = config(&rendered);
    for (key, value) in [
        ("model_name_or_path", json!("/hone/input/model")),
        ("output_dir", json!("/hone/output")),
        ("max_steps", json!(40)),
        ("save_steps", json!(10)),
        ("learning_rate", json!(2e-5)),
        ("warmup_steps", json!(0.03)),
        ("lora_alpha", json!(16)),
        ("enable_jit_checkpoint", json!(true)),
        ("logging_nan_inf_filter", json!(false)),
        ("use_cpu", json!(true)),
    ] {
        assert_eq!(config.get(key), Some(&value), "{key}");
    }
    assert_eq!(config["datasets"][0]["data_files"], json!(["/hone/input/data/train/train.jsonl"]));
    assert!(
        !config.contains_key("resume_from_checkpoint") && !config.contains_key("num_train_epochs")
    );
    assert_eq!((rendered.stop, rendered.pushes), (StopSignal::Term, true));
    let on = Scene { resumes: true, ..scene(&NEW) };
    let resumed = render(&job(json!({"kind": "trl"})), &on).expect("rendered");
    assert_eq!(self::config(&resumed)["resume_from_checkpoint"], json!("/hone/resume"));
}

#[test]
fn older_versions_get_the_keys_that_they_know() {
    let old = [("trl", "0.24.0"), ("transformers", "4.57.6"), ("tensorboard", "2.20.0")];
    let rendered = render(&job(json!({"kind": "trl"})), &scene(&old)).expect("rendered");
    let config = config(&rendered);
    assert_eq!(config["warmup_ratio"], json!(0.03));
    assert_eq!(config["logging_dir"], json!("/hone/metrics/tb"));
    assert!(!config.contains_key("enable_jit_checkpoint") && !config.contains_key("warmup_steps"));
    assert_eq!((rendered.stop, rendered.pushes), (StopSignal::None, false));
    let on = Scene { resumes: true, ..scene(&old) };
    let refused = render(&job(json!({"kind": "trl"})), &on).expect_err("it forgets to resume");
    assert!(refused.to_string().contains("before 1.15"), "{refused}");
    let several = Scene { gpus: 2, ..scene(&NEW) };
    let rendered = render(&job(json!({"kind": "trl"})), &several).expect("rendered");
    assert_eq!(rendered.stop, StopSignal::None, "each rank would stop by its own clock");
}

#[test]
fn it_is_told_where_trl_learns_the_questions_too() {
    let told = |format: &str, loss_on: &str| {
        let mut job = job(json!({"kind": "trl"}));
        job.spec["data"]["format"] = json!(format);
        job.spec["data"]["loss_on"] = json!(loss_on);
        render(&job, &scene(&NEW)).expect("rendered").told.contains("learns the questions too")
    };
    assert!(told("messages", "answers") && told("auto", "last_answer"));
    assert!(!told("prompt_completion", "answers") && !told("messages", "all"));
}

#[test]
fn ranks_are_known_where_hone_starts_them_and_weights_alone_are_told() {
    let on = |kind: &str, gpus, command: &[&str]| {
        let versions = [("axolotl", "0.13.0"), ("llamafactory", "0.9.4"), NEW[0], NEW[1]];
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let scene = Scene { gpus, command, ..scene(&versions) };
        render(&job(json!({"kind": kind})), &scene).expect("rendered").ranks
    };
    assert_eq!((on("axolotl", 4, &[]), on("llamafactory", 1, &[])), (Some(4), Some(1)));
    assert_eq!((on("trl", 2, &[]), on("axolotl", 4, &["mine"])), (None, None));
    let trainer = json!({"kind": "trl", "override": {"save_only_model": true}});
    let rendered = render(&job(trainer), &scene(&NEW)).expect("rendered");
    assert_eq!(config(&rendered)["save_only_model"], json!(true));
    assert!(rendered.told.contains("weights only"), "{}", rendered.told);
}

#[test]
fn a_users_own_file_is_changed_only_where_it_must_be_and_the_changes_are_told() {
    let text = "model_name_or_path: org/model\noutput_dir: ./out\nper_device_train_batch_size: 3\n\
                logging_steps: 500\nsave_total_limit: 1\nlearning_rate: 1e-4\n";
    let trainer = json!({"kind": "trl", "config": {"name": "my.yml", "text": text},
                         "override": {"save_steps": 7}});
    let rendered = render(&job(trainer), &scene(&NEW)).expect("rendered");
    let config = config(&rendered);
    for (key, value) in [
        ("model_name_or_path", json!("org/model")),
        ("per_device_train_batch_size", json!(3)),
        ("logging_steps", json!(10)),
        ("save_total_limit", json!(3)),
        ("save_steps", json!(7)),
        ("output_dir", json!("/hone/output")),
    ] {
        assert_eq!(config.get(key), Some(&value), "{key}");
    }
    assert!(!config.contains_key("max_steps"), "the length is the user's");
    let told = &rendered.told;
    assert!(told.contains(r#"output_dir: "./out" → "/hone/output""#), "{told}");
    assert!(!told.contains("save_steps") && told.contains("trl 1.16.0"), "{told}");
}

#[test]
fn a_script_of_ones_own_gets_flags_or_its_file_and_its_own_way_to_resume() {
    let command = vec!["python".to_owned(), "train.py".to_owned()];
    let on = Scene { resumes: true, command: command.clone(), ..scene(&NEW) };
    let rendered = render(&job(json!({"kind": "hf"})), &on).expect("rendered");
    let line = rendered.command.join(" ");
    assert!(line.starts_with("python train.py --"), "{line}");
    assert!(line.contains("--output_dir /hone/output"), "{line}");
    assert!(line.contains("--resume_from_checkpoint /hone/resume"), "{line}");
    let trainer = json!({"kind": "hf", "resume": {"argument": "--from={path}"},
                         "config": {"name": "a.yaml", "text": "seed: 1"}});
    let rendered = render(&job(trainer), &on).expect("rendered");
    assert_eq!(
        rendered.command,
        ["python", "train.py", "/hone/tool/a.yaml", "--from=/hone/resume"]
    );
    assert!(!config(&rendered).contains_key("resume_from_checkpoint"));
    let trainer = json!({"kind": "custom", "resume": {"environment": "FROM"}, "stop": "none"});
    let rendered = render(&job(trainer), &on).expect("rendered");
    assert_eq!(rendered.environment, [("FROM".to_owned(), "/hone/resume".to_owned())]);
    assert_eq!((rendered.command, rendered.stop), (command, StopSignal::None));
    let none = Scene { command: Vec::new(), ..on };
    assert!(render(&job(json!({"kind": "torchtune"})), &none).is_err());
}

#[test]
fn axolotl_and_llamafactory_get_their_own_names_for_the_same() {
    let image = [("axolotl", "0.18.0"), ("transformers", "5.14.1"), ("tensorboard", "2.20.0")];
    let rendered = render(&job(json!({"kind": "axolotl"})), &scene(&image)).expect("rendered");
    let config_of_axolotl = config(&rendered);
    assert_eq!(config_of_axolotl["datasets"][0]["type"], json!("chat_template"));
    assert_eq!(config_of_axolotl["micro_batch_size"], json!(4));
    assert_eq!(config_of_axolotl["lora_target_linear"], json!(true));
    assert_eq!(config_of_axolotl["adam_beta2"], json!(0.999));
    assert_eq!(rendered.stop, StopSignal::None, "a signal would end it where it is");
    assert_eq!(config_of_axolotl["lora_mlp_kernel"], json!(false), "it runs on no CPU");
    assert!(!config_of_axolotl.contains_key("eval_steps"), "there is nothing to evaluate on");
    let with = Scene { gpus: 1, eval: vec!["eval.jsonl".to_owned()], ..scene(&image) };
    let rendered = render(&job(json!({"kind": "axolotl"})), &with).expect("rendered");
    let with = config(&rendered);
    assert!(!with.contains_key("lora_mlp_kernel"), "on a GPU it is Axolotl's to decide");
    assert_eq!(with["eval_strategy"], json!("epoch"), "no steps are named");
    assert!(!with.contains_key("eval_sample_packing"), "nothing is packed");
    let mut packed = job(json!({"kind": "axolotl"}));
    packed.spec["train"]["packing"] = json!(true);
    let with = Scene { eval: vec!["eval.jsonl".to_owned()], ..scene(&image) };
    let with = config(&render(&packed, &with).expect("rendered"));
    assert_eq!(with["eval_sample_packing"], json!(false), "it would drop held-out rows");
    let image = [("llamafactory", "0.9.6"), ("transformers", "5.6.0")];
    let rendered = render(&job(json!({"kind": "llamafactory"})), &scene(&image)).expect("rendered");
    let config = config(&rendered);
    assert_eq!(config["overwrite_output_dir"], json!(false));
    assert_eq!((&config["dataset"], &config["lora_rank"]), (&json!("train0"), &json!(8)));
    assert_eq!(config["report_to"], json!(["none"]), "no tensorboard is there");
    assert_eq!(
        config["enable_jit_checkpoint"],
        json!(true),
        "the `Trainer`'s, and it saves upon a signal"
    );
    assert_eq!(rendered.stop, StopSignal::Term);
    assert_eq!(config["disable_gradient_checkpointing"], json!(true), "it is on by itself");
    assert!(!config.contains_key("gradient_checkpointing"), "its own key says it");
    let sets: Value = serde_json::from_str(&rendered.files[0].1).expect("JSON");
    assert_eq!(sets["train0"]["file_name"], json!("/hone/input/data/train/train.jsonl"));
    let refused = render(&job(json!({"kind": "axolotl"})), &scene(&image)).expect_err("not there");
    assert!(refused.to_string().contains("no package axolotl"), "{refused}");
}

#[test]
fn a_tool_that_can_be_asked_for_a_checkpoint_is_told_where_to_look() {
    let scene = |version: &str| {
        let packages =
            [("axolotl", version)].map(|(name, version)| (name.to_owned(), version.to_owned()));
        Scene {
            versions: Versions { packages: packages.into_iter().collect(), ..Versions::default() },
            command: vec!["c".to_owned()],
            ..Scene::default()
        }
    };
    let new = render(&job(json!({"kind": "axolotl"})), &scene("0.14.0")).expect("rendered");
    assert_eq!(new.trigger.as_deref(), Some("axolotl_checkpoint.save"));
    assert!(new.files[0].1.contains("dynamic_checkpoint"), "{}", new.files[0].1);
    let old = render(&job(json!({"kind": "axolotl"})), &scene("0.13.2")).expect("rendered");
    assert_eq!(old.trigger, None);
    assert!(!old.files[0].1.contains("dynamic_checkpoint"), "{}", old.files[0].1);

    let saves = json!({"path": "c-{step}", "complete": {"marker": "DONE"}, "request": "now"});
    for kind in ["custom", "hf"] {
        let trainer = json!({"kind": kind, "checkpoint": saves});
        let own = render(&job(trainer), &scene("0.14.0")).expect("rendered");
        assert_eq!(own.trigger.as_deref(), Some("now"), "{kind}");
    }
    assert_eq!(
        render(&job(json!({"kind": "custom"})), &scene("1.0")).expect("rendered").trigger,
        None
    );
}

#[test]
fn several_gpus_share_the_batch_of_the_spec() {
    let versions = [("axolotl", "0.18.0"), ("llamafactory", "0.9.6"), NEW[0], NEW[1]];
    for (kind, micro) in [
        ("trl", "per_device_train_batch_size"),
        ("llamafactory", "per_device_train_batch_size"),
        ("axolotl", "micro_batch_size"),
    ] {
        let on = |gpus| {
            let found = render(&job(json!({"kind": kind})), &Scene { gpus, ..scene(&versions) });
            found.map(|rendered| {
                let config = config(&rendered);
                (config[micro].clone(), config["gradient_accumulation_steps"].clone())
            })
        };
        assert_eq!(on(1).expect("rendered"), (json!(4), json!(2)), "{kind}");
        assert_eq!(on(2).expect("rendered"), (json!(4), json!(1)), "{kind}");
        assert_eq!(on(8).expect("rendered"), (json!(1), json!(1)), "{kind}");
        let refused = on(3).expect_err("eight rows on three");
        assert!(refused.to_string().contains("a multiple of 3"), "{refused}");
    }
}

#[test]
fn a_command_names_its_configuration_where_it_lies_and_nothing_else_is_touched() {
    let of = |kind: &str, command: &[&str]| {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let on = Scene { command, ..scene(&NEW) };
        let trainer = json!({"kind": kind, "config": {"name": "data.yaml", "text": "a: 1"}});
        let rendered = render(&job(trainer), &on).expect("rendered");
        rendered.command[1..].join(" ")
    };
    for kind in ["hf", "custom", "torchtune", "unsloth"] {
        for (command, expected) in [
            (&["c", "--config=data.yaml"][..], "--config=/hone/tool/data.yaml"),
            (&["c", "--config", "./conf/data.yaml", "--x"], "--config /hone/tool/data.yaml --x"),
            (&["c", "metadata.yaml", "data.yaml"], "metadata.yaml /hone/tool/data.yaml"),
        ] {
            assert_eq!(of(kind, command), expected, "{kind}");
        }
    }
    assert_eq!(of("trl", &["trl", "--config", "data.yaml"]), "--config /hone/tool/trl.yaml");
    assert_eq!(of("hf", &["c", "metadata.yaml"]), "metadata.yaml /hone/tool/data.yaml");
    assert_eq!(of("custom", &["c", "metadata.yaml"]), "metadata.yaml", "it takes no argument");
}
