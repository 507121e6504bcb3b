//! Takes complete checkpoints away from a tool, before its rotation can remove them and before a resumed run can write
//! over them: each is copied into a folder of the agent's, hashed on the way, gets hone's manifest and then its name.
//! Links would not do: a tool that saves the same step again writes into the same file.
//!
//! All files are opened before the first is read, so that a rotation that begins meanwhile takes nothing away; a file
//! that changed under the copy spoils it.

mod copy;
mod package;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hone_proto::id::Step;

use self::copy::{KeepError, Take, copy};
use self::package::Package;
pub use self::told::Notice;
use self::told::Told;
use super::complete::{BOUNDS, Candidate, Found, Rule, candidates, judge};
use super::job::ToolJob;
use super::steering;
use crate::layout::AttemptDirs;
use crate::trainer::{
    Dir, Entry, EntryKind, MANIFEST_NAME, PlainFile, RelPath, complete_checkpoints,
};

/// Copies of one thing that may fail once its tool has ended: a full disk would keep its job from ever ending.
const TRIES: u32 = 3;
/// While the tool runs the pause before another try doubles so often at most.
const MAX_DOUBLED: u32 = 6;

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
    /// It has ended.
    ended: bool,
    /// How long the tool wrote its last checkpoint, as far as looks tell.
    save_took: Option<Duration>,
    /// The shortest of these times.
    fastest: Option<Duration>,
    taking: Option<Taking>,
    package: Package,
    told: Told,
    /// What cannot be listed, since when.
    faults: BTreeMap<RelPath, Instant>,
}

/// A candidate as it was when it changed last.
#[derive(Debug)]
struct Seen {
    entries: Vec<Entry>,
    first: Instant,
    since: Instant,
    /// It was judged as it is, and is no checkpoint: what it lacks.
    wanting: Option<String>,
    /// Copies of it that failed since it changed last, or since the tool has ended.
    failed: u32,
    /// None is begun before.
    again: Instant,
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
        Self {
            dirs,
            rule,
            job,
            seen: BTreeMap::new(),
            done,
            newest,
            running: None,
            ended: false,
            save_took: None,
            fastest: None,
            taking: None,
            package: Package::default(),
            told: Told::default(),
            faults: BTreeMap::new(),
        }
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
        if !self.is_free(now) {
            return false;
        }
        let Ok(output) = Dir::open(&self.dirs.output()) else { return true };
        let Found { candidates: all, faults } = match candidates(&output, &self.rule) {
            Ok(found) => found,
            Err(error) => {
                let why = error.to_string();
                self.told.tell(
                    "checkpoints_unreadable",
                    &why,
                    format!("no checkpoint is taken: {why}"),
                );
                return true;
            }
        };
        self.tell_faults(faults, now, writes);
        self.seen.retain(|step, _| all.iter().any(|candidate| candidate.step == *step));
        if writes == Writes::On {
            self.running = Some(now);
        } else if !std::mem::replace(&mut self.ended, true) {
            self.seen.values_mut().for_each(|seen| seen.failed = 0);
        }
        for candidate in all {
            let step = candidate.step;
            if self.done.contains(&step) {
                continue;
            }
            if !self.is_due(&candidate, now, writes) {
                self.tell_wanting(step, now, writes);
                continue;
            }
            if let Err(why) = judge(&output, &self.rule, &candidate) {
                tracing::debug!(%step, "no checkpoint as it is: {why}");
                self.seen.entry(step).and_modify(|seen| seen.wanting = Some(why));
                self.tell_wanting(step, now, writes);
                continue;
            }
            self.rule.learn(&candidate.entries);
            self.done.insert(step);
            self.save_took = self.seen.get(&step).map(|seen| seen.since - seen.first);
            self.fastest = self.fastest.into_iter().chain(self.save_took).min();
            match begin(&output, &candidate).and_then(|take| self.start(Some(step), take)) {
                Ok(()) => return false,
                Err(error) => self.failed(step, &error.to_string(), now),
            }
        }
        writes == Writes::On || !self.seen.values().any(Seen::is_due_again)
    }

    /// What its owner should be told, since it was asked last.
    pub fn notices(&mut self) -> Vec<Notice> {
        self.told.take()
    }

    /// Whether there is nothing that its owner was not told.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.told.is_silent()
    }

    /// Whether a candidate is to be judged: it has been as it is for long enough, and was not found wanting so.
    fn is_due(&mut self, candidate: &Candidate, now: Instant, writes: Writes) -> bool {
        let seen = self.seen_now(candidate, now);
        let (wanting, since, failed, again) =
            (seen.wanting.is_some(), seen.since, seen.failed, seen.again);
        let settle = self.rule.settle(self.fastest);
        let still = |until: Instant| until.saturating_duration_since(since) >= settle;
        !wanting
            && match writes {
                Writes::On => still(now) && now >= again,
                _ if failed >= TRIES => false,
                Writes::Finished => true,
                // Nothing moves any more; that it had been still before is all that speaks for it.
                Writes::CutOff => !self.rule.is_stillness() || self.running.is_some_and(still),
            }
    }

    /// What is known of a candidate, which begins anew when it has changed.
    fn seen_now(&mut self, candidate: &Candidate, now: Instant) -> &mut Seen {
        let new = |first| {
            let entries = candidate.entries.clone();
            Seen { entries, first, since: now, wanting: None, failed: 0, again: now }
        };
        let seen = self.seen.entry(candidate.step).or_insert_with(|| new(now));
        if seen.entries != candidate.entries {
            *seen = new(seen.first);
        }
        seen
    }

    /// Whether no copy is under way; one that ended is looked at.
    fn is_free(&mut self, now: Instant) -> bool {
        let ended = self.taking.take_if(|(_, thread)| thread.is_finished());
        if let Some((step, thread)) = ended {
            let done = match thread.join() {
                Ok(done) => done.map_err(|error| error.to_string()),
                Err(_) => Err("the thread that takes it ended early".to_owned()),
            };
            match (step, done) {
                (Some(_), Ok(())) => self.newest = self.newest.max(step),
                (None, Ok(())) => self.package.done = true,
                (Some(step), Err(why)) => self.failed(step, &why, now),
                (None, Err(why)) => self.package_failed(&why),
            }
        }
        self.taking.is_none()
    }

    /// A checkpoint was not taken. Another look may find it whole, or more room on the disk.
    fn failed(&mut self, step: Step, why: &str, now: Instant) {
        tracing::warn!(%step, "not taken: {why}");
        self.done.remove(&step);
        let pause = self.rule.settle(self.fastest);
        let Some(seen) = self.seen.get_mut(&step) else { return };
        seen.failed = seen.failed.saturating_add(1);
        seen.again = now + pause * (1 << seen.failed.min(MAX_DOUBLED));
        if seen.failed == TRIES {
            let message = format!("the checkpoint of step {step} could not be taken: {why}");
            self.told.tell("checkpoint_not_taken", &message, message.clone());
        }
    }

    fn start(&mut self, step: Option<Step>, take: Take) -> Result<(), KeepError> {
        let kept = self.dirs.kept();
        let thread = std::thread::Builder::new().name("keeper".to_owned());
        self.taking =
            Some((step, thread.spawn(move || copy(&kept, &take)).map_err(KeepError::Thread)?));
        Ok(())
    }
}

impl Seen {
    /// Once the tool has ended: whether a copy failed and is tried again.
    const fn is_due_again(&self) -> bool {
        self.failed > 0 && self.failed < TRIES && self.wanting.is_none()
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
    let entries = candidate.entries.iter().filter(|entry| is_kept(entry));
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
    let adapter = files.iter().any(|(name, _)| name.starts_with("adapter_model."));
    if adapter { "adapter" } else { all }
}

fn last_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether it is a file that is copied. hone's own manifest is written anew: a tool that goes on from a folder that hone
/// gave it may have copied the old one along.
fn is_kept(entry: &Entry) -> bool {
    entry.kind == EntryKind::File && entry.path.as_str() != MANIFEST_NAME
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
