//! Takes complete checkpoints away from a tool, before its rotation can remove them and before a resumed run can write
//! over them: each is copied into a folder of the agent's, hashed on the way, gets hone's manifest and then its name.
//! Links would not do: a tool that saves the same step again writes into the same file.
//!
//! All files are opened before the first is read, so that a rotation that begins meanwhile takes nothing away; a file
//! that changed under the copy spoils it.

mod copy;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hone_proto::id::Step;

use self::copy::{KeepError, Take, copy};
use super::complete::{BOUNDS, Candidate, Rule, candidates, judge};
use super::job::{ToolJob, ToolKind};
use super::steering;
use crate::layout::AttemptDirs;
use crate::trainer::{
    Dir, Entry, EntryKind, MANIFEST_NAME, PACKAGE_NAME, PlainFile, RelPath, complete_checkpoints,
};

/// What training needs and a package does not.
const OF_TRAINING: [&str; 8] = [
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "trainer_state.json",
    "training_args.bin",
    "global_step",
    "latest",
];

/// Whether the tool writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// It may.
    On,
    /// It has ended by itself and says that all is well: what it began to save it has saved.
    Finished,
    /// It has ended in another way, perhaps in the midst of a save.
    CutOff,
}

impl Writes {
    /// Of a container that has ended, or has not, with this exit code where it is known.
    #[must_use]
    pub const fn of(ended: bool, exit: Option<i64>) -> Self {
        match (ended, exit) {
            (false, _) => Self::On,
            (true, Some(0)) => Self::Finished,
            (true, _) => Self::CutOff,
        }
    }
}

/// Takes the checkpoints of one attempt.
#[derive(Debug)]
pub struct Keeper {
    dirs: AttemptDirs,
    rule: Rule,
    job: ToolJob,
    seen: BTreeMap<Step, Seen>,
    /// Steps that are kept, or never will be.
    done: BTreeSet<Step>,
    newest: Option<Step>,
    /// The last look while the tool still ran.
    running: Option<Instant>,
    /// How long the tool wrote its last checkpoint, as far as looks tell.
    save_took: Option<Duration>,
    taking: Option<Taking>,
    packaged: bool,
}

/// A candidate as it was when it changed last.
#[derive(Debug)]
struct Seen {
    entries: Vec<Entry>,
    first: Instant,
    since: Instant,
    /// It was judged as it is, and is no checkpoint.
    wanting: bool,
}

/// A copy under way, of a checkpoint's step or of the package.
type Taking = (Option<Step>, JoinHandle<Result<(), KeepError>>);

impl Keeper {
    /// For an attempt of this job; what was kept by an earlier life of the agent is known.
    #[must_use]
    pub fn new(dirs: AttemptDirs, job: ToolJob) -> Self {
        let done: BTreeSet<Step> = kept_in(&dirs).into_iter().map(|(step, _)| step).collect();
        let ranks = steering::kept(&dirs).and_then(|steering| steering.ranks);
        let (newest, mut rule) = (done.last().copied(), Rule::of(&job, ranks));
        if let Some(step) = newest {
            rule.learn_in(&dirs.kept().join(name_of(step)));
        }
        let (seen, taking, packaged) = (BTreeMap::new(), None, false);
        let (running, save_took) = (None, None);
        Self { dirs, rule, job, seen, done, newest, running, save_took, taking, packaged }
    }

    /// The folder of the newest checkpoint that is kept, and its step.
    #[must_use]
    pub fn newest(&self) -> Option<(Step, PathBuf)> {
        Some((self.newest?, self.dirs.kept().join(name_of(self.newest?))))
    }

    /// How long the tool wrote its last checkpoint, to the second: from the look that found its first file to the one
    /// since which nothing changed.
    #[must_use]
    pub const fn save_took(&self) -> Option<Duration> {
        self.save_took
    }

    /// Begins to take the earliest complete checkpoint that is not kept. Returns whether there is nothing left to take.
    pub fn look(&mut self, now: Instant, writes: Writes) -> bool {
        if !self.is_free() {
            return false;
        }
        let Ok(output) = Dir::open(&self.dirs.output()) else { return true };
        let all = match candidates(&output, &self.rule) {
            Ok(all) => all,
            Err(error) => {
                tracing::debug!("the tool's output cannot be read: {error}");
                return true;
            }
        };
        self.seen.retain(|step, _| all.iter().any(|candidate| candidate.step == *step));
        if writes == Writes::On {
            self.running = Some(now);
        }
        for candidate in all {
            let step = candidate.step;
            if self.done.contains(&step) || !self.is_due(&candidate, now, writes) {
                continue;
            }
            if let Err(why) = judge(&output, &self.rule, &candidate) {
                tracing::debug!(%step, "no checkpoint as it is: {why}");
                self.seen.entry(step).and_modify(|seen| seen.wanting = true);
                continue;
            }
            self.rule.learn(&candidate.entries);
            self.done.insert(step);
            self.save_took = self.seen.get(&step).map(|seen| seen.since - seen.first);
            match begin(&output, &candidate) {
                Ok(take) => {
                    self.start(Some(step), take);
                    return false;
                }
                Err(error) => tracing::warn!(%step, "a checkpoint is not taken: {error}"),
            }
        }
        true
    }

    /// Whether a candidate is to be judged: it has been as it is for long enough, and was not found wanting so.
    fn is_due(&mut self, candidate: &Candidate, now: Instant, writes: Writes) -> bool {
        let seen = self.seen_now(candidate, now);
        let (wanting, since) = (seen.wanting, seen.since);
        let settle = self.rule.settle();
        let still = |until: Instant| until.saturating_duration_since(since) >= settle;
        !wanting
            && match writes {
                Writes::On => still(now),
                Writes::Finished => true,
                // Nothing moves any more; that it had been still before is all that speaks for it.
                Writes::CutOff => !self.rule.is_stillness() || self.running.is_some_and(still),
            }
    }

    /// What is known of a candidate, which begins anew when it has changed.
    fn seen_now(&mut self, candidate: &Candidate, now: Instant) -> &mut Seen {
        let new = |first| {
            let entries = candidate.entries.clone();
            Seen { entries, first, since: now, wanting: false }
        };
        let seen = self.seen.entry(candidate.step).or_insert_with(|| new(now));
        if seen.entries != candidate.entries {
            *seen = new(seen.first);
        }
        seen
    }

    /// Whether no copy is under way; one that ended is looked at.
    fn is_free(&mut self) -> bool {
        let Some((_, thread)) = &self.taking else { return true };
        if !thread.is_finished() {
            return false;
        }
        if let Some((step, thread)) = self.taking.take() {
            match thread.join() {
                Ok(Ok(())) => self.newest = self.newest.max(step),
                Ok(Err(error)) => {
                    tracing::warn!(?step, "not taken: {error}");
                    // Another look may find it whole.
                    if let Some(step) = step {
                        self.done.remove(&step);
                        self.seen.remove(&step);
                    }
                }
                Err(_) => tracing::error!(?step, "the thread that takes a checkpoint ended early"),
            }
        }
        true
    }

    fn start(&mut self, step: Option<Step>, take: Take) {
        let kept = self.dirs.kept();
        let thread = std::thread::Builder::new().name("keeper".to_owned());
        match thread.spawn(move || copy(&kept, &take)) {
            Ok(handle) => self.taking = Some((step, handle)),
            Err(error) => tracing::warn!("a checkpoint is not taken: {error}"),
        }
    }

    /// Makes the package of a run that completed, once. Returns whether there is nothing left to do.
    pub fn package(&mut self, step: Step) -> bool {
        if !self.is_free() {
            return false;
        }
        if self.packaged {
            return true;
        }
        self.packaged = true;
        match self.begin_package(step) {
            Ok(Some(take)) => {
                self.start(None, take);
                false
            }
            Ok(None) => true,
            Err(error) => {
                tracing::warn!("there is no package: {error}");
                true
            }
        }
    }

    /// What the tool left as its result: the weights in its output folder, or those of the last checkpoint.
    fn begin_package(&self, step: Step) -> Result<Option<Take>, KeepError> {
        let name = PACKAGE_NAME.to_owned();
        let base = self.job.word("/model/name").map(str::to_owned);
        let take = |step, files: Vec<_>| {
            let kind = kind_of(&files, "model");
            Some(Take { name, step, kind, files, base })
        };
        let custom = self.job.kind == ToolKind::Custom;
        let wanted = |entry: &&Entry| {
            is_file(entry)
                && entry.path.as_str() != MANIFEST_NAME
                && (custom || !is_of_training(&entry.path))
        };
        if !custom && let Ok(output) = Dir::open(&self.dirs.output()) {
            let entries = output.entries(BOUNDS.entries)?;
            if entries.iter().any(|entry| entry.path.as_str().ends_with(".safetensors")) {
                return Ok(take(step, all_opened(&output, entries.iter().filter(wanted))?));
            }
        }
        let Some((step, path)) = kept_in(&self.dirs).pop() else { return Ok(None) };
        let dir = Dir::open(&self.dirs.kept())?.dir(&path)?.ok_or(KeepError::Gone(path))?;
        let entries = dir.walk(BOUNDS)?;
        Ok(take(step, all_opened(&dir, entries.iter().filter(wanted))?))
    }
}

/// Complete checkpoints that were taken, earliest step first.
fn kept_in(dirs: &AttemptDirs) -> Vec<(Step, RelPath)> {
    complete_checkpoints(&dirs.kept()).unwrap_or_default()
}

fn name_of(step: Step) -> String {
    format!("checkpoint-{step}")
}

/// Opens all of a checkpoint.
fn begin(output: &Dir, candidate: &Candidate) -> Result<Take, KeepError> {
    let entries = candidate.entries.iter().filter(|entry| is_file(entry));
    let files = if candidate.folder {
        let dir = output.dir(&candidate.path)?;
        all_opened(&dir.ok_or_else(|| KeepError::Gone(candidate.path.clone()))?, entries)?
    } else {
        // A checkpoint that is one file lies in a folder of its own here.
        let files = all_opened(output, entries)?.into_iter();
        files.map(|(name, file)| (last_name(&name).to_owned(), file)).collect()
    };
    let (step, kind) = (candidate.step, kind_of(&files, "full"));
    Ok(Take { name: name_of(step), step, kind, files, base: None })
}

/// What weights are: an adapter's, or all, in the word for these.
fn kind_of(files: &[(String, PlainFile)], all: &'static str) -> &'static str {
    let adapter = files.iter().any(|(name, _)| name == "adapter_model.safetensors");
    if adapter { "adapter" } else { all }
}

fn last_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_file(entry: &Entry) -> bool {
    entry.kind == EntryKind::File
}

fn is_of_training(path: &RelPath) -> bool {
    let path = path.as_str();
    OF_TRAINING.iter().any(|name| path.starts_with(name)) || path.ends_with(".log")
}

fn all_opened<'a>(
    dir: &Dir,
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<Vec<(String, PlainFile)>, KeepError> {
    entries
        .map(|entry| {
            let file = dir.file(&entry.path)?;
            let file = file.ok_or_else(|| KeepError::Gone(entry.path.clone()))?;
            Ok((entry.path.as_str().to_owned(), file))
        })
        .collect()
}

#[cfg(test)]
#[path = "keep_tests.rs"]
mod tests;
