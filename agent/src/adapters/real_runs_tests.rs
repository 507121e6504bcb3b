//! Checkpoints of every tool that the recipes of `tests/fixtures` ran: whole, they are taken; without what the tool wrote
//! last, or with any of its files cut, they are none.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::complete::{Rule, candidates, judge};
use super::job::ToolJob;
use crate::trainer::Dir;

/// A fixture, its kind, and the folder of its newest checkpoint.
const TOOLS: [(&str, &str); 6] = [
    ("hf-4.57.6-full", "hf"),
    ("hf-5.23.0-full", "hf"),
    ("trl-1.16.0-lora", "trl"),
    ("axolotl-0.18.0-lora", "axolotl"),
    ("llamafactory-0.9.5-lora", "llamafactory"),
    ("unsloth-2026.10.9-lora", "unsloth"),
];
/// What the rule must see when it is not there.
const NEEDED: [&str; 3] = ["optimizer.pt", "scheduler.pt", "trainer_state.json"];

fn output(fixture: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/trainer")
        .join(fixture)
        .join("output")
}

fn rule(kind: &str) -> Rule {
    let spec = json!({"trainer": {"kind": kind}}).to_string();
    Rule::of(&ToolJob::of_spec(&spec).expect("a spec").expect("a tool"), None)
}

/// What is said of the checkpoints in a folder, earliest first.
fn judged(output: &Path, rule: &Rule) -> Vec<(u64, Result<(), String>)> {
    let dir = Dir::open(output).expect("a folder");
    let found = candidates(&dir, rule).expect("read").candidates;
    found.iter().map(|one| (one.step.get(), judge(&dir, rule, one))).collect()
}

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

#[test]
fn the_whole_checkpoint_of_every_tool_is_one_and_a_state_alone_is_not() {
    for (fixture, kind) in TOOLS {
        let found = judged(&output(fixture), &rule(kind));
        let [.., (10, Err(why)), (20, Ok(()))] = found.as_slice() else {
            panic!("{fixture}: {found:?}")
        };
        assert_eq!(why, "its weights are missing", "{fixture}");
    }
}

#[test]
fn axolotl_saved_where_it_was_asked_to() {
    // The file lay there before its first step.
    let saved = judged(&output("axolotl-0.18.0-lora"), &rule("axolotl"));
    assert_eq!(saved.first().map(|(step, _)| *step), Some(1), "{saved:?}");
}

#[test]
fn what_is_missing_or_cut_makes_it_none() {
    for (fixture, kind) in TOOLS {
        let (whole, scratch) =
            (output(fixture).join("checkpoint-20"), tempfile::tempdir().expect("a folder"));
        let place = scratch.path().join("checkpoint-20");
        copied(&whole, &place);
        let is_one = || matches!(judged(scratch.path(), &rule(kind)).as_slice(), [(20, Ok(()))]);
        assert!(is_one(), "{fixture}");
        let mut cuts = 0;
        for entry in fs::read_dir(&whole).expect("a folder").flatten() {
            let name = entry.file_name().into_string().expect("text");
            let weights = name.ends_with(".safetensors");
            let (path, bytes) = (place.join(&name), fs::read(entry.path()).expect("bytes"));
            if weights || NEEDED.contains(&name.as_str()) {
                fs::remove_file(&path).expect("gone");
                assert!(!is_one(), "{fixture} without {name}");
            }
            if weights
                || name.ends_with(".pt")
                || name.ends_with(".pth")
                || name == "trainer_state.json"
            {
                let end = bytes.trim_ascii_end().len();
                for cut in [0, 1, end / 2, end - 1] {
                    fs::write(&path, &bytes[..cut]).expect("cut");
                    assert!(!is_one(), "{fixture} with {name} cut at {cut}");
                    cuts += 1;
                }
            }
            fs::write(&path, &bytes).expect("written");
            assert!(is_one(), "{fixture} with {name} as it was");
        }
        assert!(cuts >= 20, "{fixture}: {cuts}");
    }
}
