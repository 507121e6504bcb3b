//! The reader of one attempt.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use hone_proto::event::{Payload, Stream};
use hone_proto::id::{AttemptId, Step};
use hone_proto::time::Now;

use super::Known;
use super::events::{of_log, of_record};
use super::last_word::{LastWord, last_word};
use super::tool::{ToolBatch, ToolCursor, Trainer};
use crate::adapters::keep::Writes;
use crate::adapters::push::Pushes;
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
    Completeness, CompletenessRule, Dir, MetricsCursor, MetricsReader, complete_checkpoints,
    find_package,
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
    trainer: Trainer,
    tool_cursor: Option<ToolCursor>,
    /// What was read of a foreign tool and found no room in the spool.
    owed: Option<ToolBatch>,
    pushes: Pushes,
    /// The spool had no room in this look.
    held_up: bool,
}

impl Reader {
    pub(super) fn new(id: AttemptId, layout: &Layout, pushes: &Pushes) -> Self {
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
            trainer: Trainer::Unknown,
            tool_cursor: None,
            owed: None,
            pushes: pushes.clone(),
            held_up: false,
        }
    }

    /// Reads what is new. With `ends`, what the container left, once nothing new comes any more.
    pub(super) fn look(
        &mut self,
        driver: &Handle,
        known: Option<&Known>,
        ends: bool,
    ) -> Result<Option<Drained>, Gone> {
        if let Some(init) = known.and_then(|known| known.init)
            && let Some(reading) = read_once(&HostRoots::default(), None, &Place::Init(init))
        {
            self.oom_kills = self.oom_kills.max(reading.oom_kills.unwrap_or(0));
        }
        if matches!(self.trainer, Trainer::Unknown) {
            self.trainer = Trainer::of(self.id, &self.dirs, &self.pushes);
        }
        let exit = known.and_then(|known| known.exit);
        let (read, taken) = self.read(driver, known, Writes::of(ends, exit))?;
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
        self.quiet = if read == 0 && !self.held_up && taken { self.quiet + 1 } else { 0 };
        if self.quiet < QUIET_LOOKS {
            return Ok(None);
        }
        if let Some(tool) = self.trainer.tool() {
            let word = tool.last_word(exit);
            if !tool.package(&word) {
                return Ok(None);
            }
            return Ok(Some(self.drained(checkpoints, Some(word))));
        }
        let LastWord { word, notices } = last_word(&self.dirs.metrics(), self.id);
        if !notices.is_empty() {
            let events = notices.into_iter().map(|notice| (Now::read(), notice)).collect();
            let record = Record { events, ..Record::default() };
            if driver.record_blocking(record)? == Appended::Full {
                return Ok(None);
            }
        }
        Ok(Some(self.drained(checkpoints, word)))
    }

    /// Reads all that is new. How much that was, and whether no checkpoint is left to take.
    fn read(
        &mut self,
        driver: &Handle,
        known: Option<&Known>,
        writes: Writes,
    ) -> Result<(usize, bool), Gone> {
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
            let (now_read, more) = self.read_logs(driver, known, writes != Writes::On)?;
            read += now_read;
            if !more {
                break;
            }
        }
        let (tool_read, taken) = self.read_tool(driver, writes)?;
        Ok((read + tool_read, taken))
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
            batch.records.iter().filter_map(|record| of_record(self.id, record)).collect();
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

    /// Reads what a foreign tool leaves. How much that was, and whether no checkpoint is left to take.
    fn read_tool(&mut self, driver: &Handle, writes: Writes) -> Result<(usize, bool), Gone> {
        let key = self.key("tool");
        let Some(tool) = self.trainer.tool() else { return Ok((0, true)) };
        let batch = match self.owed.take() {
            Some(owed) => owed,
            None => {
                let before = match &self.tool_cursor {
                    Some(cursor) => cursor.clone(),
                    None => {
                        let stored =
                            driver.cursors_blocking(vec![(Stream::Series, key.clone())])?;
                        decode(stored.into_iter().next().flatten())
                    }
                };
                tool.read(&before, Instant::now(), writes != Writes::On)
            }
        };
        let read = batch.events.len() + usize::from(batch.more);
        if !batch.events.is_empty() {
            let cursors = BTreeMap::from([(key, encode(&batch.cursor))]);
            let record = Record { events: batch.events.clone(), cursors };
            match driver.record_blocking(record)? {
                Appended::Accepted => self.step = self.step.max(tool.step()),
                Appended::Full => {
                    // What was pushed or printed cannot be read again.
                    self.owed = Some(batch);
                    self.held_up = true;
                    return Ok((0, false));
                }
            }
        }
        self.tool_cursor = Some(batch.cursor);
        Ok((read, tool.keep(Instant::now(), writes)))
    }

    fn read_logs(
        &mut self,
        driver: &Handle,
        known: Option<&Known>,
        ends: bool,
    ) -> Result<(usize, bool), Gone> {
        let Some(known) = known else { return Ok((0, false)) };
        let key = self.key("log");
        if self.logs.is_none() {
            let stored = driver.cursors_blocking(vec![(Stream::Logs, key.clone())])?;
            let cursor: LogCursor = decode(stored.into_iter().next().flatten());
            if cursor != LogCursor::default()
                && let Some(tool) = self.trainer.tool()
            {
                tool.lines_lost();
            }
            let kept = LogLimit::default().files;
            self.logs = Some(LogReader::new(known.log.clone(), cursor, kept));
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
        let events = items.iter().cloned().map(|item| of_log(attempt, item)).collect();
        let cursors = BTreeMap::from([(key, encode(&cursor))]);
        match driver.record_blocking(Record { events, cursors })? {
            Appended::Accepted => {
                if let Some(tool) = self.trainer.tool() {
                    for item in &items {
                        match item {
                            LogItem::Line(line) => tool.printed(line),
                            LogItem::Gap(_) => tool.lines_lost(),
                        }
                    }
                }
                Ok((read, batch.more))
            }
            Appended::Full => {
                // Begin again from the position that the spool holds.
                self.logs = None;
                self.held_up = true;
                Ok((0, false))
            }
        }
    }

    fn checkpoints(&self) -> Vec<Found> {
        match complete_checkpoints(&self.dirs.saved()) {
            Ok(found) => found
                .into_iter()
                .map(|(step, path)| Found { step, path: path.as_str().to_owned() })
                .collect(),
            Err(error) => {
                tracing::debug!(attempt = %self.id, "output not read: {error}");
                Vec::new()
            }
        }
    }

    fn drained(&self, checkpoints: Vec<Found>, result: Option<TrainerWord>) -> Drained {
        let package = Dir::open(&self.dirs.saved()).ok().and_then(|saved| {
            match find_package(&saved, CompletenessRule::NativeManifest) {
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
        Drained { step: self.step, checkpoints, package, result, oom_kills: self.oom_kills }
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
