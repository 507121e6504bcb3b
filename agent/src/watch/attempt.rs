//! The reader of one attempt.

use std::collections::{BTreeMap, BTreeSet};

use hone_proto::event::{LogRecord, Metrics, Payload, Stream, TrainerStart};
use hone_proto::id::{AttemptId, Step};
use hone_proto::time::{Now, WallNanos};

use super::Traces;
use crate::core::Input;
use crate::core::input::{Drained, Found, TrainerWord};
use crate::driver::{Gone, Handle, Record};
use crate::host::HostRoots;
use crate::layout::{self, AttemptDirs, Layout};
use crate::logs::{LogCursor, LogItem, LogReader};
use crate::observe::cgroup::{Place, read_once};
use crate::runtime::LogLimit;
use crate::spool::Appended;
use crate::trainer::{
    Completeness, CompletenessRule, Dir, MetricsCursor, MetricsReader, RecordBody, ResultStatus,
    TrainerRecord, find_checkpoints, find_package, read_result,
};

/// Bytes of a log that are read at once.
const LOG_BYTES: usize = 1 << 20;

/// Looks at an ended container's files in which nothing new may appear before they count as read to the end.
const QUIET_LOOKS: u32 = 2;

/// Reads one attempt's files.
pub(super) struct Reader {
    id: AttemptId,
    dirs: AttemptDirs,
    name: String,
    logs: Option<LogReader>,
    /// How far the metrics were read; asked of the spool at first.
    metrics: Option<MetricsCursor>,
    step: Option<Step>,
    /// The step that was told last.
    told_step: Option<Step>,
    /// Checkpoints that were told of. Each once: one that cannot be taken must not come again and again.
    told: BTreeSet<Step>,
    oom_kills: u64,
    quiet: u32,
    /// The spool had no room in this look.
    held_up: bool,
}

impl Reader {
    pub(super) fn new(id: AttemptId, layout: &Layout) -> Self {
        Self {
            id,
            dirs: layout.attempt(id),
            name: layout::name(id),
            logs: None,
            metrics: None,
            step: None,
            told_step: None,
            told: BTreeSet::new(),
            oom_kills: 0,
            quiet: 0,
            held_up: false,
        }
    }

    /// Reads what is new. With `ends`, what the container left, once nothing new comes any more.
    pub(super) fn look(
        &mut self,
        driver: &Handle,
        traces: Option<&Traces>,
        ends: bool,
    ) -> Result<Option<Drained>, Gone> {
        if let Some(pid) = traces.and_then(|traces| traces.pid)
            && let Some(reading) = read_once(&HostRoots::default(), None, &Place::Pid(pid))
        {
            self.oom_kills = self.oom_kills.max(reading.oom_kills.unwrap_or(0));
        }
        let mut read = 0;
        self.held_up = false;
        loop {
            let (now_read, more) = self.read_metrics(driver)?;
            read += now_read;
            if !more {
                break;
            }
        }
        loop {
            let (now_read, more) = self.read_logs(driver, traces, ends)?;
            read += now_read;
            if !more {
                break;
            }
        }
        let checkpoints = self.checkpoints();
        if !ends {
            let mut checkpoints = checkpoints;
            checkpoints.retain(|found| !self.told.contains(&found.step));
            if self.step != self.told_step || !checkpoints.is_empty() {
                self.told.extend(checkpoints.iter().map(|found| found.step));
                self.told_step = self.step;
                let (attempt, step) = (self.id, self.step);
                driver.tell_blocking(Input::Progress { attempt, step, checkpoints })?;
            }
            return Ok(None);
        }
        self.quiet = if read == 0 && !self.held_up { self.quiet + 1 } else { 0 };
        if self.quiet < QUIET_LOOKS {
            return Ok(None);
        }
        Ok(Some(self.drained(checkpoints)))
    }

    fn key(&self, what: &str) -> String {
        format!("{}/{what}", self.name)
    }

    /// Reads metrics into the spool. The count of records, and whether there is more at once.
    fn read_metrics(&mut self, driver: &Handle) -> Result<(usize, bool), Gone> {
        let key = self.key("metrics");
        let before = match self.metrics {
            Some(cursor) => cursor,
            None => {
                let stored = driver.cursors_blocking(vec![(Stream::Series, key.clone())])?;
                decode(stored.into_iter().next().flatten())
            }
        };
        let mut cursor: MetricsCursor = before;
        let Ok(dir) = Dir::open(&self.dirs.metrics()) else { return Ok((0, false)) };
        let reader = MetricsReader::new(dir, self.id.token.attempt);
        let batch = match reader.poll(&mut cursor) {
            Ok(batch) => batch,
            Err(error) => {
                tracing::debug!(attempt = %self.id, "metrics not read: {error}");
                return Ok((0, false));
            }
        };
        if cursor == before {
            return Ok((0, false));
        }
        let lost = batch.malformed + batch.unknown;
        let mut events: Vec<_> =
            batch.records.iter().filter_map(|record| self.event(record)).collect();
        if lost > 0 {
            let gap = Payload::Gap {
                attempt: Some(self.id),
                what: Stream::Series.name().to_owned(),
                count: lost,
                reason: "lines of the trainer's metrics could not be read".to_owned(),
            };
            events.push((Now::read(), gap));
        }
        let read = events.len();
        let newest = batch.records.iter().map(|record| record.step).max();
        let cursors = BTreeMap::from([(key, encode(&cursor))]);
        if events.is_empty() {
            // A position without events goes along with the next ones.
            self.metrics = Some(cursor);
            return Ok((0, batch.more));
        }
        match driver.record_blocking(Record { events, cursors })? {
            Appended::Accepted => {
                self.metrics = Some(cursor);
                self.step = self.step.max(newest);
                Ok((read, batch.more))
            }
            // The trainer's own file is the buffer; what waits there was not read to its end.
            Appended::Full => {
                self.held_up = true;
                Ok((0, false))
            }
        }
    }

    fn event(&self, record: &TrainerRecord) -> Option<(Now, Payload)> {
        let attempt = self.id;
        let payload = match &record.body {
            RecordBody::Start {
                max_steps, resumed_from, trainable_params, total_params, ..
            } => Payload::Start(TrainerStart {
                attempt,
                max_steps: *max_steps,
                resumed_from: resumed_from.unwrap_or_default(),
                trainable_params: *trainable_params,
                total_params: *total_params,
            }),
            RecordBody::Phase { name, begin } => {
                Payload::TrainerPhase { attempt, name: name.clone(), begin: *begin }
            }
            RecordBody::Metrics { split, epoch, values } => Payload::Metrics(Metrics {
                attempt,
                step: record.step,
                split: split.clone(),
                epoch: *epoch,
                values: values.iter().map(|(name, value)| (name.clone(), *value)).collect(),
            }),
            RecordBody::Notice { level, code, message } => Payload::Notice {
                attempt,
                level: level.name().to_owned(),
                code: code.clone(),
                message: message.clone(),
            },
            RecordBody::Sample { prompt, text } => Payload::Notice {
                attempt,
                level: "info".to_owned(),
                code: "sample".to_owned(),
                message: format!("{prompt}: {text}"),
            },
            // Checkpoints are found where they lie; the end is in the result.
            RecordBody::Checkpoint { .. } | RecordBody::End { .. } => return None,
        };
        Some((at(record.at), payload))
    }

    fn read_logs(
        &mut self,
        driver: &Handle,
        traces: Option<&Traces>,
        ends: bool,
    ) -> Result<(usize, bool), Gone> {
        let Some(traces) = traces else { return Ok((0, false)) };
        let key = self.key("log");
        if self.logs.is_none() {
            let stored = driver.cursors_blocking(vec![(Stream::Logs, key.clone())])?;
            let cursor: LogCursor = decode(stored.into_iter().next().flatten());
            let kept = LogLimit::default().files;
            self.logs = Some(LogReader::new(traces.log.clone(), cursor, kept));
        }
        let Some(reader) = &mut self.logs else { return Ok((0, false)) };
        let batch = match reader.poll(Now::read().wall, LOG_BYTES) {
            Ok(batch) => batch,
            Err(error) => {
                tracing::debug!(attempt = %self.id, "log not read: {error}");
                return Ok((0, false));
            }
        };
        let mut items = batch.items;
        if ends && !batch.more {
            items.extend(reader.finish());
        }
        if items.is_empty() {
            return Ok((0, batch.more));
        }
        let cursor = match reader.cursor() {
            Ok(cursor) => cursor,
            Err(error) => {
                tracing::debug!(attempt = %self.id, "no position in the log: {error}");
                self.logs = None;
                return Ok((0, false));
            }
        };
        let read = items.len();
        let attempt = self.id;
        let events = items.into_iter().map(|item| log_event(attempt, item)).collect();
        let cursors = BTreeMap::from([(key, encode(&cursor))]);
        match driver.record_blocking(Record { events, cursors })? {
            Appended::Accepted => Ok((read, batch.more)),
            Appended::Full => {
                // Begin again from the position that the spool holds.
                self.logs = None;
                self.held_up = true;
                Ok((0, false))
            }
        }
    }

    fn checkpoints(&self) -> Vec<Found> {
        let Ok(output) = Dir::open(&self.dirs.output()) else { return Vec::new() };
        match find_checkpoints(&output, CompletenessRule::NativeManifest) {
            Ok(found) => found
                .into_iter()
                .filter(|checkpoint| checkpoint.manifest().is_some())
                .map(|c| Found { step: c.step, path: c.path.as_str().to_owned() })
                .collect(),
            Err(error) => {
                tracing::debug!(attempt = %self.id, "output not read: {error}");
                Vec::new()
            }
        }
    }

    fn drained(&self, checkpoints: Vec<Found>) -> Drained {
        let package = Dir::open(&self.dirs.output()).ok().and_then(|output| {
            match find_package(&output, CompletenessRule::NativeManifest) {
                Ok(Some(Completeness::Complete(_))) => Some("package".to_owned()),
                Ok(Some(Completeness::Incomplete { why })) => {
                    tracing::warn!(attempt = %self.id, "the package is incomplete: {why}");
                    None
                }
                Ok(None) => None,
                Err(error) => {
                    tracing::warn!(attempt = %self.id, "the package cannot be read: {error}");
                    None
                }
            }
        });
        Drained {
            step: self.step,
            checkpoints,
            package,
            result: self.last_word(),
            oom_kills: self.oom_kills,
        }
    }

    fn last_word(&self) -> Option<TrainerWord> {
        let dir = Dir::open(&self.dirs.metrics()).ok()?;
        let result = read_result(&dir, self.id.token.attempt).ok().flatten()?;
        let status = match result.status {
            ResultStatus::Completed => "completed",
            ResultStatus::Interrupted => "interrupted",
            ResultStatus::Failed => "failed",
        };
        let message = match (&result.error, &result.reason) {
            (Some(error), _) => format!("{}: {}", error.kind, error.message),
            (None, Some(reason)) => reason.clone(),
            (None, None) => status.to_owned(),
        };
        Some(TrainerWord {
            status: status.to_owned(),
            code: i32::try_from(result.code).unwrap_or(1),
            message,
            step: result.step,
            json: if result.json.len() <= MAX_RESULT { result.json } else { String::new() },
        })
    }
}

/// A larger result is not passed on: it would not fit a stored record beside the job.
const MAX_RESULT: usize = 8 << 10;

/// The trainer's own time; its boot clock is not known.
fn at(wall: WallNanos) -> Now {
    Now { wall, boot: Now::read().boot }
}

fn log_event(attempt: AttemptId, item: LogItem) -> (Now, Payload) {
    match item {
        LogItem::Line(line) => {
            let record = LogRecord {
                attempt,
                output: line.output.name().to_owned(),
                level: line.level,
                text: line.text,
            };
            (at(line.at), Payload::Log(record))
        }
        LogItem::Gap(gap) => {
            let gap = Payload::Gap {
                attempt: Some(attempt),
                what: Stream::Logs.name().to_owned(),
                count: gap.lines.unwrap_or(1),
                reason: "the engine rotated its log before it was read".to_owned(),
            };
            (Now::read(), gap)
        }
    }
}

fn encode<T: serde::Serialize>(cursor: &T) -> Vec<u8> {
    // Positions are plain numbers and text, which always have a JSON form.
    serde_json::to_vec(cursor).unwrap_or_default()
}

/// A position of another release is none: reading begins anew, and what is known already is dropped upstream.
fn decode<T: serde::de::DeserializeOwned + Default>(stored: Option<Vec<u8>>) -> T {
    stored.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}
