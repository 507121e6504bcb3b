//! The number of a commit that must be there, in a file beside the engine's.
//!
//! An engine that takes damage for the torn end of its log opens an older state, whole in itself. The watermark tells
//! that apart: it is raised after the commit that it names is durable, at most once a second, since each raise costs
//! a sync, and when the store is closed. So a fall back of more than a second is always noticed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{StoreError, io_at};
use crate::durable;

/// How far the watermark may trail the commits.
const EVERY: Duration = Duration::from_secs(1);

/// Two slots, written in turn, each in a sector of its own: a torn write leaves the other one.
const SLOT: usize = 4096;

/// One generation's watermark.
#[derive(Debug)]
pub(super) struct Watermark {
    file: File,
    path: PathBuf,
    seq: u64,
    /// The slot that holds it.
    slot: usize,
    raised: Instant,
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join("watermark")
}

fn encode(seq: u64) -> [u8; 12] {
    let mut slot = [0; 12];
    slot[..8].copy_from_slice(&seq.to_le_bytes());
    slot[8..].copy_from_slice(&crc32c::crc32c(&seq.to_le_bytes()).to_le_bytes());
    slot
}

fn decode(slot: [u8; 12]) -> Option<u64> {
    let seq = u64::from_le_bytes(*slot.first_chunk()?);
    (encode(seq) == slot).then_some(seq)
}

impl Watermark {
    /// Makes the watermark of a new generation. Durable on return.
    pub(super) fn create(dir: &Path, seq: u64) -> Result<Self, StoreError> {
        let path = path_in(dir);
        let mut bytes = [0; 2 * SLOT];
        for slot in bytes.chunks_exact_mut(SLOT) {
            slot[..12].copy_from_slice(&encode(seq));
        }
        durable::write_atomic(&path, &bytes).map_err(io_at("write", &path))?;
        Self::at(path, seq, 0)
    }

    /// Opens the watermark of a generation whose last commit is `found`; refuses one that names a later commit.
    pub(super) fn open(dir: &Path, found: u64) -> Result<Self, StoreError> {
        let path = path_in(dir);
        let bytes = std::fs::read(&path).map_err(io_at("read", &path))?;
        let damaged = |why: String| StoreError::Damaged { path: path.clone(), why };
        let slots = bytes.chunks(SLOT).map(|s| s.first_chunk().and_then(|s| decode(*s)));
        let newest = slots.enumerate().filter_map(|(slot, seq)| Some((seq?, slot))).max();
        let (seq, slot) =
            newest.ok_or_else(|| damaged("neither of its slots can be read".to_owned()))?;
        if seq > found {
            return Err(damaged(format!("commit {seq} was made, and the state ends at {found}")));
        }
        Self::at(path, seq, slot)
    }

    fn at(path: PathBuf, seq: u64, slot: usize) -> Result<Self, StoreError> {
        let file = OpenOptions::new().write(true).open(&path).map_err(io_at("open", &path))?;
        Ok(Self { file, path, seq, slot, raised: Instant::now() })
    }

    /// Notes that commit `seq` is durable.
    pub(super) fn raise(&mut self, seq: u64) -> Result<(), StoreError> {
        if self.raised.elapsed() < EVERY { Ok(()) } else { self.close(seq) }
    }

    /// As [`Watermark::raise`], at once.
    pub(super) fn close(&mut self, seq: u64) -> Result<(), StoreError> {
        if seq == self.seq {
            return Ok(());
        }
        let other = 1 - self.slot.min(1);
        let at = (other * SLOT) as u64;
        self.file.write_all_at(&encode(seq), at).map_err(io_at("write", &self.path))?;
        self.file.sync_data().map_err(io_at("sync", &self.path))?;
        (self.seq, self.slot, self.raised) = (seq, other, Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_behind_the_watermark_is_refused_and_one_ahead_of_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut watermark = Watermark::create(dir.path(), 4).unwrap();
        watermark.close(5).unwrap();
        watermark.close(9).unwrap();
        assert!(Watermark::open(dir.path(), 8).is_err());
        assert!(Watermark::open(dir.path(), 9).is_ok());
        assert!(Watermark::open(dir.path(), 12).is_ok());
    }

    #[test]
    fn a_torn_slot_leaves_the_other_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut watermark = Watermark::create(dir.path(), 2).unwrap();
        watermark.close(4).unwrap();
        watermark.close(6).unwrap();
        watermark.file.write_all_at(&[0xff; 5], (watermark.slot * SLOT) as u64).unwrap();
        assert!(Watermark::open(dir.path(), 3).is_err());
        assert!(Watermark::open(dir.path(), 4).is_ok());
        watermark.file.write_all_at(&[0xff; 5], ((1 - watermark.slot) * SLOT) as u64).unwrap();
        assert!(Watermark::open(dir.path(), 99).is_err());
    }
}
