//! The containers that the agent runs: their control groups, and whose a process on a GPU is.

use std::time::Duration;

use hone_proto::inventory::CgroupVersion;
use hone_proto::quantity::{Bytes, MilliCpu};
use hone_proto::sample::{ContainerSample, NodeSample};

use super::ContainerRef;
use super::cgroup::{CgroupReading, Group, Hierarchies};
use super::file::read_once;
use super::text::{per_second, whole};
use crate::host::HostRoots;

/// Follows containers from one sample to the next.
#[derive(Debug)]
pub(super) struct ContainerTracker {
    roots: HostRoots,
    hierarchies: Hierarchies,
    followed: Vec<Followed>,
}

#[derive(Debug)]
struct Followed {
    container: ContainerRef,
    group: Group,
    before: Option<CgroupReading>,
}

impl ContainerTracker {
    pub(super) fn new(roots: &HostRoots, version: Option<CgroupVersion>) -> Self {
        let hierarchies = Hierarchies::find(roots, version);
        Self { roots: roots.clone(), hierarchies, followed: Vec::new() }
    }

    /// One sample for each of `containers`, in their order.
    pub(super) fn read(
        &mut self,
        elapsed: Duration,
        containers: &[ContainerRef],
        buffer: &mut Vec<u8>,
    ) -> Vec<ContainerSample> {
        self.followed.retain(|followed| containers.contains(&followed.container));
        for container in containers {
            if self.followed.iter().all(|followed| followed.container != *container)
                && let Some(group) = self.hierarchies.group(&container.place)
            {
                let container = container.clone();
                self.followed.push(Followed { container, group, before: None });
            }
        }
        let sample = |container: &ContainerRef| {
            let of_it = self.followed.iter_mut().find(|followed| followed.container == *container);
            of_it.map_or_else(
                || ContainerSample::unknown(container.attempt),
                |followed| followed.sample(elapsed, buffer),
            )
        };
        containers.iter().map(sample).collect()
    }

    /// Gives each process on a GPU its name and owner, and each container what it holds there.
    pub(super) fn name_gpu_processes(&self, sample: &mut NodeSample) {
        for gpu in &mut sample.gpus {
            for process in gpu.processes.iter_mut().flatten() {
                let comm = self.roots.proc.join(process.pid.to_string()).join("comm");
                process.name = read_once(&comm).ok().map(|name| name.trim_end().to_owned());
                let holds = |followed: &&Followed| {
                    self.hierarchies.holds(followed.group.path(), process.pid)
                };
                process.owner =
                    self.followed.iter().find(holds).map(|found| found.container.attempt);
            }
        }
        for container in &mut sample.containers {
            container.gpu_memory = sample
                .gpus
                .iter()
                .filter_map(|gpu| {
                    let own = gpu.processes.iter().flatten();
                    let mut own =
                        own.filter(|process| process.owner == Some(container.attempt)).peekable();
                    own.peek()?;
                    let held: Bytes = own.filter_map(|process| process.memory).sum();
                    Some((gpu.id.clone(), held))
                })
                .collect();
        }
    }
}

impl Followed {
    fn sample(&mut self, elapsed: Duration, buffer: &mut Vec<u8>) -> ContainerSample {
        let now = self.group.read(buffer);
        let before = self.before.replace(now);
        let rate = |counter: fn(&CgroupReading) -> Option<u64>| {
            per_second(counter(before.as_ref()?)?, counter(&now)?, elapsed)
        };
        let bytes = |rate: f64| Bytes::new(whole(rate));
        // Nanoseconds per second are thousandths of a core once divided by a million.
        let milli = |ns: f64| MilliCpu::new(u32::try_from(whole(ns / 1e6)).unwrap_or(u32::MAX));
        ContainerSample {
            cpu: rate(|reading| reading.cpu_ns).map(milli),
            ram: now.memory,
            ram_limit: now.memory_limit,
            oom_kills: now.oom_kills,
            read_per_second: rate(|reading| reading.read.map(Bytes::get)).map(bytes),
            write_per_second: rate(|reading| reading.written.map(Bytes::get)).map(bytes),
            ..ContainerSample::unknown(self.container.attempt)
        }
    }
}
