//! The metrics of a rollup: their names, and where a sample holds them.

use serde::{Deserialize, Serialize};

use crate::quantity::Bytes;
use crate::sample::{ContainerSample, DiskSample, GpuSample, NetworkSample, NodeSample};

macro_rules! metrics {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What a figure measures. Its name carries the unit and never changes: series are kept for years.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Metric {
            $($(#[$doc])* $variant,)*
        }

        impl Metric {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name on the wire, in series and for people.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The metric of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

metrics! {
    /// Processors busy, 0 to 100, of a node or of a core.
    CpuBusyPercent = "cpu_busy_percent",
    /// Processor time that the hypervisor gave to others.
    CpuStealPercent = "cpu_steal_percent",
    /// Processors idle while a disk operation was outstanding.
    CpuIoWaitPercent = "cpu_io_wait_percent",
    /// Load average over one minute.
    Load1 = "load1",
    /// Processor time used by a container, in cores.
    CpuUsedCores = "cpu_used_cores",
    /// Memory in use.
    MemoryUsedBytes = "memory_used_bytes",
    /// Memory that can be had.
    MemoryFreeBytes = "memory_free_bytes",
    /// Swap space in use.
    SwapUsedBytes = "swap_used_bytes",
    /// Share of time in which a kernel ran on a GPU.
    UtilisationPercent = "utilisation_percent",
    /// Share of time in which a GPU's memory was read or written.
    MemoryUtilisationPercent = "memory_utilisation_percent",
    /// Temperature of a GPU's chip.
    TemperatureCelsius = "temperature_celsius",
    /// Power drawn by a GPU.
    PowerMilliwatts = "power_milliwatts",
    /// Power at which a GPU throttles itself.
    PowerLimitMilliwatts = "power_limit_milliwatts",
    /// Clock of a GPU's multiprocessors.
    SmClockMegahertz = "sm_clock_megahertz",
    /// Clock of a GPU's memory.
    MemoryClockMegahertz = "memory_clock_megahertz",
    /// Free on a disk.
    DiskFreeBytes = "disk_free_bytes",
    /// Read from block devices.
    ReadBytesPerSecond = "read_bytes_per_second",
    /// Written to block devices.
    WriteBytesPerSecond = "write_bytes_per_second",
    /// Reads completed.
    ReadsPerSecond = "reads_per_second",
    /// Writes completed.
    WritesPerSecond = "writes_per_second",
    /// Time that a read took.
    ReadLatencyMilliseconds = "read_latency_milliseconds",
    /// Time that a write took.
    WriteLatencyMilliseconds = "write_latency_milliseconds",
    /// Share of time in which a disk had work.
    DiskBusyPercent = "disk_busy_percent",
    /// Received on an interface.
    ReceiveBytesPerSecond = "receive_bytes_per_second",
    /// Sent on an interface.
    TransmitBytesPerSecond = "transmit_bytes_per_second",
    /// A container's memory limit.
    MemoryLimitBytes = "memory_limit_bytes",
    /// Processes of a container that the kernel killed for memory, counted since it was made.
    OomKills = "oom_kills",
    /// Memory that a container's processes hold on all GPUs together.
    GpuMemoryUsedBytes = "gpu_memory_used_bytes",
}

type Figure = (Metric, Option<f64>);

pub(super) fn node(sample: &NodeSample) -> [Figure; 7] {
    let (cpu, memory) = (&sample.cpu, &sample.memory);
    [
        (Metric::CpuBusyPercent, cpu.busy_percent.map(f64::from)),
        (Metric::CpuStealPercent, cpu.steal_percent.map(f64::from)),
        (Metric::CpuIoWaitPercent, cpu.io_wait_percent.map(f64::from)),
        (Metric::Load1, cpu.load.map(|[one, _, _]| f64::from(one))),
        (Metric::MemoryUsedBytes, bytes(memory.used())),
        (Metric::MemoryFreeBytes, bytes(memory.available)),
        (Metric::SwapUsedBytes, bytes(memory.swap_used)),
    ]
}

pub(super) fn gpu(gpu: &GpuSample) -> [Figure; 9] {
    [
        (Metric::MemoryUsedBytes, bytes(gpu.memory_used)),
        (Metric::MemoryFreeBytes, bytes(gpu.memory_free)),
        (Metric::UtilisationPercent, gpu.utilisation_percent.map(f64::from)),
        (Metric::MemoryUtilisationPercent, gpu.memory_utilisation_percent.map(f64::from)),
        (Metric::TemperatureCelsius, gpu.temperature_celsius.map(f64::from)),
        (Metric::PowerMilliwatts, gpu.power_mw.map(f64::from)),
        (Metric::PowerLimitMilliwatts, gpu.power_limit_mw.map(f64::from)),
        (Metric::SmClockMegahertz, gpu.sm_clock_mhz.map(f64::from)),
        (Metric::MemoryClockMegahertz, gpu.memory_clock_mhz.map(f64::from)),
    ]
}

pub(super) fn disk(disk: &DiskSample) -> [Figure; 8] {
    [
        (Metric::DiskFreeBytes, bytes(disk.free)),
        (Metric::ReadBytesPerSecond, bytes(disk.read_per_second)),
        (Metric::WriteBytesPerSecond, bytes(disk.write_per_second)),
        (Metric::ReadsPerSecond, disk.reads_per_second.map(f64::from)),
        (Metric::WritesPerSecond, disk.writes_per_second.map(f64::from)),
        (Metric::ReadLatencyMilliseconds, disk.read_latency_ms.map(f64::from)),
        (Metric::WriteLatencyMilliseconds, disk.write_latency_ms.map(f64::from)),
        (Metric::DiskBusyPercent, disk.busy_percent.map(f64::from)),
    ]
}

pub(super) fn network(network: &NetworkSample) -> [Figure; 2] {
    [
        (Metric::ReceiveBytesPerSecond, bytes(network.receive_per_second)),
        (Metric::TransmitBytesPerSecond, bytes(network.transmit_per_second)),
    ]
}

pub(super) fn container(container: &ContainerSample) -> [Figure; 7] {
    let on_gpus = (!container.gpu_memory.is_empty())
        .then(|| container.gpu_memory.iter().map(|(_, held)| *held).sum());
    [
        (Metric::CpuUsedCores, container.cpu.map(|cpu| f64::from(cpu.get()) / 1000.0)),
        (Metric::MemoryUsedBytes, bytes(container.ram)),
        (Metric::MemoryLimitBytes, bytes(container.ram_limit)),
        (Metric::OomKills, container.oom_kills.map(approximate)),
        (Metric::ReadBytesPerSecond, bytes(container.read_per_second)),
        (Metric::WriteBytesPerSecond, bytes(container.write_per_second)),
        (Metric::GpuMemoryUsedBytes, bytes(on_gpus)),
    ]
}

fn bytes(value: Option<Bytes>) -> Option<f64> {
    value.map(|bytes| approximate(bytes.get()))
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53, and these are means anyway")]
fn approximate(value: u64) -> f64 {
    value as f64
}
