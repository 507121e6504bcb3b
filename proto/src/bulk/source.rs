//! A file or folder to upload, read without trusting what lies in it.
//!
//! The root is opened once; everything below is opened relative to it, and the kernel refuses to leave it: no links, no
//! mount points, no `..`. Only regular files are read, never blocking on a pipe, in pieces of one chunk. A file that
//! changes while it is read is [`SourceError::Changed`], never a mixture of old and new.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::id::Digest;
use crate::manifest::{CHUNK_SIZE, Chunk, MAX_FILES, ManifestError, ManifestFile, RelPath};
use crate::quantity::Bytes;

/// [`CHUNK_SIZE`] as a length.
const CHUNK_LEN: usize = 4 * 1024 * 1024;
const _: () = assert!(CHUNK_LEN as u64 == CHUNK_SIZE);

/// Most entries of all folders together, looked at before giving up: files, folders and what is left out.
const MAX_ENTRIES: usize = 4 * MAX_FILES;

/// Who wrote the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The user who uploads it: a file may have several names.
    Owner,
    /// A container: a second name could be a file that was never its own, so a file has one.
    Container,
}

/// Why a source cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The file changed while it was read, or since.
    #[error("{path} changed while it was read")]
    Changed {
        /// Beneath the root.
        path: String,
    },
    /// A link, a device, a pipe, another filesystem, or a second name of a file.
    #[error("{path} cannot be uploaded: {why}")]
    NotPlain {
        /// Beneath the root.
        path: String,
        /// What it is.
        why: &'static str,
    },
    /// A name that no manifest may hold.
    #[error("{} holds a name that cannot be stored", root.display())]
    BadName {
        /// The root.
        root: PathBuf,
        /// The rule it breaks.
        source: ManifestError,
    },
    /// More entries than a manifest may name.
    #[error("{} holds too many files: at most {MAX_FILES} can be stored", root.display())]
    TooMany {
        /// The root.
        root: PathBuf,
    },
    /// The system refused.
    #[error("cannot read {path} in {}", root.display())]
    Io {
        /// The root.
        root: PathBuf,
        /// Beneath the root; `.` is the root itself.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// A file or a folder, opened.
#[derive(Debug)]
pub struct Source {
    root: OwnedFd,
    shown: PathBuf,
    /// For a single file: its name in the root, which is then the folder that it lies in.
    only: Option<RelPath>,
    trust: Trust,
}

impl Source {
    /// Opens a folder, or a single file. Where `path` itself is a link, an owner's is followed, a container's is not;
    /// the directories above it are the caller's own.
    ///
    /// # Errors
    /// `path` does not exist, is neither, or its name cannot be stored.
    pub fn open(path: &Path, trust: Trust) -> Result<Self, SourceError> {
        let io = |source: io::Error| io_error(path, ".", source);
        let path = match trust {
            Trust::Owner => path.canonicalize().map_err(io)?,
            Trust::Container => path.to_owned(),
        };
        let io = |source: io::Error| io_error(&path, ".", source);
        let kind = path.symlink_metadata().map_err(io)?.file_type();
        let (folder, only) = if kind.is_dir() {
            (path.as_path(), None)
        } else if kind.is_file() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let bad = |source| SourceError::BadName { root: path.clone(), source };
            (path.parent().unwrap_or(Path::new("/")), Some(name.parse().map_err(bad)?))
        } else {
            let path = path.display().to_string();
            return Err(SourceError::NotPlain { path, why: "it is neither a file nor a folder" });
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = fs::open(folder, flags, Mode::empty()).map_err(|error| io(error.into()))?;
        Ok(Self { root, shown: folder.to_owned(), only, trust })
    }

    /// A folder beneath this one, opened without following links.
    ///
    /// # Errors
    /// There is no such folder, or it is a link or lies behind one.
    pub fn beneath(&self, folder: &RelPath) -> Result<Self, SourceError> {
        let root = self.open_beneath(folder.as_str(), OFlags::DIRECTORY)?;
        let shown = self.shown.join(folder.as_str());
        Ok(Self { root, shown, only: None, trust: self.trust })
    }

    /// Reads and hashes everything that `wanted` admits, and describes it as a manifest does. `progress` is told of
    /// each piece's bytes.
    ///
    /// # Errors
    /// Something is not a plain file, changes meanwhile, or cannot be read.
    pub fn survey(
        &self,
        wanted: impl Fn(&RelPath) -> bool,
        mut progress: impl FnMut(u64),
    ) -> Result<Vec<ManifestFile>, SourceError> {
        let mut paths = self.paths()?;
        paths.retain(|path| wanted(path));
        if paths.len() > MAX_FILES {
            return Err(SourceError::TooMany { root: self.shown.clone() });
        }
        paths.sort_unstable();
        let mut buffer = vec![0; CHUNK_LEN];
        paths.into_iter().map(|path| self.hash(path, &mut buffer, &mut progress)).collect()
    }

    /// Reads one chunk of a surveyed file.
    ///
    /// # Errors
    /// Its content is no longer what the chunk names, or it cannot be read.
    pub fn chunk(&self, path: &RelPath, chunk: Chunk) -> Result<Vec<u8>, SourceError> {
        let (file, _) = self.open_file(path)?;
        let len = usize::try_from(chunk.len.min(CHUNK_SIZE)).unwrap_or(CHUNK_LEN);
        let mut bytes = vec![0; len];
        let read = self.read_at(&file, path, &mut bytes, chunk.offset)?;
        if read != len || Digest::of(&bytes) != chunk.digest {
            return Err(SourceError::Changed { path: path.to_string() });
        }
        Ok(bytes)
    }

    /// Every regular file beneath the root, in no order.
    fn paths(&self) -> Result<Vec<RelPath>, SourceError> {
        if let Some(only) = &self.only {
            return Ok(vec![only.clone()]);
        }
        let (mut files, mut folders, mut seen) = (Vec::new(), vec![String::new()], 0);
        while let Some(folder) = folders.pop() {
            for (path, kind) in self.list(&folder, &mut seen)? {
                match kind {
                    FileType::RegularFile => files.push(path),
                    FileType::Directory => folders.push(path.to_string()),
                    other => return Err(not_plain(&path, other)),
                }
            }
        }
        Ok(files)
    }

    /// The entries of one folder beneath the root; the root itself is the empty path.
    fn list(
        &self,
        folder: &str,
        seen: &mut usize,
    ) -> Result<Vec<(RelPath, FileType)>, SourceError> {
        let shown = if folder.is_empty() { "." } else { folder };
        let io = |errno: Errno| io_error(&self.shown, shown, errno.into());
        let fd = self.open_beneath(shown, OFlags::DIRECTORY)?;
        let mut found = Vec::new();
        for entry in fs::Dir::read_from(&fd).map_err(io)? {
            let entry = entry.map_err(io)?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            *seen += 1;
            if *seen > MAX_ENTRIES {
                return Err(SourceError::TooMany { root: self.shown.clone() });
            }
            let path = self.path_of(folder, entry.file_name())?;
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let flags = fs::AtFlags::SYMLINK_NOFOLLOW;
                    let stat = fs::statat(&fd, entry.file_name(), flags).map_err(io)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                known => known,
            };
            found.push((path, kind));
        }
        Ok(found)
    }

    fn path_of(&self, folder: &str, name: &CStr) -> Result<RelPath, SourceError> {
        let Ok(name) = name.to_str() else {
            let path = name.to_string_lossy().escape_debug().to_string();
            return Err(SourceError::NotPlain { path, why: "its name is not UTF-8" });
        };
        let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        let bad = |source| SourceError::BadName { root: self.shown.clone(), source };
        path.parse().map_err(bad)
    }

    fn hash(
        &self,
        path: RelPath,
        buffer: &mut [u8],
        progress: &mut impl FnMut(u64),
    ) -> Result<ManifestFile, SourceError> {
        let (file, before) = self.open_file(&path)?;
        let mut whole = blake3::Hasher::new();
        let (mut chunks, mut size) = (Vec::new(), 0_u64);
        loop {
            let read = self.read_at(&file, &path, buffer, size)?;
            if read == 0 {
                break;
            }
            whole.update(&buffer[..read]);
            chunks.push(Digest::of(&buffer[..read]));
            size += read as u64;
            progress(read as u64);
            if read < buffer.len() {
                break;
            }
        }
        let (_, after) = self.open_file(&path)?;
        if Identity::of(&before) != Identity::of(&after) || Identity::of(&after).size != size {
            return Err(SourceError::Changed { path: path.to_string() });
        }
        let executable = before.st_mode & 0o111 != 0;
        let digest = whole.finalize().into();
        Ok(ManifestFile { path, size: Bytes::new(size), digest, executable, chunks })
    }

    fn open_file(&self, path: &RelPath) -> Result<(OwnedFd, Stat), SourceError> {
        let file = self.open_beneath(path.as_str(), OFlags::empty())?;
        let stat = fs::fstat(&file).map_err(|e| io_error(&self.shown, path.as_str(), e.into()))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::RegularFile {
            return Err(not_plain(path, kind));
        }
        if self.trust == Trust::Container && stat.st_nlink != 1 {
            let path = path.to_string();
            return Err(SourceError::NotPlain { path, why: "the file has more than one name" });
        }
        Ok((file, stat))
    }

    /// Opens beneath the root. The kernel refuses links and mount points on the way; a pipe does not block.
    fn open_beneath(&self, path: &str, extra: OFlags) -> Result<OwnedFd, SourceError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | extra;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        fs::openat2(self.root.as_fd(), path, flags, Mode::empty(), resolve).map_err(|errno| {
            let why = match errno {
                Errno::LOOP => "it is or lies behind a symbolic link",
                Errno::XDEV => "it lies on another filesystem",
                Errno::NXIO => "it is a pipe or a device",
                _ => return io_error(&self.shown, path, errno.into()),
            };
            SourceError::NotPlain { path: path.to_owned(), why }
        })
    }

    /// Fills the buffer from `offset`, or up to the end of the file.
    fn read_at(
        &self,
        file: &OwnedFd,
        path: &RelPath,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<usize, SourceError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match rustix::io::pread(file, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(io_error(&self.shown, path.as_str(), errno.into())),
            }
        }
        Ok(filled)
    }
}

/// What makes a file the same file with the same content, as far as the filesystem tells.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

fn not_plain(path: &RelPath, kind: FileType) -> SourceError {
    let why = match kind {
        FileType::Symlink => "it is a symbolic link",
        FileType::Directory => "it is a folder",
        FileType::Fifo => "it is a pipe",
        FileType::Socket => "it is a socket",
        _ => "it is a device",
    };
    SourceError::NotPlain { path: path.to_string(), why }
}

fn io_error(root: &Path, path: &str, source: io::Error) -> SourceError {
    SourceError::Io { root: root.to_owned(), path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
