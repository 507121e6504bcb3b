//! What a tool prints, as the least trusted of its sources.
//!
//! Its figures come within a second, rounded, while better sources are still being written: at the beginning they wait
//! for one. Once one has told anything they are dropped for good, and when none does they are told as they come. What
//! was told is not told again, so the wait is what keeps the better figure.

use std::time::{Duration, Instant};

use hone_proto::id::Step;
use hone_proto::pattern::LinePattern;

use crate::adapters::job::{Telemetry, ToolJob, ToolKind};
use crate::logs::LogLine;
use crate::tools::point::{Point, Source, Split};
use crate::tools::printed::{Dialect, PrintedReader};

/// How long the first figures wait: TensorBoard's files and pushed records come within seconds of a log.
const PATIENCE: Duration = Duration::from_secs(15);
/// Most figures that wait. What is printed beyond them within a look is dropped: the state file has it.
const MAX_WAITING: usize = 200_000;

/// Reads one tool's lines.
pub(super) struct Printed {
    /// None when figures are taken from elsewhere alone.
    lines: Option<Lines>,
    /// The only source that is asked for, which has nothing to wait for.
    alone: bool,
    waiting: Vec<Point>,
    /// Figures of those that wait.
    figures: usize,
    since: Option<Instant>,
}

enum Lines {
    /// By what is known of the tool.
    Known(PrintedReader),
    /// By the spec's own patterns, which have the only word.
    Patterns(Vec<LinePattern>),
}

impl Printed {
    pub(super) fn new(job: &ToolJob) -> Self {
        let patterns: Vec<_> =
            job.patterns.iter().filter_map(|text| LinePattern::new(text).ok()).collect();
        let lines = match job.telemetry {
            Telemetry::Push | Telemetry::Tensorboard => None,
            Telemetry::Auto | Telemetry::Stdout if patterns.is_empty() => {
                Some(Lines::Known(PrintedReader::new(dialect(job.kind))))
            }
            Telemetry::Auto | Telemetry::Stdout => Some(Lines::Patterns(patterns)),
        };
        let alone = job.telemetry == Telemetry::Stdout;
        Self { lines, alone, waiting: Vec::new(), figures: 0, since: None }
    }

    /// A line, in the order of the log.
    pub(super) fn line(&mut self, line: &LogLine) {
        let points = match &mut self.lines {
            Some(Lines::Known(reader)) => reader.line(line),
            Some(Lines::Patterns(patterns)) => {
                let said = patterns.iter().find_map(|pattern| pattern.apply(&line.text));
                let point = said.map(|said| Point {
                    step: said.step.map(Step::new),
                    epoch: said.epoch,
                    split: Split::Train,
                    values: said.values.into_iter().collect(),
                    at: Some(line.at),
                    source: Source::Printed,
                });
                point.into_iter().collect()
            }
            None => Vec::new(),
        };
        for point in points {
            if self.figures < MAX_WAITING {
                self.figures += point.values.len();
                self.waiting.push(point);
            }
        }
    }

    /// Lines are missing here, or it is not known whether they are.
    pub(super) fn lost(&mut self) {
        if let Some(Lines::Known(reader)) = &mut self.lines {
            reader.lost();
        }
    }

    /// Passes over the data that ended, with their steps.
    pub(super) fn passes(&mut self) -> Vec<(u64, Step)> {
        match &mut self.lines {
            Some(Lines::Known(reader)) => reader.passes(),
            Some(Lines::Patterns(_)) | None => Vec::new(),
        }
    }

    /// What is to be told now. `better`: another source has told figures with steps; `ended`: nothing more will come.
    pub(super) fn points(&mut self, now: Instant, better: bool, ended: bool) -> Vec<Point> {
        if better && !self.alone {
            self.take();
            return Vec::new();
        }
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let since = *self.since.get_or_insert(now);
        let waits = now.saturating_duration_since(since) < PATIENCE;
        if waits && !self.alone && !ended && self.figures < MAX_WAITING {
            return Vec::new();
        }
        self.take()
    }

    fn take(&mut self) -> Vec<Point> {
        self.figures = 0;
        std::mem::take(&mut self.waiting)
    }
}

/// Whose lines a tool of this kind prints.
const fn dialect(kind: ToolKind) -> Dialect {
    match kind {
        ToolKind::Torchtune => Dialect::Torchtune,
        ToolKind::Custom => Dialect::Any,
        _ => Dialect::HuggingFace,
    }
}
