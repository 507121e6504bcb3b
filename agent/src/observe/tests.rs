//! The whole sampler: on fixture folders where figures must be exact, on this machine where they must be there.

use std::fs;
use std::path::Path;

use fake_nvml::{FakeGpu, FakeMemory, FakeNvml, FakeProcess, Script};
use hone_proto::id::{Attempt, Generation, JobId, Token};
use hone_proto::quantity::{Bytes, MilliCpu};
use hone_proto::sample::ContainerSample;
use hone_proto::time::WallNanos;

use super::cgroup::Process;
use super::gpu::GpuSettings;
use super::*;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, text).expect("written");
}

fn attempt(job: u64) -> AttemptId {
    let token = Token { generation: Generation::new(1), attempt: Attempt::new(1) };
    AttemptId { job: JobId::new(job), token }
}

fn at(seconds: u64) -> Now {
    let nanos = 1_000_000_000 * seconds;
    Now { wall: WallNanos::new(nanos), boot: BootNanos::new(nanos) }
}

fn no_gpus(dir: &Path) -> Gpus {
    Gpus::start(GpuSettings {
        library: Some(dir.join("no-such-library.so")),
        ..GpuSettings::default()
    })
}

/// A machine with one container of the second generation, whose init is process 42.
fn fixture(dir: &Path, cpu_us: u64, written: u64) {
    let mountinfo = format!(
        "21 1 254:1 / {0} rw - ext4 /dev/vda1 rw\n30 1 0:30 / {0}/cg rw - cgroup2 cgroup2 rw\n",
        dir.display()
    );
    write(&dir.join("proc/self/mountinfo"), &mountinfo);
    for pid in [42, 43, 77] {
        write(&dir.join(format!("proc/{pid}/stat")), &stat(100));
    }
    write(&dir.join("proc/42/cgroup"), "0::/docker/ab\n");
    write(&dir.join("proc/42/comm"), "python3\n");
    write(&dir.join("proc/77/cgroup"), "0::/user.slice\n");
    write(&dir.join("proc/77/comm"), "Xorg\n");
    let group = dir.join("cg/docker/ab");
    write(&group.join("cpu.stat"), &format!("usage_usec {cpu_us}\n"));
    write(&group.join("memory.current"), "5000000\n");
    write(&group.join("memory.stat"), "inactive_file 1000000\n");
    write(&group.join("memory.max"), "8000000\n");
    write(&group.join("memory.events"), "oom_kill 0\n");
    write(&group.join("io.stat"), &format!("254:1 rbytes=0 wbytes={written}\n"));
}

/// What the kernel tells of a process that started so many ticks after boot.
fn stat(start: u64) -> String {
    format!("1 (name) S 1 1 1 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 {start} 4096 9 0 0\n")
}

fn init(dir: &Path, pid: u32) -> Place {
    Place::Init(Process::of(&HostRoots::below(dir), pid).expect("it runs"))
}

#[test]
fn a_container_is_followed_from_sample_to_sample() {
    let dir = tempfile::tempdir().expect("a folder");
    fixture(dir.path(), 1_000_000, 0);
    let settings =
        SamplerSettings { roots: HostRoots::below(dir.path()), ..SamplerSettings::default() };
    let mut sampler = Sampler::new(settings, no_gpus(dir.path()));
    let container = ContainerRef { attempt: attempt(7), place: init(dir.path(), 42) };
    let gone = ContainerRef { attempt: attempt(8), place: init(dir.path(), 43) };

    let first = sampler.sample(at(10), &[container.clone(), gone.clone()]);
    assert_eq!(first.containers[0].ram, Some(Bytes::new(4_000_000)));
    assert_eq!(first.containers[0].ram_limit, Some(Bytes::new(8_000_000)));
    assert_eq!((first.containers[0].cpu, first.containers[0].oom_kills), (None, Some(0)));
    assert_eq!(first.containers[1], ContainerSample::unknown(attempt(8)));

    fixture(dir.path(), 4_000_000, 6_000);
    let second = sampler.sample(at(12), &[container, gone]);
    assert_eq!(second.containers[0].cpu, Some(MilliCpu::new(1500)));
    assert_eq!(second.containers[0].write_per_second, Some(Bytes::new(3_000)));
    assert_eq!(second.at, at(12));
    assert!(sampler.sample(at(13), &[]).containers.is_empty());
}

#[test]
fn processes_on_a_gpu_get_their_name_and_owner() {
    let dir = tempfile::tempdir().expect("a folder");
    fixture(dir.path(), 0, 0);
    let process = |pid, mib: u64| FakeProcess { pid, memory: Some(mib << 20) };
    let gpu = FakeGpu {
        uuid: Some("GPU-a".to_owned()),
        memory: Some(FakeMemory { total: 100 << 20, reserved: 0, used: 60 << 20, free: 40 << 20 }),
        compute_processes: Some(vec![process(42, 50), process(77, 10), process(99, 1)]),
        ..FakeGpu::default()
    };
    let other =
        FakeGpu { uuid: Some("GPU-b".to_owned()), compute_processes: Some(vec![]), ..gpu.clone() };
    let script = Script { gpus: vec![gpu, other], ..Script::default() };
    let fake = FakeNvml::install(dir.path(), &script).expect("installed");
    let gpus = Gpus::start(GpuSettings {
        library: Some(fake.library().to_owned()),
        sample_deadline: Duration::from_secs(30),
        ..GpuSettings::default()
    });
    assert_eq!(gpus.inventory().gpus.len(), 2);
    let settings =
        SamplerSettings { roots: HostRoots::below(dir.path()), ..SamplerSettings::default() };
    let mut sampler = Sampler::new(settings, gpus);
    let container = ContainerRef { attempt: attempt(7), place: init(dir.path(), 42) };
    // It ended, and another process got its number.
    let ended = ContainerRef { attempt: attempt(8), place: init(dir.path(), 77) };
    write(&dir.path().join("proc/77/stat"), &stat(200));

    let sample = sampler.sample(at(1), &[container, ended]);
    let told: Vec<_> = sample.gpus[0]
        .processes
        .iter()
        .flatten()
        .map(|process| (process.pid, process.name.as_deref(), process.owner))
        .collect();
    let expected =
        [(42, Some("python3"), Some(attempt(7))), (77, Some("Xorg"), None), (99, None, None)];
    assert_eq!(told, expected);
    let id = "GPU-a".parse().expect("an id");
    assert_eq!(sample.containers[0].gpu_memory, [(id, Bytes::mib(50))], "only the GPU it uses");
    assert_eq!(sample.containers[1], ContainerSample::unknown(attempt(8)));
}

#[test]
fn this_machine_has_everything_but_perhaps_a_gpu() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings =
        SamplerSettings { state_dir: Some(dir.path().to_owned()), ..SamplerSettings::default() };
    let mut sampler = Sampler::new(settings, no_gpus(dir.path()));
    let init = Process::of(&HostRoots::default(), std::process::id()).expect("it runs");
    let own = ContainerRef { attempt: attempt(1), place: Place::Init(init) };
    let first = sampler.sample(Now::read(), std::slice::from_ref(&own));
    assert!(first.memory.used().is_some_and(|used| used > Bytes::ZERO));
    assert!(first.cpu.load.is_some());
    let state = dir.path().canonicalize().expect("it exists");
    let above = |mount: &str| state.starts_with(mount);
    assert!(first.disks.iter().any(|disk| above(&disk.mount) && disk.free.is_some()));

    // Ticks are hundredths of a second: wait until the kernel has counted some.
    let until = std::time::Instant::now() + Duration::from_secs(30);
    let second = loop {
        let sample = sampler.sample(Now::read(), std::slice::from_ref(&own));
        if sample.cpu.busy_percent.is_some() {
            break sample;
        }
        assert!(std::time::Instant::now() < until, "the kernel counts no time");
    };
    let cores = std::thread::available_parallelism().expect("a count").get();
    assert!(second.cpu.cores_busy_percent.len() >= cores);
    assert!(second.containers[0].cpu.is_some() || second.containers[0].ram.is_some());
}
