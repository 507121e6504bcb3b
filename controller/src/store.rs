//! The controller's durable facts, behind two verbs: `commit` a batch, `scan` a prefix.
//!
//! **Stored**: what nobody else can tell us again after a crash: jobs and their specs, attempts and tokens, nodes and
//! users, committed checkpoints and packages (the digests of their manifests), stream positions, segment lengths,
//! request results, audit records, the generation. **Not stored**: what is rebuilt (indexes, placement, sessions,
//! leases), what lives in its own synced files (manifests and chunks in `chunks`, series and logs in `series`), and
//! anything bulky.
//!
//! `commit` returns only when the batch is on the disk in the sense of a power cut (`docs/adr/0002-durable-store.md`);
//! nothing may be acknowledged before. A turn of the driver is one batch, applied wholly or not at all. Calls block: the
//! caller owns a thread for them.
//!
//! [`SledStore`] is the durable store and [`MemoryStore`] its twin; both pass the same tests.

mod engine;
mod export;
#[cfg(test)]
mod faults;
mod generation;
mod memory;
mod record;
mod reserve;
mod sled;
#[cfg(test)]
mod suite;
mod watermark;

use std::io;
use std::path::{Path, PathBuf};

use crate::durable;

pub use self::export::{ExportSummary, Present, read_export, verify_export};
pub use self::memory::MemoryStore;
pub use self::sled::{Origin, SledStore, StoreStats};

/// Longest key, in bytes: room for a kind, a project, a job and a stream.
pub const MAX_KEY: usize = 256;

/// Largest record, in bytes. Larger things are files; the bound is what was measured through power cuts.
pub const MAX_RECORD: usize = 64 * 1024;

/// Largest batch, in bytes of keys and values: keeps one commit well under a second on a slow disk.
pub const MAX_BATCH: usize = 16 * 1024 * 1024;

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The record under this key is this value from now on.
    Put(Vec<u8>, Vec<u8>),
    /// There is no record under this key from now on.
    Delete(Vec<u8>),
}

impl Write {
    fn key(&self) -> &[u8] {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Put(key, value) => key.len() + value.len(),
            Self::Delete(key) => key.len(),
        }
    }
}

/// Changes that become durable together. Of several changes of one key the last counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    writes: Vec<Write>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.writes.push(Write::Put(key.into(), value.into()));
    }

    /// Removes a record.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.writes.push(Write::Delete(key.into()));
    }

    /// The changes, in order.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Bytes of its keys and values.
    #[must_use]
    pub fn size(&self) -> usize {
        self.writes.iter().map(Write::size).fold(0, usize::saturating_add)
    }

    /// Refuses what no store may hold, before anything is written.
    ///
    /// # Errors
    /// A key, a record or the whole that is out of bounds.
    pub fn check(&self) -> Result<(), StoreError> {
        for write in &self.writes {
            let key = write.key();
            if key.is_empty() || key.len() > MAX_KEY {
                return Err(StoreError::BadKey { len: key.len() });
            }
            if let Write::Put(key, value) = write
                && value.len() > MAX_RECORD
            {
                return Err(StoreError::RecordTooLarge { key: show_key(key), len: value.len() });
            }
        }
        match self.size() {
            len if len > MAX_BATCH => Err(StoreError::BatchTooLarge { len }),
            _ => Ok(()),
        }
    }
}

impl From<Batch> for Vec<Write> {
    fn from(batch: Batch) -> Self {
        batch.writes
    }
}

impl From<Vec<Write>> for Batch {
    fn from(writes: Vec<Write>) -> Self {
        Self { writes }
    }
}

impl Extend<Write> for Batch {
    fn extend<I: IntoIterator<Item = Write>>(&mut self, writes: I) {
        self.writes.extend(writes);
    }
}

/// A record as `scan` returns it.
pub type Record = (Vec<u8>, Vec<u8>);

/// Durable records. Blocking; one writer.
pub trait Store: Send {
    /// Makes the batch durable, wholly or not at all. When this returns, a power cut loses nothing of it.
    ///
    /// # Errors
    /// A batch out of bounds and a full disk change nothing and may be retried; after any other error the store is
    /// poisoned and must be reopened, since what reached the disk is not known.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// The records whose key starts with `prefix`, in the order of their keys.
    ///
    /// # Errors
    /// A damaged record.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Record>, StoreError>;
}

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A key is empty or too long. Nothing was changed.
    #[error("a key of {len} bytes cannot be stored: 1 to {MAX_KEY} are allowed")]
    BadKey {
        /// Its length.
        len: usize,
    },
    /// A record is over [`MAX_RECORD`]. Nothing was changed.
    #[error("record {key} has {len} bytes: at most {MAX_RECORD} can be stored")]
    RecordTooLarge {
        /// Its key, printable.
        key: String,
        /// Its length.
        len: usize,
    },
    /// A batch is over [`MAX_BATCH`]. Nothing was changed.
    #[error("a batch of {len} bytes is too large: at most {MAX_BATCH} can be committed at once")]
    BatchTooLarge {
        /// Its length.
        len: usize,
    },
    /// The disk is too full to commit safely. Nothing was changed; try again when there is room.
    #[error("the disk of {} has only {free} bytes left", path.display())]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// What is left.
        free: u64,
    },
    /// Another process holds this store.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// The instance marker says that there must be state, and there is none.
    #[error("{} marks a controller that has state, but its state is missing", marker.display())]
    StateMissing {
        /// The marker file.
        marker: PathBuf,
    },
    /// The store was asked to be created or restored over state that is there.
    #[error("{} already holds state", path.display())]
    AlreadyExists {
        /// The data directory.
        path: PathBuf,
    },
    /// What is on disk is not what was committed.
    #[error("the state in {} is damaged: {why}", path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A newer release wrote this.
    #[error("{what} has version {found}; this release knows up to {known}")]
    TooNew {
        /// What carries the version.
        what: String,
        /// The version found.
        found: u16,
        /// The newest version this release reads.
        known: u16,
    },
    /// An earlier commit failed in a way that leaves the disk's contents unknown: reopen.
    #[error("the store failed earlier and must be reopened")]
    Poisoned,
    /// The engine failed.
    #[error("the storage engine failed in {}", path.display())]
    Engine {
        /// Where.
        path: PathBuf,
        /// Its error.
        source: ::sled::Error,
    },
    /// The engine panicked, which is how it reports some damage.
    #[error("the storage engine gave up in {}: {why}", path.display())]
    EnginePanicked {
        /// Where.
        path: PathBuf,
        /// The panic's text.
        why: String,
    },
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

impl StoreError {
    /// Whether there was no room. Then nothing was changed, and it may go well once there is some.
    #[must_use]
    pub fn is_full_disk(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::Io { source, .. } => durable::is_full_disk(source),
            _ => false,
        }
    }
}

/// Names the operation and the path of an I/O error.
fn io_at<'a>(verb: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { verb, path: path.to_owned(), source }
}

/// A key for people: keys are text with separators, mostly.
fn show_key(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}
