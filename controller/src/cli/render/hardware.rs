//! Inventories and samples of nodes as text. What is not known is left out or a dash, never a zero.

mod inventory;

use hone_proto::inventory::Allocatable;
use hone_proto::quantity::Bytes;
use hone_proto::sample::{ContainerSample, GpuSample, GpuState, NodeSample};
use hone_proto::wire;

use super::human::{UNKNOWN, one_line};
use super::table::facts;

pub use inventory::inventory;

/// What of a sample concerns one job: its container, its GPUs and its node, in a few lines. Nothing when the sample
/// cannot be read: a view does without it.
#[must_use]
pub fn of_job(sample: &wire::NodeSample, job: u64, gpus: &[String]) -> Vec<String> {
    let Ok(sample) = NodeSample::try_from(sample.clone()) else { return Vec::new() };
    let mut lines = Vec::new();
    let mine = |container: &&ContainerSample| container.attempt.job.get() == job;
    if let Some(container) = sample.containers.iter().find(mine) {
        let parts = [
            container.ram.map(|used| format!("RAM {}", of(used, container.ram_limit))),
            container.cpu.map(|cpu| format!("CPU {cpu} cores")),
        ];
        lines.push(format!("container {}", joined(parts)));
    }
    let node = [
        sample.memory.used().map(|used| format!("RAM {}", of(used, sample.memory.total))),
        sample.cpu.busy_percent.map(|busy| format!("CPU {busy:.0} %")),
    ];
    let node = joined(node);
    if !node.is_empty() {
        lines.push(format!("node {node}"));
    }
    let shown = |gpu: &&GpuSample| gpus.iter().any(|id| id == gpu.id.as_str());
    lines.extend(sample.gpus.iter().filter(shown).map(gpu_line));
    lines
}

pub(super) fn gpu_line(gpu: &GpuSample) -> String {
    let throttle = gpu.throttle.map(|reasons| reasons.names().join(", "));
    let throttle = throttle.filter(|names| !names.is_empty() && names != "gpu_idle");
    let parts = [
        (gpu.state != GpuState::Ok).then(|| state(&gpu.state)),
        gpu.memory_used.map(|used| of(used, gpu.memory_total)),
        gpu.utilisation_percent.map(|busy| format!("{busy} % busy")),
        gpu.temperature_celsius.map(|celsius| format!("{celsius} °C")),
        gpu.power_mw.map(|power| format!("{} W", power / 1000)),
        throttle.map(|names| format!("slowed by {names}")),
    ];
    format!("GPU {} {}", gpu.index, joined(parts))
}

fn joined<const N: usize>(parts: [Option<String>; N]) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

/// `3.1 GiB of 8.0 GiB`.
fn of(used: Bytes, whole: Option<Bytes>) -> String {
    whole.map_or_else(|| used.to_string(), |whole| format!("{used} of {whole}"))
}

pub(super) fn state(state: &GpuState) -> String {
    match state {
        GpuState::Ok => "ok".to_owned(),
        GpuState::Lost => "lost: the machine must be restarted".to_owned(),
        GpuState::NeedsReset => "needs a reset".to_owned(),
        GpuState::NoAnswer => "no answer".to_owned(),
        GpuState::Failed { why } => format!("failed: {}", one_line(why)),
    }
}

/// What placement may promise, in one line; empty when it cannot be read.
#[must_use]
pub fn allocatable(has: &wire::Allocatable) -> String {
    let Ok(has) = Allocatable::try_from(has.clone()) else { return String::new() };
    let mut parts = Vec::new();
    if !has.gpus.is_empty() {
        let vram: Vec<_> = has.gpus.iter().map(|gpu| gpu.vram.to_string()).collect();
        let noun = if has.gpus.len() == 1 { "GPU" } else { "GPUs" };
        parts.push(format!("{} {noun} ({})", has.gpus.len(), vram.join(", ")));
    }
    parts.push(format!("{} cores", has.cpu));
    parts.push(format!("{} RAM", has.ram));
    parts.push(format!("{} disk", has.disk));
    parts.join(", ")
}

/// What placement may promise, short enough for a table: `8×80G 16c 120G` are eight GPUs of 80 GiB each, 16 cores and
/// 120 GiB of RAM. Empty when it cannot be read.
#[must_use]
pub fn allocatable_short(has: &wire::Allocatable) -> String {
    let Ok(has) = Allocatable::try_from(has.clone()) else { return String::new() };
    let gib = |bytes: Bytes| (bytes.get().saturating_add(1 << 29)) >> 30;
    let vram: Vec<_> = has.gpus.iter().map(|gpu| gib(gpu.vram)).collect();
    let gpus = match (vram.iter().min(), vram.iter().max()) {
        (Some(least), Some(most)) if least == most => format!("{}×{most}G ", vram.len()),
        (Some(least), Some(most)) => format!("{}×{least}–{most}G ", vram.len()),
        _ => String::new(),
    };
    format!("{gpus}{}c {}G", has.cpu, gib(has.ram))
}

/// The newest sample of a node; empty when it cannot be read.
#[must_use]
pub fn sample(sample: &wire::NodeSample, width: usize) -> String {
    let Ok(sample) = NodeSample::try_from(sample.clone()) else { return String::new() };
    let load =
        sample.cpu.load.map(|[one, five, fifteen]| format!("load {one:.2} {five:.2} {fifteen:.2}"));
    let cpu = [sample.cpu.busy_percent.map(|busy| format!("{busy:.0} % busy")), load];
    let memory = sample.memory.used().map(|used| of(used, sample.memory.total));
    let network: Vec<_> = sample
        .networks
        .iter()
        .map(|net| {
            let rate = |rate: Option<Bytes>| {
                rate.map_or_else(|| UNKNOWN.to_owned(), |bytes| format!("{bytes}/s"))
            };
            let (down, up) = (rate(net.receive_per_second), rate(net.transmit_per_second));
            format!("{} in {down}, out {up}", net.interface)
        })
        .collect();
    let containers: Vec<_> = sample
        .containers
        .iter()
        .map(|c| {
            let parts = [
                c.ram.map(|ram| format!("RAM {}", of(ram, c.ram_limit))),
                c.cpu.map(|cpu| format!("CPU {cpu} cores")),
            ];
            format!("{}: {}", c.attempt, joined(parts))
        })
        .collect();
    let pairs = [
        ("processor now", joined(cpu)),
        ("memory now", memory.unwrap_or_default()),
        ("network now", network.join("\n")),
        ("containers", containers.join("\n")),
        ("GPUs now", sample.gpus.iter().map(gpu_line).collect::<Vec<_>>().join("\n")),
    ];
    facts(&pairs, width)
}

#[cfg(test)]
pub(in crate::cli) mod tests {
    use super::*;
    use hone_proto::id::{Attempt, AttemptId, Generation, JobId, Token};
    use hone_proto::inventory::{
        Cpu, Disk, DiskKind, DiskSpeed, EngineFacts, Gpu, GpuId, GpuSupport, Inventory, Nvml,
    };
    use hone_proto::quantity::MilliCpu;
    use hone_proto::sample::{CpuSample, MemorySample, ThrottleReasons};

    fn id(n: u32) -> GpuId {
        format!("GPU-8f6c2b0e-1111-2222-3333-44445555666{n}").parse().expect("an id")
    }

    /// The id of a GPU that [`busy`] and [`full`] have, as text.
    pub(in crate::cli) fn gpu() -> String {
        id(0).to_string()
    }

    /// A sample of a node that trains this job.
    pub(in crate::cli) fn busy(job: u64) -> wire::NodeSample {
        let attempt = AttemptId {
            job: JobId::new(job),
            token: Token { generation: Generation::new(1), attempt: Attempt::new(2) },
        };
        let container = ContainerSample {
            cpu: Some(MilliCpu::new(1900)),
            ram: Some(Bytes::mib(1200)),
            ram_limit: Some(Bytes::gib(2)),
            ..ContainerSample::unknown(attempt)
        };
        let hot = GpuSample {
            memory_used: Some(Bytes::gib(70)),
            memory_total: Some(Bytes::gib(80)),
            utilisation_percent: Some(99),
            temperature_celsius: Some(84),
            power_mw: Some(640_000),
            throttle: Some(ThrottleReasons::from_bits(0x40)),
            ..GpuSample::without_figures(id(0), 0, GpuState::Ok)
        };
        let sample = NodeSample {
            cpu: CpuSample { busy_percent: Some(95.2), ..CpuSample::default() },
            memory: MemorySample {
                total: Some(Bytes::gib(8)),
                available: Some(Bytes::gib(5)),
                ..MemorySample::default()
            },
            gpus: vec![hot, GpuSample::without_figures(id(1), 1, GpuState::Lost)],
            containers: vec![container],
            ..NodeSample::default()
        };
        sample.into()
    }

    #[test]
    fn a_watcher_sees_its_own_container_and_gpus() {
        let lines = of_job(&busy(7), 7, &[id(0).to_string()]);
        insta::assert_snapshot!(lines.join("\n"), @r"
        container RAM 1.2 GiB of 2.0 GiB  CPU 1.9 cores
        node RAM 3.0 GiB of 8.0 GiB  CPU 95 %
        GPU 0 70.0 GiB of 80.0 GiB  99 % busy  84 °C  640 W  slowed by hw_thermal_slowdown
        ");
        let lines = of_job(&busy(7), 8, &[]);
        insta::assert_snapshot!(lines.join("\n"), @"node RAM 3.0 GiB of 8.0 GiB  CPU 95 %");
    }

    /// A node with everything that there is to tell of one.
    pub(in crate::cli) fn full() -> wire::Inventory {
        Inventory {
            hostname: "gpu-1".to_owned(),
            kernel: "6.1.0-28-amd64".to_owned(),
            os: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            arch: "x86_64".to_owned(),
            boot: None,
            agent_version: "0.1.0".to_owned(),
            cpu: Cpu { model: "AMD EPYC 9654".to_owned(), logical_cores: 16, physical_cores: None },
            ram: Bytes::gib(128),
            swap: Bytes::ZERO,
            disks: vec![Disk {
                mount: "/var/lib/hone-agent/a-rather-long-mount-point".to_owned(),
                device: "vda1".to_owned(),
                file_system: "ext4".to_owned(),
                total: Bytes::gib(900),
                free: Bytes::gib(512),
                kind: DiskKind::Virtual,
                holds_state: true,
                holds_engine: true,
                measured: Some(DiskSpeed {
                    read_per_second: Bytes::mib(2100),
                    write_per_second: Bytes::mib(1400),
                    read_latency_us: 90,
                    write_latency_us: 1200,
                    direct: true,
                }),
            }],
            gpus: vec![Gpu {
                index: 0,
                id: id(0),
                state: GpuState::Ok,
                name: Some("NVIDIA H100 80GB HBM3".to_owned()),
                serial: None,
                vram: Some(Bytes::gib(80)),
                compute_capability: None,
                power_limit_mw: None,
                pcie: None,
            }],
            silent_gpus: Vec::new(),
            nvml: Nvml::Present { driver: Some("580.65.06".to_owned()), cuda: None },
            engine: EngineFacts {
                name: "docker".to_owned(),
                version: "28.5.1".to_owned(),
                api_version: "1.51".to_owned(),
                storage_driver: "overlay2".to_owned(),
                gpu: GpuSupport::Cdi,
                ..EngineFacts::default()
            },
        }
        .into()
    }

    #[test]
    fn what_a_node_has_is_short() {
        let with = |vram: &[u64]| wire::Allocatable {
            gpus: vram
                .iter()
                .zip(0..)
                .map(|(gib, n)| wire::AllocatableGpu {
                    uuid: id(n).to_string(),
                    vram_bytes: gib << 30,
                })
                .collect(),
            milli_cpu: 15_500,
            ram_bytes: 120 << 30,
            disk_bytes: 1 << 40,
        };
        let texts = [&[][..], &[80], &[80, 80], &[24, 80, 80]].map(|v| allocatable_short(&with(v)));
        assert_eq!(
            texts,
            ["15.5c 120G", "1×80G 15.5c 120G", "2×80G 15.5c 120G", "3×24–80G 15.5c 120G"]
        );
    }

    #[test]
    fn a_node_in_full() {
        let mut text = inventory(&full(), 80).join("\n\n");
        text.push_str(&format!("\n\n{}", sample(&busy(7), 80)));
        assert!(text.lines().all(|line| super::super::human::width(line) <= 80), "{text}");
        insta::assert_snapshot!(text);
    }
}
