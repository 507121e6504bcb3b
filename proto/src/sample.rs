//! One measurement of a node at one time: taken each second, live on the heartbeat. [`rollup`] makes what is kept.
//!
//! `None` always means "not known" (a driver that does not tell, a rate before there were two readings), never zero.
//! Rates are over the time since the reading before.

mod gpu;
pub mod rollup;

use serde::{Deserialize, Serialize};

pub use gpu::{GpuProcess, GpuSample, GpuState, ThrottleReasons};

use crate::id::AttemptId;
use crate::inventory::GpuId;
use crate::quantity::{Bytes, MilliCpu};
use crate::time::Now;

/// One measurement of a whole node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NodeSample {
    /// When.
    pub at: Now,
    /// Processors.
    pub cpu: CpuSample,
    /// Memory.
    pub memory: MemorySample,
    /// Every GPU of the inventory, also one that does not answer.
    pub gpus: Vec<GpuSample>,
    /// Every mounted disk of the inventory.
    pub disks: Vec<DiskSample>,
    /// Network interfaces, without loopback and the ends of containers' own.
    pub networks: Vec<NetworkSample>,
    /// Containers that the agent runs.
    pub containers: Vec<ContainerSample>,
}

/// Processors, as shares of the time since the reading before.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CpuSample {
    /// Busy, all cores together: 100 is all of them.
    pub busy_percent: Option<f32>,
    /// Wanted by this machine but given to another by the hypervisor; part of busy.
    pub steal_percent: Option<f32>,
    /// Idle with a disk operation outstanding; not part of busy.
    pub io_wait_percent: Option<f32>,
    /// Busy, each core by its number; empty at the first reading.
    pub cores_busy_percent: Vec<f32>,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: Option<[f32; 3]>,
}

/// Memory of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemorySample {
    /// All that the kernel manages.
    pub total: Option<Bytes>,
    /// What programs could get without swapping, as the kernel estimates it.
    pub available: Option<Bytes>,
    /// Size of swap space.
    pub swap_total: Option<Bytes>,
    /// Swap space in use.
    pub swap_used: Option<Bytes>,
}

impl MemorySample {
    /// In use: what is not available.
    #[must_use]
    pub fn used(&self) -> Option<Bytes> {
        Some(self.total?.saturating_sub(self.available?))
    }
}

/// One mounted disk.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DiskSample {
    /// Where it is mounted; the same text as in the inventory.
    pub mount: String,
    /// The block device, such as `vda1`.
    pub device: String,
    /// Size of the file system.
    pub total: Option<Bytes>,
    /// Free for ordinary users.
    pub free: Option<Bytes>,
    /// Read from the device, per second.
    pub read_per_second: Option<Bytes>,
    /// Written to the device, per second.
    pub write_per_second: Option<Bytes>,
    /// Reads completed per second.
    pub reads_per_second: Option<f32>,
    /// Writes completed per second.
    pub writes_per_second: Option<f32>,
    /// Mean time from queueing to completion of the reads of this interval, in milliseconds; not known without reads.
    pub read_latency_ms: Option<f32>,
    /// The same of the writes.
    pub write_latency_ms: Option<f32>,
    /// Share of time with at least one operation outstanding.
    pub busy_percent: Option<f32>,
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkSample {
    /// The kernel's name of it, such as `eth0`.
    pub interface: String,
    /// Received, per second.
    pub receive_per_second: Option<Bytes>,
    /// Sent, per second.
    pub transmit_per_second: Option<Bytes>,
}

/// One container of an attempt, by its control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSample {
    /// Whose.
    pub attempt: AttemptId,
    /// Processor time used.
    pub cpu: Option<MilliCpu>,
    /// Memory in use without inactive page cache: what counts when memory gets short.
    pub ram: Option<Bytes>,
    /// Its memory limit; `None` also when it has none.
    pub ram_limit: Option<Bytes>,
    /// Processes that the kernel killed for memory since the container was made. Evidence together with the exit code.
    pub oom_kills: Option<u64>,
    /// Read from block devices, per second.
    pub read_per_second: Option<Bytes>,
    /// Written to block devices, per second.
    pub write_per_second: Option<Bytes>,
    /// Memory that its processes hold on each GPU; a GPU that they do not use is absent.
    pub gpu_memory: Vec<(GpuId, Bytes)>,
}

impl ContainerSample {
    /// Nothing known yet of this attempt's container.
    #[must_use]
    pub const fn unknown(attempt: AttemptId) -> Self {
        Self {
            attempt,
            cpu: None,
            ram: None,
            ram_limit: None,
            oom_kills: None,
            read_per_second: None,
            write_per_second: None,
            gpu_memory: Vec::new(),
        }
    }
}
