//! Requests to the trainer: files in a folder that its container may change, so each is made new and no link is followed.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::Duration;

use hone_proto::id::AttemptId;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::Signal as Os;

use super::Performer;
use crate::adapters::job::StopSignal;
use crate::adapters::{stopping, workers};
use crate::host::HostRoots;
use crate::runtime::{ContainerId, ContainerState, Runtime as _, Signal};
use crate::trainer::complete_checkpoints;

const STOP: &str = "stop";
const CHECKPOINT: &str = "checkpoint";

/// Kept of the grace for the end of a tool that was signalled.
const END: Duration = Duration::from_secs(10);

/// Makes an empty file in a control folder; one that is there already asks for the same.
fn request(control: &Path, name: &str) -> io::Result<()> {
    let folder = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(CWD, control, folder, Mode::empty())?;
    let new = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&dir, name, new, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

impl Performer {
    /// The file, then the signal; after a restart of the agent only the file, since a second signal means "at once".
    pub(super) async fn ask_to_stop(&self, attempt: AttemptId, container: &str) {
        let dirs = self.layout.attempt(attempt);
        if let Some((stop, grace)) = stopping::kept(&dirs) {
            return self.stop_tool(attempt, container, stop, grace).await;
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

    /// A foreign tool: the signal that it saves upon, to the processes that do the work. One that knows none is ended
    /// after its next checkpoint, or when the grace is nearly over.
    async fn stop_tool(
        &self,
        attempt: AttemptId,
        container: &str,
        stop: StopSignal,
        grace: Duration,
    ) {
        let signal = match stop {
            StopSignal::Int => Os::INT,
            StopSignal::Usr1 => Os::USR1,
            StopSignal::Term => Os::TERM,
            StopSignal::None => {
                let patience = grace.saturating_sub(END).max(grace / 2);
                self.next_checkpoint(attempt, container, patience).await;
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
    async fn next_checkpoint(&self, attempt: AttemptId, container: &str, patience: Duration) {
        let kept = self.layout.attempt(attempt).kept();
        let newest = || complete_checkpoints(&kept).ok()?.last().map(|(step, _)| *step);
        let before = newest();
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

    /// Only the file: a program that does not know the signal, or does not know it yet, would die of it.
    pub(super) fn ask_to_save(&self, attempt: AttemptId) {
        self.leave(attempt, CHECKPOINT);
    }

    fn leave(&self, attempt: AttemptId, name: &str) {
        if let Err(error) = request(&self.layout.attempt(attempt).control(), name) {
            tracing::warn!(%attempt, request = name, %error, "the trainer could not be asked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_new_file_and_never_goes_through_a_link() {
        let dir = tempfile::tempdir().expect("a folder");
        let control = dir.path().join("control");
        std::fs::create_dir(&control).expect("made");
        request(&control, STOP).expect("asked");
        request(&control, STOP).expect("asked again");
        assert_eq!(std::fs::read(control.join(STOP)).expect("there"), b"");
        let outside = dir.path().join("outside");
        std::os::unix::fs::symlink(&outside, control.join(CHECKPOINT)).expect("linked");
        request(&control, CHECKPOINT).expect("taken for asked");
        assert!(!outside.exists(), "a file was made through a link");
        std::fs::rename(&control, dir.path().join("elsewhere")).expect("moved");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &control).expect("linked");
        assert!(request(&control, STOP).is_err(), "the folder itself was a link");
    }
}
