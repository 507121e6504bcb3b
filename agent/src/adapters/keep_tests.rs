//! Checkpoints of a real run, taken, cut off and rotated away.

use std::fs;
use std::path::Path;
use std::time::Duration;

use hone_proto::id::{Attempt, AttemptId, Generation, JobId, Token};
use serde_json::{Value, json};

use super::*;
use crate::adapters::complete::Saves;
use crate::adapters::job::StopSignal;
use crate::adapters::steering::Steering;
use crate::layout::Layout;

#[path = "keep/failing_tests.rs"]
mod failing;

const FIXTURE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/trainer/hf5-trl-lora/checkpoint-40");

struct World {
    _dir: tempfile::TempDir,
    dirs: AttemptDirs,
    clock: Instant,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let token = Token { generation: Generation::new(1), attempt: Attempt::new(1) };
        let layout = Layout::new(dir.path().to_owned());
        let dirs = layout.attempt(AttemptId { job: JobId::new(1), token });
        for folder in [dirs.output(), dirs.kept()] {
            fs::create_dir_all(folder).expect("made");
        }
        Self { _dir: dir, dirs, clock: Instant::now() }
    }

    fn save(&self, name: &str) -> PathBuf {
        let place = self.dirs.output().join(name);
        fs::create_dir_all(&place).expect("made");
        for entry in fs::read_dir(FIXTURE).expect("the fixture").flatten() {
            fs::copy(entry.path(), place.join(entry.file_name())).expect("copied");
        }
        place
    }

    fn keeper(&self, trainer: Value) -> Keeper {
        let spec = json!({"trainer": trainer, "model": {"name": "org/base"}});
        let job = ToolJob::of_spec(&spec.to_string()).expect("a spec").expect("a tool");
        Keeper::new(self.dirs.clone(), job)
    }

    /// Looks once the tool has ended, until nothing is left to take.
    fn end(&self, keeper: &mut Keeper, writes: Writes) -> Vec<u64> {
        while !keeper.look(self.clock, writes) {
            std::thread::yield_now();
        }
        kept_in(&self.dirs).into_iter().map(|(step, _)| step.get()).collect()
    }

    /// Looks until nothing is under way; what has been still long enough is taken.
    fn settle(&mut self, keeper: &mut Keeper) -> Vec<u64> {
        for _ in 0..3 {
            self.clock += Duration::from_secs(60);
            while !keeper.look(self.clock, Writes::On) {
                std::thread::yield_now();
            }
        }
        kept_in(&self.dirs).into_iter().map(|(step, _)| step.get()).collect()
    }
}

#[test]
fn a_whole_checkpoint_is_taken_once_it_is_still_and_stays_when_the_tool_rotates() {
    let mut world = World::new();
    let place = world.save("checkpoint-40");
    let mut keeper = world.keeper(json!({"kind": "trl"}));
    assert!(
        keeper.look(world.clock, Writes::On) && kept_in(&world.dirs).is_empty(),
        "it may still change"
    );
    assert_eq!(world.settle(&mut keeper), [40]);
    fs::remove_dir_all(place).expect("rotated");
    assert_eq!(world.settle(&mut keeper), [40]);
    let kept = world.dirs.kept().join("checkpoint-40");
    let weights = fs::read(kept.join("adapter_model.safetensors")).expect("there");
    let original = fs::read(Path::new(FIXTURE).join("adapter_model.safetensors")).expect("there");
    assert_eq!(weights, original);
    let again = world.keeper(json!({"kind": "trl"}));
    assert_eq!(kept_in(&world.dirs).len(), 1);
    let newest = again.newest().map(|(step, _)| step.get());
    assert_eq!(newest, Some(40), "another life of the agent knows it");
}

#[test]
fn what_the_tool_removes_while_it_is_copied_is_taken_whole_and_what_it_rewrites_is_not() {
    let world = World::new();
    let place = world.save("checkpoint-40");
    let rule = Rule::HuggingFace(Saves::default());
    let output = Dir::open(&world.dirs.output()).expect("opened");
    let opened = || {
        let found = candidates(&output, &rule).expect("listed");
        begin(&output, &found.candidates[0]).expect("opened")
    };
    let rewritten = opened();
    let weights = fs::read(place.join("adapter_model.safetensors")).expect("there");
    fs::write(place.join("adapter_model.safetensors"), &weights[..9]).expect("rewritten");
    assert!(copy(&world.dirs.kept(), &rewritten).is_err(), "half of another save");
    let left = fs::read_dir(world.dirs.kept()).expect("there").count();
    assert_eq!(left, 0, "a copy that failed holds no space");
    assert!(kept_in(&world.dirs).is_empty());
    fs::write(place.join("adapter_model.safetensors"), &weights).expect("written");
    let rotated = opened();
    fs::remove_dir_all(&place).expect("rotated");
    copy(&world.dirs.kept(), &rotated).expect("taken");
    assert_eq!(kept_in(&world.dirs).len(), 1);
}

#[test]
fn whatever_is_missing_or_cut_makes_it_no_checkpoint() {
    for name in ["trainer_state.json", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt"]
    {
        let mut world = World::new();
        let place = world.save("checkpoint-40");
        let mut keeper = world.keeper(json!({"kind": "trl"}));
        let whole = fs::read(place.join(name)).expect("there");
        fs::write(place.join(name), &whole[..whole.len() / 2]).expect("cut");
        let cut = world.settle(&mut keeper);
        assert_eq!(cut, [] as [u64; 0], "{name} was cut");
        fs::remove_file(place.join(name)).expect("gone");
        assert_eq!(world.settle(&mut keeper), [] as [u64; 0], "{name} is gone");
        fs::write(place.join(name), &whole).expect("written");
        assert_eq!(world.settle(&mut keeper), [40], "{name} is whole again");
    }
    let mut world = World::new();
    world.save("checkpoint-41");
    let mut keeper = world.keeper(json!({"kind": "trl"}));
    assert_eq!(world.settle(&mut keeper), [] as [u64; 0], "its state is of another step");
}

#[test]
fn what_several_ranks_write_is_whole_once_the_file_that_names_the_parts_is_there() {
    let gone = |place: &Path, name: &str| fs::remove_file(place.join(name)).expect("gone");
    let put = |place: &Path, name: &str| {
        let path = place.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, "x").expect("written");
    };
    // FSDP: parts of weights and optimizer, each with a file that names them.
    let mut world = World::new();
    let place = world.save("checkpoint-40");
    let mut keeper = world.keeper(json!({"kind": "trl"}));
    gone(&place, "adapter_model.safetensors");
    gone(&place, "optimizer.pt");
    for part in ["pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp"] {
        put(&place, part);
        assert_eq!(world.settle(&mut keeper), [] as [u64; 0], "{part} is not all");
    }
    put(&place, "pytorch_model_fsdp_0/.metadata");
    assert_eq!(world.settle(&mut keeper), [] as [u64; 0], "the optimizer's parts have no names");
    put(&place, "optimizer_0/.metadata");
    assert_eq!(world.settle(&mut keeper), [40]);

    // DeepSpeed: `latest` names the folder, and a scheduler of its own is within.
    let mut world = World::new();
    let place = world.save("checkpoint-40");
    let mut keeper = world.keeper(json!({"kind": "axolotl"}));
    gone(&place, "optimizer.pt");
    gone(&place, "scheduler.pt");
    put(&place, "global_step40/states.bin");
    assert_eq!(world.settle(&mut keeper), [] as [u64; 0], "nothing names it yet");
    fs::write(place.join("latest"), "global_step41").expect("written");
    assert_eq!(world.settle(&mut keeper), [] as [u64; 0], "another folder is named");
    fs::write(place.join("latest"), "global_step40\n").expect("written");
    assert_eq!(world.settle(&mut keeper), [40]);

    // A rank that is behind.
    let mut world = World::new();
    let place = world.save("checkpoint-40");
    let mut keeper = world.keeper(json!({"kind": "hf"}));
    let random = fs::read(place.join("optimizer.pt")).expect("there");
    fs::write(place.join("rng_state_1.pth"), &random).expect("written");
    assert_eq!(world.settle(&mut keeper), [] as [u64; 0], "rank 0 wrote none");
    fs::write(place.join("rng_state_0.pth"), &random).expect("written");
    assert_eq!(world.settle(&mut keeper), [40]);
}

#[test]
fn every_rank_that_is_known_of_must_have_saved() {
    let random = |place: &Path, ranks: std::ops::Range<u32>| {
        let _ = fs::remove_file(place.join("rng_state.pth"));
        for rank in ranks {
            let to = place.join(format!("rng_state_{rank}.pth"));
            fs::copy(Path::new(FIXTURE).join("rng_state.pth"), to).expect("copied");
        }
    };
    // hone started two.
    let mut world = World::new();
    let (stop, grace) = (StopSignal::Term, Duration::from_secs(1));
    let two = Steering { stop, grace, trigger: None, ranks: Some(2) };
    steering::keep(&world.dirs, &two).expect("kept");
    let mut keeper = world.keeper(json!({"kind": "llamafactory"}));
    let place = world.save("checkpoint-40");
    random(&place, 0..1);
    assert_eq!(world.settle(&mut keeper), [] as [u64; 0], "the last rank is behind");
    random(&place, 1..2);
    assert_eq!(world.settle(&mut keeper), [40]);

    // Nobody knows how many there are, but a number in the name says that it was not one alone.
    let mut world = World::new();
    let mut keeper = world.keeper(json!({"kind": "hf"}));
    let place = world.save("checkpoint-40");
    random(&place, 0..1);
    assert_eq!(world.settle(&mut keeper), [] as [u64; 0], "another rank is behind");
    random(&place, 1..2);
    assert_eq!(world.settle(&mut keeper), [40]);

    // A script started three; the first checkpoint shows it, also to another life of the agent.
    let mut world = World::new();
    let mut keeper = world.keeper(json!({"kind": "hf"}));
    random(&world.save("checkpoint-40"), 0..3);
    assert_eq!(world.settle(&mut keeper), [40]);
    for mut keeper in [keeper, world.keeper(json!({"kind": "hf"}))] {
        let place = world.save("checkpoint-41");
        let state = fs::read_to_string(place.join("trainer_state.json")).expect("text");
        let state = state.replace("\"global_step\": 40", "\"global_step\": 41");
        fs::write(place.join("trainer_state.json"), state).expect("written");
        random(&place, 0..2);
        assert_eq!(world.settle(&mut keeper), [40], "the third is behind");
        random(&place, 2..3);
        assert_eq!(world.settle(&mut keeper), [40, 41]);
        fs::remove_dir_all(place).expect("rotated");
        fs::remove_dir_all(world.dirs.kept().join("checkpoint-41")).expect("forgotten");
    }

    // None has saved.
    let mut world = World::new();
    let mut keeper = world.keeper(json!({"kind": "trl"}));
    random(&world.save("checkpoint-40"), 0..0);
    assert_eq!(world.settle(&mut keeper), [] as [u64; 0]);
}

#[test]
fn weights_alone_are_a_checkpoint_where_their_user_asked_for_no_more() {
    for (asked, taken) in [(json!({}), &[][..]), (json!({"save_only_model": true}), &[40][..])] {
        let mut world = World::new();
        let mut keeper = world.keeper(json!({"kind": "trl", "override": asked}));
        let place = world.save("checkpoint-40");
        for name in ["optimizer.pt", "scheduler.pt", "rng_state.pth"] {
            fs::remove_file(place.join(name)).expect("not saved");
        }
        assert_eq!(world.settle(&mut keeper), taken, "{asked}");
    }
    let mut world = World::new();
    let mut keeper = world.keeper(json!({"kind": "trl", "override": {"save_only_model": true}}));
    let place = world.save("checkpoint-40");
    fs::remove_file(place.join("adapter_model.safetensors")).expect("not yet");
    assert_eq!(world.settle(&mut keeper), [] as [u64; 0], "weights it must hold");
    fs::write(
        place.join("model.safetensors.index.json"),
        r#"{"weight_map": {"a": "a.safetensors"}}"#,
    )
    .expect("written");
    assert_eq!(world.settle(&mut keeper), [] as [u64; 0], "in every file that is named");
    fs::copy(Path::new(FIXTURE).join("adapter_model.safetensors"), place.join("a.safetensors"))
        .expect("copied");
    assert_eq!(world.settle(&mut keeper), [40]);
}

#[test]
fn a_custom_checkpoint_is_complete_by_its_marker_or_by_being_still() {
    let mut world = World::new();
    let rule = json!({"path": "ckpt-{step}", "complete": {"marker": "DONE"}});
    let mut keeper = world.keeper(json!({"kind": "custom", "checkpoint": rule}));
    let place = world.dirs.output().join("ckpt-7");
    fs::create_dir_all(&place).expect("made");
    fs::write(place.join("weights.h5"), b"weights").expect("written");
    assert_eq!(world.settle(&mut keeper), [] as [u64; 0]);
    fs::write(place.join("DONE"), b"").expect("written");
    assert_eq!(world.settle(&mut keeper), [7]);
    while !keeper.package(Step::new(7)) {
        std::thread::yield_now();
    }
    assert!(world.dirs.kept().join("package/weights.h5").exists());
    let mut world = World::new();
    let rule = json!({"path": "{step}.keras", "complete": {"settled_s": 5.0}});
    let mut keeper = world.keeper(json!({"kind": "custom", "checkpoint": rule}));
    fs::write(world.dirs.output().join("12.keras"), b"model").expect("written");
    assert_eq!(world.settle(&mut keeper), [12]);
    assert!(world.dirs.kept().join("checkpoint-12/12.keras").exists());
}

#[test]
fn a_package_holds_no_training_state_and_names_its_base_as_people_do() {
    let mut world = World::new();
    world.save("checkpoint-40");
    let mut keeper = world.keeper(json!({"kind": "trl"}));
    assert_eq!(world.settle(&mut keeper), [40]);
    while !keeper.package(Step::new(40)) {
        std::thread::yield_now();
    }
    let package = world.dirs.kept().join("package");
    assert!(package.join("adapter_model.safetensors").exists());
    assert!(!package.join("optimizer.pt").exists() && !package.join("trainer_state.json").exists());
    let config = fs::read_to_string(package.join("adapter_config.json")).expect("there");
    assert!(config.contains(r#""base_model_name_or_path":"org/base""#), "{config}");
}

#[test]
fn weights_count_in_every_form_in_which_they_are_saved_and_cut_off_in_none() {
    let archive = fs::read(Path::new(FIXTURE).join("optimizer.pt")).expect("there");
    let put = |place: &Path, name: &str, content: &[u8]| {
        let path = place.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, content).expect("written");
    };
    let index = br#"{"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}"#;
    let own = "global_step40/zero_pp_rank_0_mp_rank_00_model_states.pt";
    // (the file with the weights, others that go along)
    for (name, others) in [
        ("pytorch_model.bin", &[][..]),
        ("adapter_model.bin", &[]),
        ("pytorch_model_fsdp.bin", &[]),
        ("pytorch_model-00001-of-00001.bin", &[("pytorch_model.bin.index.json", &index[..])]),
        (own, &[("latest", b"global_step40")]),
    ] {
        let mut world = World::new();
        let mut keeper = world.keeper(json!({"kind": "hf"}));
        let place = world.save("checkpoint-40");
        fs::remove_file(place.join("adapter_model.safetensors")).expect("gone");
        others.iter().for_each(|(name, content)| put(&place, name, content));
        put(&place, name, &archive[..archive.len() / 2]);
        assert_eq!(world.settle(&mut keeper), [] as [u64; 0], "{name} is cut off");
        put(&place, name, &archive);
        assert_eq!(world.settle(&mut keeper), [40], "{name}");
    }
    // What DeepSpeed keeps of an optimizer is no model, and a tokenizer's file is no archive.
    let mut world = World::new();
    let mut keeper = world.keeper(json!({"kind": "hf"}));
    let place = world.save("checkpoint-40");
    put(&place, "tokenizer.bin", b"words");
    put(&place, "optimizer.bin", &archive[..9]);
    assert_eq!(world.settle(&mut keeper), [] as [u64; 0], "the optimizer is cut off");
    put(&place, "optimizer.bin", &archive);
    let weights = place.join("adapter_model.safetensors");
    fs::rename(&weights, place.join("aside")).expect("renamed");
    put(&place, "global_step40/zero_pp_rank_0_mp_rank_00_optim_states.pt", &archive);
    put(&place, "latest", b"global_step40");
    assert_eq!(world.settle(&mut keeper), [] as [u64; 0], "it has no weights");
    fs::rename(place.join("aside"), &weights).expect("renamed");
    assert_eq!(world.settle(&mut keeper), [40]);
}

#[test]
fn the_slower_a_tool_saves_the_longer_a_checkpoint_must_be_still() {
    // (seconds that the first save took, seconds that the second must be still)
    for (took, still) in [(0, 3), (10, 20), (600, 30)] {
        let mut world = World::new();
        let mut keeper = world.keeper(json!({"kind": "trl"}));
        let place = world.save("checkpoint-40");
        let state = place.join("trainer_state.json");
        let whole = fs::read_to_string(&state).expect("text");
        fs::remove_file(&state).expect("not yet");
        assert!(keeper.look(world.clock, Writes::On));
        world.clock += Duration::from_secs(took);
        fs::write(&state, &whole).expect("written");
        assert!(keeper.look(world.clock, Writes::On));
        assert_eq!(world.settle(&mut keeper), [40]);
        let state = world.save("checkpoint-41").join("trainer_state.json");
        let next = whole.replace("\"global_step\": 40", "\"global_step\": 41");
        fs::write(state, next).expect("written");
        assert!(keeper.look(world.clock, Writes::On));
        world.clock += Duration::from_secs(still - 1);
        assert!(keeper.look(world.clock, Writes::On), "{took}: it is taken too early");
        world.clock += Duration::from_secs(1);
        assert!(!keeper.look(world.clock, Writes::On), "{took}: it is not taken");
    }
}
