//! Tools' own files of lines as they grow: LLaMA-Factory's `trainer_log.jsonl`, what torchtune's `DiskLogger` writes, and
//! what a program leaves in the folder of its metrics. Each line once; the torn one at the end waits. A line says its
//! step, or it is no figure. Lines are JSON; torchtune's are text, but with `output_fmt: jsonl`, which came after 0.6.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize as De, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::at::ReadAt;
use super::json::{self, Scalar};
use super::point::{Gather, Point, Progress, Source};
use super::printed::torch;
use crate::trainer::lines::{Line, take_lines};
use crate::trainer::{Dir, EntryKind, FileError, METRICS_NAME, RelPath, WalkBounds};

/// LLaMA-Factory's file, in its output folder.
const LLAMAFACTORY: &str = "trainer_log.jsonl";
/// Longest line; the most talkative tool writes a tenth of it.
const MAX_LINE_LEN: usize = 16 * 1024;
/// Bytes read in one look, of all files together.
pub(super) const MAX_READ_LEN: usize = 1024 * 1024;
/// Most figures of a line that are looked at.
const MAX_FIGURES: usize = 512;
/// Where else than directly in the folder: tools have a folder per run.
const BOUNDS: WalkBounds = WalkBounds { depth: 3, entries: 4096 };
/// Most files that are followed.
const MAX_FILES: usize = 64;
/// LLaMA-Factory's: what the step and the total say too, and a speed that after a resume counts the tokens of the
/// attempts before, over the time of this one.
const LEFT_OUT: [&str; 2] = ["percentage", "throughput"];

/// Which files are figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// LLaMA-Factory's.
    Llamafactory,
    /// torchtune's: `log_<seconds>.txt`, or `.jsonl`.
    Torchtune,
    /// Every `.jsonl` but the one that follows hone's own contract.
    Any,
}

/// Where reading goes on. Kept by the caller together with what was read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinesCursor {
    files: BTreeMap<String, FileCursor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct FileCursor {
    inode: u64,
    /// Bytes consumed: always a line's start, except while `skipping`.
    offset: u64,
    /// Inside a line that is too long and already counted.
    skipping: bool,
}

/// What one look yields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LinesBatch {
    /// New figures, in the files' order.
    pub points: Vec<Point>,
    /// How far training is, as the newest line says.
    pub progress: Progress,
    /// Lines that are no figures with a step.
    pub malformed: u64,
    /// Files that were emptied or replaced: read from their beginning.
    pub restarts: u64,
    /// There is more to read at once.
    pub more: bool,
}

impl Naming {
    fn fits(self, name: &str) -> bool {
        match self {
            Self::Llamafactory => name == LLAMAFACTORY,
            Self::Torchtune => name
                .strip_prefix("log_")
                .and_then(|rest| rest.strip_suffix(".jsonl").or(rest.strip_suffix(".txt")))
                .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())),
            Self::Any => name.ends_with(".jsonl") && name != METRICS_NAME,
        }
    }

    /// The files beneath `dir`. One whose place is known is not looked for: its folder may hold anything.
    fn files(self, dir: &Dir) -> Result<Vec<RelPath>, FileError> {
        if self == Self::Llamafactory {
            return Ok(vec![RelPath::constant(LLAMAFACTORY)]);
        }
        let entries = dir.walk(BOUNDS)?.into_iter();
        let is_one = |path: &RelPath| {
            let name = path.as_str().rsplit('/').next().unwrap_or_default();
            self.fits(name)
        };
        let files = entries.filter(|entry| entry.kind == EntryKind::File).map(|entry| entry.path);
        let mut files: Vec<_> = files.filter(is_one).collect();
        // Names hold times where they differ, and numbers of equal length.
        files.sort();
        files.truncate(MAX_FILES);
        Ok(files)
    }
}

/// Reads what is new in the files beneath `dir` since the cursor, at most 1 MiB of it, and moves the cursor.
///
/// # Errors
/// When the directory cannot be read or holds too much. A file that cannot be read is left for the next look.
pub fn poll(dir: &Dir, naming: Naming, cursor: &mut LinesCursor) -> Result<LinesBatch, FileError> {
    let mut batch = LinesBatch::default();
    let mut left = MAX_READ_LEN;
    let files = naming.files(dir)?;
    cursor.files.retain(|known, _| files.iter().any(|path| path.as_str() == known));
    for path in files {
        let Ok(Some(file)) = dir.file(&path) else { continue };
        let known = cursor.files.get(path.as_str()).copied();
        let at = look(&file, file.identity().inode(), known, &mut left, &mut batch)?;
        cursor.files.insert(path.as_str().to_owned(), at);
    }
    Ok(batch)
}

pub(super) fn look(
    file: &(impl ReadAt + ?Sized),
    inode: u64,
    known: Option<FileCursor>,
    left: &mut usize,
    batch: &mut LinesBatch,
) -> Result<FileCursor, FileError> {
    let begin = FileCursor { inode, ..FileCursor::default() };
    let mut at = match known {
        Some(known) if known.inode == inode && known.offset <= file.size() => known,
        Some(_) => {
            batch.restarts += 1;
            begin
        }
        None => begin,
    };
    let ahead = file.size() - at.offset;
    let wanted = usize::try_from(ahead).unwrap_or(*left).min(*left);
    let mut bytes = vec![0; wanted];
    let read = file.read_at(&mut bytes, at.offset)?;
    let taken = batch.take(&bytes[..read], &mut at.skipping);
    at.offset += taken as u64;
    // A torn line costs nothing: those after it must have their turn.
    *left -= taken;
    batch.more |= wanted as u64 != ahead;
    Ok(at)
}

impl LinesBatch {
    /// Consumes whole lines and says how many bytes they had.
    fn take(&mut self, bytes: &[u8], skipping: &mut bool) -> usize {
        take_lines(bytes, skipping, MAX_LINE_LEN, |line| {
            match line {
                Line::Whole(line) => match figures(line) {
                    Some(gather) if gather.progress.step.is_some() => {
                        self.progress.renew(gather.progress);
                        self.points.extend(gather.finish());
                    }
                    Some(_) | None => self.malformed += 1,
                },
                Line::TooLong => self.malformed += 1,
            }
            true
        })
    }
}

/// The figures of a line: an object of JSON, or torchtune's text.
fn figures(line: &[u8]) -> Option<Gather> {
    if line.starts_with(b"Step ") {
        let mut gather = Gather::new(Source::JsonLines);
        torch::put_torchtune(std::str::from_utf8(line).ok()?, &mut gather)?;
        return Some(gather);
    }
    json::from_slice::<Entry>(line).ok().map(|Entry(gather)| gather)
}

/// One line: the figures of an object, whatever else it holds.
struct Entry(Gather);

impl<'de> De<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Entry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
                let mut gather = Gather::new(Source::JsonLines);
                let mut left = MAX_FIGURES;
                while let Some((name, value)) = map.next_entry::<Cow<'_, str>, Scalar>()? {
                    let wanted = left > 0 && !LEFT_OUT.contains(&name.as_ref());
                    if let Some(value) = value.real().filter(|_| wanted) {
                        gather.put(&name, value);
                        left -= 1;
                    }
                }
                Ok(Entry(gather))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Reads a file that is not on a disk.
#[cfg(test)]
pub(super) fn flood(file: &(impl ReadAt + ?Sized), mut each: impl FnMut(LinesBatch)) -> u64 {
    let mut known = None;
    loop {
        let (mut left, mut batch) = (MAX_READ_LEN, LinesBatch::default());
        let at = look(file, 1, known, &mut left, &mut batch).expect("memory can be read");
        let more = batch.more;
        each(batch);
        if !more {
            return at.offset;
        }
        known = Some(at);
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
