//! One stream of records over several segments. A place in a stream counts bytes since its beginning, whatever segments
//! they lie in; a segment's file is named by the place where it starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::rollup::{Point, Resolution, Rollup};
use super::sealed;
use super::segment::{Entry, SegmentError, SegmentReader, SegmentWriter, io_at, stored_len};

/// A segment that has reached this size is sealed: small enough to check and to roll up in a moment.
pub const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

/// The files of one stream.
#[derive(Debug, Clone)]
pub struct StreamFiles {
    dir: PathBuf,
    name: &'static str,
}

/// A sealed segment: it no longer changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Where it starts in the stream.
    pub start: u64,
    /// Where the next one starts.
    pub end: u64,
}

impl StreamFiles {
    pub(super) fn new(dir: &Path, name: &'static str) -> Self {
        Self { dir: dir.to_owned(), name }
    }

    fn segment(&self, start: u64) -> PathBuf {
        self.dir.join(format!("{}-{start:016x}.seg", self.name))
    }

    /// Where the segments on the disk start, ascending: places where reading may begin.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn starts(&self) -> Result<Vec<u64>, SegmentError> {
        let mut starts = Vec::new();
        let listing = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(starts),
            other => other.map_err(io_at("list", &self.dir))?,
        };
        for entry in listing {
            let name = entry.map_err(io_at("list", &self.dir))?.file_name();
            let digits = name
                .to_str()
                .and_then(|name| name.strip_prefix(self.name)?.strip_prefix('-'))
                .and_then(|rest| rest.strip_suffix(".seg"));
            starts.extend(digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()));
        }
        starts.sort_unstable();
        Ok(starts)
    }

    /// Reads the records from `from`, which is 0 or an [`Entry::next`] of this stream, to `end`, which is a length that
    /// the store recorded. May run beside the writer.
    ///
    /// # Errors
    /// A directory cannot be listed. The iterator yields what goes wrong later, and then ends.
    pub fn read(&self, from: u64, end: u64) -> Result<StreamReader, SegmentError> {
        let mut starts = self.starts()?;
        starts.retain(|start| *start < end);
        let skipped = starts.partition_point(|start| *start <= from).saturating_sub(1);
        let starts = starts.split_off(skipped.min(starts.len()));
        Ok(StreamReader { files: self.clone(), starts: starts.into(), at: from, end, open: None })
    }

    /// Where the stream begins on the disk: after 0 when its oldest segments were removed.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn first(&self) -> Result<u64, SegmentError> {
        Ok(self.starts()?.first().copied().unwrap_or(0))
    }

    /// How much of the first `end` bytes is there and whole; only the last segment is looked at. For a disk that may have
    /// lost files, or has them from another time.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn whole_until(&self, end: u64) -> Result<u64, SegmentError> {
        let Some(start) = self.starts()?.into_iter().rev().find(|start| *start < end) else {
            return Ok(0);
        };
        let path = self.segment(start);
        if stored_len(&path).is_ok_and(|len| len >= end - start) {
            return Ok(end);
        }
        let mut whole = start;
        let records = match SegmentReader::open(&path, 0, end - start) {
            Err(SegmentError::Damaged { .. }) => return Ok(start),
            other => other?,
        };
        for entry in records {
            match entry {
                Err(SegmentError::Damaged { .. }) => break,
                other => whole = start + other?.next,
            }
        }
        Ok(whole)
    }

    /// The sealed segments below `end`, which is a length that the store recorded.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn sealed(&self, end: u64) -> Result<Vec<Sealed>, SegmentError> {
        let starts = self.starts()?;
        let pairs = starts.windows(2).map(|pair| Sealed { start: pair[0], end: pair[1] });
        Ok(pairs.filter(|segment| segment.end <= end).collect())
    }

    /// Makes the missing rollups of all sealed segments below `end`; returns of how many. Run it off the driver's
    /// thread: it reads whole segments. `points` reads one record.
    ///
    /// # Errors
    /// A segment is damaged, or a file operation fails.
    pub fn roll_up_sealed(
        &self,
        end: u64,
        points: impl Fn(&[u8]) -> Vec<Point>,
    ) -> Result<usize, SegmentError> {
        let mut made = 0;
        for segment in self.sealed(end)? {
            let path = self.segment(segment.start);
            // The coarsest is written last: where it is, all are.
            if !sealed::rollup_path(&path, Resolution::Hour).is_file() {
                sealed::write_rollups(&path, segment.end - segment.start, &points)?;
                made += 1;
            }
        }
        Ok(made)
    }

    /// The whole stream up to `end` at one resolution: from the rollups of sealed segments where these exist, from the
    /// records otherwise.
    ///
    /// # Errors
    /// A segment is damaged or cannot be read.
    pub fn rollup(
        &self,
        resolution: Resolution,
        end: u64,
        points: impl Fn(&[u8]) -> Vec<Point>,
    ) -> Result<Rollup, SegmentError> {
        let mut whole = Rollup::new(resolution);
        let mut records_from = None;
        for segment in self.sealed(end)? {
            match sealed::read(&self.segment(segment.start), resolution) {
                Some(rollup) => whole.merge(&rollup),
                None => self.add_records(&mut whole, segment.start, segment.end, &points)?,
            }
            records_from = Some(segment.end);
        }
        let first = self.starts()?.first().copied().unwrap_or(0);
        self.add_records(&mut whole, records_from.unwrap_or(first), end, &points)?;
        Ok(whole)
    }

    fn add_records(
        &self,
        whole: &mut Rollup,
        from: u64,
        end: u64,
        points: &impl Fn(&[u8]) -> Vec<Point>,
    ) -> Result<(), SegmentError> {
        for entry in self.read(from, end)? {
            whole.extend(points(&entry?.payload));
        }
        Ok(())
    }
}

/// Appends to a stream.
#[derive(Debug)]
pub struct StreamWriter {
    files: StreamFiles,
    start: u64,
    segment: SegmentWriter,
    segment_bytes: u64,
    /// How much of the stream stays on the disk at least; `None` is all of it.
    keep: Option<u64>,
}

impl StreamWriter {
    /// Opens a stream whose first `committed_len` bytes were acknowledged. What lies beyond is removed.
    ///
    /// # Errors
    /// The acknowledged part of the last segment is short or damaged, or a file operation fails.
    pub fn open(files: StreamFiles, committed_len: u64) -> Result<Self, SegmentError> {
        let starts = files.starts()?;
        let kept = starts.partition_point(|start| *start < committed_len);
        for start in &starts[kept..] {
            let path = files.segment(*start);
            sealed::remove_rollups(&path)?;
            fs::remove_file(&path).map_err(io_at("remove", &path))?;
        }
        let start = match starts[..kept].last() {
            Some(start) => *start,
            None if committed_len == 0 => 0,
            None => {
                let (path, why) = (files.segment(0), "all of its segments are missing");
                return Err(SegmentError::Damaged { path, offset: 0, why });
            }
        };
        let path = files.segment(start);
        sealed::remove_rollups(&path)?;
        let segment = SegmentWriter::open(&path, committed_len - start)?;
        Ok(Self { files, start, segment, segment_bytes: SEGMENT_BYTES, keep: None })
    }

    /// Appends a record and returns the stream's new length. Durable only after [`StreamWriter::sync`].
    ///
    /// # Errors
    /// The payload is too large, which changes nothing; or a write fails, and the stream must be opened again.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, SegmentError> {
        if self.segment.len() >= self.segment_bytes {
            self.segment.sync()?;
            let start = self.len();
            self.segment = SegmentWriter::create(&self.files.segment(start))?;
            self.start = start;
            self.forget_oldest()?;
        }
        Ok(self.start + self.segment.append(payload)?)
    }

    /// Keeps only the newest so many bytes, and what else lies in their segments.
    #[must_use]
    pub fn keeping(self, bytes: u64) -> Self {
        Self { keep: Some(bytes), ..self }
    }

    /// Removes whole segments from the beginning. What is removed was durable and is wanted no more, so that it does not
    /// matter in which order a crash undoes this.
    fn forget_oldest(&self) -> Result<(), SegmentError> {
        let Some(unwanted) = self.keep.and_then(|keep| self.start.checked_sub(keep)) else {
            return Ok(());
        };
        for segment in self.files.sealed(self.start)? {
            if segment.end <= unwanted {
                let path = self.files.segment(segment.start);
                sealed::remove_rollups(&path)?;
                fs::remove_file(&path).map_err(io_at("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Makes everything appended durable.
    ///
    /// # Errors
    /// A write or the sync fails, and the stream must be opened again.
    pub fn sync(&mut self) -> Result<(), SegmentError> {
        self.segment.sync()
    }

    /// The length with everything appended: what goes into the batch after a sync.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.start + self.segment.len()
    }

    /// Whether nothing was ever appended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The files, for readers.
    #[must_use]
    pub fn files(&self) -> &StreamFiles {
        &self.files
    }

    #[cfg(test)]
    pub(super) fn seal_at(&mut self, segment_bytes: u64) {
        self.segment_bytes = segment_bytes;
    }
}

/// Reads records across segments; ends after the first error.
#[derive(Debug)]
pub struct StreamReader {
    files: StreamFiles,
    starts: std::collections::VecDeque<u64>,
    at: u64,
    end: u64,
    open: Option<(u64, SegmentReader)>,
}

impl StreamReader {
    fn step(&mut self) -> Result<Option<Entry>, SegmentError> {
        loop {
            if let Some((start, segment)) = &mut self.open
                && let Some(entry) = segment.next()
            {
                let entry = entry?;
                let (at, next) = (*start + entry.at, *start + entry.next);
                self.at = next;
                return Ok(Some(Entry { at, next, ..entry }));
            }
            if self.at >= self.end {
                return Ok(None);
            }
            let Some(start) = self.starts.pop_front() else {
                let path = self.files.segment(self.at);
                return Err(SegmentError::Damaged { path, offset: 0, why: "it is missing" });
            };
            let stop = self.starts.front().copied().unwrap_or(u64::MAX).min(self.end);
            if self.at < start || self.at > stop {
                let path = self.files.segment(self.at);
                return Err(SegmentError::Damaged { path, offset: 0, why: "it is missing" });
            }
            let path = self.files.segment(start);
            let reader = SegmentReader::open(&path, self.at - start, stop - start)?;
            self.open = Some((start, reader));
        }
    }
}

impl Iterator for StreamReader {
    type Item = Result<Entry, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.step();
        if result.is_err() {
            (self.at, self.open) = (self.end, None);
            self.starts.clear();
        }
        result.transpose()
    }
}
