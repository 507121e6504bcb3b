//! Inputs, fetched once per project and shared read-only between its attempts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hone_proto::bulk::{BulkError, Client, Silent};
use hone_proto::id::{Digest, ProjectName};
use hone_proto::quantity::Bytes;

use super::of_file;
use super::stage::of_bulk;
use crate::core::input::StepError;
use crate::layout::Layout;
use crate::observe::foreign::own_disk;

/// Downloads by where they go.
type Busy = BTreeMap<PathBuf, Arc<tokio::sync::Mutex<()>>>;

/// Beyond this, inputs that no attempt uses are deleted, least recently used first. A handful of 7B models.
pub const KEEP_UNUSED: Bytes = Bytes::gib(64);

/// The cache of inputs. Clones are the same cache.
#[derive(Debug, Clone)]
pub struct InputCache {
    layout: Layout,
    max: Bytes,
    /// One download of an input at a time; others wait for it.
    busy: Arc<Mutex<Busy>>,
}

impl InputCache {
    /// A cache that keeps about `max` of what nobody uses.
    #[must_use]
    pub fn new(layout: Layout, max: Bytes) -> Self {
        Self { layout, max, busy: Arc::default() }
    }

    /// Fetches an input unless it is there.
    ///
    /// # Errors
    /// It cannot be had, or not be kept.
    pub async fn fetch(
        &self,
        bulk: &Client,
        project: &ProjectName,
        manifest: Digest,
    ) -> Result<(), StepError> {
        let path = self.layout.cached(project, manifest);
        let lock = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody waits for are forgotten.
            busy.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(busy.entry(path.clone()).or_default())
        };
        let _alone = lock.lock().await;
        if path.exists() {
            // Its age says when it was last used.
            let _ = fs::File::open(&path).and_then(|dir| dir.set_modified(SystemTime::now()));
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(of_file(parent))?;
        }
        tracing::info!(manifest = %manifest.short(), %project, "fetching an input");
        match bulk.download(manifest, &path, &Silent).await {
            Ok(_) | Err(BulkError::Exists(_)) => Ok(()),
            Err(error) => Err(of_bulk(&error)),
        }
    }

    /// Deletes what nobody uses beyond the bound, least recently used first. Blocks.
    ///
    /// # Errors
    /// The cache cannot be listed, or something not be deleted.
    pub fn evict(&self, used: &BTreeSet<PathBuf>) -> io::Result<()> {
        let mut unused = Vec::new();
        for project in entries(&self.layout.cache())? {
            for input in entries(&project)? {
                if used.contains(&input) || self.is_busy(&input) {
                    continue;
                }
                let age = fs::metadata(&input)?.modified()?;
                unused.push((age, own_disk(&input), input));
            }
        }
        let mut held: Bytes = unused.iter().map(|(_, size, _)| *size).sum();
        unused.sort();
        for (_, size, path) in unused {
            if held <= self.max {
                break;
            }
            tracing::info!(path = %path.display(), %size, "an input that nobody uses is deleted");
            // Renamed first: a folder under its own name is complete.
            let gone = path.with_extension("deleted");
            fs::rename(&path, &gone)?;
            fs::remove_dir_all(&gone)?;
            held = held.saturating_sub(size);
        }
        Ok(())
    }

    fn is_busy(&self, path: &Path) -> bool {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |download: &PathBuf| path.starts_with(download) || is_partial_of(path, download);
        busy.iter().any(|(download, lock)| Arc::strong_count(lock) > 1 && of(download))
    }
}

/// What is being put together beside a download's final name.
fn is_partial_of(path: &Path, download: &Path) -> bool {
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    match (name(path), name(download)) {
        (Some(path), Some(download)) => path.starts_with(&download),
        _ => false,
    }
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(found) => found.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_least_recently_used_go_first_and_what_is_used_stays() {
        let state = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(state.path().to_owned());
        let project = ProjectName::default_project();
        let mut paths = Vec::new();
        for (age, name) in [(30, b"a"), (20, b"b"), (10, b"c")] {
            let path = layout.cached(&project, Digest::of(name));
            fs::create_dir_all(&path).expect("made");
            fs::write(path.join("weights"), vec![1; 100_000]).expect("written");
            let when = SystemTime::now() - Duration::from_secs(age);
            let dir = fs::File::open(&path).expect("opened");
            dir.set_modified(when).expect("aged");
            paths.push(path);
        }
        let cache = InputCache::new(layout, Bytes::new(150_000));
        let used = BTreeSet::from([paths[0].clone()]);
        cache.evict(&used).expect("evicted");
        let there: Vec<bool> = paths.iter().map(|path| path.exists()).collect();
        assert_eq!(there, [true, false, true]);
        cache.evict(&used).expect("nothing to do");
        assert!(paths[2].exists());
    }
}
