//! Control groups of containers: one trait, a reader per generation, chosen by what the engine reports.
//!
//! A container is named by its init process, so that nothing is assumed about how an engine names groups. A process id
//! alone would do for as long as it is not given to somebody else: the time of its start goes with it.
//! Its groups vanish with it: [`read_once`] is for the moment before, when evidence is wanted; [`host_oom_kills`] counts
//! on, for the whole machine.

mod v1;
mod v2;

use std::fmt;
use std::path::{Path, PathBuf};

use hone_proto::inventory::CgroupVersion;
use hone_proto::quantity::Bytes;

use super::file::read_once as read_file;
use super::text::{fields, lines, number};
use crate::host::HostRoots;
use crate::inventory::mounts::{self, Mount};

/// What the control groups of one container say. Counters are since the container was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupReading {
    /// Processor time used, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Memory without inactive page cache.
    pub memory: Option<Bytes>,
    /// Memory limit; `None` also when there is none.
    pub memory_limit: Option<Bytes>,
    /// Processes killed for memory.
    pub oom_kills: Option<u64>,
    /// Read from block devices.
    pub read: Option<Bytes>,
    /// Written to block devices.
    pub written: Option<Bytes>,
}

/// Reads the groups of one container.
trait CgroupReader: fmt::Debug + Send {
    fn read(&mut self, buffer: &mut Vec<u8>) -> CgroupReading;
}

/// A process, and no other that gets its id later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its id, as this process sees it.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    start: u64,
}

impl Process {
    /// The process that has this id now.
    #[must_use]
    pub fn of(roots: &HostRoots, pid: u32) -> Option<Self> {
        let stat = read_file(&roots.proc.join(pid.to_string()).join("stat")).ok()?;
        // The second field is the program's name, in which anything may stand.
        let (_, fields) = stat.rsplit_once(')')?;
        Some(Self { pid, start: fields.split_ascii_whitespace().nth(START)?.parse().ok()? })
    }

    /// Where it belongs; `None` when it is gone, whoever has its id now.
    fn membership(self, roots: &HostRoots) -> Option<Membership> {
        let file = roots.proc.join(self.pid.to_string()).join("cgroup");
        let told = Membership::parse(&read_file(&file).ok()?);
        // Looked at last: then it was there all the time.
        (Self::of(roots, self.pid) == Some(self)).then_some(told)
    }
}

/// Place of the start among the fields of `/proc/PID/stat` that follow the name.
const START: usize = 19;

/// Where a container's control groups are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// By its init process.
    Init(Process),
    /// By its path, the same in every hierarchy, such as `/docker/<id>`.
    Path(String),
}

/// The control group hierarchies of this machine.
#[derive(Debug, Clone)]
pub(super) struct Hierarchies {
    roots: HostRoots,
    version: CgroupVersion,
    mounts: Vec<Mount>,
}

/// The groups of one container.
#[derive(Debug)]
pub(super) struct Group {
    reader: Box<dyn CgroupReader>,
    /// Its path in the hierarchy that accounts memory: the processes in it and below are the container's.
    path: String,
}

impl Hierarchies {
    /// As the engine reports them; where it does not, the unified hierarchy if that is what is mounted.
    pub(super) fn find(roots: &HostRoots, version: Option<CgroupVersion>) -> Self {
        let mut mounts = mounts::read(roots);
        mounts.retain(|mount| matches!(mount.file_system.as_str(), "cgroup" | "cgroup2"));
        let only_unified = !mounts.iter().any(|mount| mount.file_system == "cgroup");
        let guess = if only_unified { CgroupVersion::V2 } else { CgroupVersion::V1 };
        Self { roots: roots.clone(), version: version.unwrap_or(guess), mounts }
    }

    /// The groups of the container at `place`; `None` when it is gone.
    pub(super) fn group(&self, place: &Place) -> Option<Group> {
        let told = match place {
            Place::Init(process) => process.membership(&self.roots)?,
            Place::Path(path) => Membership::everywhere(path),
        };
        match self.version {
            CgroupVersion::V1 => {
                let folder = |controller: &str| {
                    let path = told.path_of(controller)?;
                    self.folder(|mount| is_v1_of(mount, controller), path)
                };
                let path = told.path_of("memory")?.to_owned();
                Some(Group { reader: Box::new(v1::Reader::new(folder)), path })
            }
            CgroupVersion::V2 => {
                let path = told.unified.as_deref()?.to_owned();
                let folder = self.folder(|mount| mount.file_system == "cgroup2", &path)?;
                Some(Group { reader: Box::new(v2::Reader::new(&folder)), path })
            }
        }
    }

    /// The folder of the group `path`. A mount may show only a part of its hierarchy, as inside a container.
    fn folder(&self, is: impl Fn(&Mount) -> bool, path: &str) -> Option<PathBuf> {
        let mount = self.mounts.iter().find(|mount| is(mount))?;
        let below = Path::new(path).strip_prefix(&mount.root).unwrap_or_else(|_| {
            let path = Path::new(path);
            path.strip_prefix("/").unwrap_or(path)
        });
        Some(mount.point.join(below))
    }

    /// Whether the process `pid` runs in the group `path` or below it.
    pub(super) fn holds(&self, path: &str, pid: u32) -> bool {
        let file = self.roots.proc.join(pid.to_string()).join("cgroup");
        let Ok(text) = read_file(&file) else {
            return false;
        };
        let told = Membership::parse(&text);
        let own = match self.version {
            CgroupVersion::V1 => told.path_of("memory"),
            CgroupVersion::V2 => told.unified.as_deref(),
        };
        path != "/" && own.is_some_and(|own| Path::new(own).starts_with(path))
    }
}

impl Group {
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>) -> CgroupReading {
        self.reader.read(buffer)
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

/// One reading, now: evidence before a container is removed.
#[must_use]
pub fn read_once(
    roots: &HostRoots,
    version: Option<CgroupVersion>,
    place: &Place,
) -> Option<CgroupReading> {
    let mut group = Hierarchies::find(roots, version).group(place)?;
    Some(group.read(&mut Vec::new()))
}

/// Processes that the kernel killed for memory since boot, on the whole machine: evidence that outlives containers.
#[must_use]
pub fn host_oom_kills(roots: &HostRoots) -> Option<u64> {
    let text = read_file(&roots.proc.join("vmstat")).ok()?;
    keyed(text.as_bytes(), b"oom_kill")
}

/// Where a process belongs: `/proc/PID/cgroup`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Membership {
    by_controller: Vec<(String, String)>,
    unified: Option<String>,
    everywhere: Option<String>,
}

impl Membership {
    /// Lines like `4:cpu,cpuacct:/docker/ab12` and, for the unified hierarchy, `0::/system.slice/docker-ab12.scope`.
    fn parse(text: &str) -> Self {
        let mut told = Self::default();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
                continue;
            };
            if controllers.is_empty() {
                told.unified = Some(path.to_owned());
            }
            for controller in controllers.split(',').filter(|name| !name.is_empty()) {
                told.by_controller.push((controller.to_owned(), path.to_owned()));
            }
        }
        told
    }

    fn everywhere(path: &str) -> Self {
        let path = path.to_owned();
        Self { unified: Some(path.clone()), everywhere: Some(path), by_controller: Vec::new() }
    }

    fn path_of(&self, controller: &str) -> Option<&str> {
        let told = self.by_controller.iter().find(|(name, _)| name == controller);
        told.map(|(_, path)| path.as_str()).or(self.everywhere.as_deref())
    }
}

fn is_v1_of(mount: &Mount, controller: &str) -> bool {
    mount.file_system == "cgroup" && mount.options.split(',').any(|option| option == controller)
}

/// The number after `key` in lines of `key number`.
fn keyed(text: &[u8], key: &[u8]) -> Option<u64> {
    lines(text).find_map(|line| {
        let mut fields = fields(line);
        (fields.next() == Some(key)).then(|| fields.next().and_then(number)).flatten()
    })
}

/// A file that is one number.
fn single(text: &[u8]) -> Option<u64> {
    number(text.trim_ascii())
}

/// Memory in use without page cache that the kernel would give up first.
fn working_set(usage: Option<u64>, inactive_file: Option<u64>) -> Option<Bytes> {
    usage.map(|usage| Bytes::new(usage.saturating_sub(inactive_file.unwrap_or(0))))
}

#[cfg(test)]
mod tests;
