//! sled, used so that it keeps its promises: the only file that names its API.
//!
//! Its `flush` is not an fsync on Linux, it panics on some damage, a crash during its start leaves a snapshot that it
//! then takes for a good one, and values from 8 KiB on go to files that it never syncs. Each of these was measured, and
//! each has its answer here.

use std::any::Any;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use sled::{IVec, Mode};
use tracing::warn;

use super::generation::patiently;
use super::{StoreError, io_at};
use crate::durable;

/// Memory for pages; the engine's default is 1 GiB.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// The engine's own periodic flush. It makes nothing durable, but without it the log grows between commits.
const FLUSH_EVERY_MS: u64 = 500;

/// Changes for the engine, applied wholly or not at all.
pub(super) type Changes = sled::Batch;

/// One open generation.
#[derive(Debug)]
pub(super) struct Engine {
    db: sled::Db,
    /// The engine's log, opened again: to sync it ourselves.
    log: File,
    dir: PathBuf,
}

impl Engine {
    /// Makes an empty generation in `dir`. Its names are durable on return.
    pub(super) fn create(dir: &Path) -> Result<Self, StoreError> {
        durable::create_dirs(dir).map_err(io_at("create", dir))?;
        let engine = Self::start(dir)?;
        engine.sync()?;
        let conf = dir.join("conf");
        File::open(&conf).and_then(|f| f.sync_all()).map_err(io_at("sync", &conf))?;
        durable::sync_dir(dir).map_err(io_at("sync", dir))?;
        durable::sync_parent(dir).map_err(io_at("sync", dir))?;
        Ok(engine)
    }

    /// Opens the generation in `dir`. Snapshots only speed the start up: when one is bad, the log alone is read.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        if !dir.join("db").is_file() {
            return Err(StoreError::Damaged { path: dir.to_owned(), why: "it has no log".into() });
        }
        remove_snapshots(dir, |name| name.ends_with(".generating"))?;
        match Self::start(dir) {
            Err(error) if has_snapshots(dir)? => {
                warn!(?error, dir = %dir.display(), "opening again without the engine's snapshots");
                remove_snapshots(dir, |_| true)?;
                Self::start(dir)
            }
            other => other,
        }
    }

    fn start(dir: &Path) -> Result<Self, StoreError> {
        let config = sled::Config::new()
            .path(dir)
            .mode(Mode::LowSpace)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS));
        let db = patiently(|| guarded(dir, || config.open()), is_locked)?;
        let path = dir.join("db");
        let log = File::open(&path).map_err(io_at("open", &path))?;
        Ok(Self { db, log, dir: dir.to_owned() })
    }

    /// Applies changes. They are not durable before [`Engine::sync`].
    pub(super) fn apply(&self, changes: Changes) -> Result<(), StoreError> {
        guarded(&self.dir, || self.db.apply_batch(changes))
    }

    /// Makes everything applied so far durable: the engine writes, and we sync its file.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        guarded(&self.dir, || self.db.flush())?;
        self.log.sync_data().map_err(io_at("sync", &self.dir.join("db")))
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        guarded(&self.dir, || self.db.get(key))
    }

    /// The pairs under a prefix, in order.
    pub(super) fn scan<'a>(
        &'a self,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(IVec, IVec), StoreError>> + use<'a> {
        let mut pairs = self.db.scan_prefix(prefix);
        std::iter::from_fn(move || guarded(&self.dir, || pairs.next().transpose()).transpose())
    }

    /// Where this generation lies.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes of the log on the disk.
    pub(super) fn log_bytes(&self) -> u64 {
        self.log.metadata().map_or(0, |m| m.len())
    }

    /// Files that the engine wrote beside its log and never synced. There must be none.
    pub(super) fn unsynced_files(&self) -> usize {
        fs::read_dir(self.dir.join("blobs")).map_or(0, Iterator::count)
    }
}

/// Whether somebody else has the engine's own lock. The caller holds the store's, so it can only be a leftover.
fn is_locked<T>(result: &Result<T, StoreError>) -> bool {
    let Err(StoreError::Engine { source: sled::Error::Io(error), .. }) = result else {
        return false;
    };
    error.to_string().starts_with("could not acquire lock")
}

/// Runs a call of the engine, turning both its errors and its panics into ours.
fn guarded<T>(dir: &Path, call: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(StoreError::Engine { path: dir.to_owned(), source }),
        Err(panic) => {
            Err(StoreError::EnginePanicked { path: dir.to_owned(), why: panic_text(&*panic) })
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no reason given").to_owned()
}

fn has_snapshots(dir: &Path) -> Result<bool, StoreError> {
    Ok(!snapshots(dir)?.is_empty())
}

fn snapshots(dir: &Path) -> Result<Vec<String>, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_at("list", dir))? {
        let name = entry.map_err(io_at("list", dir))?.file_name();
        found.extend(name.to_str().filter(|name| name.starts_with("snap.")).map(str::to_owned));
    }
    Ok(found)
}

fn remove_snapshots(dir: &Path, which: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    for name in snapshots(dir)?.into_iter().filter(|name| which(name)) {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(io_at("remove", &path))?,
        }
    }
    Ok(())
}
