//! TensorBoard's event files as they grow: each record once, the torn one at the end waited for.
//!
//! A file is a sequence of records: length (8 bytes), checksum of the length, payload, checksum of the payload; the
//! payload is an `Event` message. A record whose checksum is wrong ends its file, since nothing says where the next one
//! begins. Files are read in the order of the times in their names.

mod event;
mod taker;

use std::collections::{BTreeMap, BTreeSet};

use hone_proto::id::Step;
use serde::{Deserialize, Serialize};

use super::at::ReadAt;
use super::point::Point;
use crate::trainer::{Dir, EntryKind, FileError, RelPath, WalkBounds};

use taker::{Evaluated, Taker};

/// What the names of these files contain.
const NAME_MARK: &str = ".tfevents.";
/// Bytes read in one look, of all files together.
pub(super) const MAX_READ_LEN: usize = 1024 * 1024;
/// Largest payload that is read; what is larger holds pictures or graphs, not figures. One that is made of empty values
/// takes many times as much when it is decoded.
const MAX_PAYLOAD_LEN: u64 = 64 * 1024;
/// Largest payload that is passed over. Nothing writes larger ones, and the format of messages ends at 2 GiB.
const MAX_PASSED_LEN: u64 = 1 << 31;
/// Length and its checksum.
const HEAD_LEN: usize = 12;
/// The payload's checksum.
const TAIL_LEN: usize = 4;
/// How deep and how many: tools have a folder per run, and one for training and validation each.
const BOUNDS: WalkBounds = WalkBounds { depth: 4, entries: 4096 };
/// Most files that are followed.
const MAX_FILES: usize = 512;

/// Where reading goes on. Kept by the caller together with what was read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventsCursor {
    files: BTreeMap<String, FileCursor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct FileCursor {
    /// Bytes consumed: always a record's start.
    offset: u64,
    /// Nothing more is read of it.
    pub(super) ended: bool,
    /// Its size when it was looked at last.
    #[serde(default)]
    size: u64,
    /// The size at which the torn record at the offset is whole: before, it need not be read again.
    #[serde(default)]
    whole_at: u64,
    /// Keras's newest evaluation in it.
    #[serde(default)]
    evaluated: Option<Evaluated>,
}

/// What one look yields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EventsBatch {
    /// New figures, in the files' order.
    pub points: Vec<Point>,
    /// Files that are damaged or were cut: what follows in them is lost.
    pub corrupt: u64,
    /// Records that are whole and no events: lost.
    pub malformed: u64,
    /// Records that are too large to hold figures: passed over.
    pub passed: u64,
    /// Files beyond the number that is followed.
    pub ignored: u64,
    /// Whole passes over the data and the steps at which they ended, as Keras's evaluations say.
    pub passes: Vec<(u64, Step)>,
    /// There is more to read at once.
    pub more: bool,
    /// The last step of a file that grows waits for the next look: its figures stand together, or the better of two for
    /// one name could not be told.
    pub held: bool,
}

/// Reads what is new in the event files beneath `dir` since the cursor, at most 1 MiB of it, and moves the cursor.
///
/// # Errors
/// When the directory cannot be read or holds too much. A file that cannot be read is left for the next look.
pub fn poll(dir: &Dir, cursor: &mut EventsCursor) -> Result<EventsBatch, FileError> {
    let mut files: Vec<RelPath> = dir
        .walk(BOUNDS)?
        .into_iter()
        .filter(|entry| entry.kind == EntryKind::File && entry.path.as_str().contains(NAME_MARK))
        .map(|entry| entry.path)
        .collect();
    files.sort_by_cached_key(|path| (time_in_name(path.as_str()), path.clone()));
    let ignored = files.len().saturating_sub(MAX_FILES) as u64;
    // What is gone need not be remembered: names could be made without end.
    let names: BTreeSet<&str> = files.iter().map(RelPath::as_str).collect();
    cursor.files.retain(|known, _| names.contains(known.as_str()));
    let mut batch = EventsBatch { ignored, ..EventsBatch::default() };
    let mut left = MAX_READ_LEN;
    for path in files.into_iter().take(MAX_FILES) {
        let mut at = cursor.files.get(path.as_str()).copied().unwrap_or_default();
        if at.ended {
            continue;
        }
        if left == 0 {
            // It comes first in the next look, when those before it have nothing new.
            batch.more = true;
            break;
        }
        let Ok(Some(file)) = dir.file(&path) else { continue };
        left -= look(&file, path.as_str(), &mut at, left, &mut batch)?;
        cursor.files.insert(path.as_str().to_owned(), at);
        if batch.more {
            break;
        }
    }
    Ok(batch)
}

/// The seconds in a file's name, as text that sorts: `events.out.tfevents.1795451049.host.1.0`.
fn time_in_name(path: &str) -> (usize, String) {
    let after = path.rsplit_once(NAME_MARK).map_or("", |(_, after)| after);
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    let digits = digits.trim_start_matches('0');
    (digits.len(), digits.to_owned())
}

/// Reads at most `most` bytes of one file and says how many were used up.
pub(super) fn look(
    file: &(impl ReadAt + ?Sized),
    path: &str,
    cursor: &mut FileCursor,
    most: usize,
    batch: &mut EventsBatch,
) -> Result<usize, FileError> {
    let size = file.size();
    let grows = std::mem::replace(&mut cursor.size, size) != size;
    if size < cursor.offset {
        cursor.ended = true;
        batch.corrupt += 1;
        return Ok(0);
    }
    if size < cursor.whole_at {
        return Ok(0);
    }
    let wanted = usize::try_from(size - cursor.offset).unwrap_or(most).min(most);
    let mut bytes = vec![0; wanted];
    let read = file.read_at(&mut bytes, cursor.offset)?;
    bytes.truncate(read);
    let mut taker = Taker::new(path, cursor.evaluated);
    let (mut at, rest, mark) = records(&bytes, size - cursor.offset, &mut taker, batch);
    let mut passed = 0;
    cursor.whole_at = 0;
    match rest {
        Record::Whole(_) => {}
        Record::Passed(length) => {
            batch.passed += 1;
            passed = length;
        }
        Record::Torn(_) if taker.is_open() && mark.is_worth(grows, read < most) => {
            at = mark.go_back(&mut taker, batch);
            batch.held |= read < most;
        }
        Record::Torn(length) => cursor.whole_at = cursor.offset + at as u64 + length,
        Record::Corrupt => {
            batch.corrupt += 1;
            cursor.ended = true;
        }
    }
    taker.finish(&mut batch.points);
    cursor.evaluated = taker.evaluated();
    cursor.offset += at as u64 + passed;
    // What was read up to the bound has more behind it, unless it is one torn record.
    let bounded = read == most && at > 0;
    batch.more |= !cursor.ended && (bounded || passed > 0) && cursor.offset < size;
    Ok(read)
}

/// Takes whole records. How long they are, what follows them, and where the last step begins.
fn records<'a>(
    bytes: &'a [u8],
    left: u64,
    taker: &mut Taker,
    batch: &mut EventsBatch,
) -> (usize, Record<'a>, Mark) {
    let mut mark = Mark::new(0, taker, batch);
    let mut at = 0;
    loop {
        let payload = match record(&bytes[at..], left - at as u64) {
            Record::Whole(payload) => payload,
            other => return (at, other, mark),
        };
        match event::decode(payload) {
            Some(scalars) => {
                if taker.is_at_another(scalars.step) {
                    taker.finish(&mut batch.points);
                    mark = Mark::new(at, taker, batch);
                }
                taker.take(scalars, &mut batch.points, &mut batch.passes);
            }
            None => batch.malformed += 1,
        }
        at += HEAD_LEN + payload.len() + TAIL_LEN;
    }
}

/// Where the records of a step begin, to come back to.
struct Mark {
    at: usize,
    points: usize,
    passes: usize,
    malformed: u64,
    evaluated: Option<Evaluated>,
}

impl Mark {
    const fn new(at: usize, taker: &Taker, batch: &EventsBatch) -> Self {
        let (points, passes) = (batch.points.len(), batch.passes.len());
        Self { at, points, passes, malformed: batch.malformed, evaluated: taker.evaluated() }
    }

    /// Whether the rest of the step may come: the file grows, or has more than could be read at once.
    const fn is_worth(&self, grows: bool, to_the_end: bool) -> bool {
        if to_the_end { grows } else { self.at > 0 }
    }

    /// As if nothing had been read after it. Returns the place.
    fn go_back(&self, taker: &mut Taker, batch: &mut EventsBatch) -> usize {
        taker.go_back(self.evaluated);
        batch.points.truncate(self.points);
        batch.passes.truncate(self.passes);
        batch.malformed = self.malformed;
        self.at
    }
}

/// What bytes begin with.
enum Record<'a> {
    Whole(&'a [u8]),
    /// Too large to hold figures: this many bytes long.
    Passed(u64),
    /// Its end is not there, or was not read: at least this many bytes long.
    Torn(u64),
    Corrupt,
}

/// The record at the start of `bytes`, of a file with `left` bytes from there.
fn record(bytes: &[u8], left: u64) -> Record<'_> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD_LEN) else {
        return Record::Torn(HEAD_LEN as u64);
    };
    let (length, check) = head.split_at(8);
    if masked(length) != little(check) {
        return Record::Corrupt;
    }
    let length = little(length);
    if length > MAX_PASSED_LEN {
        return Record::Corrupt;
    }
    let all = HEAD_LEN as u64 + length + TAIL_LEN as u64;
    if length > MAX_PAYLOAD_LEN {
        return if all <= left { Record::Passed(all) } else { Record::Torn(all) };
    }
    let Ok(length) = usize::try_from(length) else { return Record::Corrupt };
    let Some((payload, rest)) = rest.split_at_checked(length) else { return Record::Torn(all) };
    let Some(check) = rest.get(..TAIL_LEN) else { return Record::Torn(all) };
    if masked(payload) == little(check) { Record::Whole(payload) } else { Record::Corrupt }
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// The checksum as these files have it: rotated and moved, so that a file within a file does not fool it.
fn masked(bytes: &[u8]) -> u64 {
    let crc = crc32c::crc32c(bytes);
    u64::from(crc.rotate_right(15).wrapping_add(0xa282_ead8))
}

/// Reads a file that is not on a disk.
#[cfg(test)]
pub(super) fn flood(file: &(impl ReadAt + ?Sized), mut each: impl FnMut(EventsBatch)) -> u64 {
    let mut cursor = FileCursor::default();
    loop {
        let mut batch = EventsBatch::default();
        look(file, "x", &mut cursor, MAX_READ_LEN, &mut batch).expect("memory can be read");
        let more = !cursor.ended && (batch.more || batch.held);
        each(batch);
        if !more {
            return cursor.offset;
        }
    }
}

/// A record as it stands in a file.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn framed(payload: &[u8]) -> Vec<u8> {
    let check = |bytes: &[u8]| u32::try_from(masked(bytes)).expect("32 bits").to_le_bytes();
    let length = (payload.len() as u64).to_le_bytes();
    [&length[..], &check(&length), payload, &check(payload)].concat()
}

#[cfg(test)]
#[path = "tfevents_tests.rs"]
mod tests;
