//! The part of an attempt's reader that reads a foreign tool: its figures from wherever it leaves them, its checkpoints,
//! and in the end what its run came to.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hone_proto::event::{Metrics, Payload, TrainerStart};
use hone_proto::id::{AttemptId, Step};
use hone_proto::time::Now;
use serde::{Deserialize, Serialize};

use super::events::of_notice;
use super::passes::Passes;
use super::printed::Printed;
use super::told::{Kept, Told};
use crate::adapters::job::{Telemetry, ToolJob, ToolKind};
use crate::adapters::keep::{Keeper, Writes};
use crate::adapters::push::Pushes;
use crate::adapters::steering;
use crate::adapters::trigger::{self, Intervals};
use crate::adapters::verdict::{Evidence, verdict};
use crate::core::input::TrainerWord;
use crate::layout::AttemptDirs;
use crate::logs::LogLine;
use crate::tools::elastic::{RankError, rank_error};
use crate::tools::lines::{self, LinesCursor, Naming};
use crate::tools::point::{Point, Progress, Source};
use crate::tools::push::PushReader;
use crate::tools::signs;
use crate::tools::state::{MAX_STATE_SIZE, STATE_NAME, TrainerState};
use crate::tools::tfevents::{EventsCursor, poll};
use crate::trainer::{Dir, RelPath};

/// Lines of the log in whose midst the cause of a failure is looked for.
const LAST_LINES: usize = 400;

/// Where reading goes on; kept together with what was read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct ToolCursor {
    #[serde(default)]
    events: EventsCursor,
    #[serde(default)]
    lines: LinesCursor,
    #[serde(default)]
    told: Kept,
    /// The length of the run was told.
    #[serde(default)]
    started: bool,
}

/// What one look yields: to be recorded together with the cursor.
pub(super) struct ToolBatch {
    pub(super) events: Vec<(Now, Payload)>,
    pub(super) cursor: ToolCursor,
    pub(super) more: bool,
}

/// What trains in an attempt.
pub(super) enum Trainer {
    /// Its spec is not there yet.
    Unknown,
    /// hone's own, or an image that keeps its contract.
    Native,
    /// A tool that knows nothing of hone.
    Foreign(Box<ToolReader>),
}

impl Trainer {
    /// By the attempt's spec, which does not change once it is there.
    pub(super) fn of(id: AttemptId, dirs: &AttemptDirs, pushes: &Pushes) -> Self {
        let Ok(spec) = std::fs::read_to_string(dirs.spec()) else { return Self::Unknown };
        match ToolJob::of_spec(&spec) {
            Ok(Some(job)) => Self::Foreign(Box::new(ToolReader::new(id, dirs, pushes, job))),
            Ok(None) | Err(_) => Self::Native,
        }
    }

    /// The reader of a foreign tool.
    pub(super) fn tool(&mut self) -> Option<&mut ToolReader> {
        if let Self::Foreign(tool) = self { Some(tool) } else { None }
    }
}

/// Reads one foreign tool.
pub(super) struct ToolReader {
    id: AttemptId,
    dirs: AttemptDirs,
    job: ToolJob,
    keeper: Keeper,
    /// Checkpoints that it is asked for, where the spec wants them by time.
    intervals: Option<Intervals>,
    pushes: Pushes,
    push: PushReader,
    progress: Progress,
    /// What was told; known with the first cursor.
    told: Option<Told>,
    passes: Passes,
    printed: Printed,
    /// Files with figures were seen: they are exact, and what is pushed only tells how far training is.
    exact: bool,
    /// Something better than printed lines has told figures with their steps.
    better: bool,
    /// The newest checkpoint whose state was read.
    read_state: Option<Step>,
    /// It has more, after this step.
    state_rest: Option<Step>,
    state: TrainerState,
    lines: VecDeque<String>,
    /// The tool has ended and every checkpoint of its was taken: the last state file is there.
    all_taken: bool,
    /// The step that this attempt went on from.
    resumed_from: Option<Step>,
}

impl ToolReader {
    fn new(id: AttemptId, dirs: &AttemptDirs, pushes: &Pushes, job: ToolJob) -> Self {
        Self {
            resumed_from: state_in(&dirs.resume(), None).map(|state| state.global_step),
            id,
            keeper: Keeper::new(dirs.clone(), job.clone()),
            intervals: Intervals::of(&job),
            dirs: dirs.clone(),
            printed: Printed::new(&job),
            job,
            pushes: pushes.clone(),
            push: PushReader::default(),
            progress: Progress::default(),
            told: None,
            passes: Passes::default(),
            exact: false,
            better: false,
            all_taken: false,
            read_state: None,
            state_rest: None,
            state: TrainerState::default(),
            lines: VecDeque::new(),
        }
    }

    /// A line that the tool printed.
    pub(super) fn printed(&mut self, line: &LogLine) {
        if self.lines.len() == LAST_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.text.clone());
        self.printed.line(line);
    }

    /// Printed lines are missing here.
    pub(super) fn lines_lost(&mut self) {
        self.printed.lost();
    }

    /// Reads what is new. `ended`: the tool writes no more.
    pub(super) fn read(&mut self, before: &ToolCursor, now: Instant, ended: bool) -> ToolBatch {
        let mut cursor = before.clone();
        let mut told = self.told.take().unwrap_or_else(|| Told::of(&before.told));
        let mut points = Vec::new();
        let more = self.files(&mut cursor, &mut points);
        self.pushed(&mut points);
        points.extend(self.state_points());
        for (pass, step) in self.printed.passes() {
            self.passes.ended(pass, step);
        }
        points = points.into_iter().filter_map(|point| self.passes.take(point)).collect();
        points.extend(self.passes.placed());
        // Of two for the same place the first is told.
        points.sort_by_key(|point| std::cmp::Reverse(point.source));
        self.better |= points.iter().any(|p| p.step.is_some() && p.source > Source::StateFile);
        points.extend(self.printed.points(now, self.better, ended && self.all_taken));
        let mut events: Vec<_> =
            points.into_iter().filter_map(|point| self.event(&mut told, point)).collect();
        if !events.is_empty() {
            cursor.told = told.kept();
        }
        self.told = Some(told);
        if !cursor.started
            && let Some(start) = self.start()
        {
            cursor.started = true;
            events.insert(0, (Now::read(), Payload::Start(start)));
        }
        events.extend(self.keeper.notices().into_iter().map(|told| of_notice(self.id, told)));
        let more = more || self.state_rest.is_some();
        ToolBatch { events, cursor, more }
    }

    /// Whether figures are taken from there.
    fn wants(&self, one: Telemetry) -> bool {
        self.job.telemetry == Telemetry::Auto || self.job.telemetry == one
    }

    /// New figures of event files and of the tool's own files. Whether there are more.
    fn files(&mut self, cursor: &mut ToolCursor, points: &mut Vec<Point>) -> bool {
        let mut more = false;
        if self.wants(Telemetry::Tensorboard)
            && let Ok(dir) = Dir::open(&self.dirs.metrics())
        {
            match poll(&dir, &mut cursor.events) {
                Ok(batch) => {
                    more |= batch.more || batch.held;
                    points.extend(batch.points);
                    for (pass, step) in batch.passes {
                        self.passes.ended(pass, step);
                    }
                }
                Err(error) => tracing::debug!(attempt = %self.id, "event files not read: {error}"),
            }
        }
        if self.wants(Telemetry::Auto)
            && let Some((folder, naming)) = own_files(self.job.kind, &self.dirs)
            && let Ok(dir) = Dir::open(&folder)
        {
            match lines::poll(&dir, naming, &mut cursor.lines) {
                Ok(batch) => {
                    more |= batch.more;
                    self.progress.renew(batch.progress);
                    points.extend(batch.points);
                }
                Err(error) => {
                    tracing::debug!(attempt = %self.id, "its own files not read: {error}");
                }
            }
        }
        self.exact |= !points.is_empty();
        more
    }

    fn pushed(&mut self, points: &mut Vec<Point>) {
        for pushed in self.pushes.take(self.id) {
            if self.wants(Telemetry::Push)
                && let Some(news) = self.push.read(&pushed.body)
            {
                self.progress.renew(news.progress);
                if !self.exact {
                    points.extend(news.points);
                }
            }
        }
    }

    /// The figures of the newest checkpoint's state file, which has all of them and their steps; a part in each look when
    /// they are many. Where one source alone is wanted it only tells how far training is.
    fn state_points(&mut self) -> Vec<Point> {
        let newest = self.keeper.newest().filter(|(step, _)| self.read_state != Some(*step));
        let Some((step, folder)) = newest else { return Vec::new() };
        let Some(mut state) = state_in(&folder, self.state_rest) else { return Vec::new() };
        let points = std::mem::take(&mut state.points);
        let points = if self.wants(Telemetry::Auto) { points } else { Vec::new() };
        self.progress.step = self.progress.step.max(Some(state.global_step));
        self.state_rest = points.last().and_then(|last| last.step).filter(|_| state.more);
        if self.state_rest.is_none() {
            self.read_state = Some(step);
        }
        self.state = state;
        points
    }

    fn event(&mut self, told: &mut Told, mut point: Point) -> Option<(Now, Payload)> {
        let step = point.step?;
        // The state file of a resumed run tells the steps before it too; they are told already.
        if point.source == Source::StateFile && self.resumed_from.is_some_and(|from| step <= from) {
            return None;
        }
        if !told.news(step, &mut point) {
            return None;
        }
        self.progress.step = self.progress.step.max(Some(step));
        let at = point.at.map_or_else(Now::read, |wall| Now { wall, boot: Now::read().boot });
        let metrics = Metrics {
            attempt: self.id,
            step,
            split: point.split.name().to_owned(),
            epoch: point.epoch,
            values: point.values.into_iter().collect(),
        };
        Some((at, Payload::Metrics(metrics)))
    }

    /// How long the run is, once something says so.
    fn start(&self) -> Option<TrainerStart> {
        let max_steps = self.max_steps()?;
        Some(TrainerStart {
            attempt: self.id,
            max_steps: Some(max_steps),
            resumed_from: self.resumed_from.unwrap_or_default(),
            trainable_params: None,
            total_params: None,
        })
    }

    fn max_steps(&self) -> Option<Step> {
        let asked = self.job.whole("/train/max_steps").map(Step::new);
        self.state.max_steps.or(self.progress.total).or(asked)
    }

    /// The newest step that anything is known of.
    pub(super) fn step(&self) -> Option<Step> {
        self.progress.step
    }

    /// Takes complete checkpoints away from the tool. Returns whether there is nothing left to take.
    pub(super) fn keep(&mut self, now: Instant, writes: Writes) -> bool {
        let all = self.keeper.look(now, writes);
        if writes == Writes::On {
            self.ask_for_a_save(now);
        }
        self.all_taken = writes != Writes::On && all;
        all
    }

    fn ask_for_a_save(&mut self, now: Instant) {
        let Some(intervals) = &mut self.intervals else { return };
        let newest = self.keeper.newest().map(|(step, _)| step);
        if !intervals.due(now, self.progress.step.is_some(), newest, self.keeper.save_took()) {
            return;
        }
        // It is written before the container is made; a tool that has no such file is told steps instead.
        if let Some(steering) = steering::kept(&self.dirs) {
            trigger::ask(self.id, &self.dirs, &steering);
        }
    }

    /// What the run came to.
    pub(super) fn last_word(&self, exit: Option<i64>) -> TrainerWord {
        let left = state_in(&self.dirs.output(), None);
        let states = [Some(&self.state), left.as_ref()];
        let step = states.iter().flatten().map(|state| state.global_step).max().max(self.step());
        let early = states.iter().flatten().any(|state| state.early_stopped);
        let max_steps = left.as_ref().and_then(|state| state.max_steps).or(self.max_steps());
        let rank = self.rank_error();
        let said = rank.iter().flat_map(RankError::lines);
        // A traceback is one entry of many lines, and its last says the most.
        let lines = self.lines.iter().flat_map(|text| text.lines());
        verdict(&Evidence {
            exit,
            asked: self.dirs.stop_sent().exists(),
            step: step.filter(|step| *step > Step::default()),
            max_steps,
            early_stop: early,
            sign: signs::explain(said.chain(lines)),
            rank: rank.clone(),
        })
    }

    /// What the first of its processes that failed left.
    fn rank_error(&self) -> Option<RankError> {
        rank_error(&Dir::open(&self.dirs.metrics()).ok()?).unwrap_or_else(|error| {
            tracing::debug!(attempt = %self.id, "the launcher's file not read: {error}");
            None
        })
    }

    /// Makes the package of a completed run. Returns whether nothing is left to do.
    pub(super) fn package(&mut self, word: &TrainerWord) -> bool {
        let exports = self.job.spec.pointer("/export").and_then(serde_json::Value::as_array);
        if word.status != "completed" || exports.is_none_or(Vec::is_empty) {
            return true;
        }
        // What is to be told of it goes along with the next look.
        self.keeper.package(word.step.unwrap_or_default()) && self.keeper.is_silent()
    }
}

/// Where a tool keeps JSON lines of its figures, and under which names.
fn own_files(kind: ToolKind, dirs: &AttemptDirs) -> Option<(PathBuf, Naming)> {
    match kind {
        ToolKind::Llamafactory => Some((dirs.output(), Naming::Llamafactory)),
        ToolKind::Torchtune => Some((dirs.output(), Naming::Torchtune)),
        ToolKind::Custom => Some((dirs.metrics(), Naming::Any)),
        ToolKind::Trl | ToolKind::Axolotl | ToolKind::Unsloth | ToolKind::Hf => None,
    }
}

/// The state file of a folder, with its figures after a step.
fn state_in(folder: &Path, after: Option<Step>) -> Option<TrainerState> {
    let file = Dir::open(folder).ok()?.file(&RelPath::constant(STATE_NAME)).ok()??;
    TrainerState::parse(&file.read_all(MAX_STATE_SIZE).ok()?, after).ok()
}

#[cfg(test)]
#[path = "tool_tests.rs"]
mod tests;
