//! The offer of a node whose GPUs fail and come back while it runs, through the real adapter and a library that plays a
//! script.

use std::time::Duration;

use fake_nvml::{FakeGpu, FakeMemory, FakeNvml, FakeProcess, Script};
use hone_proto::inventory::EngineFacts;
use hone_proto::time::{BootNanos, Now};

use super::*;
use crate::host::HostRoots;
use crate::inventory::Collector;
use crate::observe::gpu::{GpuSettings, Gpus};
use crate::observe::{Sampler, SamplerSettings};

fn gpu(seed: u32) -> FakeGpu {
    let gib = |n: u64| n << 30;
    FakeGpu {
        uuid: Some(format!("GPU-{seed}")),
        memory: Some(FakeMemory { total: gib(24), reserved: 0, used: 0, free: gib(24) }),
        compute_processes: Some(vec![]),
        graphics_processes: Some(vec![]),
        ..FakeGpu::default()
    }
}

struct Bench {
    _scratch: tempfile::TempDir,
    fake: FakeNvml,
    sampler: Sampler,
    offer: Offer,
    now: Now,
}

impl Bench {
    /// A machine of which nothing is known but its two GPUs.
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("a folder");
        let script = Script { gpus: vec![gpu(1), gpu(2)], ..Script::default() };
        let fake = FakeNvml::install(scratch.path(), &script).expect("installed");
        let patient = Duration::from_secs(30);
        let gpus = Gpus::start(GpuSettings {
            library: Some(fake.library().to_owned()),
            sample_deadline: patient,
            inventory_deadline: patient,
            stale_after: Duration::ZERO,
        });
        let roots = HostRoots::below(scratch.path());
        let state = scratch.path().to_owned();
        let collector = Collector::new(roots.clone(), state, gpus.clone());
        let inventory = collector.collect(&EngineFacts::default());
        let settings = SamplerSettings { roots, ..SamplerSettings::default() };
        let sampler = Sampler::new(settings, gpus);
        let now = Now { boot: BootNanos::new(1 << 40), ..Now::default() };
        let offer = Offer::new(inventory, Limits::default());
        let mut bench = Self { _scratch: scratch, fake, sampler, offer, now };
        assert!(bench.second(vec![gpu(1), gpu(2)]), "the first sample is always told");
        assert_eq!(bench.offered(), [("GPU-1".to_owned(), 24), ("GPU-2".to_owned(), 24)]);
        bench
    }

    /// The driver says this for a second. Whether the offer is told anew.
    fn second(&mut self, gpus: Vec<FakeGpu>) -> bool {
        self.fake.play(&Script { gpus, ..Script::default() }).expect("played");
        self.now.boot = self.now.boot.plus(Duration::from_secs(1));
        let sample = self.sampler.sample(self.now, &[]);
        self.offer.follow(&sample, Bytes::ZERO)
    }

    /// Which GPUs are offered, with how many GiB of each.
    fn offered(&self) -> Vec<(String, u64)> {
        let gpus = self.offer.allocatable().gpus.into_iter();
        gpus.map(|gpu| (gpu.id.to_string(), gpu.vram.get() >> 30)).collect()
    }
}

#[test]
fn a_gpu_that_fails_is_not_offered_until_it_works_again() {
    // NVML's codes for a GPU that is lost, that needs a reset, and that has another, unknown trouble.
    for code in [15, 16, 999] {
        let broken = |seed| {
            let errors = [("nvmlDeviceGetMemoryInfo_v2".to_owned(), code)].into();
            FakeGpu { errors, ..gpu(seed) }
        };
        let mut bench = Bench::new();
        assert!(!bench.second(vec![gpu(1), gpu(2)]), "nothing changed");
        assert!(bench.second(vec![broken(1), gpu(2)]), "{code} is told at once");
        assert_eq!(bench.offered(), [("GPU-2".to_owned(), 24)], "{code}");
        assert!(!bench.second(vec![broken(1), gpu(2)]), "and once");
        assert!(bench.second(vec![gpu(1), gpu(2)]));
        assert_eq!(bench.offered().len(), 2, "{code}: it is back");
    }
}

#[test]
fn what_others_hold_of_a_gpu_is_not_offered() {
    let mut bench = Bench::new();
    let taken = |gib: u64| FakeGpu {
        memory: Some(FakeMemory {
            total: 24 << 30,
            reserved: 0,
            used: gib << 30,
            free: (24 - gib) << 30,
        }),
        compute_processes: Some(vec![FakeProcess { pid: 4_000_000, memory: Some(gib << 30) }]),
        ..gpu(1)
    };
    assert!(bench.second(vec![taken(10), gpu(2)]));
    assert_eq!(bench.offered(), [("GPU-1".to_owned(), 14), ("GPU-2".to_owned(), 24)]);
    // Less has to last, more counts at once.
    assert!(!bench.second(vec![taken(2), gpu(2)]));
    assert!(bench.second(vec![taken(20), gpu(2)]));
    assert_eq!(bench.offered()[0], ("GPU-1".to_owned(), 4));
}

#[test]
fn a_node_whose_disk_is_full_offers_none_of_it() {
    let disk = hone_proto::inventory::Disk {
        mount: "/data".to_owned(),
        device: "vda".to_owned(),
        file_system: "ext4".to_owned(),
        total: Bytes::gib(100),
        free: Bytes::gib(50),
        kind: hone_proto::inventory::DiskKind::Virtual,
        holds_state: true,
        holds_engine: true,
        measured: None,
    };
    let mut bench = Bench::new();
    bench.offer.renew(Inventory { disks: vec![disk], ..bench.offer.inventory().clone() });
    let before = bench.offer.allocatable();
    assert_eq!(before.disk, Bytes::gib(100));
    assert!(bench.offer.fill(true) && !bench.offer.fill(true), "it is told once");
    let full = bench.offer.allocatable();
    assert_eq!((full.disk, full.ram, full.gpus), (Bytes::ZERO, before.ram, before.gpus));
    assert!(bench.offer.fill(false));
    assert_eq!(bench.offer.allocatable().disk, Bytes::gib(100));
}
