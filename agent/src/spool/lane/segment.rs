//! One segment of a lane: a file of frames, each what one append wrote.
//!
//! ```text
//! <first seq, 16 hexadecimal digits>.seg:  frame*      frame = length u32, CRC32C u32, payload
//! ```
//! The first frame of a segment carries all live reader positions, so that older segments can go.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::spool::{SpoolError, io_at};

/// Length and checksum in front of each payload.
pub(super) const HEADER: usize = 8;

/// Largest payload: far above the largest batch of a reader, far below what memory could not take.
const MAX_FRAME: usize = 32 << 20;

/// What one append wrote.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Frame {
    /// Number of the first event.
    #[prost(uint64, tag = "1")]
    pub(super) first_seq: u64,
    /// Events in wire form.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(super) events: Vec<Vec<u8>>,
    /// Reader positions as of these events.
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub(super) cursors: BTreeMap<String, Vec<u8>>,
}

/// One segment file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// Number of the first event that it can hold.
    pub(super) first: u64,
    /// Number of the last event that it holds; below `first` when it holds none.
    pub(super) last: u64,
    pub(super) bytes: u64,
}

pub(super) fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:016x}.seg"))
}

pub(super) fn list(dir: &Path) -> Result<Vec<u64>, SpoolError> {
    let mut starts = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_at("list", dir))? {
        let name = entry.map_err(io_at("list", dir))?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        starts.extend(digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()));
    }
    Ok(starts)
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), SpoolError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_at("sync", dir))
}

/// Reads a segment through. The last one is cut after its last whole frame; in an older one a damaged frame ends what
/// can be read of it, and the rest becomes a hole.
pub(super) fn scan(
    path: PathBuf,
    first: u64,
    is_last: bool,
    cursors: &mut BTreeMap<String, Vec<u8>>,
) -> Result<Segment, SpoolError> {
    let file = File::open(&path).map_err(io_at("open", &path))?;
    let length = file.metadata().map_err(io_at("read", &path))?.len();
    let mut last = first - 1;
    let mut offset = 0;
    while let Some((frame, next)) =
        next_frame(&file, offset, length).map_err(io_at("read", &path))?
    {
        if let Some(newest) = u64::try_from(frame.events.len()).ok().filter(|count| *count > 0) {
            last = frame.first_seq + newest - 1;
        }
        cursors.extend(frame.cursors);
        offset = next;
    }
    if offset < length {
        tracing::warn!(path = %path.display(), offset, length, "the spool ends in a torn frame");
        if is_last {
            let file = OpenOptions::new().write(true).open(&path).map_err(io_at("open", &path))?;
            file.set_len(offset).and_then(|()| file.sync_all()).map_err(io_at("cut", &path))?;
        }
    }
    Ok(Segment { path, first, last, bytes: offset })
}

/// The frame at `offset` and where the next one starts; `None` at the end, and where the bytes are no frame.
pub(super) fn next_frame(
    file: &File,
    offset: u64,
    length: u64,
) -> io::Result<Option<(Frame, u64)>> {
    let body = offset + HEADER as u64;
    if body > length {
        return Ok(None);
    }
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, offset)?;
    let (size, crc) = header.split_at(4);
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u32, |n, b| n << 8 | u32::from(*b));
    let (size, crc) = (number(size), number(crc));
    let next = body + u64::from(size);
    if next > length || size as usize > MAX_FRAME {
        return Ok(None);
    }
    let mut payload = vec![0; size as usize];
    file.read_exact_at(&mut payload, body)?;
    if crc32c::crc32c(&payload) != crc {
        return Ok(None);
    }
    Ok(Frame::decode(payload.as_slice()).ok().map(|frame| (frame, next)))
}
