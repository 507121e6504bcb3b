//! Takes things away: an attempt that the controller names no more, and containers of unknown origin.

use std::collections::BTreeSet;
use std::path::PathBuf;

use hone_proto::id::AttemptId;

use super::Performer;
use crate::runtime::{ContainerId, ContainerState, Runtime as _, RuntimeError, Signal};

impl Performer {
    /// Kills and removes the attempt's containers, and then its files. True when nothing is left.
    pub(super) async fn remove(&self, attempt: AttemptId, container: Option<String>) -> bool {
        self.watcher.forget(attempt);
        let mut ids: Vec<_> = container.into_iter().map(ContainerId::new).collect();
        match self.runtime.list().await {
            Ok(all) => {
                let others = all.into_iter().filter(|seen| seen.attempt == Some(attempt));
                ids.extend(others.map(|seen| seen.id));
            }
            Err(error) => {
                tracing::warn!(%attempt, "not removed yet: {error}");
                return false;
            }
        }
        ids.sort();
        ids.dedup();
        for id in &ids {
            if let Err(error) = self.take_away(id).await {
                tracing::warn!(%attempt, container = %id, "not removed yet: {error}");
                return false;
            }
        }
        let dirs = self.layout.attempt(attempt);
        let (cache, used) = (self.cache.clone(), self.used_inputs(attempt));
        let tidied = tokio::task::spawn_blocking(move || cache.evict(&used)).await;
        if let Ok(Err(error)) = tidied {
            tracing::warn!("the cache of inputs could not be tidied: {error}");
        }
        match tokio::fs::remove_dir_all(dirs.root()).await {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(error) => {
                tracing::warn!(%attempt, "files not removed yet: {error}");
                false
            }
        }
    }

    /// Where the inputs of all other attempts lie.
    fn used_inputs(&self, except: AttemptId) -> BTreeSet<PathBuf> {
        let view = self.driver.view();
        let view = view.borrow();
        let others = view.inputs.iter().filter(|(id, _, _)| *id != except);
        others.map(|(_, project, manifest)| self.layout.cached(project, *manifest)).collect()
    }

    pub(super) async fn sweep(&self, container: &str) {
        let id = ContainerId::new(container.to_owned());
        tracing::warn!(container = %id, "it carries our labels but belongs to no attempt; it is removed");
        if let Err(error) = self.take_away(&id).await {
            tracing::warn!(container = %id, "not removed yet: {error}");
        }
    }

    async fn take_away(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let Some(seen) = self.runtime.observe(id).await? else { return Ok(()) };
        if matches!(seen.state, ContainerState::Running { .. }) {
            self.runtime.signal(id, Signal::Kill).await?;
            // The engine needs a moment to notice the end; a removal that comes too early is asked for again.
            let mut look = tokio::time::interval(std::time::Duration::from_millis(50));
            for _ in 0..100 {
                look.tick().await;
                match self.runtime.observe(id).await? {
                    Some(seen) if matches!(seen.state, ContainerState::Running { .. }) => {}
                    _ => break,
                }
            }
        }
        self.runtime.remove(id).await
    }
}
