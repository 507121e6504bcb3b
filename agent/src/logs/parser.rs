//! The pure core of log reading: the engine's bytes in, records out.
//!
//! Positions count bytes from where reading first began, across rotations. The core can be thrown away at any moment and
//! made anew from its [`Progress`]: fed again from `Progress::resume()`, it yields exactly the records that are still
//! missing, each once. To that end lines of one output are told from those of the other: while a traceback on stderr is
//! still open, lines of stdout go on being delivered, and `done` says how far each of them is.
//!
//! What belongs together is decided by content and by the engine's own timestamps, never by when it happens to be read.

use std::time::Duration;

use hone_proto::event::Level;
use hone_proto::time::WallNanos;
use serde::{Deserialize, Serialize};

use super::bars::Bars;
use super::clip::Clip;
use super::line::EngineLine;
use super::text::Cleaner;
use super::trace::Trace;
use super::{GapCause, LogGap, LogItem, LogLine, Output, level};

/// Lines further apart than this are not one record: a traceback is printed at once.
const JOIN_WINDOW: Duration = Duration::from_secs(2);
/// How long after the window an open record is delivered although nothing followed it: the engine may be slow to write.
const SLACK: Duration = Duration::from_secs(3);
/// Longest line of the engine's file: 16 KiB of output, each byte escaped in six, with room to spare.
const MAX_ENGINE_LINE_LEN: usize = 256 * 1024;
/// Most output that is held back to become one record; beyond it the record is delivered as it is.
const MAX_HELD_LEN: usize = 256 * 1024;

/// How far reading is: enough to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Up to where stdout is delivered.
    pub stdout: u64,
    /// Up to where stderr is delivered.
    pub stderr: u64,
    /// Up to where unreadable lines are reported.
    pub unreadable: u64,
    /// Inside an unreadable line that is already reported.
    pub skipping: bool,
}

impl Progress {
    /// The position to feed from.
    #[must_use]
    pub fn resume(&self) -> u64 {
        self.stdout.min(self.stderr).min(self.unreadable)
    }

    /// Everything before `position` is settled.
    #[must_use]
    pub const fn at(position: u64) -> Self {
        Self { stdout: position, stderr: position, unreadable: position, skipping: false }
    }

    const fn of(&self, output: Output) -> u64 {
        match output {
            Output::Stdout => self.stdout,
            Output::Stderr => self.stderr,
        }
    }
}

/// Turns bytes into records.
#[derive(Debug)]
pub struct LogParser {
    /// What was settled before this parser began.
    settled: Progress,
    /// Position of the first byte in `buffer`.
    position: u64,
    /// The beginning of a line whose end has not come.
    buffer: Vec<u8>,
    skipping: bool,
    open: [Open; 2],
    /// Those of a line that is blank in the end go along with the next one.
    bars: [Bars; 2],
}

/// What is being put together on one output.
#[derive(Debug, Default)]
struct Open {
    line: Option<Line>,
    record: Option<Record>,
}

/// A line of output that comes in pieces.
#[derive(Debug)]
struct Line {
    start: u64,
    first: WallNanos,
    last: WallNanos,
    raw_len: usize,
    text: Clip,
    cleaner: Cleaner,
    /// A carriage return came: what follows on the same line replaces it, as on a terminal.
    returned: bool,
}

/// A traceback that may go on.
#[derive(Debug)]
struct Record {
    start: u64,
    first: WallNanos,
    last: WallNanos,
    raw_len: usize,
    text: Clip,
    trace: Trace,
}

impl LogParser {
    /// A parser that is fed from `progress.resume()` on.
    #[must_use]
    pub fn new(progress: Progress) -> Self {
        Self {
            settled: progress,
            position: progress.resume(),
            buffer: Vec::new(),
            // While a line is skipped nothing before it can be open, or resuming would begin there.
            skipping: progress.skipping && progress.unreadable == progress.resume(),
            open: [Open::default(), Open::default()],
            bars: [Bars::default(), Bars::default()],
        }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<LogItem>) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (piece, rest) = bytes.split_at(end + 1);
            if self.buffer.is_empty() {
                self.line(&piece[..end], piece.len(), out);
            } else {
                self.buffer.extend_from_slice(piece);
                let line = std::mem::take(&mut self.buffer);
                self.line(&line[..line.len() - 1], line.len(), out);
            }
            bytes = rest;
        }
        self.buffer.extend_from_slice(bytes);
        if self.skipping {
            self.position += self.buffer.len() as u64;
            self.buffer.clear();
        } else if self.buffer.len() > MAX_ENGINE_LINE_LEN {
            self.unreadable(out);
            self.skipping = true;
            self.position += self.buffer.len() as u64;
            self.buffer.clear();
        }
    }

    /// The file ended and will not grow; another may follow. A line without its end is lost.
    pub fn end_of_file(&mut self, out: &mut Vec<LogItem>) {
        if !self.buffer.is_empty() {
            self.unreadable(out);
            self.position += self.buffer.len() as u64;
            self.buffer.clear();
        }
        self.skipping = false;
    }

    /// Bytes were lost here; what is open cannot go on. Reading continues at `position`.
    pub fn lost(&mut self, position: u64, out: &mut Vec<LogItem>) {
        self.end_of_file(out);
        self.finish(out);
        out.push(LogItem::Gap(LogGap { cause: GapCause::Rotated, lines: None }));
        self.position = position.max(self.position);
        self.settled = Progress::at(self.position);
    }

    /// Delivers what nothing can join any more, `now` being the wall clock when the engine's file was seen at its end.
    pub fn idle(&mut self, now: WallNanos, out: &mut Vec<LogItem>) {
        for output in [Output::Stdout, Output::Stderr] {
            let open = &self.open[output.index()];
            let last = open
                .line
                .as_ref()
                .map(|line| line.last)
                .or(open.record.as_ref().map(|record| record.last));
            // A clock that was set back must not hold a record for ever.
            let age = last.map(|last| now.since(last).max(last.since(now)));
            if age.is_some_and(|age| age > JOIN_WINDOW + SLACK) {
                self.close(output, out);
            }
        }
    }

    /// Delivers everything: the container ended and its file was read to the end.
    pub fn finish(&mut self, out: &mut Vec<LogItem>) {
        self.close(Output::Stdout, out);
        self.close(Output::Stderr, out);
    }

    /// How far reading is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let of = |output: Output| {
            let open = &self.open[output.index()];
            let line = open.line.as_ref().map(|line| line.start);
            let start = open.record.as_ref().map(|record| record.start).or(line);
            start.unwrap_or(self.position).max(self.settled.of(output))
        };
        Progress {
            stdout: of(Output::Stdout),
            stderr: of(Output::Stderr),
            unreadable: self.position.max(self.settled.unreadable),
            skipping: self.skipping,
        }
    }

    /// Position of the next byte to be fed.
    #[must_use]
    pub fn fed(&self) -> u64 {
        self.position + self.buffer.len() as u64
    }

    fn unreadable(&mut self, out: &mut Vec<LogItem>) {
        if self.position >= self.settled.unreadable {
            out.push(LogItem::Gap(LogGap { cause: GapCause::Unreadable, lines: Some(1) }));
        }
    }

    /// One whole line of the engine's file, `length` bytes with its end.
    fn line(&mut self, line: &[u8], length: usize, out: &mut Vec<LogItem>) {
        if self.skipping {
            self.skipping = false;
        } else if !line.is_empty() {
            match EngineLine::parse(line).filter(|_| line.len() <= MAX_ENGINE_LINE_LEN) {
                Some(piece) if self.position >= self.settled.of(piece.output) => {
                    self.piece(&piece, out);
                }
                Some(_) => {}
                None => self.unreadable(out),
            }
        }
        self.position += length as u64;
    }

    fn piece(&mut self, piece: &EngineLine, out: &mut Vec<LogItem>) {
        let output = piece.output;
        let open = &mut self.open[output.index()];
        let too_late = |last: WallNanos| piece.at.since(last) > JOIN_WINDOW;
        if open.line.as_ref().is_some_and(|line| too_late(line.last)) {
            self.end_line(output, out);
        }
        let open = &mut self.open[output.index()];
        let line = open.line.get_or_insert_with(|| Line {
            start: self.position,
            first: piece.at,
            last: piece.at,
            raw_len: 0,
            text: Clip::default(),
            cleaner: Cleaner::default(),
            returned: false,
        });
        line.append(piece, &mut self.bars[output.index()]);
        if piece.text.ends_with('\n') || line.raw_len > MAX_HELD_LEN {
            self.end_line(output, out);
        }
    }

    /// The open line is whole: it joins the open record, begins one, or is one.
    fn end_line(&mut self, output: Output, out: &mut Vec<LogItem>) {
        let Some(line) = self.open[output.index()].line.take() else { return };
        let blank = line.text.is_blank();
        let text = line.text.into_text();
        if let Some(record) = &mut self.open[output.index()].record {
            let fits = record.raw_len + line.raw_len <= MAX_HELD_LEN
                && line.first.since(record.last) <= JOIN_WINDOW;
            if fits && record.trace.goes_on(&text) {
                record.append(&text, line.last, line.raw_len);
                return;
            }
            self.end_record(output, out);
        }
        if let Some(trace) = Trace::begin(&text) {
            let mut record = Record {
                start: line.start,
                first: line.first,
                last: line.last,
                raw_len: line.raw_len,
                text: Clip::default(),
                trace,
            };
            record.text.push_str(&text);
            self.open[output.index()].record = Some(record);
        } else if !blank {
            let level = level::stated(&text).unwrap_or(Level::Info);
            let bars = self.bars[output.index()].found();
            out.push(LogItem::Line(LogLine { at: line.first, output, level, text, bars }));
        }
    }

    fn end_record(&mut self, output: Output, out: &mut Vec<LogItem>) {
        let Some(record) = self.open[output.index()].record.take() else { return };
        let text = record.text.into_text().trim_end().to_owned();
        let (at, level, bars) = (record.first, Level::Error, self.bars[output.index()].found());
        out.push(LogItem::Line(LogLine { at, output, level, text, bars }));
    }

    fn close(&mut self, output: Output, out: &mut Vec<LogItem>) {
        self.end_line(output, out);
        self.end_record(output, out);
    }
}

impl Line {
    fn append(&mut self, piece: &EngineLine, bars: &mut Bars) {
        self.last = piece.at;
        self.raw_len += piece.text.len();
        for c in piece.text.chars() {
            bars.take(c);
            if c == '\n' {
                break;
            }
            if c == '\r' {
                self.returned = true;
                continue;
            }
            if let Some(c) = self.cleaner.keep(c) {
                if std::mem::take(&mut self.returned) {
                    self.text.clear();
                }
                self.text.push(c);
            }
        }
    }
}

impl Record {
    fn append(&mut self, line: &str, last: WallNanos, raw_len: usize) {
        self.text.push('\n');
        self.text.push_str(line);
        self.last = last;
        self.raw_len += raw_len;
    }
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
