//! Room on the agent's disk, looked at before each turn. Below a mark nothing new is taken, so that what was taken can be
//! kept and told; and some of it is set aside in a file of its own, and given back piece by piece when a write finds no
//! other: who fills the disk must not get it all at once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hone_proto::id::{AttemptId, Digest, ProjectName};
use hone_proto::quantity::Bytes;
use rustix::fs::FallocateFlags;

use crate::core::input::StepError;
use crate::layout::Layout;
use crate::observe::Space;

/// How much of the disk is what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Free space below which nothing new is taken. 24 MiB: a segment of each stream and the state, many times over.
    pub enter: Bytes,
    /// Free space above which everything is taken again. 128 MiB: what the reserve gives back must not look like a disk
    /// that somebody has tidied.
    pub leave: Bytes,
    /// What is set aside. 64 MiB: the states and last words of all that a node runs.
    pub reserve: Bytes,
    /// It is set aside while so much is free. Four times as much: a small disk has better uses for it.
    pub ample: Bytes,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            enter: Bytes::mib(24),
            leave: Bytes::mib(128),
            reserve: Bytes::mib(64),
            ample: Bytes::mib(256),
        }
    }
}

/// Parts of the reserve: one is the first that is given back to a write that does not fit.
const PARTS: u64 = 64;

/// While there is too little room, what nobody needs is looked for so often: counting it takes a while.
const TIDY_AGAIN: Duration = Duration::from_secs(60);

/// A reserve that could not be set aside is tried again so often: some file systems cannot do it at all.
const SET_ASIDE_AGAIN: Duration = Duration::from_secs(60);

/// Inputs that attempts need.
pub type Needed = Vec<(AttemptId, ProjectName, Digest)>;

/// Deletes what no attempt needs until so much of the disk is free. Blocks.
pub type Evict = Box<dyn FnMut(Needed, Bytes) + Send>;

/// Whether there is room.
pub struct Room {
    at: PathBuf,
    reserve: PathBuf,
    marks: Marks,
    free: Bytes,
    full: bool,
    /// Hardware samples that were not kept while it was full.
    samples: u64,
    evict: Option<Evict>,
    /// When what nobody needs was last deleted and gave too little.
    tidied: Option<Instant>,
    /// When the reserve could not be set aside.
    failed: Option<Instant>,
}

impl Room {
    /// On the disk of the agent's state.
    #[must_use]
    pub fn on(layout: &Layout, marks: Marks) -> Self {
        let mut room = Self {
            at: layout.root().to_owned(),
            reserve: layout.reserve(),
            marks,
            free: Bytes::ZERO,
            full: false,
            samples: 0,
            evict: None,
            tidied: None,
            failed: None,
        };
        room.measure();
        // The last life may have given some of the reserve back: what it gave must not look like room.
        let mark = if room.reserved() >= marks.reserve { marks.enter } else { marks.leave };
        if room.free < mark {
            room.fill();
        }
        room.set_aside();
        room
    }

    /// What no attempt needs goes before anything is refused.
    #[must_use]
    pub fn evicting(self, evict: Evict) -> Self {
        Self { evict: Some(evict), ..self }
    }

    fn measure(&mut self) {
        // A disk that does not say is taken for one with room: a write finds out.
        let space = Space::of(&self.at);
        self.free = space.map_or(Bytes::new(u64::MAX), |space| space.free);
    }

    /// Looks at the disk, and makes room when there is too little of it.
    pub(super) fn look(&mut self, needed: impl FnOnce() -> Needed) {
        self.measure();
        if self.free < self.marks.enter || self.full && self.free < self.marks.leave {
            self.tidy(needed);
        }
        if self.free < self.marks.enter {
            self.fill();
        } else if self.full && self.free >= self.marks.leave {
            self.full = false;
            let samples = std::mem::take(&mut self.samples);
            tracing::warn!(
                free = %self.free,
                samples,
                "the disk has room again: everything is taken; so many hardware samples were not kept"
            );
        }
        self.set_aside();
    }

    fn tidy(&mut self, needed: impl FnOnce() -> Needed) {
        let Some(evict) = &mut self.evict else { return };
        if self.tidied.is_some_and(|at| at.elapsed() < TIDY_AGAIN) {
            return;
        }
        evict(needed(), self.marks.leave);
        self.measure();
        self.tidied = (self.free < self.marks.leave).then(Instant::now);
    }

    /// Something did not fit, whatever the last look said.
    pub(super) fn fill(&mut self) {
        if !std::mem::replace(&mut self.full, true) {
            tracing::error!(
                free = %self.free,
                disk = %self.at.display(),
                "the disk is full: the agent reports and stops jobs, and takes nothing new"
            );
        }
    }

    pub(super) const fn is_full(&self) -> bool {
        self.full
    }

    pub(super) const fn sample_not_kept(&mut self) {
        self.samples += 1;
    }

    /// The answer to whoever would begin something.
    pub(super) fn refusal(&self) -> StepError {
        StepError {
            retryable: false,
            cause: "disk_full".to_owned(),
            message: format!(
                "the node's disk is full ({} are free in {}); free disk space there",
                self.free,
                self.at.display()
            ),
            elsewhere: true,
        }
    }

    /// Does what must be done with what the reserve can give, piece by piece. `None` when even that was not enough.
    pub(super) fn squeeze<T, E>(
        &mut self,
        is_full_disk: impl Fn(&E) -> bool,
        mut write: impl FnMut() -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let mut piece = self.piece();
        loop {
            match write() {
                Err(error) if is_full_disk(&error) => {
                    self.fill();
                    if !self.give_back(piece) {
                        return Ok(None);
                    }
                    piece = piece.saturating_add(piece);
                }
                done => return done.map(Some),
            }
        }
    }

    fn piece(&self) -> Bytes {
        Bytes::new((self.marks.reserve.get() / PARTS).max(1))
    }

    /// What is set aside.
    fn reserved(&self) -> Bytes {
        Bytes::new(fs::metadata(&self.reserve).map_or(0, |facts| facts.len()))
    }

    /// Makes the reserve smaller; says whether that gave anything back.
    fn give_back(&self, piece: Bytes) -> bool {
        let shrunk = || -> io::Result<bool> {
            let file = File::options().write(true).open(&self.reserve)?;
            let left = file.metadata()?.len();
            if left == 0 {
                return Ok(false);
            }
            tracing::warn!(left, "the disk is full: a piece of the reserve is given back");
            file.set_len(left.saturating_sub(piece.get()))?;
            Ok(true)
        };
        shrunk().unwrap_or(false)
    }

    /// Sets the reserve aside when there is ample room and it is not there whole. Without it the agent works; it only
    /// loses this margin.
    fn set_aside(&mut self) {
        if self.full || self.reserved() >= self.marks.reserve || self.free < self.marks.ample {
            return;
        }
        if self.failed.is_some_and(|at| at.elapsed() < SET_ASIDE_AGAIN) {
            return;
        }
        self.failed = None;
        if let Err(error) = allocate(&self.reserve, self.marks.reserve) {
            tracing::warn!(path = %self.reserve.display(), "no reserve could be set aside: {error}");
            self.failed = Some(Instant::now());
            // An empty one would be taken for one that holds something.
            let _ = fs::remove_file(&self.reserve);
        }
    }
}

/// Really allocated: a file with a hole would reserve nothing.
fn allocate(path: &Path, size: Bytes) -> io::Result<()> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size.get())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVE: Bytes = Bytes::mib(1);

    /// Any disk has room, and none has so much that it would be left again.
    const MARKS: Marks = Marks {
        enter: Bytes::ZERO,
        leave: Bytes::new(u64::MAX),
        reserve: RESERVE,
        ample: Bytes::new(u64::MAX),
    };

    #[test]
    fn what_the_last_life_gave_back_does_not_look_like_room() {
        let scratch = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(scratch.path().to_owned());
        for (left, full) in [(RESERVE.get(), false), (RESERVE.get() / 2, true), (0, true)] {
            let file = File::create(layout.reserve()).expect("made");
            file.set_len(left).expect("set");
            assert_eq!(Room::on(&layout, MARKS).is_full(), full, "{left} bytes were left");
        }
    }

    #[test]
    fn a_reserve_that_cannot_be_set_aside_is_not_tried_at_each_turn() {
        let scratch = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(scratch.path().to_owned());
        // A folder in its place, where a file system that cannot do it is hard to come by.
        fs::create_dir(layout.reserve()).expect("made");
        let marks = Marks { leave: Bytes::ZERO, ample: Bytes::ZERO, ..MARKS };
        let mut room = Room::on(&layout, marks);
        assert!(room.failed.is_some());
        fs::remove_dir(layout.reserve()).expect("removed");
        room.look(Vec::new);
        assert!(!layout.reserve().exists(), "it is tried all the time");
        room.failed = None;
        room.look(Vec::new);
        assert_eq!(room.reserved(), RESERVE);
        assert!(room.give_back(RESERVE) && !room.give_back(RESERVE), "nothing is left to give");
    }
}
