//! What a node has, on the wire. Reports are taken with tolerance: a word that is newer than this release becomes the
//! vaguest one we know. An id that is malformed is refused.

use super::WireError;
use crate::id::BootId;
use crate::inventory::{
    CgroupVersion, ComputeCapability, Cpu, Disk, DiskKind, DiskSpeed, EngineFacts, Gpu, GpuId,
    GpuSupport, Inventory, Nvml, Pcie, SilentGpu,
};
use crate::quantity::Bytes;
use crate::sample::GpuState;
use crate::wire;

impl From<Inventory> for wire::Inventory {
    fn from(inventory: Inventory) -> Self {
        Self {
            hostname: inventory.hostname,
            kernel: inventory.kernel,
            os: inventory.os,
            arch: inventory.arch,
            boot_id: inventory.boot.map(Into::into),
            agent_version: inventory.agent_version,
            cpu: Some(wire::CpuFacts {
                model: inventory.cpu.model,
                logical_cores: inventory.cpu.logical_cores,
                physical_cores: inventory.cpu.physical_cores,
            }),
            ram_bytes: inventory.ram.get(),
            swap_bytes: inventory.swap.get(),
            disks: inventory.disks.into_iter().map(Into::into).collect(),
            gpus: inventory.gpus.into_iter().map(Into::into).collect(),
            silent_gpus: inventory.silent_gpus.into_iter().map(Into::into).collect(),
            nvml: Some(inventory.nvml.into()),
            engine: Some(inventory.engine.into()),
        }
    }
}

impl TryFrom<wire::Inventory> for Inventory {
    type Error = WireError;
    fn try_from(wire: wire::Inventory) -> Result<Self, WireError> {
        let boot = wire.boot_id.map(BootId::try_from).transpose();
        let cpu = wire.cpu.ok_or_else(|| WireError::missing("inventory.cpu"))?;
        let gpus = wire.gpus.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Self {
            hostname: wire.hostname,
            kernel: wire.kernel,
            os: wire.os,
            arch: wire.arch,
            boot: boot.map_err(WireError::id("inventory.boot_id"))?,
            agent_version: wire.agent_version,
            cpu: Cpu {
                model: cpu.model,
                logical_cores: cpu.logical_cores,
                physical_cores: cpu.physical_cores,
            },
            ram: Bytes::new(wire.ram_bytes),
            swap: Bytes::new(wire.swap_bytes),
            disks: wire.disks.into_iter().map(Into::into).collect(),
            gpus,
            silent_gpus: wire.silent_gpus.into_iter().map(Into::into).collect(),
            nvml: wire.nvml.ok_or_else(|| WireError::missing("inventory.nvml"))?.into(),
            engine: wire.engine.ok_or_else(|| WireError::missing("inventory.engine"))?.into(),
        })
    }
}

impl From<Disk> for wire::DiskFacts {
    fn from(disk: Disk) -> Self {
        Self {
            mount: disk.mount,
            device: disk.device,
            file_system: disk.file_system,
            total_bytes: disk.total.get(),
            free_bytes: disk.free.get(),
            kind: disk.kind.name().to_owned(),
            holds_state: disk.holds_state,
            holds_engine: disk.holds_engine,
            measured: disk.measured.map(|speed| wire::DiskSpeed {
                read_bytes_per_second: speed.read_per_second.get(),
                write_bytes_per_second: speed.write_per_second.get(),
                read_latency_us: speed.read_latency_us,
                write_latency_us: speed.write_latency_us,
                direct: speed.direct,
            }),
        }
    }
}

impl From<wire::DiskFacts> for Disk {
    fn from(wire: wire::DiskFacts) -> Self {
        let kind = DiskKind::ALL.into_iter().find(|kind| kind.name() == wire.kind);
        Self {
            mount: wire.mount,
            device: wire.device,
            file_system: wire.file_system,
            total: Bytes::new(wire.total_bytes),
            free: Bytes::new(wire.free_bytes),
            kind: kind.unwrap_or(DiskKind::Unknown),
            holds_state: wire.holds_state,
            holds_engine: wire.holds_engine,
            measured: wire.measured.map(|speed| DiskSpeed {
                read_per_second: Bytes::new(speed.read_bytes_per_second),
                write_per_second: Bytes::new(speed.write_bytes_per_second),
                read_latency_us: speed.read_latency_us,
                write_latency_us: speed.write_latency_us,
                direct: speed.direct,
            }),
        }
    }
}

impl From<Gpu> for wire::GpuFacts {
    fn from(gpu: Gpu) -> Self {
        let (state, state_detail) = state_words(gpu.state);
        Self {
            index: gpu.index,
            uuid: gpu.id.into(),
            state,
            state_detail,
            name: gpu.name,
            serial: gpu.serial,
            vram_bytes: gpu.vram.map(Bytes::get),
            compute_capability: gpu.compute_capability.map(|version| version.to_string()),
            power_limit_mw: gpu.power_limit_mw,
            pcie: gpu.pcie.map(|pcie| wire::PcieFacts {
                bus_id: pcie.bus_id,
                max_generation: pcie.max_generation,
                max_lanes: pcie.max_lanes,
            }),
        }
    }
}

impl TryFrom<wire::GpuFacts> for Gpu {
    type Error = WireError;
    fn try_from(wire: wire::GpuFacts) -> Result<Self, WireError> {
        Ok(Self {
            index: wire.index,
            id: gpu_id("gpu.uuid", wire.uuid)?,
            state: state(&wire.state, wire.state_detail),
            name: wire.name,
            serial: wire.serial,
            vram: wire.vram_bytes.map(Bytes::new),
            compute_capability: wire.compute_capability.as_deref().map(capability).transpose()?,
            power_limit_mw: wire.power_limit_mw,
            pcie: wire.pcie.map(|pcie| Pcie {
                bus_id: pcie.bus_id,
                max_generation: pcie.max_generation,
                max_lanes: pcie.max_lanes,
            }),
        })
    }
}

fn capability(text: &str) -> Result<ComputeCapability, WireError> {
    let parts = text.split_once('.');
    let parsed = parts.and_then(|(major, minor)| {
        Some(ComputeCapability { major: major.parse().ok()?, minor: minor.parse().ok()? })
    });
    parsed.ok_or_else(|| WireError::new("gpu.compute_capability", "it must be like 9.0"))
}

/// A GPU's id that must be one.
pub(super) fn gpu_id(field: &'static str, text: String) -> Result<GpuId, WireError> {
    text.try_into().map_err(WireError::id(field))
}

/// The state of a GPU in words: its name, and what is said about it.
pub(super) fn state_words(state: GpuState) -> (String, String) {
    let (name, detail) = match state {
        GpuState::Ok => ("ok", String::new()),
        GpuState::Lost => ("lost", String::new()),
        GpuState::NeedsReset => ("needs_reset", String::new()),
        GpuState::NoAnswer => ("no_answer", String::new()),
        GpuState::Failed { why } => ("failed", why),
    };
    (name.to_owned(), detail)
}

/// A state that we do not know is no reason to promise the GPU: it becomes a failure that says which.
pub(super) fn state(name: &str, detail: String) -> GpuState {
    match name {
        "ok" => GpuState::Ok,
        "lost" => GpuState::Lost,
        "needs_reset" => GpuState::NeedsReset,
        "no_answer" => GpuState::NoAnswer,
        "failed" => GpuState::Failed { why: detail },
        other => GpuState::Failed { why: format!("{other}: {detail}") },
    }
}

impl From<SilentGpu> for wire::SilentGpu {
    fn from(gpu: SilentGpu) -> Self {
        let (state, state_detail) = state_words(gpu.state);
        Self { index: gpu.index, state, state_detail }
    }
}

impl From<wire::SilentGpu> for SilentGpu {
    fn from(wire: wire::SilentGpu) -> Self {
        Self { index: wire.index, state: state(&wire.state, wire.state_detail) }
    }
}

impl From<Nvml> for wire::NvmlFacts {
    fn from(nvml: Nvml) -> Self {
        match nvml {
            Nvml::Present { driver, cuda } => Self {
                present: true,
                driver_version: driver,
                cuda_version: cuda,
                absent_reason: String::new(),
            },
            Nvml::Absent { why } => Self { absent_reason: why, ..Self::default() },
        }
    }
}

impl From<wire::NvmlFacts> for Nvml {
    fn from(wire: wire::NvmlFacts) -> Self {
        if wire.present {
            Self::Present { driver: wire.driver_version, cuda: wire.cuda_version }
        } else {
            Self::Absent { why: wire.absent_reason }
        }
    }
}

impl From<EngineFacts> for wire::EngineFacts {
    fn from(engine: EngineFacts) -> Self {
        let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        Self {
            name: engine.name,
            version: engine.version,
            api_version: engine.api_version,
            storage_driver: engine.storage_driver,
            cgroup_version: engine.cgroup_version.map(|version| match version {
                CgroupVersion::V1 => 1,
                CgroupVersion::V2 => 2,
            }),
            cgroup_driver: engine.cgroup_driver,
            gpu_support: engine.gpu.name().to_owned(),
            cdi_dirs: engine.cdi_dirs.into_iter().map(text).collect(),
            root_dir: text(engine.root_dir),
            live_restore: engine.live_restore,
            seccomp: engine.seccomp,
            cpus: engine.cpus,
        }
    }
}

impl From<wire::EngineFacts> for EngineFacts {
    fn from(wire: wire::EngineFacts) -> Self {
        let gpu = GpuSupport::ALL.into_iter().find(|support| support.name() == wire.gpu_support);
        Self {
            name: wire.name,
            version: wire.version,
            api_version: wire.api_version,
            storage_driver: wire.storage_driver,
            cgroup_version: match wire.cgroup_version {
                Some(1) => Some(CgroupVersion::V1),
                Some(2) => Some(CgroupVersion::V2),
                _ => None,
            },
            cgroup_driver: wire.cgroup_driver,
            gpu: gpu.unwrap_or_default(),
            cdi_dirs: wire.cdi_dirs.into_iter().map(Into::into).collect(),
            root_dir: wire.root_dir.into(),
            live_restore: wire.live_restore,
            seccomp: wire.seccomp,
            cpus: wire.cpus,
        }
    }
}

#[cfg(test)]
mod tests;
