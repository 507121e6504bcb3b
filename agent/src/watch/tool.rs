//! The part of an attempt's reader that reads a foreign tool: its figures from wherever it leaves them, its checkpoints,
//! and in the end what its run came to.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use hone_proto::event::{Metrics, Payload, TrainerStart};
use hone_proto::id::{AttemptId, Step};
use hone_proto::pattern::LinePattern;
use hone_proto::time::Now;
use serde::{Deserialize, Serialize};

use crate::adapters::job::{Telemetry, ToolJob};
use crate::adapters::keep::Keeper;
use crate::adapters::push::Pushes;
use crate::adapters::verdict::{Evidence, verdict};
use crate::core::input::TrainerWord;
use crate::layout::AttemptDirs;
use crate::tools::point::{Point, Progress, Source, Split};
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
    pushes: Pushes,
    push: PushReader,
    progress: Progress,
    /// What was told, by split and step: a less trusted source has nothing to add.
    told: BTreeSet<(Split, Step)>,
    /// Event files were seen: they are exact, and what is pushed only tells how far training is.
    exact: bool,
    /// The newest checkpoint whose state was read.
    read_state: Option<Step>,
    state: TrainerState,
    lines: VecDeque<String>,
    /// The step that this attempt went on from.
    resumed_from: Option<Step>,
    /// How printed lines are read, by the spec.
    patterns: Vec<LinePattern>,
    printed: Vec<Point>,
}

impl ToolReader {
    fn new(id: AttemptId, dirs: &AttemptDirs, pushes: &Pushes, job: ToolJob) -> Self {
        let patterns = job.patterns.iter().filter_map(|text| LinePattern::new(text).ok()).collect();
        Self {
            patterns,
            printed: Vec::new(),
            resumed_from: state_in(&dirs.resume()).map(|state| state.global_step),
            id,
            keeper: Keeper::new(dirs.clone(), job.clone()),
            dirs: dirs.clone(),
            job,
            pushes: pushes.clone(),
            push: PushReader::default(),
            progress: Progress::default(),
            told: BTreeSet::new(),
            exact: false,
            read_state: None,
            state: TrainerState::default(),
            lines: VecDeque::new(),
        }
    }

    /// A line that the tool printed.
    pub(super) fn printed(&mut self, line: &str) {
        if self.lines.len() == LAST_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_owned());
        let said = self.patterns.iter().find_map(|pattern| pattern.apply(line));
        if let Some(said) = said
            && matches!(self.job.telemetry, Telemetry::Auto | Telemetry::Stdout)
        {
            self.printed.push(Point {
                step: said.step.map(Step::new),
                epoch: said.epoch,
                split: Split::Train,
                values: said.values.into_iter().collect(),
                at: None,
                source: Source::Printed,
            });
        }
    }

    /// Reads what is new.
    pub(super) fn read(&mut self, before: &ToolCursor) -> ToolBatch {
        let mut cursor = before.clone();
        let mut points = Vec::new();
        let wants = |one| self.job.telemetry == Telemetry::Auto || self.job.telemetry == one;
        let (pushed, boards) = (wants(Telemetry::Push), wants(Telemetry::Tensorboard));
        let mut more = false;
        if boards && let Ok(dir) = Dir::open(&self.dirs.metrics()) {
            match poll(&dir, &mut cursor.events) {
                Ok(batch) => {
                    more = batch.more;
                    self.exact |= !batch.points.is_empty();
                    points.extend(batch.points);
                }
                Err(error) => tracing::debug!(attempt = %self.id, "event files not read: {error}"),
            }
        }
        for pushed_one in self.pushes.take(self.id) {
            if !pushed {
                continue;
            }
            if let Some(news) = self.push.read(&pushed_one.body) {
                self.progress.renew(news.progress);
                if !self.exact {
                    points.extend(news.points);
                }
            }
        }
        points.extend(self.state_points());
        points.append(&mut self.printed);
        let mut events: Vec<_> = points.into_iter().filter_map(|point| self.event(point)).collect();
        if !cursor.started
            && let Some(start) = self.start()
        {
            cursor.started = true;
            events.insert(0, (Now::read(), Payload::Start(start)));
        }
        ToolBatch { events, cursor, more }
    }

    /// The figures of the newest checkpoint's state file, which has all of them and their steps.
    fn state_points(&mut self) -> Vec<Point> {
        let newest = self.keeper.newest().filter(|(step, _)| self.read_state != Some(*step));
        let Some((step, folder)) = newest else { return Vec::new() };
        let Some(state) = state_in(&folder) else { return Vec::new() };
        self.read_state = Some(step);
        self.state = state;
        std::mem::take(&mut self.state.points)
    }

    fn event(&mut self, point: Point) -> Option<(Now, Payload)> {
        let step = point.step?;
        // The state file of a resumed run tells the steps before it too; they are told already.
        if point.source == Source::StateFile && self.resumed_from.is_some_and(|from| step <= from) {
            return None;
        }
        if !self.told.insert((point.split, step)) && point.source != Source::TensorBoard {
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
    pub(super) fn keep(&mut self, ended: bool) -> bool {
        self.keeper.look(Instant::now(), ended)
    }

    /// What the run came to.
    pub(super) fn last_word(&self, exit: Option<i64>) -> TrainerWord {
        let left = state_in(&self.dirs.output());
        let states = [Some(&self.state), left.as_ref()];
        let step = states.iter().flatten().map(|state| state.global_step).max().max(self.step());
        let early = states.iter().flatten().any(|state| state.early_stopped);
        let max_steps = left.as_ref().and_then(|state| state.max_steps).or(self.max_steps());
        verdict(&Evidence {
            exit,
            step: step.filter(|step| *step > Step::default()),
            max_steps,
            early_stop: early,
            sign: signs::explain(self.lines.iter().map(String::as_str)),
        })
    }

    /// Makes the package of a completed run. Returns whether nothing is left to do.
    pub(super) fn package(&mut self, word: &TrainerWord) -> bool {
        let exports = self.job.spec.pointer("/export").and_then(serde_json::Value::as_array);
        if word.status != "completed" || exports.is_none_or(Vec::is_empty) {
            return true;
        }
        self.keeper.package(word.step.unwrap_or_default())
    }
}

fn state_in(folder: &std::path::Path) -> Option<TrainerState> {
    let file = Dir::open(folder).ok()?.file(&RelPath::constant(STATE_NAME)).ok()??;
    TrainerState::parse(&file.read_all(MAX_STATE_SIZE).ok()?, None).ok()
}
