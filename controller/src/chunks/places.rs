//! Where objects lie. Every path is made here, from a checked project name and the digits of a digest.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use hone_proto::id::{Digest, ProjectName};

use super::{ChunkError, io_error};
use crate::durable;

/// The paths of one store, and which of its directories are known to be durable.
#[derive(Debug)]
pub(super) struct Places {
    root: PathBuf,
    /// Directories made or synced by this process. One that merely exists may not have been synced.
    prepared: Mutex<HashSet<PathBuf>>,
}

impl Places {
    pub(super) fn at(root: &Path) -> Result<Self, ChunkError> {
        let places = Self { root: root.to_owned(), prepared: Mutex::default() };
        for dir in [root, &places.temp_dir(), &places.quarantine_dir()] {
            durable::create_dirs(dir).map_err(|e| io_error("create", dir, e))?;
        }
        Ok(places)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    // A project's name starts with a letter or a digit, so none is `.temp` or `.quarantine`.
    fn temp_dir(&self) -> PathBuf {
        self.root.join(".temp")
    }

    fn quarantine_dir(&self) -> PathBuf {
        self.root.join(".quarantine")
    }

    fn project(&self, project: &ProjectName) -> PathBuf {
        self.root.join(project.as_str())
    }

    /// An object's file.
    pub(super) fn object(&self, project: &ProjectName, digest: Digest) -> PathBuf {
        let digits = digest.to_string();
        let (shard, rest) = digits.split_at(2);
        self.project(project).join(shard).join(rest)
    }

    /// A file for one object being written.
    pub(super) fn temp(&self, number: u64) -> PathBuf {
        self.temp_dir().join(number.to_string())
    }

    /// Everything that is being written, or was when the last run ended.
    pub(super) fn temps(&self) -> Result<Vec<PathBuf>, ChunkError> {
        entries(&self.temp_dir())
    }

    /// A file name for a damaged object that is not in use.
    pub(super) fn quarantine(&self, project: &ProjectName, digest: Digest) -> PathBuf {
        let name = |n: u32| self.quarantine_dir().join(format!("{project}-{digest}-{n}"));
        (0..u32::MAX).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(u32::MAX))
    }

    /// Makes the directory of an object, durably; or says which directory could not be made or synced.
    pub(super) fn prepare(
        &self,
        project: &ProjectName,
        digest: Digest,
    ) -> Result<(), (PathBuf, io::Error)> {
        let object = self.object(project, digest);
        let Some(shard) = object.parent() else { return Ok(()) };
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        for dir in [self.project(project).as_path(), shard] {
            if prepared.contains(dir) {
                continue;
            }
            durable::create_dirs(dir)
                .and_then(|()| durable::sync_parent(dir))
                .map_err(|e| (dir.to_owned(), e))?;
            prepared.insert(dir.to_owned());
        }
        Ok(())
    }

    /// The names of a project's objects.
    pub(super) fn list(&self, project: &ProjectName) -> Result<Vec<Digest>, ChunkError> {
        let mut found = Vec::new();
        for shard in entries(&self.project(project))? {
            let prefix = name_of(&shard);
            for object in entries(&shard)? {
                found.extend(format!("{prefix}{}", name_of(&object)).parse::<Digest>());
            }
        }
        Ok(found)
    }
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// What a directory holds; nothing where there is none.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, ChunkError> {
    let listing = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| io_error("list", dir, e))?,
    };
    let paths = listing.map(|entry| entry.map(|e| e.path()));
    paths.collect::<Result<_, _>>().map_err(|e| io_error("list", dir, e))
}
