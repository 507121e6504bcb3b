//! Requests to what trains: to save, and to stop.

use std::fs::OpenOptions;
use std::io;
use std::time::Duration;

use hone_proto::id::AttemptId;
use rustix::process::Signal as Os;

use super::Performer;
use crate::adapters::job::StopSignal;
use crate::adapters::steering::{self, Steering};
use crate::adapters::{trigger, workers};
use crate::host::HostRoots;
use crate::runtime::{ContainerId, ContainerState, Runtime as _, Signal};
use crate::trainer::{complete_checkpoints, leave_request};

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

    /// Waits until a checkpoint is complete that was not before, for so long at most, while the container runs.
    async fn next_checkpoint(
        &self,
        attempt: AttemptId,
        container: &str,
        patience: Duration,
        steering: &Steering,
    ) {
        let kept = self.layout.attempt(attempt).kept();
        let newest = || complete_checkpoints(&kept).ok()?.last().map(|(step, _)| *step);
        let before = newest();
        self.pull(attempt, steering);
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
            while newest() == before && running().await {
                look.tick().await;
            }
        };
        if tokio::time::timeout(patience, wait).await.is_err() {
            tracing::info!(%attempt, "no further checkpoint within the grace");
        }
    }

    /// Only a file: a program that does not know the signal, or does not know it yet, would die of it.
    pub(super) fn ask_to_save(&self, attempt: AttemptId) {
        match steering::kept(&self.layout.attempt(attempt)) {
            Some(steering) => self.pull(attempt, &steering),
            None => self.leave(attempt, CHECKPOINT),
        }
    }

    /// Asks a tool for a save, if it can be asked.
    fn pull(&self, attempt: AttemptId, steering: &Steering) {
        if let Some(name) = &steering.trigger
            && let Err(error) = trigger::ask(&self.layout.attempt(attempt), name)
        {
            tracing::warn!(%attempt, %error, "the tool could not be asked for a checkpoint");
        }
    }

    fn leave(&self, attempt: AttemptId, name: &str) {
        if let Err(error) = leave_request(&self.layout.attempt(attempt).control(), name) {
            tracing::warn!(%attempt, request = name, %error, "the trainer could not be asked");
        }
    }
}
