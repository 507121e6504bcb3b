//! Series and logs of jobs and nodes: append-only files, too many and too large for the store.
//!
//! The rule of one turn: append every record to its streams, sync each stream once, and only then commit the batch that
//! holds the new lengths. At start each stream is cut back to the length that the store holds, so that what the store
//! does not know never happened, and what it knows is on the disk.
//!
//! ```text
//! DIR/series-<start>.seg            records
//! DIR/series-<start>.{10s,5m,1h}    rollups of a sealed segment
//! DIR/logs-<start>.seg
//! ```

pub mod rollup;
mod sealed;
mod segment;
mod stream;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use self::rollup::{Bucket, Point, Resolution, Rollup, roll_up};
pub use self::segment::{Entry, MAX_PAYLOAD, SegmentError, SegmentReader, SegmentWriter};
pub use self::stream::{SEGMENT_BYTES, Sealed, StreamFiles, StreamReader, StreamWriter};
use crate::durable;

/// The lengths of both streams, as the store records them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Lengths {
    /// Of the numeric records.
    pub series: u64,
    /// Of the log records.
    pub logs: u64,
}

/// The streams of one job or one node, open for appending.
#[derive(Debug)]
pub struct JobFiles {
    /// Numeric records.
    pub series: StreamWriter,
    /// Log records.
    pub logs: StreamWriter,
}

impl JobFiles {
    /// Opens the streams in `dir`, which is made if it is missing, and cuts them back to what was acknowledged.
    ///
    /// # Errors
    /// What was acknowledged is missing or damaged, or a file operation fails.
    pub fn open(dir: &Path, acknowledged: Lengths) -> Result<Self, SegmentError> {
        durable::create_dirs(dir).map_err(segment::io_at("create", dir))?;
        Ok(Self {
            series: StreamWriter::open(Self::series_in(dir), acknowledged.series)?,
            logs: StreamWriter::open(Self::logs_in(dir), acknowledged.logs)?,
        })
    }

    /// Makes everything appended to both durable, and returns the lengths for the batch.
    ///
    /// # Errors
    /// A write or a sync fails; the files must be opened again.
    pub fn sync(&mut self) -> Result<Lengths, SegmentError> {
        self.series.sync()?;
        self.logs.sync()?;
        Ok(Lengths { series: self.series.len(), logs: self.logs.len() })
    }

    /// The series in `dir`, for reading beside the writer.
    #[must_use]
    pub fn series_in(dir: &Path) -> StreamFiles {
        StreamFiles::new(dir, "series")
    }

    /// The logs in `dir`, for reading beside the writer.
    #[must_use]
    pub fn logs_in(dir: &Path) -> StreamFiles {
        StreamFiles::new(dir, "logs")
    }
}
