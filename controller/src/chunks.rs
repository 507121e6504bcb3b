//! The content-addressed store on the controller's disk: one file per object, named by its BLAKE3, within its project.
//!
//! ```text
//! ROOT/<project>/ab/cdef…      an object: a chunk, or a manifest
//! ROOT/.temp/                  being written; emptied at start
//! ROOT/.quarantine/            objects that no longer matched their names, for people to look at
//! ```
//! An object exists exactly when its file does; there is no index. Its bytes are verified before the name appears and
//! on every read, and `put` returns only when the file and every directory above it are synced. What one project has
//! cannot be learned from another. No path is made from a peer's text: a project is a checked id, a digest is 32 bytes.
//!
//! Calls block and may come from several threads.

mod places;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hone_proto::id::{Digest, ProjectName};
use hone_proto::manifest::{Chunk, MAX_MANIFEST};
use hone_proto::quantity::Bytes;
use tracing::{error, warn};

use self::places::Places;
use crate::durable;

/// Largest object: a manifest can be larger than a chunk.
pub const MAX_OBJECT: usize = MAX_MANIFEST;

/// Free room that `put` leaves on the disk, so that state, logs and deletions go on when bulk data has filled the rest.
pub const KEEP_FREE: Bytes = Bytes::gib(1);

/// The store.
#[derive(Debug)]
pub struct ChunkStore {
    places: Places,
    keep_free: Bytes,
    next_temp: AtomicU64,
    poisoned: AtomicBool,
}

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// The bytes are not what their name says.
    #[error("the bytes sent are {actual}, not {expected}")]
    WrongDigest {
        /// The name they came under.
        expected: Digest,
        /// Their own.
        actual: Digest,
    },
    /// Over [`MAX_OBJECT`].
    #[error("an object of {len} bytes is too large: at most {MAX_OBJECT} are allowed")]
    TooLarge {
        /// Its length.
        len: usize,
    },
    /// The project has no such object.
    #[error("there is no object {digest}")]
    NotFound {
        /// Its name.
        digest: Digest,
    },
    /// What was stored is no longer what its name says. It is set aside, and the object is missing from now on.
    #[error("object {digest} was damaged on the disk and is set aside")]
    Corrupt {
        /// Its name.
        digest: Digest,
        /// Where its file is now.
        quarantine: PathBuf,
    },
    /// Storing this would leave less than the room that is kept free.
    #[error("the disk has {free} free, and {keep} of that are kept for the controller's state")]
    DiskFull {
        /// What is free.
        free: Bytes,
        /// What is kept.
        keep: Bytes,
    },
    /// A sync failed earlier: nothing can be promised on this disk until a restart has looked at it again.
    #[error("the disk failed to sync earlier: no objects are stored until a restart")]
    Poisoned,
    /// A file operation failed.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Whether `put` had to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is new.
    New,
    /// It was there, whole.
    Already,
}

impl ChunkStore {
    /// Opens the store under `root`, and makes it if it is missing. Leaves `keep_free` on the disk, see [`KEEP_FREE`].
    /// What an earlier run left half written is removed.
    ///
    /// # Errors
    /// A directory cannot be made.
    pub fn open(root: &Path, keep_free: Bytes) -> Result<Self, ChunkError> {
        let store = Self {
            places: Places::at(root)?,
            keep_free,
            next_temp: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
        };
        store.sweep_temp()?;
        Ok(store)
    }

    /// Stores an object under its name. On return it is on the disk in the sense of a power cut. Storing it again does
    /// nothing, or repairs it.
    ///
    /// # Errors
    /// The bytes are not what the name says, the disk is too full, or a file operation fails. Then nothing appeared
    /// under the name.
    pub fn put(
        &self,
        project: &ProjectName,
        digest: Digest,
        bytes: &[u8],
    ) -> Result<Stored, ChunkError> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(ChunkError::Poisoned);
        }
        if bytes.len() > MAX_OBJECT {
            return Err(ChunkError::TooLarge { len: bytes.len() });
        }
        let actual = Digest::of(bytes);
        if actual != digest {
            return Err(ChunkError::WrongDigest { expected: digest, actual });
        }
        let path = self.places.object(project, digest);
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            // Another call, or a run that was killed, may have renamed it and not yet synced.
            self.prepare(project, digest)?;
            self.sync(&path)?;
            return Ok(Stored::Already);
        }
        self.check_room(bytes.len() as u64)?;
        self.prepare(project, digest)?;
        self.write(&path, bytes)?;
        Ok(Stored::New)
    }

    fn prepare(&self, project: &ProjectName, digest: Digest) -> Result<(), ChunkError> {
        let prepared = self.places.prepare(project, digest);
        prepared.map_err(|(dir, source)| self.sync_failed(&dir, source))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), ChunkError> {
        let temp = self.places.temp(self.next_temp.fetch_add(1, Ordering::Relaxed));
        let written = self.write_temp(&temp, bytes);
        let renamed = written.and_then(|()| {
            fs::rename(&temp, path).map_err(|source| self.io("rename", path, source))
        });
        if renamed.is_err() {
            // What it holds is of no use; if even this fails, the next start sweeps it.
            let _ = fs::remove_file(&temp);
        }
        renamed?;
        self.sync(path)
    }

    fn write_temp(&self, temp: &Path, bytes: &[u8]) -> Result<(), ChunkError> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(temp)
            .map_err(|source| self.io("create", temp, source))?;
        file.write_all(bytes).map_err(|source| self.io("write", temp, source))?;
        file.sync_all().map_err(|source| self.sync_failed(temp, source))
    }

    /// Makes the name durable.
    fn sync(&self, path: &Path) -> Result<(), ChunkError> {
        durable::sync_parent(path).map_err(|source| self.sync_failed(path, source))
    }

    /// After a failed sync the kernel may have dropped the pages: a later sync that succeeds would prove nothing. A full
    /// disk is the exception, since it refused the pages before they were promised.
    fn sync_failed(&self, path: &Path, source: io::Error) -> ChunkError {
        let error = self.io("sync", path, source);
        if !matches!(error, ChunkError::DiskFull { .. }) {
            self.poisoned.store(true, Ordering::Release);
        }
        error
    }

    /// Names operation and path of an I/O error; a full disk is its own error.
    fn io(&self, verb: &'static str, path: &Path, source: io::Error) -> ChunkError {
        if durable::is_full_disk(&source) {
            let free = durable::free_bytes(self.places.root()).map_or(Bytes::ZERO, Bytes::new);
            return ChunkError::DiskFull { free, keep: self.keep_free };
        }
        io_error(verb, path, source)
    }

    fn check_room(&self, len: u64) -> Result<(), ChunkError> {
        let root = self.places.root();
        let free = durable::free_bytes(root).map_err(|e| io_error("measure", root, e))?;
        if free < self.keep_free.get().saturating_add(len) {
            return Err(ChunkError::DiskFull { free: Bytes::new(free), keep: self.keep_free });
        }
        Ok(())
    }

    /// Those of `digests` that the project lacks, in the order given.
    ///
    /// # Errors
    /// The disk does not answer.
    pub fn missing(
        &self,
        project: &ProjectName,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, ChunkError> {
        let mut missing = Vec::new();
        for digest in digests {
            if self.len(project, *digest)?.is_none() {
                missing.push(*digest);
            }
        }
        Ok(missing)
    }

    /// Those of a manifest's chunks that the project lacks, or has in another length: what must be empty before a
    /// manifest may be committed.
    ///
    /// # Errors
    /// The disk does not answer.
    pub fn unfit(
        &self,
        project: &ProjectName,
        chunks: impl IntoIterator<Item = Chunk>,
    ) -> Result<Vec<Digest>, ChunkError> {
        let mut unfit = Vec::new();
        for chunk in chunks {
            if self.len(project, chunk.digest)? != Some(chunk.len) {
                unfit.push(chunk.digest);
            }
        }
        Ok(unfit)
    }

    /// Makes the names of objects durable that are there. A name can be there and not synced: another call may be about
    /// to, or a run was killed before it could. Whoever promises objects that he did not `put` himself calls this first.
    ///
    /// # Errors
    /// A sync fails.
    pub fn settle(&self, project: &ProjectName, digests: &[Digest]) -> Result<(), ChunkError> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(ChunkError::Poisoned);
        }
        // One object of each directory stands for all that lie in it.
        let mut settled = HashSet::new();
        for digest in digests {
            let path = self.places.object(project, *digest);
            if path.parent().is_some_and(|shard| settled.insert(shard.to_owned())) {
                self.prepare(project, *digest)?;
                self.sync(&path)?;
            }
        }
        Ok(())
    }

    /// The length of an object, if the project has it.
    ///
    /// # Errors
    /// The disk does not answer.
    pub fn len(&self, project: &ProjectName, digest: Digest) -> Result<Option<u64>, ChunkError> {
        let path = self.places.object(project, digest);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => Ok(Some(found.len())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("look at", &path, error)),
        }
    }

    /// An object's bytes, verified. One that does not match its name is set aside and from then on missing.
    ///
    /// # Errors
    /// The project has no such object, it is damaged, or it cannot be read.
    pub fn get(&self, project: &ProjectName, digest: Digest) -> Result<Vec<u8>, ChunkError> {
        let path = self.places.object(project, digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ChunkError::NotFound { digest });
            }
            other => other.map_err(|e| io_error("open", &path, e))?,
        };
        let mut bytes = Vec::new();
        let limit = MAX_OBJECT as u64 + 1;
        file.take(limit).read_to_end(&mut bytes).map_err(|e| io_error("read", &path, e))?;
        if Digest::of(&bytes) == digest {
            return Ok(bytes);
        }
        let quarantine = self.places.quarantine(project, digest);
        fs::rename(&path, &quarantine).map_err(|e| io_error("set aside", &path, e))?;
        self.sync(&path)?;
        error!(%digest, %project, at = %quarantine.display(), "an object was damaged on the disk");
        Err(ChunkError::Corrupt { digest, quarantine })
    }

    /// Removes an object; says whether there was one. After a power cut it may be back, unreferenced.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, project: &ProjectName, digest: Digest) -> Result<bool, ChunkError> {
        let path = self.places.object(project, digest);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error("remove", &path, error)),
        }
    }

    /// The names of all objects of a project, in no order: for collection and for scrubbing.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn list(&self, project: &ProjectName) -> Result<Vec<Digest>, ChunkError> {
        self.places.list(project)
    }

    /// Removes what an earlier run left half written. Called by `open`, before there are writers.
    fn sweep_temp(&self) -> Result<usize, ChunkError> {
        let left = self.places.temps()?;
        for path in &left {
            fs::remove_file(path).map_err(|e| io_error("remove", path, e))?;
        }
        if !left.is_empty() {
            warn!(
                count = left.len(),
                "objects that were being written when the last run ended are removed"
            );
        }
        Ok(left.len())
    }
}

fn io_error(verb: &'static str, path: &Path, source: io::Error) -> ChunkError {
    ChunkError::Io { verb, path: path.to_owned(), source }
}
