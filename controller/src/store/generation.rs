//! One directory of the engine per generation, and the name of the one in use.
//!
//! ```text
//! DATA/lock            held by the one process that has this store open
//! DATA/instance        says that state exists: a start without state is then refused
//! DATA/reserve         room given back when the disk is full, so that state can still be opened
//! DATA/state/CURRENT   names the generation in use; replaced atomically
//! DATA/state/gen-N     the engine's files
//! ```
//! Compaction and restore write a new generation aside, verify and sync it, and only then rename `CURRENT`. A
//! generation above the current one is a leftover of a crash in between and is removed at the next open; one below it
//! was set aside by a restore and stays until a person removes it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{StoreError, io_at};
use crate::durable;

const MARKER_TEXT: &str = "hone state 1\n";

/// The paths of one store.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    data: PathBuf,
}

/// The lock on a data directory; released when dropped.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, never read")] File);

impl Layout {
    /// The layout under `data`, which is made if it is missing.
    pub(super) fn at(data: &Path) -> Result<Self, StoreError> {
        let layout = Self { data: data.to_owned() };
        for dir in [data, &layout.state()] {
            durable::create_dirs(dir).map_err(io_at("create", dir))?;
        }
        Ok(layout)
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    fn state(&self) -> PathBuf {
        self.data.join("state")
    }

    pub(super) fn marker(&self) -> PathBuf {
        self.data.join("instance")
    }

    pub(super) fn reserve(&self) -> PathBuf {
        self.data.join("reserve")
    }

    fn current_file(&self) -> PathBuf {
        self.state().join("CURRENT")
    }

    pub(super) fn generation(&self, number: u64) -> PathBuf {
        self.state().join(format!("gen-{number}"))
    }

    /// Takes the lock, or says that another process has it.
    pub(super) fn lock(&self) -> Result<Lock, StoreError> {
        let path = self.data.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_at("open", &path))?;
        let take = || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        match patiently(take, |result| *result == Err(Errno::WOULDBLOCK)) {
            Ok(()) => Ok(Lock(file)),
            Err(Errno::WOULDBLOCK) => Err(StoreError::InUse { path }),
            Err(error) => Err(io_at("lock", &path)(error.into())),
        }
    }

    /// The generation in use, if there is state.
    pub(super) fn current(&self) -> Result<Option<u64>, StoreError> {
        let path = self.current_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_at("read", &path)(error)),
        };
        match text.strip_suffix('\n').and_then(number_of) {
            Some(number) => Ok(Some(number)),
            None => Err(StoreError::Damaged { path, why: "it names no generation".to_owned() }),
        }
    }

    /// Makes `number` the generation in use. Durable on return.
    pub(super) fn switch_to(&self, number: u64) -> Result<(), StoreError> {
        let path = self.current_file();
        durable::write_atomic(&path, format!("gen-{number}\n").as_bytes())
            .map_err(io_at("write", &path))
    }

    /// Whether the marker says that state exists. A marker of another format is refused.
    pub(super) fn is_marked(&self) -> Result<bool, StoreError> {
        let path = self.marker();
        match fs::read_to_string(&path) {
            Ok(text) if text == MARKER_TEXT => Ok(true),
            Ok(_) => Err(StoreError::Damaged {
                path,
                why: "it is not the marker of this format".to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_at("read", &path)(error)),
        }
    }

    /// Says from now on that state exists.
    pub(super) fn mark(&self) -> Result<(), StoreError> {
        let path = self.marker();
        durable::write_atomic(&path, MARKER_TEXT.as_bytes()).map_err(io_at("write", &path))
    }

    /// Every generation on the disk.
    pub(super) fn generations(&self) -> Result<Vec<u64>, StoreError> {
        let state = self.state();
        let mut found = Vec::new();
        for entry in fs::read_dir(&state).map_err(io_at("list", &state))? {
            let name = entry.map_err(io_at("list", &state))?.file_name();
            found.extend(name.to_str().and_then(number_of));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes one generation.
    pub(super) fn remove(&self, number: u64) -> Result<(), StoreError> {
        let path = self.generation(number);
        fs::remove_dir_all(&path).map_err(io_at("remove", &path))
    }

    /// Removes what a crash left of generations that never came into use.
    pub(super) fn remove_unfinished(&self, current: u64) -> Result<(), StoreError> {
        for number in self.generations()?.into_iter().filter(|n| *n > current) {
            self.remove(number)?;
        }
        Ok(())
    }
}

/// How long a lock may outlive its holder: a child that any thread forks holds a copy of it until it executes its
/// program.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// Repeats `attempt` while it is `blocked` by a lock, for at most [`LOCK_PATIENCE`].
pub(super) fn patiently<T>(mut attempt: impl FnMut() -> T, blocked: impl Fn(&T) -> bool) -> T {
    let start = Instant::now();
    loop {
        let result = attempt();
        if !blocked(&result) || start.elapsed() > LOCK_PATIENCE {
            return result;
        }
        std::thread::sleep(LOCK_PATIENCE / 50);
    }
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix("gen-")?.parse().ok()
}
