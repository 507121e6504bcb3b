//! What a tool cannot do is refused, and what it decides itself is told: of every key it is known which.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::{left, *};
use super::tools::with;
use super::*;

#[test]
fn what_the_tool_decides_itself_is_said_once_and_only_where_it_was_given() {
    let keys = "method: full\ntrain: {max_steps: 9, seq_len: 64, optimizer: {lr: 0.1}}\nevaluate: {base_model: true}\n";
    let warned = |trainer: &str| good(&format!("{}{keys}", with(trainer))).warnings();
    assert_eq!(
        warned("kind: hf, command: [c]"),
        [
            "with kind hf the script decides these itself: `method`, `train.seq_len`, `train.optimizer.lr`, `evaluate.base_model`"
        ]
    );
    assert_eq!(
        warned("kind: trl"),
        ["with kind trl the tool decides these itself: `evaluate.base_model`"]
    );
    assert_eq!(warned("kind: hone"), [""; 0]);
    let often = "train: {log_every: 5}\ncheckpoint: {every: {steps: 7}}\n";
    let warned = |kind: &str| {
        good(&format!("{}{often}", with(&format!("kind: {kind}, command: [c]")))).warnings()
    };
    assert_eq!(warned("hf"), [""; 0], "these it is asked for");
    assert!(warned("custom")[0].ends_with("`train.log_every`, `checkpoint.every.steps`"));
    assert_eq!(good(&with("kind: hf, command: [c]")).warnings(), [""; 0]);
}

#[test]
fn a_batch_that_the_gpus_cannot_share_is_refused_where_hone_writes_the_configuration() {
    let on = |trainer: &str, batch: u32, gpus: u32| {
        let more = format!("train: {{batch: {batch}}}\nresources: {{gpus: {gpus}}}\n");
        parse(&format!("{}{more}", with(trainer)), "job.yaml")
    };
    for kind in ["trl", "axolotl", "llamafactory"] {
        let error = on(&format!("kind: {kind}"), 16, 3).expect_err(kind);
        let [problem] = error.problems() else { panic!("{error}") };
        let told = (problem.kind, problem.path.as_str());
        assert_eq!(told, (ProblemKind::Conflict, "train.batch"), "{error}");
        assert!(problem.hint.contains("multiple of 3"), "{error}");
        on(&format!("kind: {kind}"), 18, 3).expect("six rows each");
        on(&format!("kind: {kind}, config: a.yaml"), 16, 3).expect("the file's own affair");
    }
    on("kind: hone", 16, 3).expect("hone's own trainer shares unevenly");
    on("kind: custom, command: [c]", 16, 3).expect("the script's own affair");
}

#[test]
fn a_method_that_the_tool_has_not_is_refused_where_hone_writes_the_configuration() {
    let freezes = |trainer: &str, what: &str| {
        let more = format!("method: {{type: freeze, freeze: {{{what}}}}}\n");
        parse(&format!("{}{more}", with(trainer)), "job.yaml")
    };
    for (kind, what, refused) in [
        ("trl", "last_layers: 2", true),
        ("axolotl", "modules: [lm_head]", true),
        ("llamafactory", "modules: [lm_head]", true),
        ("llamafactory", "last_layers: 2", false),
        ("llamafactory, config: a.yaml", "modules: [lm_head]", false),
        ("hone", "modules: [lm_head]", false),
    ] {
        let read = freezes(&format!("kind: {kind}"), what);
        assert_eq!(read.is_err(), refused, "{kind} {what}");
        let Err(error) = read else { continue };
        let [problem] = error.problems() else { panic!("{error}") };
        assert!(problem.path == "method" && problem.hint.contains("trainer.config"), "{error}");
    }
}

#[test]
fn a_configuration_of_ones_own_leaves_nothing_to_the_spec_but_what_hone_lays_over_it() {
    let keys = "method: full\ntrain: {epochs: 3, log_every: 5, optimizer: {lr: 0.1}}\ncheckpoint: {every: {steps: 7}}\n";
    let told = good(&format!("{}{keys}", with("kind: axolotl, config: a.yaml"))).warnings();
    assert_eq!(
        told,
        [
            "with kind axolotl the tool, by your configuration file, decides these itself: `method`, `train.epochs`, `train.optimizer.lr`"
        ]
    );
    let raw = with("kind: custom, command: [c], override: {a: 1}");
    assert!(good(&raw).warnings()[0].contains("`trainer.override`"), "it has nowhere to go");
    assert_eq!(good(&with("kind: hf, command: [c], override: {a: 1}")).warnings(), [""; 0]);
    let evaluates = "train: {eval_every: 5}\n";
    let told = |text: &str| good(&format!("{text}{evaluates}")).warnings();
    assert!(told(&with("kind: trl"))[0].contains("`train.eval_every`"), "on no rows");
    let own = with("kind: trl")
        .replace("data: ./train.jsonl", "data: {train: ./t.jsonl, eval: ./e.jsonl}");
    assert_eq!(told(&own), [""; 0]);
}

/// The agent's tests read what is written here: every key that is not left to a tool must change what it is given.
#[test]
fn of_every_key_it_is_known_whether_a_tool_goes_by_it() {
    let sections = ["data.", "method.", "train.", "checkpoint.every.", "evaluate", "log_level"];
    // Files reach a tool by their place, and minutes by its being asked.
    let apart = |path: &str| path.ends_with(".path") || path == "checkpoint.every.minutes";
    let keys = KEYS.iter().map(|key| key.path).filter(|path| {
        sections.iter().any(|section| path.starts_with(section))
            && !keys::has_children(path)
            && !apart(path)
    });
    let own = "data: {train: ./t.jsonl, eval: ./e.jsonl}";
    let of = |kind: &str| {
        let spec = good(&with(&format!("kind: {kind}")).replace("data: ./train.jsonl", own));
        let tool = left::Tool::of(&spec.trainer, true);
        let (left, taken): (Vec<_>, Vec<_>) = keys.clone().partition(|path| tool.decides(path));
        json!({"left": left, "taken": taken})
    };
    let found: BTreeMap<_, _> =
        ["axolotl", "llamafactory", "trl"].into_iter().map(|kind| (kind, of(kind))).collect();
    let found = format!("{}\n", serde_json::to_string_pretty(&found).expect("JSON"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/left_to_tools.json");
    if std::env::var_os("HONE_BLESS").is_some() {
        std::fs::write(&file, &found).expect("written");
    }
    let stored = std::fs::read_to_string(&file).expect("left_to_tools.json");
    assert!(stored == found, "stale: HONE_BLESS=1 cargo test -p hone-controller --lib spec");
}
