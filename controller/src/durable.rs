//! Files that survive a power cut: written aside, synced, renamed, and the directory synced after.
//!
//! A rename alone promises nothing: the new name can outlive the data, and the data can outlive the name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// Writes `bytes` under `path` so that after a crash at any point the file is either absent, old or whole.
///
/// # Errors
/// The first failing write, sync or rename. The old file is then still in place.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temp, path)?;
    sync_parent(path)
}

/// Makes the names in `dir` durable.
///
/// # Errors
/// The directory cannot be opened or synced.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes the name `path` durable.
///
/// # Errors
/// The parent directory cannot be opened or synced.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

/// Directories of state are nobody else's: they hold what users train on.
const PRIVATE: u32 = 0o700;

/// Makes `dir` and each missing directory above it, each with its name synced. Where `dir` exists its name is synced
/// too: a run that was killed may have made it just before.
///
/// # Errors
/// A directory cannot be made or synced.
pub(crate) fn create_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return sync_parent(dir);
    }
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        create_dirs(parent)?;
    }
    match fs::DirBuilder::new().mode(PRIVATE).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    sync_parent(dir)
}

/// Bytes that an unprivileged writer can still store on the filesystem of `path`.
///
/// # Errors
/// The filesystem does not answer.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether an operation failed for want of room.
#[must_use]
pub(crate) fn is_full_disk(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
