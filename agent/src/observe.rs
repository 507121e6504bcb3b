//! What the hardware does: one [`NodeSample`] each second, cheap enough to be forgotten.
//!
//! Every reader keeps its files open and its last counters, and all share one buffer. Nothing here fails: what cannot be
//! read is not known. What a trainer says is read elsewhere.

pub mod cgroup;
mod container;
mod cpu;
mod disk;
pub(crate) mod file;
pub mod foreign;
pub mod gpu;
mod memory;
mod network;
pub(crate) mod text;
pub mod usage;

use std::path::PathBuf;
use std::time::Duration;

use hone_proto::id::AttemptId;
use hone_proto::inventory::CgroupVersion;
use hone_proto::sample::NodeSample;
use hone_proto::time::{BootNanos, Now};

pub(crate) use disk::Space;
pub(crate) use memory::MemoryReader;

use crate::host::HostRoots;
use crate::inventory::mounts::Held;
use cgroup::Place;
use container::ContainerTracker;
use gpu::Gpus;

/// A container that the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRef {
    /// Whose it is.
    pub attempt: AttemptId,
    /// Where its control groups are found.
    pub place: Place,
}

/// What a sampler must know of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SamplerSettings {
    /// Where the kernel tells about this machine.
    pub roots: HostRoots,
    /// Control group generation, as the engine reports it.
    pub cgroup_version: Option<CgroupVersion>,
    /// The agent's state directory: its disk is always sampled.
    pub state_dir: Option<PathBuf>,
    /// Where the engine keeps images and containers: likewise.
    pub engine_root: Option<PathBuf>,
}

/// Measures this machine.
#[derive(Debug)]
pub struct Sampler {
    cpu: cpu::CpuReader,
    memory: MemoryReader,
    disks: disk::DiskReader,
    networks: network::NetworkReader,
    containers: ContainerTracker,
    gpus: Gpus,
    last: Option<BootNanos>,
    buffer: Vec<u8>,
}

impl Sampler {
    /// A sampler that has not measured yet.
    #[must_use]
    pub fn new(settings: SamplerSettings, gpus: Gpus) -> Self {
        let SamplerSettings { roots, cgroup_version, state_dir, engine_root } = settings;
        Self {
            cpu: cpu::CpuReader::new(&roots),
            memory: MemoryReader::new(&roots),
            disks: disk::DiskReader::new(&roots, Held { state: state_dir, engine: engine_root }),
            networks: network::NetworkReader::new(&roots),
            containers: ContainerTracker::new(&roots, cgroup_version),
            gpus,
            last: None,
            buffer: Vec::new(),
        }
    }

    /// Measures, once. Blocks for some hundred microseconds, and on a slow GPU driver for a quarter of a second at most.
    /// Rates are known from the second call on.
    pub fn sample(&mut self, now: Now, containers: &[ContainerRef]) -> NodeSample {
        let elapsed = self.last.map_or(Duration::ZERO, |last| now.boot.since(last));
        self.last = Some(now.boot);
        let buffer = &mut self.buffer;
        let mut sample = NodeSample {
            at: now,
            cpu: self.cpu.read(buffer),
            memory: self.memory.read(buffer),
            gpus: self.gpus.sample(),
            disks: self.disks.read(elapsed, buffer),
            networks: self.networks.read(elapsed, buffer),
            containers: self.containers.read(elapsed, containers, buffer),
        };
        self.containers.name_gpu_processes(&mut sample);
        sample
    }
}

#[cfg(test)]
mod tests;
