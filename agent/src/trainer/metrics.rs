//! Reading `metrics.jsonl` as it grows: resumable at any byte, each record once.
//!
//! The cursor moves only past whole lines, so that the trainer's file is the buffer: a reader that stops loses nothing.

use hone_proto::id::Attempt;
use serde::{Deserialize, Serialize};

use super::beneath::{Dir, FileError, RelPath};
use super::lines::{Line, take_lines};
use super::record::{RecordError, TrainerRecord};

/// Name of the file in the metrics directory.
pub const METRICS_NAME: &str = "metrics.jsonl";
/// Longest line, as the contract has it, without the newline.
const MAX_LINE_LEN: usize = 64 * 1024;
/// Bytes read in one go: a second's worth of the most talkative trainer, and what one hostile file may cost per look.
const MAX_READ_LEN: usize = 1024 * 1024;

/// Where reading goes on. Kept by the caller together with what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MetricsCursor {
    /// Bytes consumed; always a line's start, except while `skipping`.
    pub offset: u64,
    /// The highest record number delivered.
    pub last_seq: u64,
    /// Inside a line that is too long and already counted.
    pub skipping: bool,
}

/// What one look yields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetricsBatch {
    /// New records, in order.
    pub records: Vec<TrainerRecord>,
    /// Lines that are not records: lost.
    pub malformed: u64,
    /// Records of a kind that is not known here: lost to this version.
    pub unknown: u64,
    /// Records of another attempt, or with a number that was already delivered: not lost, not news.
    pub repeated: u64,
    /// Times the file was shorter than what had been read of it: somebody emptied or replaced it.
    pub restarts: u64,
    /// There is more to read at once.
    pub more: bool,
}

impl MetricsBatch {
    /// Whether nothing was read or noticed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Consumes what can be consumed of `bytes`, which start at the cursor.
    fn take(&mut self, attempt: Attempt, cursor: &mut MetricsCursor, bytes: &[u8]) {
        let MetricsCursor { offset, last_seq, skipping } = cursor;
        let taken = take_lines(bytes, skipping, MAX_LINE_LEN, |line| {
            match line {
                Line::Whole(line) => self.take_line(attempt, last_seq, line),
                Line::TooLong => self.malformed += 1,
            }
            true
        });
        *offset += taken as u64;
    }

    fn take_line(&mut self, attempt: Attempt, last_seq: &mut u64, line: &[u8]) {
        match TrainerRecord::parse(line) {
            Ok(record) if record.attempt != attempt || record.seq <= *last_seq => {
                self.repeated += 1;
            }
            Ok(record) => {
                *last_seq = record.seq;
                self.records.push(record);
            }
            Err(RecordError::UnknownKind) => self.unknown += 1,
            Err(RecordError::Malformed(_)) => self.malformed += 1,
        }
    }
}

/// Reads the metrics of one attempt.
#[derive(Debug)]
pub struct MetricsReader {
    dir: Dir,
    name: RelPath,
    attempt: Attempt,
}

impl MetricsReader {
    /// A reader of the attempt's metrics directory.
    #[must_use]
    pub fn new(dir: Dir, attempt: Attempt) -> Self {
        Self { dir, name: RelPath::constant(METRICS_NAME), attempt }
    }

    /// Reads what is new since the cursor, at most 1 MiB of it, and moves the cursor. A line without its end stays
    /// for later.
    ///
    /// # Errors
    /// When the file is not a plain file or cannot be read; the cursor stays.
    pub fn poll(&self, cursor: &mut MetricsCursor) -> Result<MetricsBatch, FileError> {
        let mut batch = MetricsBatch::default();
        let Some(file) = self.dir.file(&self.name)? else { return Ok(batch) };
        let mut next = *cursor;
        if file.len() < next.offset {
            // The numbers of the records still tell what was delivered.
            next = MetricsCursor { last_seq: next.last_seq, ..MetricsCursor::default() };
            batch.restarts += 1;
        }
        let wanted =
            usize::try_from(file.len() - next.offset).unwrap_or(MAX_READ_LEN).min(MAX_READ_LEN);
        let mut bytes = vec![0; wanted];
        let read = file.read_at(&mut bytes, next.offset)?;
        batch.take(self.attempt, &mut next, &bytes[..read]);
        batch.more =
            next.offset != cursor.offset && next.offset < file.len() && read == MAX_READ_LEN;
        *cursor = next;
        Ok(batch)
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
