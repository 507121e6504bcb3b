//! What a container printed, as records: one line each, or one whole traceback.
//!
//! The engine writes stdout and stderr to a file of its own (json-file driver), which the container cannot reach. The
//! agent reads that file by inode and position, so that nothing is lost while the agent is down until the engine's own
//! bound, and what the bound cost is a [`LogGap`].
//!
//! [`parser`] is the pure core: bytes in, records out, resumable at any byte. [`LogReader`] is the thin edge that finds
//! the right file across rotations.

use hone_proto::event::Level;
use hone_proto::time::WallNanos;

mod bars;
mod clip;
mod level;
mod line;
pub mod parser;
mod reader;
mod text;
mod trace;

pub use bars::Bar;
pub use reader::{LogBatch, LogCursor, LogReader};
pub use text::clean_text;

/// Longest text of a record. Longer ones lose their middle: how a traceback ends says the most.
pub const MAX_TEXT_LEN: usize = 16 * 1024;

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Output {
    /// The standard output.
    Stdout,
    /// The standard error.
    Stderr,
}

impl Output {
    /// Its name, on the wire and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When its first part was written, by the node's wall clock.
    pub at: WallNanos,
    /// Where.
    pub output: Output,
    /// How grave, as the text itself says.
    pub level: Level,
    /// The text, cleaned, without its last newline, at most [`MAX_TEXT_LEN`] bytes.
    pub text: String,
    /// Progress bars that were drawn on the line, also those that were drawn over.
    pub bars: Vec<Bar>,
}

/// Why output is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GapCause {
    /// The engine rotated it away before it was read.
    Rotated,
    /// The engine's file holds something that is not its format, as after a power cut.
    Unreadable,
}

/// Output that is missing between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogGap {
    /// Why.
    pub cause: GapCause,
    /// Lines lost, when they can be counted; what was rotated away cannot.
    pub lines: Option<u64>,
}

/// A record, or the place of missing ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogItem {
    /// A record.
    Line(LogLine),
    /// Something is missing here.
    Gap(LogGap),
}
