//! TensorBoard's event files as they grow: each record once, the torn one at the end waited for.
//!
//! A file is a sequence of records: length (8 bytes), checksum of the length, payload, checksum of the payload; the
//! payload is an `Event` message. A record whose checksum is wrong ends its file, since nothing says where the next one
//! begins. Files are read in the order of the times in their names.

mod event;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::at::ReadAt;
use super::names::{self, Axis};
use super::point::{Gather, Point, Source, wall};
use crate::trainer::{Dir, EntryKind, FileError, RelPath, WalkBounds};

use event::Scalars;

/// What the names of these files contain.
const NAME_MARK: &str = ".tfevents.";
/// Bytes read in one look, of all files together.
const MAX_READ_LEN: usize = 1024 * 1024;
/// Largest payload that is read; what is larger holds pictures or graphs, not figures.
const MAX_PAYLOAD_LEN: u64 = 256 * 1024;
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
/// Folders whose figures were measured on rows held out.
const VALIDATION: [&str; 4] = ["validation", "val", "eval", "evaluation"];

/// Where reading goes on. Kept by the caller together with what was read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventsCursor {
    files: BTreeMap<String, FileCursor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct FileCursor {
    /// Bytes consumed: always a record's start.
    offset: u64,
    /// Nothing more is read of it.
    ended: bool,
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
    /// There is more to read at once.
    pub more: bool,
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
    let mut batch = EventsBatch { ignored, ..EventsBatch::default() };
    let mut left = MAX_READ_LEN;
    for path in files.into_iter().take(MAX_FILES) {
        let mut at = cursor.files.get(path.as_str()).copied().unwrap_or_default();
        if at.ended {
            continue;
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
fn look(
    file: &(impl ReadAt + ?Sized),
    path: &str,
    cursor: &mut FileCursor,
    most: usize,
    batch: &mut EventsBatch,
) -> Result<usize, FileError> {
    let size = file.size();
    if size < cursor.offset {
        cursor.ended = true;
        batch.corrupt += 1;
        return Ok(0);
    }
    let wanted = usize::try_from(size - cursor.offset).unwrap_or(most).min(most);
    let mut bytes = vec![0; wanted];
    let read = file.read_at(&mut bytes, cursor.offset)?;
    bytes.truncate(read);
    let mut taker = Taker::new(path);
    let mut at = 0;
    loop {
        match record(&bytes[at..], size - cursor.offset - at as u64) {
            Record::Whole(payload) => {
                match event::decode(payload) {
                    Some(scalars) => taker.take(scalars, &mut batch.points),
                    None => batch.malformed += 1,
                }
                at += HEAD_LEN + payload.len() + TAIL_LEN;
            }
            Record::Passed(length) => {
                batch.passed += 1;
                cursor.offset += at as u64 + length;
                taker.finish(&mut batch.points);
                batch.more = cursor.offset < size;
                return Ok(read);
            }
            Record::Torn => break,
            Record::Corrupt => {
                batch.corrupt += 1;
                cursor.ended = true;
                break;
            }
        }
    }
    taker.finish(&mut batch.points);
    cursor.offset += at as u64;
    // What was read up to the bound has more behind it, unless it is one torn record.
    batch.more |= !cursor.ended && read == most && at > 0 && cursor.offset < size;
    Ok(read)
}

/// What bytes begin with.
enum Record<'a> {
    Whole(&'a [u8]),
    /// Too large to hold figures: this many bytes long.
    Passed(u64),
    /// Its end is not there, or was not read.
    Torn,
    Corrupt,
}

/// The record at the start of `bytes`, of a file with `left` bytes from there.
fn record(bytes: &[u8], left: u64) -> Record<'_> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD_LEN) else { return Record::Torn };
    let (length, check) = head.split_at(8);
    if masked(length) != little(check) {
        return Record::Corrupt;
    }
    let length = little(length);
    if length > MAX_PASSED_LEN {
        return Record::Corrupt;
    }
    if length > MAX_PAYLOAD_LEN {
        let whole = HEAD_LEN as u64 + length + TAIL_LEN as u64;
        return if whole <= left { Record::Passed(whole) } else { Record::Torn };
    }
    let Ok(length) = usize::try_from(length) else { return Record::Corrupt };
    let Some((payload, rest)) = rest.split_at_checked(length) else { return Record::Torn };
    let Some(check) = rest.get(..TAIL_LEN) else { return Record::Torn };
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

/// Puts the events of one step together: tools write one for each figure.
struct Taker {
    validation: bool,
    open: Option<(i64, Axis, Gather)>,
}

impl Taker {
    fn new(path: &str) -> Self {
        let mut above = path.rsplit('/').skip(1);
        let validation = above.next().is_some_and(|folder| VALIDATION.contains(&folder));
        Self { validation, open: None }
    }

    fn take(&mut self, event: Scalars, points: &mut Vec<Point>) {
        for (tag, value) in event.values {
            let keras = names::keras_tag(&tag, self.validation);
            let axis = keras.as_ref().map_or(Axis::Step, |(_, axis)| *axis);
            if !matches!(&self.open, Some((step, other, _)) if (*step, *other) == (event.step, axis))
            {
                self.finish(points);
            }
            let (_, _, gather) =
                self.open.get_or_insert_with(|| (event.step, axis, begin(event.step, axis)));
            gather.at = wall(event.wall_time).or(gather.at);
            match keras {
                Some((name, _)) => gather.put(&name, value),
                // Of a folder of its own, and not said again in the tag.
                None if self.validation && !tag.contains('/') && !tag.starts_with("eval_") => {
                    gather.put(&format!("eval_{tag}"), value);
                }
                None => gather.put(&tag, value),
            }
        }
    }

    fn finish(&mut self, points: &mut Vec<Point>) {
        points.extend(self.open.take().into_iter().flat_map(|(_, _, gather)| gather.finish()));
    }
}

fn begin(step: i64, axis: Axis) -> Gather {
    let mut gather = Gather::new(Source::TensorBoard);
    let count = u64::try_from(step).ok();
    match axis {
        Axis::Step => gather.progress.step = count.map(hone_proto::id::Step::new),
        // At the end of the pass: the first is 0.
        Axis::Epoch => {
            gather.progress.epoch =
                count.map(|n| crate::observe::text::approximate(n.saturating_add(1)));
        }
    }
    gather
}

#[cfg(test)]
#[path = "tfevents_tests.rs"]
mod tests;
