//! Room on the controller's disk, looked at before each turn. Below a mark nothing more is taken, so that what was taken
//! can always be made durable; the controller goes on with what needs no room.

use std::path::{Path, PathBuf};

use hone_proto::error::{Reason, Refusal};
use hone_proto::quantity::Bytes;

use crate::durable;

/// Free bytes below which nothing more is taken. 24 MiB: the store commits nothing below 8 MiB, and one turn with its
/// files of events has 16 MiB.
const ENTER: u64 = 24 << 20;

/// Free bytes above which everything is taken again. 64 MiB: what the store's reserve of 32 MiB gives back must not look
/// like a disk that somebody has tidied.
const LEAVE: u64 = 64 << 20;

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// As before.
    Same,
    /// There is room again.
    Cleared,
}

/// Whether there is room.
#[derive(Debug)]
pub(super) struct Room {
    at: PathBuf,
    full: bool,
    free: u64,
}

impl Room {
    /// On the disk of this folder. A start takes the upper mark: the reserve may have been given back before it.
    pub(super) fn on(at: &Path) -> Self {
        let mut room = Self { at: at.to_owned(), full: false, free: u64::MAX };
        room.measure();
        if room.free < LEAVE {
            room.fill();
        }
        room
    }

    fn measure(&mut self) {
        // The folder is made with the first event. A disk that does not say is taken for one with room: the store asks
        // again, and refuses by itself.
        let free = self.at.ancestors().find_map(|folder| durable::free_bytes(folder).ok());
        self.free = free.unwrap_or(u64::MAX);
    }

    /// Looks at the disk.
    pub(super) fn look(&mut self) -> Look {
        self.measure();
        if !self.full && self.free < ENTER {
            self.fill();
        } else if self.full && self.free >= LEAVE {
            self.full = false;
            tracing::warn!(free = %Bytes::new(self.free), "the disk has room again: everything is taken");
            return Look::Cleared;
        }
        Look::Same
    }

    /// Something did not fit, whatever the last look said.
    pub(super) fn fill(&mut self) {
        if !self.full {
            self.full = true;
            tracing::error!(
                free = %Bytes::new(self.free),
                disk = %self.at.display(),
                "the disk is full: the controller reads, stops jobs and revokes, and takes nothing more"
            );
        }
    }

    pub(super) const fn is_full(&self) -> bool {
        self.full
    }

    /// The answer to whoever asks for something that needs room.
    pub(super) fn refusal(&self) -> Refusal {
        let (free, at) = (Bytes::new(self.free), self.at.display());
        let text =
            format!("the controller's disk is full ({free} are free in {at}); nothing was changed");
        Refusal::new(Reason::OutOfSpace, text)
    }
}
