//! Requests to what trains: to save, and to stop.

use std::fs::OpenOptions;
use std::io;
use std::time::Duration;

use hone_proto::id::{AttemptId, Step};
use rustix::process::Signal as Os;

use super::Performer;
use crate::adapters::complete::{Rule, candidates};
use crate::adapters::job::{StopSignal, ToolJob};
use crate::adapters::steering::{self, Steering};
use crate::adapters::{trigger, workers};
use crate::host::HostRoots;
use crate::layout::AttemptDirs;
use crate::runtime::{ContainerId, ContainerState, Runtime as _, Signal};
use crate::trainer::{Dir, complete_checkpoints, leave_request};

const STOP: &str = "stop";
const CHECKPOINT: &str = "checkpoint";

/// Kept of the grace for the end of a tool that was signalled.
const END: Duration = Duration::from_secs(10);

impl Performer {
    /// The file, then the signal; after a restart of the agent only the file, since a second signal means "at once".
    pub(super) async fn ask_to_stop(&self, attempt: AttemptId, container: &str) {
        let dirs = self.layout.attempt(attempt);
        if let Some(steering) = steering::kept(&dirs) {
            return self.stop_tool(attempt, container, steering).await;
        }
        self.leave(attempt, STOP);
        if self.is_first(attempt) {
            self.signal(container, Signal::Term).await;
        }
    }

    /// Notes that a stop is asked for; false when it was before: a second signal would mean "at once".
    fn is_first(&self, attempt: AttemptId) -> bool {
        let sent = self.layout.attempt(attempt).stop_sent();
        match OpenOptions::new().write(true).create_new(true).open(&sent) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%attempt, %error, "it cannot be noted that a stop was asked for");
                true
            }
        }
    }

    /// A foreign tool: the signal that it saves upon, to the processes that do the work. One that knows none is asked for
    /// a checkpoint if it can be, and ended after its next one, or when the grace is nearly over.
    async fn stop_tool(&self, attempt: AttemptId, container: &str, steering: Steering) {
        let grace = steering.grace;
        let signal = match steering.stop {
            StopSignal::Int => Os::INT,
            StopSignal::Usr1 => Os::USR1,
            StopSignal::Term => Os::TERM,
            StopSignal::None => {
                let patience = grace.saturating_sub(END).max(grace / 2);
                self.next_checkpoint(attempt, container, patience, &steering).await;
                self.is_first(attempt);
                self.signal(container, Signal::Term).await;
                return;
            }
        };
        if !self.is_first(attempt) {
            return;
        }
        let init = self.watcher.init_of(attempt);
        let took = init.map_or(0, |init| workers::signal(&HostRoots::default(), init, signal));
        if took == 0 {
            tracing::info!(%attempt, "no process of the tool was found; its container is signalled");
            self.signal(container, Signal::Term).await;
        }
    }

    /// Waits for the next checkpoint to be kept, for so long at most, while the container runs.
    async fn next_checkpoint(
        &self,
        attempt: AttemptId,
        container: &str,
        patience: Duration,
        steering: &Steering,
    ) {
        let dirs = self.layout.attempt(attempt);
        let before = before_the_next(&dirs, steering);
        trigger::ask(attempt, &dirs, steering);
        let id = ContainerId::new(container.to_owned());
        let running = async || match self.runtime.observe(&id).await {
            Ok(seen) => {
                seen.is_some_and(|seen| matches!(seen.state, ContainerState::Running { .. }))
            }
            // An engine that is away for a moment says nothing about it.
            Err(_) => true,
        };
        let mut look = tokio::time::interval(Duration::from_millis(500));
        let wait = async {
            while newest_kept(&dirs) <= before && running().await {
                look.tick().await;
            }
        };
        if tokio::time::timeout(patience, wait).await.is_err() {
            tracing::info!(%attempt, "no further checkpoint within the grace");
        }
    }

    /// Only a file: a program that does not know the signal, or does not know it yet, would die of it.
    pub(super) fn ask_to_save(&self, attempt: AttemptId) {
        let dirs = self.layout.attempt(attempt);
        match steering::kept(&dirs) {
            Some(steering) => trigger::ask(attempt, &dirs, &steering),
            None => self.leave(attempt, CHECKPOINT),
        }
    }

    fn leave(&self, attempt: AttemptId, name: &str) {
        if let Err(error) = leave_request(&self.layout.attempt(attempt).control(), name) {
            tracing::warn!(%attempt, request = name, %error, "the trainer could not be asked");
        }
    }
}

/// The newest step that is kept.
fn newest_kept(dirs: &AttemptDirs) -> Option<Step> {
    complete_checkpoints(&dirs.kept()).ok()?.last().map(|(step, _)| *step)
}

/// The step beyond which a checkpoint is the next one. A tool that can be asked for one saves after what it has begun
/// already, so that which is still being written, or copied, does not count then.
fn before_the_next(dirs: &AttemptDirs, steering: &Steering) -> Option<Step> {
    let begun = || {
        let spec = std::fs::read_to_string(dirs.spec()).ok()?;
        let rule = Rule::of(&ToolJob::of_spec(&spec).ok()??, None);
        let found = candidates(&Dir::open(&dirs.output()).ok()?, &rule).ok()?;
        found.candidates.last().map(|candidate| candidate.step)
    };
    let begun = steering.trigger.as_ref().and_then(|_| begun());
    newest_kept(dirs).max(begun)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hone_proto::id::{Attempt, Generation, JobId, Token};

    use super::*;
    use crate::layout::Layout;

    #[test]
    fn a_checkpoint_that_was_begun_before_a_tool_is_asked_for_one_is_not_the_one_it_was_asked_for()
    {
        let dir = tempfile::tempdir().expect("a folder");
        let token = Token { generation: Generation::new(1), attempt: Attempt::new(1) };
        let layout = Layout::new(dir.path().to_owned());
        let dirs = layout.attempt(AttemptId { job: JobId::new(1), token });
        for place in ["checkpoint-10", "checkpoint-20"] {
            fs::create_dir_all(dirs.output().join(place)).expect("made");
        }
        let kept = dirs.kept().join("checkpoint-10");
        fs::create_dir_all(&kept).expect("made");
        fs::write(kept.join("a"), "1").expect("written");
        let sha256 = "0".repeat(64);
        let files = serde_json::json!([{"path": "a", "bytes": 1, "sha256": sha256}]);
        let manifest = serde_json::json!({"v": 1, "step": 10, "kind": "full", "files": files});
        fs::write(kept.join("hone_manifest.json"), manifest.to_string()).expect("written");
        fs::write(dirs.spec(), r#"{"trainer": {"kind": "axolotl"}}"#).expect("written");
        let before = |trigger: Option<&str>| {
            let (stop, grace) = (StopSignal::None, Duration::from_secs(60));
            let trigger = trigger.map(str::to_owned);
            let steering = Steering { stop, grace, trigger, ranks: None };
            before_the_next(&dirs, &steering).map(Step::get)
        };
        assert_eq!(before(Some("save")), Some(20), "20 is being written");
        assert_eq!(before(None), Some(10), "who cannot be asked is waited for as it goes");
        fs::remove_dir_all(dirs.output()).expect("gone");
        assert_eq!(before(Some("save")), Some(10));
        fs::remove_dir_all(&kept).expect("gone");
        assert_eq!((before(Some("save")), newest_kept(&dirs)), (None, None));
    }
}
