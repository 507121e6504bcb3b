//! Requests to the trainer: files in a folder that its container may change, so each is made new and no link is followed.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use hone_proto::id::AttemptId;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::Performer;
use crate::runtime::Signal;

const STOP: &str = "stop";
const CHECKPOINT: &str = "checkpoint";

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
        self.leave(attempt, STOP);
        let sent = self.layout.attempt(attempt).stop_sent();
        match OpenOptions::new().write(true).create_new(true).open(&sent) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Ok(_) => self.signal(container, Signal::Term).await,
            Err(error) => {
                tracing::warn!(%attempt, %error, "it cannot be noted that a stop was asked for");
                self.signal(container, Signal::Term).await;
            }
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
