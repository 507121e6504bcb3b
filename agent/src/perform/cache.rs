//! Inputs, fetched once per project and shared read-only between its attempts. What nobody uses stays for the next one,
//! and goes, least recently used first, beyond a bound and whenever something that is staged needs the room: what the
//! node offers counts on that.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hone_proto::bulk::{BulkError, Client, Silent};
use hone_proto::id::{AttemptId, Digest, ProjectName};
use hone_proto::quantity::Bytes;
use tokio::sync::watch;

use super::of_file;
use super::stage::of_bulk;
use crate::core::input::StepError;
use crate::driver::{Evict, Handle, Needed, View};
use crate::layout::Layout;
use crate::observe::Space;
use crate::observe::foreign::own_disk;
use crate::state;

/// Downloads by where they go.
type Busy = BTreeMap<PathBuf, Arc<tokio::sync::Mutex<()>>>;

/// Whether an attempt that is held needs the input at this place. Asked again right before anything is deleted.
pub(super) type InUse = Arc<dyn Fn(&Path) -> bool + Send + Sync>;

/// Which inputs the attempts that are held need, but for one that is being removed.
pub(super) fn in_use(
    view: watch::Receiver<View>,
    layout: Layout,
    except: Option<AttemptId>,
) -> InUse {
    Arc::new(move |path| {
        let view = view.borrow();
        needs(view.inputs.iter().filter(|(id, _, _)| Some(*id) != except), &layout, path)
    })
}

/// Whether what lies at this place is among what is needed.
fn needs<'a>(
    mut needed: impl Iterator<Item = &'a (AttemptId, ProjectName, Digest)>,
    layout: &Layout,
    path: &Path,
) -> bool {
    needed.any(|(_, project, manifest)| layout.cached(project, *manifest) == path)
}

/// Beyond this, inputs that no attempt uses are deleted, least recently used first. A handful of 7B models.
pub const KEEP_UNUSED: Bytes = Bytes::gib(64);

/// What a download that is not complete yet is called, beside its place.
const PARTIAL: &str = "partial";

/// What something is called while it is being deleted: a folder under its own name is complete.
const DELETED: &str = "deleted";

/// The cache of inputs. Clones are the same cache.
#[derive(Debug, Clone)]
pub struct InputCache {
    layout: Layout,
    max: Bytes,
    least_free: Bytes,
    /// One download of an input at a time; others wait for it.
    busy: Arc<Mutex<Busy>>,
}

/// Something in the cache that nobody uses.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Unused {
    /// When it was last used.
    since: SystemTime,
    size: Bytes,
    path: PathBuf,
}

impl InputCache {
    /// A cache that keeps about `max` of what nobody uses, and leaves `least_free` of the disk free while there is
    /// anything to delete.
    #[must_use]
    pub fn new(layout: Layout, max: Bytes, least_free: Bytes) -> Self {
        Self { layout, max, least_free, busy: Arc::default() }
    }

    /// Fetches an input unless it is there.
    ///
    /// # Errors
    /// It cannot be had, or not be kept.
    pub(super) async fn fetch(
        &self,
        bulk: &Client,
        project: &ProjectName,
        manifest: Digest,
        in_use: &InUse,
    ) -> Result<(), StepError> {
        let path = self.layout.cached(project, manifest);
        let lock = self.lock(&path);
        let _alone = lock.lock().await;
        if path.exists() {
            // Its age says when it was last used.
            let _ = fs::File::open(&path).and_then(|dir| dir.set_modified(SystemTime::now()));
            return Ok(());
        }
        tracing::info!(manifest = %manifest.short(), %project, "fetching an input");
        self.download(bulk, manifest, &path, in_use).await
    }

    /// Downloads a manifest's files to `place`. What the cache holds and nobody uses makes room for it.
    ///
    /// # Errors
    /// It cannot be had, or there is no room for it.
    pub(super) async fn download(
        &self,
        bulk: &Client,
        manifest: Digest,
        place: &Path,
        in_use: &InUse,
    ) -> Result<(), StepError> {
        if let Some(above) = place.parent() {
            fs::create_dir_all(above).map_err(of_file(above))?;
        }
        let sealed = bulk.manifest(manifest).await.map_err(|error| of_bulk(&error))?;
        let size = sealed.manifest().total_size();
        let partial = place.with_extension(PARTIAL);
        for again in [true, false] {
            let need = size.saturating_sub(own_disk(&partial));
            self.make_room(need, in_use).await;
            match bulk.download(manifest, place, &Silent).await {
                Ok(_) | Err(BulkError::Exists(_)) => return Ok(()),
                // Somebody else took the room in between.
                Err(error) if again && is_full_disk(&error) => {}
                Err(error) => return Err(of_bulk(&error)),
            }
        }
        Ok(())
    }

    /// Deletes what nobody uses, least recently used first, until so much is free beyond what is never filled. What was
    /// freed; less than needed is for the download itself to find out.
    pub(super) async fn make_room(&self, need: Bytes, in_use: &InUse) -> Bytes {
        let (cache, in_use) = (self.clone(), Arc::clone(in_use));
        let wanted = need.saturating_add(self.least_free);
        let made = tokio::task::spawn_blocking(move || cache.free_until(&in_use, wanted));
        // Whoever deletes has ended with the agent.
        made.await.unwrap_or_default()
    }

    /// Keeps the least free that must be, as long as there is something that nobody uses: nobody is stopped for the sake of
    /// it. Blocks.
    pub fn guard(&self, driver: &Handle) -> impl Fn() + Send + 'static {
        let (cache, in_use) = (self.clone(), in_use(driver.view(), self.layout.clone(), None));
        move || {
            cache.free_until(&in_use, cache.least_free);
        }
    }

    /// The same for the driver, which knows best what attempts need.
    #[must_use]
    pub fn evictor(&self) -> Evict {
        let cache = self.clone();
        Box::new(move |needed: Needed, wanted| {
            let layout = cache.layout.clone();
            let in_use: InUse = Arc::new(move |path| needs(needed.iter(), &layout, path));
            cache.free_until(&in_use, wanted);
        })
    }

    /// Deletes what nobody uses until so much of the disk is free.
    fn free_until(&self, in_use: &InUse, wanted: Bytes) -> Bytes {
        let free = || Space::of(self.layout.root()).map(|space| space.free);
        self.free_up(in_use, |_| free().is_none_or(|free| free >= wanted))
    }

    /// Deletes what nobody uses beyond the bound, least recently used first. Blocks.
    pub(super) fn evict(&self, in_use: &InUse) {
        self.free_up(in_use, |left| left <= self.max);
    }

    /// Deletes what nobody uses, until it is `enough`: that is told how much of it is left.
    fn free_up(&self, in_use: &InUse, enough: impl Fn(Bytes) -> bool) -> Bytes {
        // Counting what is there takes a while: not before it must be.
        let (mut freed, mut left) = (Bytes::ZERO, Bytes::new(u64::MAX));
        if enough(left) {
            return freed;
        }
        let unused = self.unused(in_use);
        left = unused.iter().map(|unused| unused.size).sum();
        for Unused { size, path, .. } in unused {
            if enough(left) {
                break;
            }
            match self.remove(&path, in_use) {
                Ok(true) => {
                    tracing::info!(path = %path.display(), %size, "an input that nobody uses was deleted");
                    freed = freed.saturating_add(size);
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(path = %path.display(), "not deleted: {error}"),
            }
            left = left.saturating_sub(size);
        }
        freed
    }

    /// What nobody uses, least recently used first.
    fn unused(&self, in_use: &InUse) -> Vec<Unused> {
        let projects = entries(&self.layout.cache());
        let mut unused: Vec<_> = projects
            .iter()
            .flat_map(|project| entries(project))
            .filter(|path| !in_use(&whole(path)))
            .filter_map(|path| {
                let since = fs::metadata(&path).and_then(|facts| facts.modified()).ok()?;
                Some(Unused { since, size: own_disk(&path), path })
            })
            .collect();
        unused.sort();
        unused
    }

    /// Deletes something unless it is used or being fetched by now. Nobody can begin to fetch it meanwhile.
    fn remove(&self, path: &Path, in_use: &InUse) -> io::Result<bool> {
        let whole = whole(path);
        let lock = self.lock(&whole);
        let Ok(_alone) = lock.try_lock() else { return Ok(false) };
        if in_use(&whole) {
            return Ok(false);
        }
        let gone = path.with_extension(DELETED);
        fs::rename(path, &gone)?;
        fs::remove_dir_all(&gone)?;
        Ok(true)
    }

    fn lock(&self, path: &Path) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits for are forgotten.
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(busy.entry(path.to_owned()).or_default())
    }
}

pub(super) fn is_full_disk(error: &BulkError) -> bool {
    matches!(error, BulkError::Write { error, .. } if state::is_full_disk(error))
}

/// The place of the input that this is, or is a part of.
fn whole(path: &Path) -> PathBuf {
    if path.extension().is_some_and(|extension| extension == PARTIAL) {
        path.with_extension("")
    } else {
        path.to_owned()
    }
}

/// What lies in a folder; nothing where there is none.
fn entries(dir: &Path) -> Vec<PathBuf> {
    match fs::read_dir(dir) {
        Ok(found) => found.flatten().map(|entry| entry.path()).collect(),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %dir.display(), "not looked into: {error}");
            }
            Vec::new()
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
