//! The adapter against a library that plays a script: every value, and everything that can go wrong.

use std::path::Path;

use fake_nvml::{FakeGpu, FakeMemory, FakeNvml, FakePcie, FakeProcess, Script};
use hone_proto::inventory::{ComputeCapability, Pcie};
use hone_proto::quantity::Bytes;
use hone_proto::sample::{GpuProcess, ThrottleReasons};

use super::*;

/// A GPU that tells everything, each figure different from every other and from those of another `seed`.
fn full(seed: u32) -> FakeGpu {
    let mib = |n: u32| u64::from(seed * 1000 + n) << 20;
    FakeGpu {
        uuid: Some(format!("GPU-0000-{seed}")),
        name: Some(format!("NVIDIA Test {seed}")),
        serial: Some(format!("132052{seed}")),
        memory: Some(FakeMemory { total: mib(9), reserved: mib(1), used: mib(3), free: mib(5) }),
        compute_capability: Some((9, 1)),
        pcie: Some(FakePcie {
            bus_id: format!("00000000:1{seed}:00.0"),
            max_generation: Some(5),
            max_lanes: Some(16),
        }),
        utilisation: Some((90 + seed, 40 + seed)),
        temperature: Some(60 + seed),
        power: Some(300_000 + seed),
        power_limit: Some(700_000 + seed),
        sm_clock: Some(1_980 + seed),
        memory_clock: Some(2_619 + seed),
        throttle: Some(0x44 + (u64::from(seed) << 32)),
        compute_processes: Some(vec![
            FakeProcess { pid: 1_000_000 + seed, memory: Some(mib(2)) },
            FakeProcess { pid: 1_000_100 + seed, memory: None },
        ]),
        graphics_processes: Some(vec![
            FakeProcess { pid: 1_000_000 + seed, memory: Some(mib(2)) },
            FakeProcess { pid: 1_000_200 + seed, memory: Some(mib(7)) },
        ]),
        ..FakeGpu::default()
    }
}

fn script(gpus: Vec<FakeGpu>) -> Script {
    Script { driver: Some("580.65.06".to_owned()), cuda: Some(13_010), gpus, ..Script::default() }
}

/// Deadlines that no busy machine misses, so that only a real hang does.
fn patient(library: &Path) -> GpuSettings {
    GpuSettings {
        library: Some(library.to_owned()),
        sample_deadline: Duration::from_secs(30),
        inventory_deadline: Duration::from_secs(30),
        stale_after: Duration::ZERO,
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    fake: FakeNvml,
    gpus: Gpus,
}

impl Bench {
    fn new(script: &Script) -> Self {
        Self::with(script, &[], |settings| settings)
    }

    fn with(
        script: &Script,
        missing: &[&str],
        change: impl FnOnce(GpuSettings) -> GpuSettings,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let fake = FakeNvml::install_without(dir.path(), script, missing).expect("installed");
        let gpus = Gpus::start(change(patient(fake.library())));
        Self { _dir: dir, fake, gpus }
    }
}

#[test]
fn every_value_of_the_script_arrives_unchanged_in_the_sample() {
    let bench = Bench::new(&script(vec![full(1), full(2)]));
    assert_eq!(bench.gpus.inventory().gpus.len(), 2);
    for (seed, sample) in (1_u32..).zip(bench.gpus.sample()) {
        let bytes = |n: u32| Some(Bytes::mib(u64::from(seed * 1000 + n)));
        let process = |pid, memory| GpuProcess { pid, memory, name: None, owner: None };
        let expected = GpuSample {
            id: format!("GPU-0000-{seed}").parse().expect("an id"),
            index: seed - 1,
            state: GpuState::Ok,
            memory_total: bytes(9),
            memory_used: bytes(3),
            memory_free: bytes(5),
            utilisation_percent: Some(90 + seed),
            memory_utilisation_percent: Some(40 + seed),
            temperature_celsius: Some(60 + seed),
            power_mw: Some(300_000 + seed),
            power_limit_mw: Some(700_000 + seed),
            sm_clock_mhz: Some(1_980 + seed),
            memory_clock_mhz: Some(2_619 + seed),
            throttle: Some(ThrottleReasons::from_bits(0x44 + (u64::from(seed) << 32))),
            processes: Some(vec![
                process(1_000_000 + seed, bytes(2)),
                process(1_000_100 + seed, None),
                process(1_000_200 + seed, bytes(7)),
            ]),
        };
        assert_eq!(sample, expected);
    }
}

#[test]
fn every_value_of_the_script_arrives_unchanged_in_the_inventory() {
    let bench = Bench::new(&script(vec![full(3)]));
    let expected = GpuInventory {
        nvml: Nvml::Present { driver: Some("580.65.06".to_owned()), cuda: Some("13.1".to_owned()) },
        gpus: vec![Gpu {
            index: 0,
            id: "GPU-0000-3".parse().expect("an id"),
            state: GpuState::Ok,
            name: Some("NVIDIA Test 3".to_owned()),
            serial: Some("1320523".to_owned()),
            vram: Some(Bytes::mib(3009)),
            compute_capability: Some(ComputeCapability { major: 9, minor: 1 }),
            power_limit_mw: Some(700_003),
            pcie: Some(Pcie {
                bus_id: "00000000:13:00.0".to_owned(),
                max_generation: Some(5),
                max_lanes: Some(16),
            }),
        }],
        silent: Vec::new(),
    };
    assert_eq!(bench.gpus.inventory(), expected);
}

#[test]
fn what_changes_while_the_agent_runs_is_seen_in_the_next_sample() {
    let bench = Bench::new(&script(vec![full(1)]));
    bench.gpus.inventory();
    assert_eq!(bench.gpus.sample()[0].temperature_celsius, Some(61));
    let hot = FakeGpu { temperature: Some(91), throttle: Some(0x40), ..full(1) };
    bench.fake.play(&script(vec![hot])).expect("played");
    let sample = bench.gpus.sample();
    assert_eq!(sample[0].temperature_celsius, Some(91));
    assert!(sample[0].throttle.is_some_and(ThrottleReasons::is_thermal));
}

#[test]
fn a_gpu_that_tells_only_its_id_works_and_has_no_figures() {
    let bare = FakeGpu { uuid: Some("GPU-bare".to_owned()), ..FakeGpu::default() };
    let bench = Bench::new(&Script { gpus: vec![bare], ..Script::default() });
    let inventory = bench.gpus.inventory();
    assert_eq!(inventory.nvml, Nvml::Present { driver: None, cuda: None });
    assert_eq!((&inventory.gpus[0].state, inventory.gpus[0].vram), (&GpuState::Ok, None));
    let id: GpuId = "GPU-bare".parse().expect("an id");
    assert_eq!(bench.gpus.sample(), [GpuSample::without_figures(id, 0, GpuState::Ok)]);
}

#[test]
fn a_lost_gpu_is_a_fact_and_the_others_go_on() {
    let bench = Bench::new(&script(vec![full(1), full(2)]));
    bench.gpus.inventory();
    bench.fake.play(&script(vec![FakeGpu { lost: true, ..full(1) }, full(2)])).expect("played");
    let samples = bench.gpus.sample();
    assert_eq!(samples[0].state, GpuState::Lost);
    assert_eq!(samples[0].memory_used, None);
    assert_eq!((&samples[1].state, samples[1].temperature_celsius), (&GpuState::Ok, Some(62)));
    let inventory = bench.gpus.inventory();
    assert_eq!(inventory.gpus[0].state, GpuState::Lost);
    assert_eq!(inventory.gpus[0].vram, Some(Bytes::mib(1009)), "what it was is still known");
    assert_eq!(inventory.gpus[1].state, GpuState::Ok);
}

#[test]
fn a_gpu_that_is_lost_halfway_through_its_figures_tells_none_of_them() {
    let lost = |function: &str| FakeGpu { errors: [(function.to_owned(), 15)].into(), ..full(1) };
    let bench = Bench::new(&script(vec![full(1)]));
    bench.gpus.inventory();
    bench.fake.play(&script(vec![lost("nvmlDeviceGetClockInfo")])).expect("played");
    let id: GpuId = "GPU-0000-1".parse().expect("an id");
    assert_eq!(bench.gpus.sample(), [GpuSample::without_figures(id, 0, GpuState::Lost)]);
}

#[test]
fn a_gpu_that_gives_no_new_handle_is_asked_through_its_old_one() {
    const RESET_REQUIRED: u32 = 16;
    let bench = Bench::new(&script(vec![full(1)]));
    bench.gpus.inventory();
    let fails = |function: &str| (function.to_owned(), RESET_REQUIRED);
    let errors = [fails("nvmlDeviceGetHandleByIndex_v2"), fails("nvmlDeviceGetUUID")].into();
    bench.fake.play(&script(vec![FakeGpu { errors, ..full(1) }])).expect("played");
    let inventory = bench.gpus.inventory();
    assert_eq!(inventory.gpus[0].state, GpuState::NeedsReset);
    assert!(inventory.silent.is_empty(), "it is known: {:?}", inventory.silent);
}

#[test]
fn a_gpu_that_was_lost_before_the_agent_came_is_counted() {
    let bench = Bench::new(&script(vec![FakeGpu { lost: true, ..full(1) }, full(2)]));
    let inventory = bench.gpus.inventory();
    assert_eq!(inventory.silent, [SilentGpu { index: 0, state: GpuState::Lost }]);
    assert_eq!(inventory.gpus.len(), 1);
    assert_eq!(bench.gpus.sample().len(), 1);
}

#[test]
fn a_gpu_that_the_driver_no_longer_counts_is_lost() {
    let bench = Bench::new(&script(vec![full(1), full(2)]));
    bench.gpus.inventory();
    bench.fake.play(&script(vec![full(1)])).expect("played");
    let inventory = bench.gpus.inventory();
    assert_eq!(inventory.gpus[0].state, GpuState::Ok);
    assert_eq!(inventory.gpus[1].state, GpuState::Lost);
    assert_eq!(bench.gpus.sample()[1].state, GpuState::Lost);
}

/// Whether a sample lacks a figure.
type IsGone = fn(&GpuSample) -> bool;

#[test]
fn each_function_that_fails_costs_only_its_own_figure() {
    const NOT_SUPPORTED: u32 = 3;
    const UNKNOWN: u32 = 999;
    let figures: [(&str, IsGone); 10] = [
        ("nvmlDeviceGetMemoryInfo_v2", |s| s.memory_total.is_none() && s.memory_free.is_none()),
        ("nvmlDeviceGetUtilizationRates", |s| s.utilisation_percent.is_none()),
        ("nvmlDeviceGetTemperature", |s| s.temperature_celsius.is_none()),
        ("nvmlDeviceGetPowerUsage", |s| s.power_mw.is_none()),
        ("nvmlDeviceGetEnforcedPowerLimit", |s| s.power_limit_mw.is_none()),
        ("nvmlDeviceGetClockInfo", |s| s.sm_clock_mhz.is_none() && s.memory_clock_mhz.is_none()),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", |s| s.throttle.is_none()),
        ("nvmlDeviceGetComputeRunningProcesses_v3", |s| {
            s.processes.as_ref().is_some_and(|processes| processes.len() == 2)
        }),
        ("nvmlDeviceGetGraphicsRunningProcesses_v3", |s| {
            s.processes.as_ref().is_some_and(|processes| processes.len() == 2)
        }),
        ("nvmlDeviceGetUUID", |s| s.power_mw.is_some()),
    ];
    let bench = Bench::new(&script(vec![full(1)]));
    bench.gpus.inventory();
    for (function, is_gone) in figures {
        for code in [NOT_SUPPORTED, UNKNOWN] {
            let gpu = FakeGpu { errors: [(function.to_owned(), code)].into(), ..full(1) };
            bench.fake.play(&script(vec![gpu])).expect("played");
            let sample = &bench.gpus.sample()[0];
            assert!(is_gone(sample), "{function} {code}: {sample:?}");
            // Without its memory a GPU is out of order; anything else it can do without.
            let broken = function == "nvmlDeviceGetMemoryInfo_v2" && code == UNKNOWN;
            assert_eq!(sample.state != GpuState::Ok, broken, "{function} {code}: {sample:?}");
        }
    }
}

#[test]
fn a_driver_without_a_function_lacks_only_that_figure() {
    let missing = ["nvmlDeviceGetTemperature", "nvmlDeviceGetComputeRunningProcesses_v3"];
    let bench = Bench::with(&script(vec![full(1)]), &missing, |settings| settings);
    assert_eq!(bench.gpus.inventory().gpus.len(), 1);
    let sample = &bench.gpus.sample()[0];
    assert_eq!((&sample.state, sample.temperature_celsius), (&GpuState::Ok, None));
    assert_eq!(sample.power_mw, Some(300_001));
    assert_eq!(sample.processes.as_ref().map(Vec::len), Some(2), "those that draw");
}

#[test]
fn no_library_is_a_fact() {
    let dir = tempfile::tempdir().expect("a folder");
    let gpus = Gpus::start(patient(&dir.path().join("libnvidia-ml.so.1")));
    let inventory = gpus.inventory();
    assert!(matches!(inventory.nvml, Nvml::Absent { ref why } if why.contains("libnvidia-ml")));
    assert!(inventory.gpus.is_empty() && inventory.silent.is_empty());
    assert!(gpus.sample().is_empty());
}

#[test]
fn a_driver_that_does_not_start_is_a_fact_and_one_that_does_later_is_found() {
    const DRIVER_NOT_LOADED: u32 = 9;
    let down = Script { init_error: Some(DRIVER_NOT_LOADED), ..script(vec![full(1)]) };
    let bench = Bench::new(&down);
    let inventory = bench.gpus.inventory();
    assert!(matches!(inventory.nvml, Nvml::Absent { ref why } if why.contains("not loaded")));
    bench.fake.play(&script(vec![full(1)])).expect("played");
    assert_eq!(bench.gpus.inventory().gpus.len(), 1);
    assert_eq!(bench.gpus.sample()[0].state, GpuState::Ok);
}

#[test]
fn a_driver_that_hangs_is_waited_for_once_and_heard_again_when_it_returns() {
    let healthy = script(vec![full(1)]);
    let bench = Bench::with(&healthy, &[], |settings| GpuSettings {
        sample_deadline: Duration::from_millis(100),
        stale_after: Duration::ZERO,
        ..settings
    });
    bench.gpus.inventory();
    let hang = vec!["nvmlDeviceGetTemperature".to_owned()];
    bench.fake.play(&Script { hang, ..healthy.clone() }).expect("played");
    assert_eq!(bench.gpus.sample()[0].state, GpuState::NoAnswer);

    // The thread is stuck in the driver: nobody waits for it any more.
    let start = Instant::now();
    for _ in 0..1000 {
        assert_eq!(bench.gpus.sample()[0].state, GpuState::NoAnswer);
    }
    assert!(start.elapsed() < Duration::from_secs(50), "each call waited: {:?}", start.elapsed());

    bench.fake.play(&healthy).expect("played");
    let until = Instant::now() + Duration::from_secs(30);
    while bench.gpus.sample()[0].state != GpuState::Ok {
        assert!(Instant::now() < until, "the driver returned and was not heard");
        thread::yield_now();
    }
}

#[test]
fn a_driver_that_hangs_from_the_start_is_absent_until_it_answers() {
    let healthy = script(vec![full(1)]);
    let hang = vec!["nvmlInit_v2".to_owned()];
    let bench = Bench::with(&Script { hang, ..healthy.clone() }, &[], |settings| GpuSettings {
        inventory_deadline: Duration::from_millis(50),
        ..settings
    });
    let inventory = bench.gpus.inventory();
    assert!(matches!(inventory.nvml, Nvml::Absent { ref why } if why.contains("did not answer")));
    assert!(bench.gpus.sample().is_empty());
    bench.fake.play(&healthy).expect("played");
    let until = Instant::now() + Duration::from_secs(30);
    while bench.gpus.inventory().gpus.is_empty() {
        assert!(Instant::now() < until, "the driver returned and was not heard");
    }
}

#[test]
fn old_figures_stand_in_for_a_late_answer_only_while_they_are_fresh() {
    let state = |age| {
        let id: GpuId = "GPU-a".parse().expect("an id");
        let sample = GpuSample::without_figures(id, 0, GpuState::Ok);
        let at = Instant::now().checked_sub(age).expect("the machine ran for a while");
        State { samples: Answer { number: 1, last: Some((vec![sample], at)) }, ..State::default() }
    };
    let limit = Duration::from_secs(3);
    assert_eq!(stand_in(&state(Duration::ZERO), limit).len(), 1);
    assert!(stand_in(&state(Duration::from_secs(4)), limit).is_empty());
}
