//! What a node has. It changes rarely: it is collected when an agent starts and when something in it changes.
//!
//! `None` always means "not known", never zero and never "no".

mod allocatable;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use allocatable::{Allocatable, AllocatableGpu, Foreign, Limits, allocatable};

use crate::id::{BootId, IdError};
use crate::quantity::Bytes;
use crate::sample::{GpuSample, GpuState};

/// Everything a node has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Host name as the kernel tells it.
    pub hostname: String,
    /// Kernel release, such as `6.1.0-28-amd64`.
    pub kernel: String,
    /// The distribution's own name for itself, such as `Debian GNU/Linux 12 (bookworm)`.
    pub os: String,
    /// Machine architecture, such as `x86_64`.
    pub arch: String,
    /// The boot in which this was collected.
    pub boot: Option<BootId>,
    /// Version of the agent that collected it.
    pub agent_version: String,
    /// Processors.
    pub cpu: Cpu,
    /// Memory that the kernel manages.
    pub ram: Bytes,
    /// Swap space.
    pub swap: Bytes,
    /// Mounted file systems on block devices, each once.
    pub disks: Vec<Disk>,
    /// GPUs that answered at least once.
    pub gpus: Vec<Gpu>,
    /// GPUs that the driver counts but that never told who they are.
    pub silent_gpus: Vec<SilentGpu>,
    /// NVIDIA's management library.
    pub nvml: Nvml,
    /// The container engine.
    pub engine: EngineFacts,
}

impl Inventory {
    /// Takes over what a sample tells about whether GPUs work; tells whether that changed anything, so that what the node
    /// offers must be told anew.
    pub fn follow(&mut self, gpus: &[GpuSample]) -> bool {
        let mut changed = false;
        for gpu in &mut self.gpus {
            let told = gpus.iter().find(|sample| sample.id == gpu.id);
            if let Some(sample) = told.filter(|sample| sample.state != gpu.state) {
                gpu.state = sample.state.clone();
                changed = true;
            }
        }
        changed
    }
}

/// Processors of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cpu {
    /// Model, such as `AMD EPYC 7443P 24-Core Processor`.
    pub model: String,
    /// Cores that the kernel schedules on, hyperthreads included.
    pub logical_cores: u32,
    /// Physical cores; a guest often cannot see them.
    pub physical_cores: Option<u32>,
}

/// One mounted file system on a block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Where it is mounted; of several mounts the shortest path.
    pub mount: String,
    /// The kernel's name of the block device, such as `nvme0n1p2`.
    pub device: String,
    /// File system type, such as `ext4`.
    pub file_system: String,
    /// Size.
    pub total: Bytes,
    /// Free for ordinary users when this was collected.
    pub free: Bytes,
    /// What it is made of, as far as the kernel can tell.
    pub kind: DiskKind,
    /// The agent's state directory lies here: the disk that jobs fill.
    pub holds_state: bool,
    /// The engine keeps its images and containers here.
    pub holds_engine: bool,
    /// What it did when it was measured; only the state directory's disk is.
    pub measured: Option<DiskSpeed>,
}

/// What a disk is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskKind {
    /// NVMe.
    Nvme,
    /// Solid state behind another bus.
    Ssd,
    /// It turns.
    Hdd,
    /// A hypervisor's disk: what is behind it cannot be seen, only measured.
    Virtual,
    /// The kernel does not say.
    Unknown,
}

impl DiskKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Nvme, Self::Ssd, Self::Hdd, Self::Virtual, Self::Unknown];

    /// Its name for people and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nvme => "nvme",
            Self::Ssd => "ssd",
            Self::Hdd => "hdd",
            Self::Virtual => "virtual",
            Self::Unknown => "unknown",
        }
    }
}

/// A short measurement of a disk, made once when a node joins. It passes the page cache by; caches of a hypervisor
/// below may still flatter it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpeed {
    /// Sequential reading, per second.
    pub read_per_second: Bytes,
    /// Sequential writing, synced, per second.
    pub write_per_second: Bytes,
    /// Median time of one random 4 KiB read, in microseconds.
    pub read_latency_us: u32,
    /// Median time until one 4 KiB write is durable, in microseconds.
    pub write_latency_us: u32,
    /// `false` when the file system refused direct I/O: the figures then tell of the page cache too.
    pub direct: bool,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// The driver's number for it; may change with a reboot.
    pub index: u32,
    /// The name that never changes.
    pub id: GpuId,
    /// Whether it works.
    pub state: GpuState,
    /// Product name, such as `NVIDIA H100 80GB HBM3`.
    pub name: Option<String>,
    /// The board's serial number; consumer boards have none.
    pub serial: Option<String>,
    /// All its memory.
    pub vram: Option<Bytes>,
    /// CUDA compute capability, such as 9.0.
    pub compute_capability: Option<ComputeCapability>,
    /// Power at which the board throttles itself, in milliwatts.
    pub power_limit_mw: Option<u32>,
    /// How it is plugged in.
    pub pcie: Option<Pcie>,
}

/// The name of one GPU for all time, such as `GPU-8f6c…`: what an engine and an assignment call it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GpuId(String);

/// Longest GPU id, in bytes. NVML's own buffer holds 96.
pub const MAX_GPU_ID_LEN: usize = 96;

impl GpuId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GpuId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for GpuId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        let why = if text.is_empty() || text.len() > MAX_GPU_ID_LEN {
            "it must have 1 to 96 characters"
        } else if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'/') {
            "only letters, digits, '-' and '/' are allowed"
        } else {
            return Ok(Self(text));
        };
        Err(IdError { what: "GPU id", text: text.chars().take(80).collect(), why })
    }
}

impl From<GpuId> for String {
    fn from(id: GpuId) -> Self {
        id.0
    }
}

impl fmt::Display for GpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A version of what a GPU can compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ComputeCapability {
    /// Before the point.
    pub major: u32,
    /// After it.
    pub minor: u32,
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// How a GPU is plugged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pcie {
    /// Bus address, such as `00000000:17:00.0`.
    pub bus_id: String,
    /// Highest generation that board and slot can do.
    pub max_generation: Option<u32>,
    /// Most lanes that board and slot can do.
    pub max_lanes: Option<u32>,
}

/// A GPU that the driver counts but that never told its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentGpu {
    /// The driver's number for it.
    pub index: u32,
    /// What is wrong with it.
    pub state: GpuState,
}

/// NVIDIA's management library on this node. Its absence is a fact, not an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nvml {
    /// It answers.
    Present {
        /// Driver version, such as `580.65.06`.
        driver: Option<String>,
        /// The newest CUDA that the driver can run, such as `13.0`.
        cuda: Option<String>,
    },
    /// It does not.
    Absent {
        /// Why, for people.
        why: String,
    },
}

/// The container engine as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EngineFacts {
    /// Which engine, such as `docker`.
    pub name: String,
    /// Its version, such as `28.5.1`.
    pub version: String,
    /// The API version that agent and engine speak.
    pub api_version: String,
    /// Storage driver, such as `overlay2`.
    pub storage_driver: String,
    /// Control group generation, when the engine says.
    pub cgroup_version: Option<CgroupVersion>,
    /// `cgroupfs` or `systemd`.
    pub cgroup_driver: String,
    /// How GPUs reach containers.
    pub gpu: GpuSupport,
    /// Directories that the engine reads CDI descriptions from.
    pub cdi_dirs: Vec<PathBuf>,
    /// Where images and containers lie: a disk to watch.
    pub root_dir: PathBuf,
    /// Containers survive a restart of the engine.
    pub live_restore: bool,
    /// The engine applies its seccomp profile by default.
    pub seccomp: bool,
    /// Processors that the engine offers.
    pub cpus: u32,
}

/// Which generation of control groups the engine uses; the readers of counters differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    /// One hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// How the engine hands GPUs to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuSupport {
    /// No sign of it. A wish for a GPU is still put to the engine, whose answer counts.
    #[default]
    None,
    /// Through NVIDIA's runtime hook.
    Nvidia,
    /// Through device names (CDI): preferred, since no hook runs with what the image brings.
    Cdi,
}

impl GpuSupport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Nvidia, Self::Cdi];

    /// Its name for people and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Nvidia => "nvidia",
            Self::Cdi => "cdi",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpu_ids_are_what_an_engine_may_be_told() {
        for good in ["GPU-8f6c2b0e-1111-2222-3333-444455556666", "MIG-GPU-8f/1/0"] {
            assert_eq!(good.parse::<GpuId>().map(String::from), Ok(good.to_owned()));
        }
        for bad in ["", "GPU 1", "all,void", "a=b", "GPU-\n", &"a".repeat(97)] {
            assert!(bad.parse::<GpuId>().is_err(), "{bad:?} was accepted");
        }
    }
}
