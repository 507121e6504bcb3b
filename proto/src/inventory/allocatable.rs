//! What of a node may be promised to jobs: total − reserve − what others than hone use, and never more than the
//! node's own policy allows. What hone itself uses is not subtracted: promises count it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{GpuId, Inventory};
use crate::quantity::{Bytes, MilliCpu};
use crate::sample::GpuState;

/// What may be promised on a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Allocatable {
    /// GPUs that work, with the VRAM that hone may use of each.
    pub gpus: Vec<AllocatableGpu>,
    /// Processor time.
    pub cpu: MilliCpu,
    /// Memory.
    pub ram: Bytes,
    /// Disk under the agent's state directory.
    pub disk: Bytes,
}

/// One GPU that may be promised.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AllocatableGpu {
    /// Which.
    pub id: GpuId,
    /// What hone may use of it.
    pub vram: Bytes,
}

/// What the node's own policy says: a reserve that is never promised, and ceilings. `None` is no ceiling. Ceilings are
/// how several agents share one machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Kept back for the system: processor time.
    pub reserve_cpu: MilliCpu,
    /// Kept back for the system: memory.
    pub reserve_ram: Bytes,
    /// Kept back for the system: disk.
    pub reserve_disk: Bytes,
    /// Kept back on each GPU.
    pub reserve_vram: Bytes,
    /// At most this much processor time.
    pub max_cpu: Option<MilliCpu>,
    /// At most this much memory.
    pub max_ram: Option<Bytes>,
    /// At most this much disk.
    pub max_disk: Option<Bytes>,
    /// At most this much VRAM on each GPU.
    pub max_vram: Option<Bytes>,
    /// Only these GPUs; an empty set is none of them.
    pub gpus: Option<BTreeSet<GpuId>>,
}

/// What others than hone use of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Foreign {
    /// Processor time. It can be shared, unlike the rest, so a caller may leave it at zero.
    pub cpu: MilliCpu,
    /// Memory.
    pub ram: Bytes,
    /// Disk, on the file system of the agent's state directory.
    pub disk: Bytes,
    /// VRAM per GPU. A GPU that is not here is not used.
    pub vram: BTreeMap<GpuId, Bytes>,
}

/// What may be promised on the node. A GPU that does not work, or whose memory is not known, is left out.
#[must_use]
pub fn allocatable(inventory: &Inventory, limits: &Limits, foreign: &Foreign) -> Allocatable {
    let cpu = MilliCpu::cores(inventory.cpu.logical_cores)
        .saturating_sub(limits.reserve_cpu)
        .saturating_sub(foreign.cpu);
    let disk = inventory.disks.iter().find(|disk| disk.holds_state).map(|disk| disk.total);
    let gpus = inventory
        .gpus
        .iter()
        .filter(|gpu| gpu.state == GpuState::Ok)
        .filter(|gpu| limits.gpus.as_ref().is_none_or(|allowed| allowed.contains(&gpu.id)))
        .filter_map(|gpu| {
            let used = foreign.vram.get(&gpu.id).copied().unwrap_or_default();
            let vram = left(gpu.vram?, limits.reserve_vram, used, limits.max_vram);
            Some(AllocatableGpu { id: gpu.id.clone(), vram })
        })
        .collect();
    Allocatable {
        gpus,
        cpu: limits.max_cpu.map_or(cpu, |max| cpu.min(max)),
        ram: left(inventory.ram, limits.reserve_ram, foreign.ram, limits.max_ram),
        disk: left(disk.unwrap_or_default(), limits.reserve_disk, foreign.disk, limits.max_disk),
    }
}

fn left(total: Bytes, reserve: Bytes, used: Bytes, max: Option<Bytes>) -> Bytes {
    let left = total.saturating_sub(reserve).saturating_sub(used);
    max.map_or(left, |max| left.min(max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Cpu, Disk, DiskKind, EngineFacts, Gpu, Nvml};
    use crate::sample::GpuSample;
    use proptest::prelude::*;

    fn gpu(id: &str, state: GpuState, vram: Option<Bytes>) -> Gpu {
        Gpu {
            index: 0,
            id: id.parse().expect("a GPU id"),
            state,
            name: None,
            serial: None,
            vram,
            compute_capability: None,
            power_limit_mw: None,
            pcie: None,
        }
    }

    fn disk(mount: &str, total: Bytes, holds_state: bool) -> Disk {
        Disk {
            mount: mount.to_owned(),
            device: "vda".to_owned(),
            file_system: "ext4".to_owned(),
            total,
            free: Bytes::ZERO,
            kind: DiskKind::Virtual,
            holds_state,
            holds_engine: false,
            measured: None,
        }
    }

    fn node(ram: Bytes, state_disk: Bytes, gpus: Vec<Gpu>) -> Inventory {
        Inventory {
            hostname: "n".to_owned(),
            kernel: String::new(),
            os: String::new(),
            arch: String::new(),
            boot: None,
            agent_version: String::new(),
            cpu: Cpu { logical_cores: 8, ..Cpu::default() },
            ram,
            swap: Bytes::ZERO,
            disks: vec![disk("/", Bytes::gib(1), false), disk("/data", state_disk, true)],
            gpus,
            silent_gpus: Vec::new(),
            nvml: Nvml::Absent { why: String::new() },
            engine: EngineFacts::default(),
        }
    }

    #[test]
    fn it_is_total_minus_reserve_minus_others_and_at_most_the_ceiling() {
        let gpus = vec![gpu("GPU-a", GpuState::Ok, Some(Bytes::gib(24)))];
        let node = node(Bytes::gib(64), Bytes::gib(500), gpus);
        let limits = Limits {
            reserve_cpu: MilliCpu::cores(1),
            reserve_ram: Bytes::gib(2),
            reserve_disk: Bytes::gib(10),
            reserve_vram: Bytes::gib(1),
            max_disk: Some(Bytes::gib(100)),
            ..Limits::default()
        };
        let foreign = Foreign {
            cpu: MilliCpu::new(500),
            ram: Bytes::gib(4),
            disk: Bytes::gib(20),
            vram: [("GPU-a".parse().expect("an id"), Bytes::gib(3))].into(),
        };
        let result = allocatable(&node, &limits, &foreign);
        assert_eq!(result.cpu, MilliCpu::new(6_500));
        assert_eq!(result.ram, Bytes::gib(58));
        assert_eq!(result.disk, Bytes::gib(100));
        assert_eq!(result.gpus[0].vram, Bytes::gib(20));
    }

    #[test]
    fn only_gpus_that_work_are_allowed_and_have_known_memory_are_offered() {
        let known = Some(Bytes::gib(8));
        let node = node(
            Bytes::gib(8),
            Bytes::gib(8),
            vec![
                gpu("GPU-good", GpuState::Ok, known),
                gpu("GPU-lost", GpuState::Lost, known),
                gpu("GPU-blank", GpuState::Ok, None),
                gpu("GPU-other", GpuState::Ok, known),
            ],
        );
        let ids = |limits: &Limits| -> Vec<String> {
            let result = allocatable(&node, limits, &Foreign::default());
            result.gpus.into_iter().map(|gpu| gpu.id.to_string()).collect()
        };
        assert_eq!(ids(&Limits::default()), ["GPU-good", "GPU-other"]);
        let one = BTreeSet::from(["GPU-good".parse().expect("an id")]);
        assert_eq!(ids(&Limits { gpus: Some(one), ..Limits::default() }), ["GPU-good"]);
        let none = Limits { gpus: Some(BTreeSet::new()), ..Limits::default() };
        assert!(ids(&none).is_empty());
    }

    #[test]
    fn a_gpu_that_stops_working_is_no_longer_offered() {
        let mut node = node(
            Bytes::gib(8),
            Bytes::gib(8),
            vec![gpu("GPU-a", GpuState::Ok, Some(Bytes::gib(8)))],
        );
        let offered = |node: &Inventory| {
            allocatable(node, &Limits::default(), &Foreign::default()).gpus.len()
        };
        let sample = |state| GpuSample::without_figures(node.gpus[0].id.clone(), 0, state);
        let (fine, lost) = (sample(GpuState::Ok), sample(GpuState::Lost));
        assert!(!node.follow(std::slice::from_ref(&fine)));
        assert_eq!(offered(&node), 1);
        assert!(node.follow(&[lost]));
        assert_eq!(offered(&node), 0);
        assert!(!node.follow(&[]), "a sample without GPUs tells nothing");
        assert!(node.follow(&[fine]));
        assert_eq!(offered(&node), 1);
    }

    proptest! {
        #[test]
        fn it_never_exceeds_the_node_whatever_is_said(
            ram in any::<u64>(), reserve in any::<u64>(), used in any::<u64>(), max in any::<Option<u64>>(),
        ) {
            let node = node(Bytes::new(ram), Bytes::new(ram), Vec::new());
            let limits = Limits {
                reserve_ram: Bytes::new(reserve),
                max_ram: max.map(Bytes::new),
                ..Limits::default()
            };
            let foreign = Foreign { ram: Bytes::new(used), ..Foreign::default() };
            let got = allocatable(&node, &limits, &foreign).ram.get();
            prop_assert!(u128::from(got) + u128::from(reserve.min(ram)) <= u128::from(ram));
            prop_assert!(max.is_none_or(|max| got <= max));
        }
    }
}
