//! Tools that users bring: what the container's spec says of them, what their configuration files must be, and what a
//! user is told.

use super::*;

const KERAS: &str = TOOLS[4];

/// A job with this `trainer` section, which names kind and image.
pub(super) fn with(trainer: &str) -> String {
    format!("{MINIMAL}trainer: {{image: i, {trainer}}}\n")
}

fn trainer(text: &str, config: Option<&str>) -> Value {
    let spec = resolve(&good(text), JobId::new(1), Attempt::new(1), None, config).to_json();
    serde_json::from_str::<Value>(&spec).expect("JSON")["trainer"].clone()
}

fn only(text: &str) -> String {
    let error = parse(text, "job.yaml").expect_err(text);
    assert_eq!(error.problems().len(), 1, "{error}");
    error.problems()[0].what.clone()
}

#[test]
fn the_agent_is_told_exactly_the_contract_of_tools() {
    let text = with(
        "kind: trl, config: ./conf/my.yml, override: {lr: 1.0e-4, deep: {on: true, list: [1, null, x]}},
  telemetry: push, stop: usr1, env: {A_B: '', LANG: C}",
    );
    let expected = json!({
        "kind": "trl",
        "config": {"name": "my.yml", "text": "a: 1\n"},
        "override": {"lr": 1e-4, "deep": {"on": true, "list": [1, null, "x"]}},
        "telemetry": "push",
        "stop": "usr1",
        "env": {"A_B": "", "LANG": "C"},
    });
    assert_eq!(trainer(&text, Some("a: 1\n")), expected);
    let expected = json!({
        "kind": "custom",
        "telemetry": "tensorboard",
        "stdout_patterns": [r"^step (?P<step>\d+) .* loss: (?P<loss>\S+)"],
        "checkpoint": {"path": "ckpt-{step}", "complete": {"marker": "DONE"}, "request": "save-now"},
        "resume": {"argument": "--resume={path}"},
        "stop": "term",
    });
    assert_eq!(trainer(KERAS, None), expected);
    let settled = with(
        "kind: hf, command: [c], checkpoint: {path: 'c/e{epoch}', complete: {settled: 2m}},
  resume: {environment: FROM}",
    );
    let told = trainer(&settled, None);
    assert_eq!(told["checkpoint"], json!({"path": "c/e{epoch}", "complete": {"settled_s": 120}}));
    assert_eq!(told["resume"], json!({"environment": "FROM"}));
    let asked = settled.replace("complete: {settled: 2m}", "complete: {settled: 2m}, request: now");
    assert_eq!(trainer(&asked, None)["checkpoint"]["request"], "now");
    assert_eq!(told["telemetry"], "auto");
    assert_eq!(trainer(MINIMAL, None), Value::Null, "hone's own trainer has no such section");
}

#[test]
fn a_spec_is_named_by_the_content_of_the_file_that_it_names() {
    let text = with("kind: axolotl, config: my.yml");
    let digest = |config| {
        let spec = resolve(&good(&text), JobId::new(1), Attempt::new(1), None, Some(config));
        let spec: Value = serde_json::from_str(&spec.to_json()).expect("JSON");
        spec["spec_digest"].clone()
    };
    assert_eq!(digest("a: 1"), digest("a: 1"));
    assert_ne!(digest("a: 1"), digest("a: 2"));
}

#[test]
fn a_script_can_do_without_model_and_data_and_hone_stages_what_is_there() {
    let spec = good(KERAS);
    assert_eq!(spec.channels(), []);
    let text = spec.canonical();
    assert_eq!(good(&text).canonical(), text);
    let told = resolve(&spec, JobId::new(1), Attempt::new(1), None, None).to_json();
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert!(told.get("model").is_none() && told.get("data").is_none(), "{told}");
    let some = "data: ./rows.csv\ntrainer: {kind: hf, image: i, command: [c]}\n";
    assert_eq!(good(some).channels(), [Channel::Train]);
    assert_eq!(good(some).name().as_str(), "job");
    let tool = "data: ./rows.csv\ntrainer: {kind: trl, image: i}\n";
    assert_eq!(only(tool), "the key `model` is missing");
}

#[test]
fn what_hone_does_not_write_needs_a_command() {
    for kind in ["torchtune", "unsloth", "hf", "custom"] {
        let text = with(&format!("kind: {kind}"));
        assert_eq!(only(&text), format!("kind `{kind}` needs a command"));
        good(&with(&format!("kind: {kind}, command: [c]")));
    }
    for kind in ["trl", "axolotl", "llamafactory"] {
        assert_eq!(good(&with(&format!("kind: {kind}"))).warnings(), [""; 0]);
        let own = good(&with(&format!("kind: {kind}, command: [c]"))).warnings();
        assert!(own[0].contains("replaces the command"), "{own:?}");
    }
}

#[test]
fn a_script_that_can_be_asked_for_a_checkpoint_has_its_minutes() {
    let saves = |more: &str| {
        let checkpoint =
            format!("checkpoint: {{path: 'c-{{step}}', complete: {{settled: 5s}}{more}}}");
        with(&format!("kind: custom, command: [c], {checkpoint}"))
    };
    for every in ["auto", "{minutes: 10}"] {
        let with_interval = |more| format!("{}checkpoint: {{every: {every}}}\n", saves(more));
        let told = good(&with_interval("")).warnings();
        assert!(told[0].contains("`checkpoint.every"), "{told:?}");
        assert_eq!(good(&with_interval(", request: save-now")).warnings(), [""; 0]);
    }
    let steps = format!("{}checkpoint: {{every: {{steps: 7}}}}\n", saves(", request: now"));
    assert!(good(&steps).warnings()[0].contains("`checkpoint.every.steps`"));
    assert_eq!(only(&saves(", request: a/b")), "`a/b` is not a plain file name");
}

#[test]
fn a_custom_package_is_the_last_checkpoint_that_the_spec_describes() {
    let exports = |trainer: &str| good(&with(trainer)).exports().to_vec();
    let saves = "checkpoint: {path: 'c-{step}', complete: {marker: DONE}}";
    assert_eq!(exports("kind: custom, command: [c]"), []);
    assert_eq!(exports(&format!("kind: custom, command: [c], {saves}")), [Export::Model]);
    assert_eq!(exports("kind: trl"), [Export::Adapter]);
    let nothing = format!("{}export: [model]\n", with("kind: custom, command: [c]"));
    assert!(only(&nothing).contains("leaves nothing"), "{}", only(&nothing));
}

#[test]
fn a_checkpoint_that_is_one_file_cannot_hold_a_marker() {
    let saves = |path: &str, complete: &str| {
        let save = format!("{{path: '{path}', complete: {{{complete}}}}}");
        with(&format!("kind: custom, command: [c], checkpoint: {save}"))
    };
    for path in ["{step}.keras", "c-{epoch}.PT", "{step}/model.safetensors"] {
        let error = parse(&saves(path, "marker: DONE"), "job.yaml").expect_err(path);
        let [problem] = error.problems() else { panic!("{error}") };
        let told = (problem.kind, problem.path.as_str());
        assert_eq!(told, (ProblemKind::Conflict, "trainer.checkpoint.complete"), "{error}");
        assert!(problem.hint.contains("settled: 10s"), "{error}");
        good(&saves(path, "settled: 5s"));
    }
    for path in ["ckpt-{step}", "{step}.keras/all", "epoch={epoch}.ckpt"] {
        good(&saves(path, "marker: DONE"));
    }
}

#[test]
fn a_configuration_file_is_a_mapping_and_what_is_wrong_names_its_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let read = |kind: &str, name: &str, text: &[u8]| {
        std::fs::write(dir.path().join(name), text).expect("written");
        let spec = good(&with(&format!("kind: {kind}, command: [c], config: ./{name}")));
        let read = read_config(&spec, dir.path());
        // The controller judges as the command line did.
        if let Ok(text) = std::str::from_utf8(text) {
            assert_eq!(check_config(&spec, text).is_ok(), read.is_ok(), "{name}: {text}");
        }
        read.map_err(|error| {
            let problem = &error.problems()[0];
            assert!(error.name().ends_with(name) && !problem.hint.is_empty(), "{error}");
            (problem.line, problem.kind, problem.what.clone())
        })
    };
    let merged = "base: &b {a: 1}\nuse:\n  <<: *b\n  ref: ${base.a}\n";
    assert_eq!(read("torchtune", "a.yaml", merged.as_bytes()), Ok(Some(merged.to_owned())));
    read("trl", "a.json", b"{\n\t\"a\": [1, 2]\n}").expect("tabs are fine in JSON");
    read("custom", "a.toml", b"[train]\nlr = 1\n").expect("a script's own affair");
    read("hf", "a.ini", b"[train]\n").expect("as well");
    let line =
        |read: Result<_, (u32, ProblemKind, String)>| read.map_err(|(line, kind, _)| (line, kind));
    use ProblemKind::{BadValue, Syntax, TooLarge, WrongType};
    for (kind, name, text, expected) in [
        ("trl", "b.yaml", &b"a: 1\nb: [1, 2\nc: 3\n"[..], (3, Syntax)),
        ("hf", "b.json", b"{\n  \"a\": 1,\n}\n", (3, Syntax)),
        ("axolotl", "b.yml", b"a: 1\na: 2\n", (2, Syntax)),
        ("axolotl", "c.yml", b"a: 1\n---\nb: 2\n", (2, Syntax)),
        ("llamafactory", "c.yaml", b"- a\n- b\n", (1, WrongType)),
        ("llamafactory", "d.yaml", b"# nothing\n", (1, WrongType)),
        ("trl", "d.json", b"3", (1, WrongType)),
        ("custom", "e.cfg", b"a\nb\0c\n", (2, BadValue)),
        ("custom", "f.cfg", b"a\nb \xff\n", (2, Syntax)),
        ("custom", "g.cfg", &[b'x'; MAX_CONFIG + 1], (1, TooLarge)),
    ] {
        assert_eq!(line(read(kind, name, text)), Err(expected), "{kind} {name}");
    }
    let spec = good(&with("kind: trl, config: ./absent.yaml"));
    let error = read_config(&spec, dir.path()).expect_err("there is none");
    let problem = &error.problems()[0];
    assert_eq!((problem.line, problem.path.as_str()), (3, "trainer.config"));
    assert_eq!(read_config(&good(MINIMAL), dir.path()), Ok(None));
}

#[test]
fn bombs_in_a_configuration_file_are_refused_quickly() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..10 {
        let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{aliases}]\n"));
    }
    let spec = good(&with("kind: trl, config: a.yaml"));
    let deep = format!("a: {}{}", "[".repeat(8000), "]".repeat(8000));
    let start = std::time::Instant::now();
    for text in [bomb, deep] {
        check_config(&spec, &text).expect_err("a bomb");
    }
    // Generous: a debug build on a busy machine needs well below a second.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn show_names_the_level_and_what_the_job_lacks() {
    let standing = |text: &str| {
        let spec = resolve(&good(text), JobId::new(1), Attempt::new(1), None, None);
        Standing::of(&spec.to_json())
    };
    let own = standing(MINIMAL);
    assert_eq!((own.kind, own.level, own.lacks.len()), (TrainerKind::Hone, Level::Native, 0));
    for (word, kind) in [("trl", TrainerKind::Trl), ("llamafactory", TrainerKind::LlamaFactory)] {
        let tool = standing(&with(&format!("kind: {word}")));
        assert_eq!((tool.kind, tool.level), (kind, Level::Steered));
        assert_eq!(tool.lacks, ["no checkpoint on demand", Level::Steered.lacks()[0]]);
    }
    let axolotl = standing(&with("kind: axolotl"));
    assert!(axolotl.lacks[0].ends_with("before Axolotl 0.14"), "{axolotl:?}");
    let saves = "checkpoint: {path: 'e{epoch}', complete: {settled: 5s}, request: now}";
    let asked = standing(&with(&format!("kind: hf, command: [c], {saves}")));
    assert_eq!(asked.lacks, Level::Steered.lacks(), "it has a file to ask by");
    let keras = standing(KERAS);
    assert_eq!((keras.level, keras.lacks.len()), (Level::Opaque, 1), "it can be asked: {keras:?}");
    let blind = standing(&with("kind: custom, command: [c]"));
    assert!(blind.lacks.iter().any(|lack| lack.contains("from the beginning")), "{blind:?}");
    assert!(blind.lacks.iter().any(|lack| lack.contains("exit code")), "{blind:?}");
    assert_eq!(Standing::of("no JSON"), own, "jobs of earlier releases run hone's own");
}

#[test]
fn a_tool_that_hone_only_runs_can_say_what_its_checkpoints_are() {
    let lacks = |trainer: &str| {
        let spec =
            resolve(&good(&with(trainer)), JobId::new(1), Attempt::new(1), None, None).to_json();
        Standing::of(&spec).lacks.join(", ")
    };
    let saves = "checkpoint: {path: 'epoch_{epoch}', complete: {settled: 5s}}";
    let resume = "resume: {argument: 'checkpointer.checkpoint_dir={path}'}";
    for (kind, known) in [("torchtune", false), ("unsloth", true)] {
        let bare = lacks(&format!("kind: {kind}, command: [c]"));
        assert_eq!(bare.contains("no checkpoints"), !known, "{kind}: {bare}");
        let saved = lacks(&format!("kind: {kind}, command: [c], {saves}"));
        assert!(saved.contains("no `trainer.resume`"), "{kind}: {saved}");
        let whole = lacks(&format!("kind: {kind}, command: [c], {saves}, {resume}"));
        assert!(!whole.contains("beginning"), "{kind}: {whole}");
    }
    let refused = only(&with(&format!("kind: trl, {saves}")));
    assert!(refused.contains("whose checkpoints hone knows"), "{refused}");
}
