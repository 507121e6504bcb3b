//! Opening what a container wrote: only regular files, only beneath a root, never through a link, never blocking.
//!
//! The kernel enforces it (`openat2`), so that there is no moment between check and use for the container to swap a
//! name. Kernels older than 5.6 lack the call and are refused.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

use hone_proto::quantity::Bytes;
use rustix::fs::{CWD, Dir as RawDir, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

mod listing;

pub use listing::{Entry, EntryKind, WalkBounds};

/// Read at once of a file that is read whole, whatever its size.
const PIECE: usize = 1 << 20;
/// Longest path beneath a root, in bytes.
const MAX_PATH_LEN: usize = 1024;
/// Longest component, as file systems have it.
const MAX_COMPONENT_LEN: usize = 255;
/// Deepest nesting; checkpoints of every known tool stay below 4.
const MAX_DEPTH: usize = 16;
/// How often a lookup is repeated when the kernel says that names moved meanwhile.
const MAX_RACES: u32 = 16;

/// Why something beneath an attempt's directory cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is a link, a device, a pipe, has a second name, or leads out of the directory.
    #[error("{path} is not a plain file of this directory: {why}")]
    NotPlain {
        /// The path, relative to the root.
        path: String,
        /// What it is instead.
        why: &'static str,
    },
    /// It is larger than its kind may be.
    #[error("{path} is larger than {limit}")]
    TooLarge {
        /// The path, relative to the root.
        path: String,
        /// The bound.
        limit: Bytes,
    },
    /// A directory holds more entries than its kind may.
    #[error("directory {path} holds more than {limit} entries")]
    TooMany {
        /// The path, relative to the root.
        path: String,
        /// The bound.
        limit: usize,
    },
    /// The system refused.
    #[error("{path} cannot be read")]
    Io {
        /// The path.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// A relative path that is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {text:?} is not acceptable: {why}")]
pub struct RelPathError {
    /// The rejected text, cut to 80 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// A path beneath a root: `/`-separated plain names, without `.`, `..` or control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelPath(String);

impl RelPath {
    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name of the contract, known to be plain.
    pub(crate) fn constant(name: &'static str) -> Self {
        debug_assert!(name.parse::<Self>().is_ok());
        Self(name.to_owned())
    }

    /// This path with another beneath it.
    ///
    /// # Errors
    /// When the whole is too long or too deep.
    pub fn join(&self, below: &Self) -> Result<Self, RelPathError> {
        format!("{}/{}", self.0, below.0).parse()
    }
}

impl FromStr for RelPath {
    type Err = RelPathError;
    fn from_str(text: &str) -> Result<Self, RelPathError> {
        let why = if text.is_empty() {
            "it is empty"
        } else if text.len() > MAX_PATH_LEN {
            "it is longer than 1024 bytes"
        } else if text.starts_with('/') {
            "it must be relative"
        } else if text.chars().any(char::is_control) || text.contains('\\') {
            "it has a control character or a backslash"
        } else if text.split('/').count() > MAX_DEPTH {
            "it is nested deeper than 16"
        } else if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
            "it has an empty, '.' or '..' component"
        } else if text.split('/').any(|part| part.len() > MAX_COMPONENT_LEN) {
            "it has a component longer than 255 bytes"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(RelPathError { text: text.chars().take(80).collect(), why })
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An open directory that lookups start from and cannot leave.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

/// What stays the same while nobody touches a file: compared before and after its content is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, u64),
}

/// An open regular file with one name.
#[derive(Debug)]
pub struct PlainFile {
    file: File,
    path: RelPath,
    identity: FileIdentity,
}

impl Dir {
    /// Opens a root. The path is the agent's own; its last component must not be a link.
    ///
    /// # Errors
    /// When it is no directory or cannot be read.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
            .map_err(|errno| fault(&path.display().to_string(), errno))?;
        Ok(Self { fd })
    }

    /// Opens a regular file beneath the root; nothing when there is none of that name.
    ///
    /// # Errors
    /// When what has the name is not a plain file, or cannot be read.
    pub fn file(&self, path: &RelPath) -> Result<Option<PlainFile>, FileError> {
        let Some(fd) = self.lookup(path, OFlags::NONBLOCK | OFlags::NOCTTY)? else {
            return Ok(None);
        };
        let identity = plain_identity(path, &fd)?;
        Ok(Some(PlainFile { file: File::from(fd), path: path.clone(), identity }))
    }

    /// Opens a directory beneath the root; nothing when there is none of that name.
    ///
    /// # Errors
    /// When what has the name is not a directory, or cannot be read.
    pub fn dir(&self, path: &RelPath) -> Result<Option<Self>, FileError> {
        Ok(self.lookup(path, OFlags::DIRECTORY)?.map(|fd| Self { fd }))
    }

    /// The names of the directories directly in this one, sorted. Names that no manifest of ours could hold are left
    /// out.
    ///
    /// # Errors
    /// When the directory cannot be read or holds more than `limit` entries.
    pub fn subdirectories(&self, limit: usize) -> Result<Vec<RelPath>, FileError> {
        let entries = RawDir::read_from(&self.fd).map_err(|errno| fault(".", errno))?;
        let mut names = Vec::new();
        for (count, entry) in entries.enumerate() {
            if count >= limit.saturating_add(2) {
                return Err(FileError::TooMany { path: ".".to_owned(), limit });
            }
            let entry = entry.map_err(|errno| fault(".", errno))?;
            // File systems without entry types leave it to the lookup to refuse what is no directory.
            let is_dir = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            let name =
                entry.file_name().to_str().ok().and_then(|name| name.parse::<RelPath>().ok());
            names.extend(name.filter(|_| is_dir));
        }
        names.sort();
        Ok(names)
    }

    fn lookup(&self, path: &RelPath, extra: OFlags) -> Result<Option<OwnedFd>, FileError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | extra;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let mut races = 0;
        loop {
            match openat2(&self.fd, path.as_str(), flags, Mode::empty(), resolve) {
                Ok(fd) => return Ok(Some(fd)),
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::AGAIN | Errno::INTR) if races < MAX_RACES => races += 1,
                Err(errno) => return Err(fault(path.as_str(), errno)),
            }
        }
    }
}

fn plain_identity(path: &RelPath, fd: &OwnedFd) -> Result<FileIdentity, FileError> {
    let not_plain = |why| Err(FileError::NotPlain { path: path.to_string(), why });
    let stat = fstat(fd).map_err(|errno| fault(path.as_str(), errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return not_plain("it is not a regular file");
    }
    // One that is open may have lost its only name since.
    if stat.st_nlink > 1 {
        return not_plain("it has more than one name");
    }
    Ok(FileIdentity {
        device: stat.st_dev,
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: (stat.st_mtime, stat.st_mtime_nsec),
    })
}

fn fault(path: &str, errno: Errno) -> FileError {
    let path = path.to_owned();
    let why = match errno {
        Errno::LOOP => "it is a link",
        Errno::XDEV => "it leads out of the directory",
        Errno::NXIO => "it is a pipe, a socket or a device",
        Errno::NOTDIR => "a component of it is no directory",
        _ => return FileError::Io { path, source: errno.into() },
    };
    FileError::NotPlain { path, why }
}

impl FileIdentity {
    /// Its number on its device: another file of the same name has another one, or this one again.
    #[must_use]
    pub const fn inode(&self) -> u64 {
        self.inode
    }
}

impl PlainFile {
    /// The size when it was opened.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.identity.size
    }

    /// Whether it was empty when it was opened.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.identity.size == 0
    }

    /// What it was when it was opened.
    #[must_use]
    pub const fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// What it is now. When it differs from [`Self::identity`], what was read in between is worthless.
    ///
    /// # Errors
    /// When it is no plain file any more.
    pub fn identity_now(&self) -> Result<FileIdentity, FileError> {
        let stat = self.file.try_clone().map_err(|source| self.io(source))?;
        plain_identity(&self.path, &OwnedFd::from(stat))
    }

    /// Reads at most `buffer.len()` bytes from `offset`; fewer only at the end.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, FileError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let from = offset.saturating_add(filled as u64);
            match self.file.read_at(&mut buffer[filled..], from) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.io(source)),
            }
        }
        Ok(filled)
    }

    /// Hands the whole content over, a piece at a time, and says how long it is.
    ///
    /// # Errors
    /// When the system refuses, or `take` does.
    pub fn pieces<E: From<FileError>>(
        &self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut buffer = vec![0; PIECE];
        let mut offset = 0;
        loop {
            let read = self.read_at(&mut buffer, offset)?;
            if read == 0 {
                return Ok(offset);
            }
            take(&buffer[..read])?;
            offset += read as u64;
        }
    }

    /// The whole content, when it is no larger than `limit`.
    ///
    /// # Errors
    /// When it is larger, also when it grew while being read.
    pub fn read_all(&self, limit: Bytes) -> Result<Vec<u8>, FileError> {
        let too_large = || FileError::TooLarge { path: self.path.to_string(), limit };
        let bound = usize::try_from(limit.get()).unwrap_or(usize::MAX - 1);
        let size =
            usize::try_from(self.len()).ok().filter(|size| *size <= bound).ok_or_else(too_large)?;
        // One byte more shows whether it grew.
        let mut content = vec![0; size + 1];
        let read = self.read_at(&mut content, 0)?;
        if read > bound {
            return Err(too_large());
        }
        content.truncate(read);
        Ok(content)
    }

    fn io(&self, source: io::Error) -> FileError {
        FileError::Io { path: self.path.to_string(), source }
    }
}

#[cfg(test)]
#[path = "beneath_tests.rs"]
mod tests;
