//! A first honest placement: which node can hold a job, which of those is the tightest fit, and what the others lack.
//!
//! A plain function of declared demand and what nodes have free: no I/O, no clock, the same answer for the same
//! question. It never offers what has been promised already.

use hone_proto::assignment::Promise;
use hone_proto::id::NodeId;
use hone_proto::quantity::{Bytes, MilliCpu};
use serde::{Deserialize, Serialize};

/// What a job needs of one node, declared in its spec or taken from the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Demand {
    /// Exclusive GPUs; zero for a job that trains on the CPU.
    pub gpus: u32,
    /// VRAM that each GPU must have.
    pub vram: Bytes,
    /// Processor time.
    pub cpu: MilliCpu,
    /// Memory.
    pub ram: Bytes,
    /// Disk.
    pub disk: Bytes,
    /// Shared memory; part of `ram`.
    pub shm: Bytes,
}

/// What a node has for hone, or what of it is still free.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// GPUs by UUID with the VRAM that hone may use.
    pub gpus: Vec<Gpu>,
    /// Processor time.
    pub cpu: MilliCpu,
    /// Memory.
    pub ram: Bytes,
    /// Disk under the agent's state directory.
    pub disk: Bytes,
}

/// One GPU of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gpu {
    /// As NVML names it.
    pub uuid: String,
    /// What hone may use of it.
    pub vram: Bytes,
}

impl Capacity {
    /// What is left after `promises`. Never below zero: a node may report less than was promised before.
    #[must_use]
    pub fn minus<'a>(&self, promises: impl IntoIterator<Item = &'a Promise>) -> Self {
        let mut free = self.clone();
        for promise in promises {
            free.gpus.retain(|gpu| !promise.gpus.contains(&gpu.uuid));
            free.cpu = free.cpu.saturating_sub(promise.cpu);
            free.ram = free.ram.saturating_sub(promise.ram);
            free.disk = free.disk.saturating_sub(promise.disk);
        }
        free
    }

    /// Takes the greater of each, and of two lists of GPUs the one with more of them, or with more memory.
    pub fn grow(&mut self, other: &Self) {
        let size = |gpus: &[Gpu]| {
            let vram = gpus.iter().fold(Bytes::default(), |sum, gpu| sum.saturating_add(gpu.vram));
            (gpus.len(), vram)
        };
        if size(&other.gpus) > size(&self.gpus) {
            self.gpus.clone_from(&other.gpus);
        }
        self.cpu = self.cpu.max(other.cpu);
        self.ram = self.ram.max(other.ram);
        self.disk = self.disk.max(other.disk);
    }
}

/// One thing that a node lacks for a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shortfall {
    /// So many GPUs too few.
    Gpus(u32),
    /// The best GPUs miss so much VRAM.
    Vram(Bytes),
    /// So much processor time is missing.
    Cpu(MilliCpu),
    /// So much memory is missing.
    Ram(Bytes),
    /// So much disk is missing.
    Disk(Bytes),
    /// It takes no more work.
    Drained,
    /// It has been silent for longer than its lease.
    Unreachable,
    /// Its certificate was revoked.
    Revoked,
    /// It has never connected.
    NeverSeen,
    /// It carries as many jobs as a node may.
    Full,
}

impl std::fmt::Display for Shortfall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gpus(n) => write!(f, "misses {n} GPU{}", if *n == 1 { "" } else { "s" }),
            Self::Vram(n) => write!(f, "misses {n} VRAM"),
            Self::Cpu(n) => write!(f, "misses {n} cores"),
            Self::Ram(n) => write!(f, "misses {n} RAM"),
            Self::Disk(n) => write!(f, "misses {n} disk"),
            Self::Drained => f.write_str("is drained"),
            Self::Unreachable => f.write_str("is unreachable"),
            Self::Revoked => f.write_str("is revoked"),
            Self::NeverSeen => f.write_str("has never connected"),
            Self::Full => f.write_str("carries as many jobs as a node may"),
        }
    }
}

/// What `demand` lacks in `free`; empty when it fits.
#[must_use]
pub fn shortfalls(demand: &Demand, free: &Capacity) -> Vec<Shortfall> {
    let mut lacks = Vec::new();
    let wanted = usize::try_from(demand.gpus).unwrap_or(usize::MAX);
    let enough = free.gpus.iter().filter(|gpu| gpu.vram >= demand.vram).count();
    if free.gpus.len() < wanted {
        lacks.push(Shortfall::Gpus(u32::try_from(wanted - free.gpus.len()).unwrap_or(u32::MAX)));
    } else if enough < wanted {
        let mut best: Vec<_> = free.gpus.iter().map(|gpu| gpu.vram).collect();
        best.sort_unstable_by(|a, b| b.cmp(a));
        let smallest = best.get(wanted - 1).copied().unwrap_or_default();
        lacks.push(Shortfall::Vram(demand.vram.saturating_sub(smallest)));
    }
    if demand.cpu > free.cpu {
        lacks.push(Shortfall::Cpu(demand.cpu.saturating_sub(free.cpu)));
    }
    if demand.ram > free.ram {
        lacks.push(Shortfall::Ram(demand.ram.saturating_sub(free.ram)));
    }
    if demand.disk > free.disk {
        lacks.push(Shortfall::Disk(demand.disk.saturating_sub(free.disk)));
    }
    lacks
}

/// The promise that holds `demand` in `free`, with the smallest GPUs that do; `None` when it does not fit.
#[must_use]
pub fn promise(demand: &Demand, free: &Capacity) -> Option<Promise> {
    if !shortfalls(demand, free).is_empty() {
        return None;
    }
    let mut gpus: Vec<_> = free.gpus.iter().filter(|gpu| gpu.vram >= demand.vram).collect();
    gpus.sort_by(|a, b| (a.vram, &a.uuid).cmp(&(b.vram, &b.uuid)));
    let wanted = usize::try_from(demand.gpus).unwrap_or(usize::MAX);
    Some(Promise {
        gpus: gpus.into_iter().take(wanted).map(|gpu| gpu.uuid.clone()).collect(),
        vram: demand.vram,
        cpu: demand.cpu,
        ram: demand.ram,
        disk: demand.disk,
        shm: demand.shm,
    })
}

/// The node to take among `candidates` (each with what it has free), and the promise to make there.
///
/// The tightest fit wins, so that wide jobs find room later: fewest GPUs left over, then least VRAM, then least memory,
/// then the id, so that the answer never depends on the order of the question.
#[must_use]
pub fn choose<'a>(
    demand: &Demand,
    candidates: impl IntoIterator<Item = (&'a NodeId, Capacity)>,
) -> Option<(NodeId, Promise)> {
    candidates
        .into_iter()
        .filter_map(|(node, free)| {
            let promise = promise(demand, &free)?;
            let left = free.minus([&promise]);
            let vram: Bytes = left.gpus.iter().map(|gpu| gpu.vram).sum();
            Some(((left.gpus.len(), vram, left.ram, node.clone()), promise))
        })
        .min_by(|(a, _), (b, _)| a.cmp(b))
        .map(|((.., node), promise)| (node, promise))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> NodeId {
        id.parse().expect("a node id")
    }

    fn capacity(gpus: &[u64], ram: u64) -> Capacity {
        Capacity {
            gpus: gpus
                .iter()
                .enumerate()
                .map(|(i, gib)| Gpu { uuid: format!("GPU-{i}"), vram: Bytes::gib(*gib) })
                .collect(),
            cpu: MilliCpu::cores(8),
            ram: Bytes::gib(ram),
            disk: Bytes::gib(100),
        }
    }

    fn demand(gpus: u32, vram: u64, ram: u64) -> Demand {
        Demand {
            gpus,
            vram: Bytes::gib(vram),
            cpu: MilliCpu::cores(1),
            ram: Bytes::gib(ram),
            disk: Bytes::gib(1),
            shm: Bytes::ZERO,
        }
    }

    #[test]
    fn the_tightest_node_and_the_smallest_gpu_win_in_any_order() {
        let (a, b, c) = (node("a"), node("b"), node("c"));
        let all =
            [(&a, capacity(&[24, 48], 64)), (&b, capacity(&[24], 64)), (&c, capacity(&[], 64))];
        let job = demand(1, 20, 8);
        let (chosen, promise) = choose(&job, all.clone()).expect("it fits");
        assert_eq!((chosen, promise.gpus), (node("b"), vec!["GPU-0".to_owned()]));
        let (chosen, _) = choose(&job, all.clone().into_iter().rev()).expect("it fits");
        assert_eq!(chosen, node("b"));
        let (chosen, _) = choose(&demand(0, 0, 8), all).expect("a CPU job fits");
        assert_eq!(chosen, node("c"), "a CPU job leaves GPUs to those who need them");
    }

    #[test]
    fn shortfalls_name_the_amount() {
        let free = capacity(&[24, 16], 8);
        assert_eq!(shortfalls(&demand(3, 10, 4), &free), vec![Shortfall::Gpus(1)]);
        assert_eq!(
            shortfalls(&demand(2, 20, 12), &free),
            vec![Shortfall::Vram(Bytes::gib(4)), Shortfall::Ram(Bytes::gib(4))]
        );
        assert_eq!(Shortfall::Vram(Bytes::mib(3174)).to_string(), "misses 3.1 GiB VRAM");
    }

    #[test]
    fn nothing_promised_is_offered_again() {
        let all = capacity(&[24, 24], 64);
        let first = promise(&demand(1, 20, 40), &all).expect("it fits");
        let left = all.minus([&first]);
        let second = promise(&demand(1, 20, 20), &left).expect("the other GPU is free");
        assert_ne!(first.gpus, second.gpus);
        assert!(promise(&demand(1, 20, 1), &left.minus([&second])).is_none());
    }
}
