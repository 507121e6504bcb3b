//! Takes things away: an attempt that the controller names no more, and containers of unknown origin.

use hone_proto::id::AttemptId;

use super::Performer;
use super::cache::{InUse, in_use};
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
        let (cache, in_use) = (self.cache.clone(), self.inputs_in_use(Some(attempt)));
        // It is tidied another time when the agent ends meanwhile.
        let _ = tokio::task::spawn_blocking(move || cache.evict(&in_use)).await;
        match tokio::fs::remove_dir_all(dirs.root()).await {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(error) => {
                tracing::warn!(%attempt, "files not removed yet: {error}");
                false
            }
        }
    }

    /// Which inputs the attempts that are held need, but for one that is being removed.
    pub(super) fn inputs_in_use(&self, except: Option<AttemptId>) -> InUse {
        in_use(self.driver.view(), self.layout.clone(), except)
    }

    pub(super) async fn sweep(&self, container: &str) {
        let id = ContainerId::new(container.to_owned());
        tracing::warn!(container = %id, "it carries our labels but belongs to no attempt; it is removed");
        let seen = self.runtime.observe(&id).await.ok().flatten();
        if let Err(error) = self.take_away(&id).await {
            tracing::warn!(container = %id, "not removed yet: {error}");
            return;
        }
        // After a loss of the agent's state nobody else knows whose files these were.
        let held = |attempt: &AttemptId| self.driver.view().borrow().held.contains(attempt);
        let unknown = seen.and_then(|seen| seen.attempt).filter(|attempt| !held(attempt));
        if let Some(attempt) = unknown
            && let Err(error) = tokio::fs::remove_dir_all(self.layout.attempt(attempt).root()).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%attempt, "files not removed: {error}");
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
