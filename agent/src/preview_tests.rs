//! What somebody is told who asks what hone will see: on a machine with everything, and on one with nothing.

use fake_nvml::{FakeGpu, FakeMemory, FakeNvml, Script};
use hone_proto::inventory::{Allocatable, AllocatableGpu, CgroupVersion, GpuSupport};
use hone_proto::quantity::{Bytes, MilliCpu};

use super::*;

fn patient(library: PathBuf) -> GpuSettings {
    let patience = Duration::from_secs(30);
    GpuSettings {
        library: Some(library),
        sample_deadline: patience,
        inventory_deadline: patience,
        ..GpuSettings::default()
    }
}

fn engine() -> EngineFacts {
    EngineFacts {
        name: "docker".to_owned(),
        version: "28.5.1".to_owned(),
        storage_driver: "overlay2".to_owned(),
        cgroup_version: Some(CgroupVersion::V2),
        gpu: GpuSupport::Cdi,
        ..EngineFacts::default()
    }
}

/// Two GPUs, one of them lost, with the longest names that boards have.
fn script() -> Script {
    let gpu = |seed: u32| FakeGpu {
        uuid: Some(format!("GPU-8f6c2b0e-1111-2222-3333-44445555666{seed}")),
        name: Some("NVIDIA RTX 6000 Ada Generation".to_owned()),
        compute_capability: Some((8, 9)),
        memory: Some(FakeMemory { total: 48 << 30, reserved: 0, used: 8 << 30, free: 40 << 30 }),
        compute_processes: Some(vec![]),
        ..FakeGpu::default()
    };
    let lost = FakeGpu { errors: [("nvmlDeviceGetMemoryInfo_v2".to_owned(), 15)].into(), ..gpu(1) };
    let driver = Some("580.65.06".to_owned());
    Script { driver, cuda: Some(13_000), gpus: vec![gpu(0), lost], ..Script::default() }
}

fn fits(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "wider than 80 columns: {line:?}\n{text}");
    }
}

#[test]
fn a_machine_with_everything_is_told_whole_and_in_80_columns() {
    let scratch = tempfile::tempdir().expect("a folder");
    let fake = FakeNvml::install(scratch.path(), &script()).expect("installed");
    let gpus = Gpus::start(patient(fake.library().to_owned()));
    let state = scratch.path().join("not/made/yet");
    let policy = Policy { max_cpu: Some(1.5), ..Policy::default() };
    let layout = Layout::new(state.clone());
    let preview = measure(&layout, HostRoots::default(), gpus, &policy, Ok(engine()), &[]);
    assert!(!state.exists(), "it touches nothing");
    assert_eq!(preview.used_by_others.vram.len(), 1, "a GPU that is lost is used by nobody");
    assert_eq!(preview.allocatable.cpu, MilliCpu::new(1500));
    let gpu = AllocatableGpu {
        id: "GPU-8f6c2b0e-1111-2222-3333-444455556660".parse().expect("an id"),
        vram: Bytes::gib(40),
    };
    assert_eq!(preview.allocatable.gpus, [gpu]);
    let text = render(&preview);
    fits(&text);
    for word in [
        "docker 28.5.1, overlay2, cgroup v2, GPUs through CDI",
        "580.65.06, CUDA 13.0",
        "this machine has not joined",
        "not measured yet",
        "GPU-8f6c2b0e-1111-2222-3333-444455556660",
        "40.0 GiB",
        "no: lost",
        "1.5",
        "every image that is named by its digest",
        "none: containers are closed",
    ] {
        assert!(text.contains(word), "{word:?} is missing:\n{text}");
    }
    let disk = preview.inventory.disks.iter().find(|disk| disk.holds_state).expect("its disk");
    assert!(text.contains(&disk.free.to_string()), "{text}");
}

#[test]
fn what_is_absent_is_told_in_a_sentence() {
    let scratch = tempfile::tempdir().expect("a folder");
    let gpus = Gpus::start(patient(scratch.path().join("libnvidia-ml.so.1")));
    let layout = Layout::new(scratch.path().to_owned());
    let roots = HostRoots::below(scratch.path());
    let down = Err("the container engine is not available (facts): it is down".to_owned());
    let preview = measure(&layout, roots, gpus, &Policy::default(), down, &[]);
    assert_eq!(preview.allocatable, Allocatable::default(), "nothing is known, nothing is offered");
    let text = render(&preview);
    fits(&text);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for sentence in ["no job can run here until an engine does", "none, so no GPU is offered:"] {
        assert!(words.contains(sentence), "{sentence:?} is missing:\n{text}");
    }
}

#[test]
fn a_program_reads_the_same() {
    let scratch = tempfile::tempdir().expect("a folder");
    let fake = FakeNvml::install(scratch.path(), &script()).expect("installed");
    let gpus = Gpus::start(patient(fake.library().to_owned()));
    let layout = Layout::new(scratch.path().to_owned());
    let preview =
        measure(&layout, HostRoots::default(), gpus, &Policy::default(), Ok(engine()), &[]);
    let json = serde_json::to_value(&preview).expect("a JSON form");
    // In the words of `hone node show -o json`, which prints what comes over the wire.
    assert_eq!(json["allocatable"]["gpus"][0]["vram_bytes"], 40_u64 << 30);
    let told = wire::Inventory::from(preview.inventory);
    assert_eq!(json["inventory"], serde_json::to_value(told).expect("a JSON form"));
    assert_eq!(json["joined_as"], serde_json::Value::Null);
}
