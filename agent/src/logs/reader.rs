//! Finds the engine's log file across rotations and feeds the parser. Root-owned files only; nothing here is reachable
//! from inside a container.
//!
//! A file is known by its inode, by its time of birth where the file system keeps one, and by what stands just before the
//! position in it: a new file often gets the inode of one that was rotated away.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use hone_proto::time::WallNanos;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::LogItem;
use super::parser::{LogParser, Progress};

/// Most rotated files that are looked for; the agent asks the engine to keep five.
const MAX_FILES: usize = 32;
/// Bytes read in one go; a poll makes several until its own bound.
const READ_LEN: usize = 256 * 1024;
/// Bytes before the position by which a file is recognised: the end of a line, with its time in nanoseconds.
const MARK_LEN: usize = 64;
/// How often the list of files is read again while the engine renames them.
const MAX_RACES: usize = 8;

/// Where reading goes on. Kept by the caller together with the records read so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogCursor {
    /// Inode of the file; 0 before the first.
    pub inode: u64,
    /// When the file was made, in nanoseconds; 0 where the file system does not say.
    pub born: u64,
    /// Position in the file.
    pub offset: u64,
    /// Hash of what stands before that position.
    pub mark: u64,
    /// Position of the file's first byte, counted over all files: which generation of the log it is.
    pub base: u64,
    /// How far each output is delivered, counted over all files.
    pub progress: Progress,
}

/// What one look yields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogBatch {
    /// New records and gaps.
    pub items: Vec<LogItem>,
    /// The bound was reached: there is more to read at once.
    pub more: bool,
}

/// A file of the log and where it begins, counted over all files.
#[derive(Debug)]
struct Segment {
    file: File,
    id: FileId,
    base: u64,
}

/// What tells files apart while the engine renames them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    inode: u64,
    born: u64,
}

/// Reads the log of one container.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    parser: LogParser,
    /// From the file in which reading would resume to the one that is read; empty before the first.
    segments: VecDeque<Segment>,
    /// Where to go on, until the first file is open.
    start: Option<LogCursor>,
    /// Files that the engine keeps.
    kept: usize,
}

impl LogReader {
    /// A reader of the log at `path` (as `inspect` names it), from a cursor kept earlier. `kept` is how many files the
    /// engine was told to keep: a first look that finds so many cannot know that there were no more.
    #[must_use]
    pub fn new(path: PathBuf, cursor: LogCursor, kept: u32) -> Self {
        let parser = LogParser::new(cursor.progress);
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        Self { path, parser, segments: VecDeque::new(), start: Some(cursor), kept }
    }

    /// Reads what is new, at most about `max_bytes` of the engine's file. `now` is the wall clock.
    ///
    /// # Errors
    /// When a file cannot be read. What was read before stays readable: the cursor has not moved past it.
    pub fn poll(&mut self, now: WallNanos, max_bytes: usize) -> io::Result<LogBatch> {
        let mut batch = LogBatch::default();
        let mut left = max_bytes.max(1);
        if !self.open_first(&mut batch.items)? {
            return Ok(batch);
        }
        let mut buffer = vec![0; READ_LEN.min(left)];
        loop {
            let read = self.read(&mut buffer, &mut batch.items)?;
            left = left.saturating_sub(read);
            if left == 0 {
                batch.more = true;
                return Ok(batch);
            }
            if read == 0 && !self.advance(&mut batch.items)? {
                self.parser.idle(now, &mut batch.items);
                return Ok(batch);
            }
        }
    }

    /// Delivers what is still open: the container ended, and the last poll had no more to read.
    pub fn finish(&mut self) -> Vec<LogItem> {
        let mut items = Vec::new();
        self.parser.end_of_file(&mut items);
        self.parser.finish(&mut items);
        items
    }

    /// Where to go on from after everything that was delivered.
    ///
    /// # Errors
    /// When the file cannot be read back for its mark.
    pub fn cursor(&mut self) -> io::Result<LogCursor> {
        if let Some(start) = &self.start {
            return Ok(start.clone());
        }
        let progress = self.parser.progress();
        let resume = progress.resume();
        while self.segments.get(1).is_some_and(|next| next.base <= resume) {
            self.segments.pop_front();
        }
        let Some(segment) = self.segments.front() else {
            return Ok(LogCursor { progress, ..LogCursor::default() });
        };
        let offset = resume.saturating_sub(segment.base);
        let mark = mark(&segment.file, offset)?;
        let FileId { inode, born } = segment.id;
        Ok(LogCursor { inode, born, offset, mark, base: segment.base, progress })
    }

    /// Opens the file in which the cursor lies and those after it are reached from there. `false`: no file yet.
    fn open_first(&mut self, out: &mut Vec<LogItem>) -> io::Result<bool> {
        let Some(cursor) = self.start.clone() else { return Ok(true) };
        let Some(files) = scan(&self.path, self.kept)? else { return Ok(false) };
        let Some((oldest, oldest_id)) = files.first() else { return Ok(false) };
        let wanted = FileId { inode: cursor.inode, born: cursor.born };
        let known = |(file, id): &&(File, FileId)| {
            *id == wanted && matches!(mark(file, cursor.offset), Ok(mark) if mark == cursor.mark)
        };
        let segment = if cursor.inode == 0 && files.len() < self.kept {
            Segment { file: oldest.try_clone()?, id: *oldest_id, base: 0 }
        } else if let Some((file, id)) = files.iter().find(known) {
            Segment { file: file.try_clone()?, id: *id, base: cursor.base }
        } else {
            self.parser.lost(cursor.base + cursor.offset + 1, out);
            Segment { file: oldest.try_clone()?, id: *oldest_id, base: self.parser.fed() }
        };
        self.segments.push_back(segment);
        self.start = None;
        Ok(true)
    }

    fn read(&mut self, buffer: &mut [u8], out: &mut Vec<LogItem>) -> io::Result<usize> {
        let Some(segment) = self.segments.back() else { return Ok(0) };
        let offset = self.parser.fed().saturating_sub(segment.base);
        if segment.file.metadata()?.len() < offset {
            // Emptied in place: an engine does so when it was told to keep one file only.
            self.parser.lost(self.parser.fed() + 1, out);
            let base = self.parser.fed();
            let (file, id) = (segment.file.try_clone()?, segment.id);
            self.segments.clear();
            self.segments.push_back(Segment { file, id, base });
            return self.read(buffer, out);
        }
        let read = loop {
            match segment.file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.parser.push(&buffer[..read], out);
        Ok(read)
    }

    /// At the end of a file: goes on to the next when the engine has begun one. `false`: this is the newest.
    fn advance(&mut self, out: &mut Vec<LogItem>) -> io::Result<bool> {
        let Some(current) = self.segments.back() else { return Ok(false) };
        let Some(files) = scan(&self.path, self.kept)? else { return Ok(false) };
        let Some((_, newest)) = files.last() else { return Ok(false) };
        // An inode cannot be reused while we hold the file open.
        if *newest == current.id {
            return Ok(false);
        }
        // The engine writes nothing more to a file once it was renamed, but may have written since our last read.
        if self.drain(out)? {
            return Ok(true);
        }
        let current = self.segments.back().map(|segment| segment.id);
        let next = match files.iter().position(|(_, id)| Some(*id) == current) {
            Some(at) => {
                self.parser.end_of_file(out);
                files.get(at + 1)
            }
            None => {
                self.parser.lost(self.parser.fed() + 1, out);
                files.first()
            }
        };
        let Some((file, id)) = next else { return Ok(false) };
        let segment = Segment { file: file.try_clone()?, id: *id, base: self.parser.fed() };
        self.segments.push_back(segment);
        self.drop_settled();
        Ok(true)
    }

    /// Reads once more from a file that was rotated meanwhile. Returns whether there was something.
    fn drain(&mut self, out: &mut Vec<LogItem>) -> io::Result<bool> {
        let mut buffer = vec![0; READ_LEN];
        Ok(self.read(&mut buffer, out)? > 0)
    }

    /// Forgets files in which nothing is open any more, so that their disk space is freed.
    fn drop_settled(&mut self) {
        let resume = self.parser.progress().resume();
        while self.segments.get(1).is_some_and(|next| next.base <= resume) {
            self.segments.pop_front();
        }
    }
}

/// The files of a log, oldest first, each open. Taken again until two looks agree, since the engine renames them one
/// after the other. Nothing when they keep moving: another look comes soon.
fn scan(path: &Path, kept: usize) -> io::Result<Option<Vec<(File, FileId)>>> {
    let mut last = look(path, kept)?;
    for _ in 0..MAX_RACES {
        let again = look(path, kept)?;
        if again.iter().map(|(_, id)| id).eq(last.iter().map(|(_, id)| id)) {
            return Ok(Some(again));
        }
        last = again;
    }
    Ok(None)
}

/// One look, from the newest name to the oldest: files only move that way, so that none is missed. In the middle of a
/// rotation one name is free, and a file may be met twice.
fn look(path: &Path, kept: usize) -> io::Result<Vec<(File, FileId)>> {
    let mut found: VecDeque<(File, FileId)> = VecDeque::new();
    for generation in 0..=kept.min(MAX_FILES) {
        let mut name = OsString::from(path);
        if generation > 0 {
            name.push(format!(".{generation}"));
        }
        match open(Path::new(&name)) {
            Ok((_, id)) if found.iter().any(|(_, known)| *known == id) => {}
            Ok(opened) => found.push_front(opened),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found.into())
}

fn open(path: &Path) -> io::Result<(File, FileId)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a log of the engine is not a regular file",
        ));
    }
    let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let born = born.and_then(|age| u64::try_from(age.as_nanos()).ok()).unwrap_or(0);
    Ok((file, FileId { inode: metadata.ino(), born }))
}

/// A hash of what stands just before `offset`.
fn mark(file: &File, offset: u64) -> io::Result<u64> {
    let mut bytes = [0; MARK_LEN];
    let length = usize::try_from(offset).unwrap_or(MARK_LEN).min(MARK_LEN);
    let bytes = &mut bytes[..length];
    file.read_exact_at(bytes, offset - length as u64)?;
    let hash = blake3::hash(bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    Ok(u64::from_le_bytes(first))
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
