//! What this machine has. Nothing here fails: what cannot be found out is not known, and why NVML is absent is a fact.

mod disk_kind;
mod disk_speed;
mod host;
pub(crate) mod mounts;

use std::path::{Path, PathBuf};

use hone_proto::id::BootId;
use hone_proto::inventory::{Disk, DiskSpeed, EngineFacts, Inventory};

pub use disk_speed::{MEASURE_BOUND, MeasureError, measure};
pub use mounts::MAX_DISKS;

use crate::host::HostRoots;
use crate::observe::Space;
use crate::observe::gpu::Gpus;
use mounts::Held;

/// Collects the inventory.
#[derive(Debug, Clone)]
pub struct Collector {
    roots: HostRoots,
    state_dir: PathBuf,
    gpus: Gpus,
}

/// How the speed of the state directory's disk is found.
type Speed = fn(&Path, &str) -> Option<DiskSpeed>;

impl Collector {
    /// A collector for the agent whose state lies in `state_dir`, which must exist for its disk to be measured.
    #[must_use]
    pub fn new(roots: HostRoots, state_dir: PathBuf, gpus: Gpus) -> Self {
        Self { roots, state_dir, gpus }
    }

    /// Everything this machine has. Blocks: while the driver answers, and the first time for the two seconds in which
    /// the disk is measured. Call it away from async tasks.
    #[must_use]
    pub fn collect(&self, engine: &EngineFacts) -> Inventory {
        self.with(engine, disk_speed::kept_or_measured)
    }

    /// The same without writing anything: a disk that was not measured yet is not measured now.
    #[must_use]
    pub fn look(&self, engine: &EngineFacts) -> Inventory {
        self.with(engine, disk_speed::kept)
    }

    fn with(&self, engine: &EngineFacts, speed: Speed) -> Inventory {
        let gpus = self.gpus.inventory();
        let memory = host::memory(&self.roots);
        let name = rustix::system::uname();
        let told = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        Inventory {
            hostname: told(name.nodename()),
            kernel: told(name.release()),
            os: host::os(&self.roots),
            arch: told(name.machine()),
            boot: boot_id(&self.roots),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            cpu: host::cpu(&self.roots),
            ram: memory.total.unwrap_or_default(),
            swap: memory.swap_total.unwrap_or_default(),
            disks: self.disks(engine, speed),
            gpus: gpus.gpus,
            silent_gpus: gpus.silent,
            nvml: gpus.nvml,
            engine: engine.clone(),
        }
    }

    fn disks(&self, engine: &EngineFacts, speed: Speed) -> Vec<Disk> {
        let root = &engine.root_dir;
        let held = Held {
            state: Some(self.state_dir.clone()),
            engine: (!root.as_os_str().is_empty()).then(|| root.clone()),
        };
        let mounts = mounts::read(&self.roots);
        let disks = mounts::disks(&self.roots, &mounts, &held).into_iter();
        let disks = disks.map(|disk| {
            let space = Space::of(&disk.mount);
            Disk {
                measured: disk.holds_state.then(|| speed(&self.state_dir, &disk.device)).flatten(),
                mount: disk.mount.to_string_lossy().into_owned(),
                device: disk.device,
                file_system: disk.file_system,
                total: space.map(|space| space.total).unwrap_or_default(),
                free: space.map(|space| space.free).unwrap_or_default(),
                kind: disk_kind::disk_kind(&self.roots, disk.number),
                holds_state: disk.holds_state,
                holds_engine: disk.holds_engine,
            }
        });
        disks.collect()
    }
}

/// The kernel's name for this boot.
#[must_use]
pub fn boot_id(roots: &HostRoots) -> Option<BootId> {
    let path = roots.proc.join("sys/kernel/random/boot_id");
    crate::observe::file::read_once(&path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests;
