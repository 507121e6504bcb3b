//! Where a download is put together: `<dest>.partial/<manifest>`, then renamed to `<dest>`.
//!
//! Everything is opened beneath one directory without following links, synced, and only then visible under its name.
//! What an earlier try left for the same manifest is used as far as it verifies; other leftovers are removed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, ResolveFlags};

use super::{BulkError, CHUNK};
use crate::id::Digest;
use crate::manifest::{Chunk, ManifestFile, RelPath};

/// A download in the making. Blocking throughout.
#[derive(Debug)]
pub(super) struct Place {
    dest: PathBuf,
    partial: PathBuf,
    tree: PathBuf,
    root: OwnedFd,
}

/// `<dest>.partial`.
fn partial_of(dest: &Path) -> PathBuf {
    let mut name = OsString::from(dest);
    name.push(".partial");
    name.into()
}

fn failing(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BulkError {
    let path = path.into();
    move |error| BulkError::Write { path, error }
}

impl Place {
    /// Opens or continues the place for a manifest.
    pub(super) fn open(dest: &Path, manifest: Digest) -> Result<Self, BulkError> {
        if fs::symlink_metadata(dest).is_ok() {
            return Err(BulkError::Exists(dest.to_owned()));
        }
        let partial = partial_of(dest);
        let name = manifest.to_string();
        make_directory(&partial, 0o700).map_err(failing(&partial))?;
        remove_all_but(&partial, &name).map_err(failing(&partial))?;
        let tree = partial.join(name);
        make_directory(&tree, 0o755).map_err(failing(&tree))?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, &tree, flags, Mode::empty())
            .map_err(|error| failing(&tree)(error.into()))?;
        Ok(Self { dest: dest.to_owned(), partial, tree, root })
    }

    fn at(&self, path: &RelPath) -> PathBuf {
        self.tree.join(path.as_str())
    }

    /// Creates a file and the directories above it, and tells which of its pieces are in place already.
    pub(super) fn prepare(&self, file: &ManifestFile) -> Result<Vec<bool>, BulkError> {
        let prepared = || -> io::Result<Vec<bool>> {
            for directory in file.path.directories() {
                self.make_beneath(directory)?;
            }
            let opened = self.open_file(&file.path, OFlags::CREATE)?;
            if opened.metadata()?.len() > file.size.get() {
                opened.set_len(file.size.get())?;
            }
            let mut buffer = vec![0; CHUNK];
            file.pieces().map(|piece| holds(&opened, piece, &mut buffer)).collect()
        };
        prepared().map_err(failing(self.at(&file.path)))
    }

    /// Writes one piece.
    pub(super) fn write(&self, path: &RelPath, offset: u64, bytes: &[u8]) -> Result<(), BulkError> {
        let written = || self.open_file(path, OFlags::empty())?.write_all_at(bytes, offset);
        written().map_err(failing(self.at(path)))
    }

    /// Verifies a file whole, as it lies there now, and makes it durable.
    pub(super) fn finish(&self, file: &ManifestFile) -> Result<(), BulkError> {
        let finished = || {
            let mut opened = self.open_file(&file.path, OFlags::empty())?;
            let mut hasher = blake3::Hasher::new();
            let mut buffer = vec![0; 1 << 20];
            loop {
                match io::Read::read(&mut opened, &mut buffer)? {
                    0 => break,
                    len => hasher.update(&buffer[..len]),
                };
            }
            let mode = if file.executable { 0o755 } else { 0o644 };
            opened.set_permissions(fs::Permissions::from_mode(mode))?;
            opened.sync_all()?;
            Ok(Digest::from(hasher.finalize()))
        };
        if finished().map_err(failing(self.at(&file.path)))? == file.digest {
            return Ok(());
        }
        Err(BulkError::Corrupt { what: file.path.to_string(), digest: file.digest })
    }

    /// Makes the directories durable and the whole visible under its name.
    pub(super) fn publish(&self, files: &[ManifestFile]) -> Result<(), BulkError> {
        let directories: BTreeSet<_> = files.iter().flat_map(|f| f.path.directories()).collect();
        let published = || {
            for directory in directories.iter().rev() {
                let opened = File::from(self.open_directory(directory)?);
                opened.set_permissions(fs::Permissions::from_mode(0o755))?;
                opened.sync_all()?;
            }
            rustix::fs::fchmod(&self.root, Mode::from_raw_mode(0o755))?;
            rustix::fs::fsync(&self.root)?;
            rustix::fs::renameat_with(CWD, &self.tree, CWD, &self.dest, RenameFlags::NOREPLACE)?;
            let _ = fs::remove_dir(&self.partial);
            sync_directory(parent_of(&self.dest))
        };
        published().map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => BulkError::Exists(self.dest.clone()),
            _ => failing(&self.dest)(error),
        })
    }

    fn beneath(&self, path: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat2(&self.root, path, flags, mode, resolve)?)
    }

    fn open_directory(&self, path: &str) -> io::Result<OwnedFd> {
        self.beneath(path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
    }

    fn open_file(&self, path: &RelPath, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::RDWR | OFlags::NONBLOCK;
        // The kernel refuses a mode where nothing is created.
        let creates = flags.contains(OFlags::CREATE);
        let mode = if creates { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
        let file = File::from(self.beneath(path.as_str(), flags, mode)?);
        let facts = file.metadata()?;
        if facts.is_file() && facts.nlink() == 1 {
            return Ok(file);
        }
        Err(io::Error::other("it is not a plain file of its own"))
    }

    fn make_beneath(&self, directory: &str) -> io::Result<()> {
        let (above, name) = directory.rsplit_once('/').unwrap_or(("", directory));
        let made = if above.is_empty() {
            rustix::fs::mkdirat(&self.root, name, Mode::from_raw_mode(0o755))
        } else {
            let above = self.open_directory(above)?;
            rustix::fs::mkdirat(above, name, Mode::from_raw_mode(0o755))
        };
        match made {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a file holds a piece already.
fn holds(file: &File, piece: Chunk, buffer: &mut [u8]) -> io::Result<bool> {
    let len = usize::try_from(piece.len).map_err(io::Error::other)?;
    let Some(buffer) = buffer.get_mut(..len) else { return Ok(false) };
    match file.read_exact_at(buffer, piece.offset) {
        Ok(()) => Ok(Digest::of(buffer) == piece.digest),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
        Ok(()) => sync_directory(parent_of(path)),
        Err(rustix::io::Errno::EXIST) if fs::symlink_metadata(path)?.is_dir() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn remove_all_but(directory: &Path, keep: &str) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name() == keep {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
