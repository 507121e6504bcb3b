//! Where the kernel and the distribution tell about this machine.

use std::path::PathBuf;

/// The folders to ask. Tests point them at fixtures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoots {
    /// procfs.
    pub proc: PathBuf,
    /// sysfs.
    pub sys: PathBuf,
    /// The distribution's own files.
    pub etc: PathBuf,
}

impl Default for HostRoots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into(), etc: "/etc".into() }
    }
}

#[cfg(test)]
impl HostRoots {
    /// Fixtures below `dir`.
    pub(crate) fn below(dir: &std::path::Path) -> Self {
        Self { proc: dir.join("proc"), sys: dir.join("sys"), etc: dir.join("etc") }
    }
}
