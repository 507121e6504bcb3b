//! Checkpoints that are not taken: cut off by a kill, failed to be copied, or never whole.

use super::*;

#[test]
fn a_checkpoint_that_only_stillness_speaks_for_must_have_been_still_before_its_tool_was_cut_off() {
    let settled = json!({"path": "{step}.keras", "complete": {"settled_s": 5.0}});
    let trainer = json!({"kind": "custom", "checkpoint": settled});
    let half = |world: &World| {
        fs::write(world.dirs.output().join("12.keras"), b"half").expect("written");
    };
    // (seconds that it was seen unchanged while the tool ran, how that ended, what is taken)
    for (still, writes, taken) in [
        (4, Writes::CutOff, &[][..]),
        (5, Writes::CutOff, &[12][..]),
        (4, Writes::Finished, &[12][..]),
    ] {
        let mut world = World::new();
        let mut keeper = world.keeper(trainer.clone());
        half(&world);
        for after in [0, still] {
            world.clock += Duration::from_secs(after);
            // A copy that has begun keeps the look from being one.
            keeper.look(world.clock, Writes::On);
        }
        world.clock += Duration::from_secs(60);
        assert_eq!(world.end(&mut keeper, writes), taken, "{still} s, {writes:?}");
        let told: Vec<_> = keeper.notices().into_iter().map(|told| told.code).collect();
        assert_eq!(told.is_empty(), !taken.is_empty(), "its owner must know: {told:?}");
    }
    // Never seen before: the agent began when all was over.
    let world = World::new();
    half(&world);
    assert_eq!(world.end(&mut world.keeper(trainer.clone()), Writes::CutOff), [] as [u64; 0]);
    assert_eq!(world.end(&mut world.keeper(trainer), Writes::Finished), [12]);
    // What else shows it to be whole shows it then too.
    let world = World::new();
    world.save("checkpoint-40");
    assert_eq!(world.end(&mut world.keeper(json!({"kind": "trl"})), Writes::CutOff), [40]);
    assert_eq!(Writes::of(true, Some(0)), Writes::Finished);
    assert_eq!(
        (Writes::of(true, Some(137)), Writes::of(true, None)),
        (Writes::CutOff, Writes::CutOff)
    );
    assert_eq!(Writes::of(false, Some(0)), Writes::On);
}

/// Looks at most so often, each time until no copy is under way; whether nothing was left to take then.
fn looks(world: &World, keeper: &mut Keeper, at_most: u32) -> bool {
    (0..at_most).any(|_| {
        while !keeper.is_free(world.clock) {
            std::thread::yield_now();
        }
        keeper.look(world.clock, Writes::CutOff)
    })
}

#[test]
fn a_copy_that_fails_is_tried_again_and_given_up_once_the_tool_has_ended() {
    let mut world = World::new();
    let kept = world.dirs.kept();
    let full = |full: bool| {
        if full {
            fs::remove_dir_all(&kept).and_then(|()| fs::write(&kept, "")).expect("in the way");
        } else {
            fs::remove_file(&kept).and_then(|()| fs::create_dir(&kept)).expect("out of the way");
        }
    };
    let mut keeper = world.keeper(json!({"kind": "trl"}));
    world.save("checkpoint-40");
    full(true);
    assert_eq!(world.settle(&mut keeper), [] as [u64; 0]);
    full(false);
    assert_eq!(world.settle(&mut keeper), [40], "there was room later");

    let world = World::new();
    let kept = world.dirs.kept();
    fs::remove_dir_all(&kept).and_then(|()| fs::write(&kept, "")).expect("in the way");
    let mut keeper = world.keeper(json!({"kind": "trl"}));
    fs::copy(
        world.save("checkpoint-40").join("adapter_model.safetensors"),
        world.dirs.output().join("adapter_model.safetensors"),
    )
    .expect("copied");
    assert!(looks(&world, &mut keeper, 10), "its attempt never ends");
    let told = keeper.notices();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].code == "checkpoint_not_taken" && told[0].message.contains("step 40"),
        "{told:?}"
    );
    let mut calls = 0;
    while !keeper.package(Step::new(40)) {
        calls += 1;
        assert!(keeper.package.failed <= TRIES, "{calls} calls: there is no end of it");
        std::thread::yield_now();
    }
    assert_eq!(
        keeper.notices().iter().map(|told| told.code).collect::<Vec<_>>(),
        ["package_not_made"]
    );
    assert!(keeper.package(Step::new(40)) && keeper.is_silent());
}

#[test]
fn what_is_no_checkpoint_any_more_is_not_tried_again() {
    let world = World::new();
    let kept = world.dirs.kept();
    fs::remove_dir_all(&kept).and_then(|()| fs::write(&kept, "")).expect("in the way");
    let mut keeper = world.keeper(json!({"kind": "trl"}));
    let state = world.save("checkpoint-40").join("trainer_state.json");
    assert!(!keeper.look(world.clock, Writes::CutOff), "it is copied");
    // Its size and time stay, as where the disk fails.
    let modified = fs::metadata(&state).and_then(|state| state.modified()).expect("a time");
    let text = fs::read_to_string(&state).expect("text");
    fs::write(&state, text.replace("\"global_step\": 40", "\"global_step\": 41")).expect("written");
    let file = fs::File::options().write(true).open(&state).expect("opened");
    file.set_modified(modified).expect("set");
    assert!(looks(&world, &mut keeper, 10), "its attempt never ends");
}

#[test]
fn a_manifest_of_hones_in_a_tools_checkpoint_is_not_copied_and_what_cannot_count_is_told() {
    let marker = json!({"path": "ckpt-{step}", "complete": {"marker": "DONE"}});
    let trainer = json!({"kind": "custom", "checkpoint": marker});
    let world = World::new();
    let mut keeper = world.keeper(trainer);
    for (step, names) in [(7, &["weights", MANIFEST_NAME, "DONE"]), (8, &["A", "a", "DONE"])] {
        let place = world.dirs.output().join(format!("ckpt-{step}"));
        fs::create_dir_all(&place).expect("made");
        for name in names {
            fs::write(place.join(name), *name).expect("written");
        }
    }
    assert!(looks(&world, &mut keeper, 10));
    let kept: Vec<_> = kept_in(&world.dirs).into_iter().map(|(step, _)| step.get()).collect();
    assert_eq!(kept, [7]);
    let told = keeper.notices();
    assert!(told.len() == 1 && told[0].message.contains("step 8"), "{told:?}");
}

#[test]
fn what_is_not_taken_hides_nothing_else_and_its_reason_is_told_once() {
    let wish = json!({"path": "run*/ckpt-{step}", "complete": {"marker": "DONE"}});
    let mut world = World::new();
    let mut keeper = world.keeper(json!({"kind": "custom", "checkpoint": wish}));
    let output = world.dirs.output();
    let put = |path: &str| {
        let path = output.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, "x").expect("written");
    };
    // More than is ever looked at.
    put("run1/ckpt-1/0");
    for n in 1..=BOUNDS.entries {
        fs::write(output.join(format!("run1/ckpt-1/{n}")), "").expect("written");
    }
    std::os::unix::fs::symlink("ckpt-1", output.join("run1/ckpt-2")).expect("linked");
    for step in [3, 4] {
        put(&format!("run1/ckpt-{step}/weights"));
    }
    ["run1/ckpt-5/weights", "run1/ckpt-5/DONE", "run2/ckpt-6/DONE"].into_iter().for_each(put);
    keeper.look(world.clock, Writes::On);
    assert_eq!(keeper.notices(), [], "it may be in the midst of something");
    assert_eq!(world.settle(&mut keeper), [5, 6]);
    let told = keeper.notices();
    let of = |what: &str| told.iter().filter(|told| told.message.contains(what)).count();
    assert_eq!((of("more than 10000"), of("neither a file nor a folder")), (1, 1), "{told:?}");
    assert_eq!((of("its marker is not there"), told.len()), (1, 3), "{told:?}");
    world.settle(&mut keeper);
    assert_eq!(keeper.notices(), [], "each once");
}
