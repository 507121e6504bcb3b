//! A tool's sources together: what a real run left, in the orders in which it may be found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use hone_proto::id::{Attempt, Generation, JobId, Token};
use serde_json::{Value, json};

use super::*;
use crate::adapters::job::StopSignal;
use crate::adapters::steering::Steering;
use crate::layout::Layout;
use crate::logs::LogItem;
use crate::logs::parser::{LogParser, Progress as LogProgress};
use crate::tools::elastic::ERROR_NAME;

const FIXTURE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/trainer/hf5-trl-lora");

struct World {
    _dir: tempfile::TempDir,
    dirs: AttemptDirs,
    id: AttemptId,
    pushes: Pushes,
    job: ToolJob,
    reader: ToolReader,
    cursor: ToolCursor,
    clock: Instant,
    ended: bool,
    /// Every figure that was told, with how often.
    told: BTreeMap<(u64, String, String), usize>,
}

impl World {
    fn new(trainer: Value) -> Self {
        Self::of(json!({"trainer": trainer, "model": {"name": "org/base"}}))
    }

    fn of(spec: Value) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let token = Token { generation: Generation::new(1), attempt: Attempt::new(1) };
        let id = AttemptId { job: JobId::new(1), token };
        let layout = Layout::new(dir.path().to_owned());
        let dirs = layout.attempt(id);
        for folder in dirs.writable().into_iter().chain([dirs.kept()]) {
            fs::create_dir_all(folder).expect("made");
        }
        let job = ToolJob::of_spec(&spec.to_string()).expect("a spec").expect("a tool");
        let pushes = Pushes::new(layout);
        let reader = ToolReader::new(id, &dirs, &pushes, job.clone());
        let (cursor, clock, told) = (ToolCursor::default(), Instant::now(), BTreeMap::new());
        Self { _dir: dir, dirs, id, pushes, job, reader, cursor, clock, ended: false, told }
    }

    /// The agent begins anew, with what it kept.
    fn restart(&mut self) {
        let kept = serde_json::to_string(&self.cursor).expect("kept");
        self.cursor = serde_json::from_str(&kept).expect("restored");
        self.reader = ToolReader::new(self.id, &self.dirs, &self.pushes, self.job.clone());
    }

    fn read(&mut self, after: u64) -> Vec<Metrics> {
        self.clock += Duration::from_secs(after);
        let batch = self.reader.read(&self.cursor, self.clock, self.ended);
        self.cursor = batch.cursor;
        let metrics: Vec<_> = batch
            .events
            .into_iter()
            .filter_map(|(_, event)| if let Payload::Metrics(m) = event { Some(m) } else { None })
            .collect();
        for m in &metrics {
            for (name, _) in &m.values {
                let key = (m.step.get(), m.split.clone(), name.clone());
                *self.told.entry(key).or_default() += 1;
            }
        }
        metrics
    }

    fn print(&mut self, stream: &str, text: &str) {
        let line = |text: &str| {
            let time = "2026-11-29T10:00:00Z";
            format!("{}\n", json!({"log": text, "stream": stream, "time": time}))
        };
        let kept: String = text.split_inclusive('\n').map(line).collect();
        let (mut parser, mut out) = (LogParser::new(LogProgress::default()), Vec::new());
        parser.push(kept.as_bytes(), &mut out);
        parser.finish(&mut out);
        for item in out {
            if let LogItem::Line(line) = item {
                self.reader.printed(&line);
            }
        }
    }

    fn print_the_run(&mut self) {
        let of = |name: &str| fs::read_to_string(Path::new(FIXTURE).join(name)).expect("read");
        self.print("stdout", &of("stdout.txt"));
        self.print("stderr", &of("stderr-tqdm.txt"));
    }

    fn save_the_run(&mut self) {
        let place = self.dirs.output().join("checkpoint-40");
        fs::create_dir_all(&place).expect("made");
        let saved = Path::new(FIXTURE).join("checkpoint-40");
        for entry in fs::read_dir(saved).expect("the fixture").flatten() {
            fs::copy(entry.path(), place.join(entry.file_name())).expect("copied");
        }
        while !self.reader.keep(self.clock, Writes::Finished) {
            std::thread::yield_now();
        }
    }

    fn put_events(&self) {
        let tb = self.dirs.metrics().join("tb");
        fs::create_dir_all(&tb).expect("made");
        for entry in fs::read_dir(Path::new(FIXTURE).join("tb")).expect("the fixture").flatten() {
            fs::copy(entry.path(), tb.join(entry.file_name())).expect("copied");
        }
    }

    /// Nothing came twice, and every figure of the state came.
    fn check(&self) {
        let twice: Vec<_> = self.told.iter().filter(|(_, times)| **times != 1).collect();
        assert!(twice.is_empty(), "told more than once: {twice:?}");
        let state = fs::read(Path::new(FIXTURE).join("checkpoint-40/trainer_state.json"));
        let state = TrainerState::parse(&state.expect("read"), None).expect("a state");
        let missing: BTreeSet<_> = state
            .points
            .iter()
            .flat_map(|p| p.values.keys().map(move |name| (p, name)))
            .map(|(p, name)| {
                let step = p.step.map(Step::get).unwrap_or_default();
                (step, p.split.name().to_owned(), name.clone())
            })
            .filter(|key| !self.told.contains_key(key))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

fn loss(metrics: &[Metrics], step: u64) -> Option<f64> {
    metrics.iter().filter(|m| m.step.get() == step).find_map(|m| m.get("loss"))
}

#[test]
fn printed_figures_wait_for_better_ones_and_are_told_when_none_come() {
    let mut world = World::new(json!({"kind": "trl"}));
    world.print_the_run();
    assert_eq!(world.read(0), []);
    assert_eq!(world.read(14), []);
    let printed = world.read(1);
    assert_eq!(loss(&printed, 5), Some(5.4), "four digits");
    assert_eq!(world.reader.step(), Some(Step::new(40)));
    // The state tells the same figures exactly, and a few more at the end; the agent may have begun anew.
    world.restart();
    world.save_the_run();
    world.read(1);
    world.restart();
    world.read(1);
    world.check();
}

#[test]
fn at_the_end_of_a_short_run_the_last_state_has_its_say_before_what_was_printed() {
    let mut world = World::new(json!({"kind": "trl"}));
    world.ended = true;
    world.print_the_run();
    assert_eq!(world.read(0), [], "its last checkpoint is not taken yet");
    world.save_the_run();
    let told = world.read(0);
    assert_eq!(loss(&told, 5), Some(5.399_510_192_871_094), "exact");
    assert!(told.iter().any(|m| m.get("train_loss").is_some()), "which the state lacks");
    world.check();
}

#[test]
fn what_was_told_by_a_better_source_is_not_printed_too() {
    for late in [false, true] {
        let mut world = World::new(json!({"kind": "trl"}));
        if late {
            world.print_the_run();
            assert_eq!(world.read(0), []);
        }
        world.put_events();
        let mut events = world.read(1);
        events.extend(world.read(1));
        assert!(loss(&events, 5).is_some_and(|loss| (loss - 5.399_510).abs() < 1e-5));
        if !late {
            world.print_the_run();
        }
        assert_eq!(world.read(60), []);
        world.save_the_run();
        world.read(1);
        world.restart();
        assert_eq!(world.read(1), []);
        world.check();
    }
}

#[test]
fn a_state_with_many_figures_is_told_in_parts_to_its_end() {
    let mut world = World::new(json!({"kind": "hf"}));
    world.save_the_run();
    let kept = world.dirs.kept().join("checkpoint-40").join(STATE_NAME);
    let log = |step: u64| json!({"step": step, "loss": 1.0, "epoch": 0.5});
    let logs: Vec<_> = (1..=25_000).map(log).collect();
    let state = json!({"global_step": 25_000, "max_steps": 30_000, "log_history": logs});
    fs::write(kept, state.to_string()).expect("written");
    let told: usize = (0..4).map(|_| world.read(1).len()).sum();
    assert_eq!((told, world.told.len()), (25_000, 25_000));
    assert_eq!(world.reader.step(), Some(Step::new(25_000)));
}

#[test]
fn a_state_file_tells_no_figures_where_one_source_alone_is_wanted() {
    for alone in ["push", "stdout", "tensorboard"] {
        let mut world = World::new(json!({"kind": "trl", "telemetry": alone}));
        world.save_the_run();
        let batch = world.reader.read(&world.cursor, world.clock, false);
        let start = |event: &Payload| matches!(event, Payload::Start(s) if s.max_steps.is_some());
        assert!(matches!(&batch.events[..], [(_, event)] if start(event)), "{alone}");
        assert_eq!(world.reader.step(), Some(Step::new(40)), "it tells how far training is");
        let word = world.reader.last_word(Some(0));
        assert_eq!((word.status.as_str(), word.step), ("completed", Some(Step::new(40))));
    }
}

#[test]
fn a_spec_s_own_patterns_are_the_only_ones_that_count() {
    let patterns = json!([r"^it (?P<step>\d+) loss=(?P<loss>\S+)"]);
    let trainer = json!({"kind": "custom", "telemetry": "stdout", "stdout_patterns": patterns});
    let mut world = World::new(trainer);
    world.print("stdout", "it 3 loss=2.5\nstep: 9  loss: 9.0\nit 4 loss=high\nit 5 loss=nan\n");
    let told = world.read(0);
    assert_eq!((loss(&told, 3), told.len()), (Some(2.5), 2), "{told:?}");
    assert!(loss(&told, 5).is_some_and(f64::is_nan));
    // The same lines again, as after a full disk.
    world.print("stdout", "it 3 loss=2.5\n");
    assert_eq!(world.read(0), []);
}

#[test]
fn llamafactory_s_own_file_is_followed_and_says_how_long_the_run_is() {
    let mut world = World::new(json!({"kind": "llamafactory"}));
    let path = world.dirs.output().join("trainer_log.jsonl");
    let line = |step: u64| {
        format!("{}\n", json!({"current_steps": step, "total_steps": 40, "loss": 2.5, "lr": 1e-4}))
    };
    fs::write(&path, line(5)).expect("written");
    let batch = world.reader.read(&world.cursor, world.clock, false);
    let started = batch.events.iter().find_map(|(_, event)| match event {
        Payload::Start(start) => start.max_steps.map(Step::get),
        _ => None,
    });
    assert_eq!((started, batch.events.len()), (Some(40), 2));
    world.restart();
    fs::write(&path, line(5) + &line(10)).expect("written");
    let told = world.read(0);
    assert_eq!(told.iter().map(|m| m.step.get()).collect::<Vec<_>>(), [5, 10]);
    world.restart();
    assert_eq!(world.read(0), []);
}

#[test]
fn keras_s_printed_passes_place_its_figures_of_a_pass() {
    let mut world = World::new(json!({"kind": "custom"}));
    world.print("stdout", "Epoch 2/3\n100/100 - 3s - 30ms/step - loss: 2.0 - val_loss: 1.5\n");
    assert_eq!(world.read(0), []);
    let point = Point {
        step: None,
        epoch: Some(2.0),
        split: crate::tools::point::Split::Train,
        values: [("accuracy".to_owned(), 0.5)].into(),
        at: None,
        source: Source::TensorBoard,
    };
    assert_eq!(world.reader.passes.take(point), None);
    let told = world.read(0);
    assert_eq!((told[0].step.get(), told[0].get("accuracy")), (200, Some(0.5)));
    assert_eq!(told[0].epoch, Some(2.0));
}

#[test]
fn a_tool_that_ends_because_it_was_asked_to_has_not_completed() {
    let mut world = World::new(json!({"kind": "custom"}));
    world.print("stdout", "it 3 loss=2.5\n");
    assert_eq!(world.reader.last_word(Some(0)).status, "completed", "it ended by itself");
    fs::write(world.dirs.stop_sent(), "").expect("written");
    let word = world.reader.last_word(Some(0));
    assert_eq!((word.status.as_str(), word.code), ("interrupted", 75));
}

#[test]
fn its_owner_is_told_of_what_was_not_taken_before_its_end_counts() {
    let mut world = World::of(json!({"trainer": {"kind": "trl"}, "export": ["adapter"]}));
    let place = world.dirs.output().join("checkpoint-40");
    fs::create_dir_all(&place).expect("made");
    let weights = Path::new(FIXTURE).join("checkpoint-40/adapter_model.safetensors");
    fs::copy(weights, world.dirs.output().join("adapter_model.safetensors")).expect("copied");
    // No copy of anything can be made.
    let kept = world.dirs.kept();
    fs::remove_dir_all(&kept).and_then(|()| fs::write(&kept, "")).expect("in the way");
    let told = |world: &mut World| -> Vec<String> {
        let batch = world.reader.read(&world.cursor, world.clock, true);
        let code = |event| match event {
            Payload::Notice { code, attempt, .. } if attempt == world.id => Some(code),
            _ => None,
        };
        batch.events.into_iter().filter_map(|(_, event)| code(event)).collect()
    };
    assert!(world.reader.keep(world.clock, Writes::CutOff));
    assert_eq!(told(&mut world), ["checkpoint_not_whole"]);
    let word = TrainerWord { status: "completed".to_owned(), ..world.reader.last_word(Some(0)) };
    let (mut codes, mut looks) = (Vec::new(), 0);
    while !world.reader.package(&word) {
        looks += 1;
        assert!(looks < 100_000, "there is no end of it");
        codes.extend(told(&mut world));
        std::thread::yield_now();
    }
    assert_eq!(codes, ["package_not_made"]);
}

#[test]
fn the_first_process_s_own_words_explain_a_launcher_s_end() {
    let mut world = World::new(json!({"kind": "llamafactory"}));
    let error = json!({"message": {"message": "ValueError: odd", "extraInfo": {
        "py_callstack": "Traceback (most recent call last):\nValueError: odd\n"}}});
    fs::write(world.dirs.metrics().join(ERROR_NAME), error.to_string()).expect("written");
    world.print("stderr", "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: x\n");
    let word = world.reader.last_word(Some(1));
    assert_eq!((word.status.as_str(), word.code), ("failed", 70));
    assert!(word.message.contains("ValueError: odd"), "{}", word.message);
    let trace = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB";
    let error = json!({"message": {"message": "RuntimeError: x",
        "extraInfo": {"py_callstack": trace}}});
    fs::write(world.dirs.metrics().join(ERROR_NAME), error.to_string()).expect("written");
    assert_eq!(world.reader.last_word(Some(1)).code, 80);
}

#[test]
fn a_tool_that_can_be_asked_is_asked_for_a_checkpoint_when_one_is_due() {
    let spec = json!({"trainer": {"kind": "axolotl"}, "checkpoint": {"every_minutes": 2.0}});
    let mut world = World::of(spec);
    let steering = Steering {
        stop: StopSignal::None,
        grace: Duration::from_secs(60),
        trigger: Some(trigger::AXOLOTL.to_owned()),
        ranks: None,
    };
    steering::keep(&world.dirs, &steering).expect("kept");
    let asked = world.dirs.output().join(trigger::AXOLOTL);
    let look = |world: &mut World, after| {
        world.clock += Duration::from_secs(after);
        world.reader.keep(world.clock, Writes::On);
        asked.exists()
    };
    assert!(!look(&mut world, 600), "nothing is trained yet");
    world.reader.progress.step = Some(Step::new(1));
    assert!(!look(&mut world, 1) && !look(&mut world, 119));
    assert!(look(&mut world, 1));
    fs::remove_file(&asked).expect("the tool takes it away");
    assert!(!look(&mut world, 600), "it was asked once");
}
