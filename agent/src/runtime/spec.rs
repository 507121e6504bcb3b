//! What the agent asks the engine to run, and the rules that hold whoever asked.
//!
//! Hardening is not here to be chosen: everything that a spec cannot express is fixed by the adapter. What can be
//! relaxed is a named field ([`User::Image`], [`Network::Bridge`]).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use hone_proto::assignment::is_denied_variable;
use hone_proto::id::AttemptId;
use hone_proto::inventory::GpuId;
use hone_proto::quantity::{Bytes, MilliCpu};

use super::ImageName;

/// Longest command, environment or mount list: far above any real job, far below what upsets an engine.
const MAX_ENTRIES: usize = 4096;
/// Longest single argument, variable or path; the kernel's limit for one argument is 128 KiB.
const MAX_TEXT_LEN: usize = 128 * 1024 - 1;

/// Host directories that never enter a container, nor anything beneath them: they are the host.
const FORBIDDEN_SOURCES: [&str; 8] =
    ["/proc", "/sys", "/dev", "/run", "/var/run", "/etc", "/boot", "/root"];

/// Whether what lies at this absolute place of the host may be mounted into a container at all.
#[must_use]
pub fn may_enter(source: &Path) -> bool {
    !FORBIDDEN_SOURCES.iter().any(|place| source.starts_with(place))
}

/// A container spec that this node does not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A variable that would take hold of the loader, of the devices or of hone's own contract.
    #[error("environment variable {name} may not be set by a job")]
    DeniedVariable {
        /// Its name.
        name: String,
    },
    /// A variable that no process can have.
    #[error("environment variable {name:?} is not valid: {why}")]
    BadVariable {
        /// Its name, cut to 80 characters.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A mount that would open the host or leave its place.
    #[error("mount {path} is not acceptable: {why}")]
    BadMount {
        /// The offending path.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// A figure out of its range.
    #[error("{what} {why}")]
    BadFigure {
        /// Which figure.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// A name that is not one GPU's, such as `all`, or an index that changes between boots.
    #[error("GPU {id} is not valid: it must be a UUID as the driver prints it")]
    BadGpu {
        /// The rejected name.
        id: GpuId,
    },
}

/// Who the processes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// A user and group id made for this attempt.
    Attempt(u32),
    /// User 0 without any capability: the named relaxation for images whose programs only root can read.
    Image,
}

/// What the container can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// Nothing but its own loopback.
    #[default]
    None,
    /// The named relaxation: the engine's bridge, which reaches out and also the host's services.
    Bridge,
}

/// A directory or file of the host, seen in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path on the host; must exist.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// Writable memory at a path of the otherwise read-only root; counts against the memory limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// Absolute path in the container.
    pub target: PathBuf,
    /// Its size.
    pub size: Bytes,
    /// Whether programs may be run from it, as compilers of kernels at run time need.
    pub exec: bool,
}

/// One variable of the environment.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl fmt::Debug for EnvVar {
    /// Names only: users put passwords here, whatever they are told.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

/// How much of stdout and stderr the engine keeps. The agent reads it as it grows; this bounds how long the agent may
/// be away before lines are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimit {
    /// Size of one file.
    pub file_size: Bytes,
    /// Files kept, the current one included; at least 2, because a single file is emptied in place.
    pub files: u32,
}

/// 50 MB in all: several hours of a chatty job, and small beside any checkpoint.
impl Default for LogLimit {
    fn default() -> Self {
        Self { file_size: Bytes::mib(10), files: 5 }
    }
}

/// One container to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The attempt it runs; becomes labels.
    pub attempt: AttemptId,
    /// Its name at the engine, for people.
    pub name: String,
    /// The image.
    pub image: ImageName,
    /// Replaces the image's entry point, when set.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command, when set.
    pub command: Option<Vec<String>>,
    /// Working directory, when not the image's.
    pub workdir: Option<PathBuf>,
    /// Variables from the user; some names are refused.
    pub user_env: Vec<EnvVar>,
    /// Variables from hone; they win over the user's.
    pub env: Vec<EnvVar>,
    /// Bind mounts.
    pub mounts: Vec<Mount>,
    /// Writable memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Who it runs as.
    pub user: User,
    /// Memory limit; swap is off.
    pub memory: Bytes,
    /// Processor time limit.
    pub cpus: MilliCpu,
    /// Processors it is bound to, such as `0-3`, when chosen.
    pub cpuset: Option<String>,
    /// Most processes and threads at once.
    pub pids: u32,
    /// Size of `/dev/shm`; counts against the memory limit.
    pub shm: Bytes,
    /// Most open files of a process, when not the engine's default. An engine whose own limit is lower refuses.
    pub open_files: Option<u32>,
    /// The GPUs it may use; none at all otherwise.
    pub gpus: Vec<GpuId>,
    /// What it can reach.
    pub network: Network,
    /// How long the engine waits between SIGTERM and SIGKILL, should it be stopped by other hands than hone's.
    pub stop_grace: Duration,
    /// How much output is kept.
    pub log: LogLimit,
}

impl ContainerSpec {
    /// Checks every rule that holds for all containers. The engine adapter calls it before anything is created.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), SpecError> {
        self.check_figures()?;
        let commands = self.entrypoint.iter().chain(&self.command).flatten();
        if commands.clone().any(|arg| arg.contains('\0') || arg.len() > MAX_TEXT_LEN) {
            return Err(SpecError::BadFigure {
                what: "the command",
                why: "has an argument that no process can take",
            });
        }
        for (count, what) in [
            (commands.count(), "the command"),
            (self.user_env.len() + self.env.len(), "the environment"),
            (self.mounts.len() + self.tmpfs.len(), "the list of mounts"),
        ] {
            if count > MAX_ENTRIES {
                return Err(SpecError::BadFigure { what, why: "has more than 4096 entries" });
            }
        }
        self.mounts.iter().try_for_each(check_mount)?;
        self.tmpfs.iter().try_for_each(|tmpfs| check_target(&tmpfs.target))?;
        self.workdir.as_deref().map_or(Ok(()), |dir| {
            if is_plain(dir) {
                Ok(())
            } else {
                Err(bad_mount(dir, "a working directory must be absolute and plain"))
            }
        })?;
        let named =
            |id: &&GpuId| id.as_str().starts_with("GPU-") || id.as_str().starts_with("MIG-");
        if let Some(id) = self.gpus.iter().find(|id| !named(id)) {
            return Err(SpecError::BadGpu { id: id.clone() });
        }
        self.environment().map(drop)
    }

    fn check_figures(&self) -> Result<(), SpecError> {
        let rules = [
            (self.memory >= Bytes::mib(6), "the memory limit", "must be at least 6 MiB"),
            (i64::try_from(self.memory.get()).is_ok(), "the memory limit", "is absurd"),
            (self.cpus.get() >= 10, "the processor limit", "must be at least 0.01"),
            (self.pids >= 2, "the process limit", "must be at least 2: one is the init process"),
            (
                self.shm.get() > 0 && self.shm <= self.memory,
                "the shared memory",
                "must fit the memory limit",
            ),
            (
                self.tmpfs.iter().all(|t| t.size.get() > 0 && t.size <= self.memory),
                "a memory file system",
                "must fit the memory limit",
            ),
            (self.log.files >= 2, "the number of log files", "must be at least 2"),
            (
                self.log.file_size >= Bytes::new(4096),
                "the size of a log file",
                "must be at least 4 KiB",
            ),
            (
                !matches!(self.user, User::Attempt(0)),
                "the user id",
                "must not be 0 without the named relaxation",
            ),
            (i64::try_from(self.stop_grace.as_secs()).is_ok(), "the grace period", "is absurd"),
        ];
        match rules.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, what, why)) => Err(SpecError::BadFigure { what, why }),
            None => Ok(()),
        }
    }

    /// The variables as the process will see them, hone's own over the user's.
    ///
    /// # Errors
    /// A name that a job may not set, or a text that no process can have.
    pub fn environment(&self) -> Result<BTreeMap<String, String>, SpecError> {
        if let Some(var) = self.user_env.iter().find(|var| is_denied_variable(&var.name)) {
            return Err(SpecError::DeniedVariable { name: var.name.chars().take(80).collect() });
        }
        let mut merged = BTreeMap::from([
            ("HOME".to_owned(), "/tmp".to_owned()),
            ("USER".to_owned(), "hone".to_owned()),
            ("LOGNAME".to_owned(), "hone".to_owned()),
        ]);
        for var in self.user_env.iter().chain(&self.env) {
            check_variable(var)?;
            merged.insert(var.name.clone(), var.value.clone());
        }
        // Set in every case: images of the CUDA family ask for all GPUs by default.
        let visible = if self.gpus.is_empty() {
            "void".to_owned()
        } else {
            self.gpus.iter().map(GpuId::as_str).collect::<Vec<_>>().join(",")
        };
        merged.insert("NVIDIA_VISIBLE_DEVICES".to_owned(), visible);
        merged.insert("NVIDIA_DRIVER_CAPABILITIES".to_owned(), "compute,utility".to_owned());
        Ok(merged)
    }
}

fn check_variable(var: &EnvVar) -> Result<(), SpecError> {
    let why = if var.name.is_empty() {
        "its name is empty"
    } else if var.name.contains(['=', '\0']) || var.name.chars().any(char::is_whitespace) {
        "its name has a space, '=' or NUL"
    } else if var.value.contains('\0') {
        "its value has a NUL"
    } else if var.name.len() + var.value.len() > MAX_TEXT_LEN {
        "it is longer than 128 KiB"
    } else {
        return Ok(());
    };
    Err(SpecError::BadVariable { name: var.name.chars().take(80).collect(), why })
}

fn bad_mount(path: &Path, why: &'static str) -> SpecError {
    SpecError::BadMount { path: path.to_owned(), why }
}

/// Absolute, without `.`, `..` or doubled separators, valid UTF-8, and not the root itself.
fn is_plain(path: &Path) -> bool {
    let Some(text) = path.to_str() else { return false };
    text.len() > 1
        && text.len() <= MAX_TEXT_LEN
        && !text.contains('\0')
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && path.is_absolute()
        && path.components().collect::<PathBuf>().as_os_str() == path.as_os_str()
}

fn check_target(target: &Path) -> Result<(), SpecError> {
    if !is_plain(target) {
        return Err(bad_mount(target, "a place in the container must be absolute and plain"));
    }
    if ["/proc", "/sys", "/dev"].iter().any(|place| target.starts_with(place)) {
        return Err(bad_mount(target, "it would hide what the engine protects"));
    }
    // These travel in a comma-separated option string.
    if target.to_str().is_some_and(|text| text.contains([',', ':'])) {
        return Err(bad_mount(target, "a place in the container may hold no ',' or ':'"));
    }
    Ok(())
}

fn check_mount(mount: &Mount) -> Result<(), SpecError> {
    check_target(&mount.target)?;
    if !is_plain(&mount.source) {
        return Err(bad_mount(&mount.source, "a host path must be absolute and plain"));
    }
    if !may_enter(&mount.source) {
        return Err(bad_mount(&mount.source, "this part of the host never enters a container"));
    }
    if mount.source.extension().is_some_and(|ext| ext == "sock") {
        return Err(bad_mount(&mount.source, "sockets of the host never enter a container"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "spec_tests.rs"]
pub(super) mod tests;
