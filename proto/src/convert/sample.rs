//! Samples on the wire. What `rollup` keeps of them is converted there.

mod rollup;

use super::WireError;
use super::inventory::{gpu_id, state, state_words};
use crate::id::{Attempt, AttemptId, Generation, JobId, Token};
use crate::quantity::{Bytes, MilliCpu};
use crate::sample::{
    ContainerSample, CpuSample, DiskSample, GpuProcess, GpuSample, MemorySample, NetworkSample,
    NodeSample, ThrottleReasons,
};
use crate::time::{BootNanos, Now, WallNanos};
use crate::wire;

impl From<NodeSample> for wire::NodeSample {
    fn from(sample: NodeSample) -> Self {
        Self {
            wall_ns: sample.at.wall.get(),
            boot_ns: sample.at.boot.get(),
            cpu: Some(wire::CpuSample {
                busy_percent: sample.cpu.busy_percent,
                steal_percent: sample.cpu.steal_percent,
                io_wait_percent: sample.cpu.io_wait_percent,
                cores_busy_percent: sample.cpu.cores_busy_percent,
                load: sample.cpu.load.map(Vec::from).unwrap_or_default(),
            }),
            memory: Some(wire::MemorySample {
                total_bytes: sample.memory.total.map(Bytes::get),
                available_bytes: sample.memory.available.map(Bytes::get),
                swap_total_bytes: sample.memory.swap_total.map(Bytes::get),
                swap_used_bytes: sample.memory.swap_used.map(Bytes::get),
            }),
            gpus: sample.gpus.into_iter().map(Into::into).collect(),
            disks: sample.disks.into_iter().map(Into::into).collect(),
            networks: sample.networks.into_iter().map(Into::into).collect(),
            containers: sample.containers.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::NodeSample> for NodeSample {
    type Error = WireError;
    fn try_from(wire: wire::NodeSample) -> Result<Self, WireError> {
        let cpu = wire.cpu.unwrap_or_default();
        let memory = wire.memory.unwrap_or_default();
        let containers = wire.containers.into_iter().map(TryInto::try_into);
        Ok(Self {
            at: Now { wall: WallNanos::new(wire.wall_ns), boot: BootNanos::new(wire.boot_ns) },
            cpu: CpuSample {
                busy_percent: cpu.busy_percent,
                steal_percent: cpu.steal_percent,
                io_wait_percent: cpu.io_wait_percent,
                cores_busy_percent: cpu.cores_busy_percent,
                load: cpu.load.try_into().ok(),
            },
            memory: MemorySample {
                total: memory.total_bytes.map(Bytes::new),
                available: memory.available_bytes.map(Bytes::new),
                swap_total: memory.swap_total_bytes.map(Bytes::new),
                swap_used: memory.swap_used_bytes.map(Bytes::new),
            },
            gpus: wire.gpus.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            disks: wire.disks.into_iter().map(Into::into).collect(),
            networks: wire.networks.into_iter().map(Into::into).collect(),
            containers: containers.collect::<Result<_, _>>()?,
        })
    }
}

impl From<GpuSample> for wire::GpuSample {
    fn from(gpu: GpuSample) -> Self {
        let (state, state_detail) = state_words(gpu.state);
        let process = |process: GpuProcess| wire::GpuProcess {
            pid: process.pid,
            memory_bytes: process.memory.map(Bytes::get),
            name: process.name,
            owner: process.owner.map(Into::into),
        };
        Self {
            uuid: gpu.id.into(),
            index: gpu.index,
            state,
            state_detail,
            memory_total_bytes: gpu.memory_total.map(Bytes::get),
            memory_used_bytes: gpu.memory_used.map(Bytes::get),
            memory_free_bytes: gpu.memory_free.map(Bytes::get),
            utilisation_percent: gpu.utilisation_percent,
            memory_utilisation_percent: gpu.memory_utilisation_percent,
            temperature_celsius: gpu.temperature_celsius,
            power_mw: gpu.power_mw,
            power_limit_mw: gpu.power_limit_mw,
            sm_clock_mhz: gpu.sm_clock_mhz,
            memory_clock_mhz: gpu.memory_clock_mhz,
            throttle_bits: gpu.throttle.map(ThrottleReasons::bits),
            throttle_reasons: gpu.throttle.map(ThrottleReasons::names).unwrap_or_default(),
            processes_known: gpu.processes.is_some(),
            processes: gpu.processes.into_iter().flatten().map(process).collect(),
        }
    }
}

impl TryFrom<wire::GpuSample> for GpuSample {
    type Error = WireError;
    fn try_from(wire: wire::GpuSample) -> Result<Self, WireError> {
        let process = |process: wire::GpuProcess| GpuProcess {
            pid: process.pid,
            memory: process.memory_bytes.map(Bytes::new),
            name: process.name,
            owner: process.owner.map(Into::into),
        };
        let processes = wire.processes.into_iter().map(process).collect();
        Ok(Self {
            id: gpu_id("gpu.uuid", wire.uuid)?,
            index: wire.index,
            state: state(&wire.state, wire.state_detail),
            memory_total: wire.memory_total_bytes.map(Bytes::new),
            memory_used: wire.memory_used_bytes.map(Bytes::new),
            memory_free: wire.memory_free_bytes.map(Bytes::new),
            utilisation_percent: wire.utilisation_percent,
            memory_utilisation_percent: wire.memory_utilisation_percent,
            temperature_celsius: wire.temperature_celsius,
            power_mw: wire.power_mw,
            power_limit_mw: wire.power_limit_mw,
            sm_clock_mhz: wire.sm_clock_mhz,
            memory_clock_mhz: wire.memory_clock_mhz,
            throttle: wire.throttle_bits.map(ThrottleReasons::from_bits),
            processes: wire.processes_known.then_some(processes),
        })
    }
}

impl From<DiskSample> for wire::DiskSample {
    fn from(disk: DiskSample) -> Self {
        Self {
            mount: disk.mount,
            device: disk.device,
            total_bytes: disk.total.map(Bytes::get),
            free_bytes: disk.free.map(Bytes::get),
            read_bytes_per_second: disk.read_per_second.map(Bytes::get),
            write_bytes_per_second: disk.write_per_second.map(Bytes::get),
            reads_per_second: disk.reads_per_second,
            writes_per_second: disk.writes_per_second,
            read_latency_ms: disk.read_latency_ms,
            write_latency_ms: disk.write_latency_ms,
            busy_percent: disk.busy_percent,
        }
    }
}

impl From<wire::DiskSample> for DiskSample {
    fn from(wire: wire::DiskSample) -> Self {
        Self {
            mount: wire.mount,
            device: wire.device,
            total: wire.total_bytes.map(Bytes::new),
            free: wire.free_bytes.map(Bytes::new),
            read_per_second: wire.read_bytes_per_second.map(Bytes::new),
            write_per_second: wire.write_bytes_per_second.map(Bytes::new),
            reads_per_second: wire.reads_per_second,
            writes_per_second: wire.writes_per_second,
            read_latency_ms: wire.read_latency_ms,
            write_latency_ms: wire.write_latency_ms,
            busy_percent: wire.busy_percent,
        }
    }
}

impl From<NetworkSample> for wire::NetworkSample {
    fn from(network: NetworkSample) -> Self {
        Self {
            interface: network.interface,
            receive_bytes_per_second: network.receive_per_second.map(Bytes::get),
            transmit_bytes_per_second: network.transmit_per_second.map(Bytes::get),
        }
    }
}

impl From<wire::NetworkSample> for NetworkSample {
    fn from(wire: wire::NetworkSample) -> Self {
        Self {
            interface: wire.interface,
            receive_per_second: wire.receive_bytes_per_second.map(Bytes::new),
            transmit_per_second: wire.transmit_bytes_per_second.map(Bytes::new),
        }
    }
}

impl From<ContainerSample> for wire::ContainerSample {
    fn from(sample: ContainerSample) -> Self {
        let held = |(id, bytes): (crate::inventory::GpuId, Bytes)| wire::GpuMemory {
            uuid: id.into(),
            bytes: bytes.get(),
        };
        Self {
            container: Some(sample.attempt.into()),
            milli_cpu: sample.cpu.map(MilliCpu::get),
            ram_bytes: sample.ram.map(Bytes::get),
            ram_limit_bytes: sample.ram_limit.map(Bytes::get),
            oom_kills: sample.oom_kills,
            read_bytes_per_second: sample.read_per_second.map(Bytes::get),
            write_bytes_per_second: sample.write_per_second.map(Bytes::get),
            gpu_memory: sample.gpu_memory.into_iter().map(held).collect(),
        }
    }
}

impl TryFrom<wire::ContainerSample> for ContainerSample {
    type Error = WireError;
    fn try_from(wire: wire::ContainerSample) -> Result<Self, WireError> {
        let container = wire.container.ok_or_else(|| WireError::missing("sample.container"))?;
        let held = |held: wire::GpuMemory| {
            Ok((gpu_id("sample.container.gpu", held.uuid)?, Bytes::new(held.bytes)))
        };
        Ok(Self {
            attempt: container.into(),
            cpu: wire.milli_cpu.map(MilliCpu::new),
            ram: wire.ram_bytes.map(Bytes::new),
            ram_limit: wire.ram_limit_bytes.map(Bytes::new),
            oom_kills: wire.oom_kills,
            read_per_second: wire.read_bytes_per_second.map(Bytes::new),
            write_per_second: wire.write_bytes_per_second.map(Bytes::new),
            gpu_memory: wire.gpu_memory.into_iter().map(held).collect::<Result<_, _>>()?,
        })
    }
}

impl From<AttemptId> for wire::ContainerOf {
    fn from(id: AttemptId) -> Self {
        Self {
            job: id.job.get(),
            generation: id.token.generation.get(),
            attempt: id.token.attempt.get(),
        }
    }
}

impl From<wire::ContainerOf> for AttemptId {
    fn from(wire: wire::ContainerOf) -> Self {
        Self {
            job: JobId::new(wire.job),
            token: Token {
                generation: Generation::new(wire.generation),
                attempt: Attempt::new(wire.attempt),
            },
        }
    }
}

#[cfg(test)]
mod tests;
