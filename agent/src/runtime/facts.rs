//! What the engine is and can do; reported in the inventory.

use std::path::PathBuf;

/// Which generation of control groups the engine uses; the readers of counters differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// How the engine hands GPUs to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuSupport {
    /// No sign of it. A wish for a GPU is still put to the engine, whose answer counts.
    None,
    /// Through NVIDIA's runtime hook.
    Nvidia,
    /// Through device names (CDI): preferred, since no hook runs with what the image brings.
    Cdi,
}

/// The engine as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineFacts {
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
    /// Where images and containers lie: the disk to watch.
    pub root_dir: PathBuf,
    /// Containers survive a restart of the engine.
    pub live_restore: bool,
    /// The engine applies its seccomp profile by default.
    pub seccomp: bool,
    /// Processors that the engine offers.
    pub cpus: u32,
}
