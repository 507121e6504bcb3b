//! Takes complete checkpoints away from a tool, before its rotation can remove them and before a resumed run can write
//! over them: each is copied into a folder of the agent's, hashed on the way, gets hone's manifest and then its name.
//! Links would not do: a tool that saves the same step again writes into the same file.
//!
//! All files are opened before the first is read, so that a rotation that begins meanwhile takes nothing away; a file
//! that changed under the copy spoils it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Instant;

use aws_lc_rs::digest;
use hone_proto::id::Step;
use hone_proto::quantity::Bytes;
use serde_json::{Value, json};

use super::complete::{BOUNDS, Candidate, Rule, candidates, judge};
use super::job::{ToolJob, ToolKind};
use super::ranks;
use crate::layout::AttemptDirs;
use crate::tools::state::{MAX_STATE_SIZE, STATE_NAME};
use crate::trainer::{
    Dir, Entry, EntryKind, FileError, MANIFEST_NAME, PACKAGE_NAME, PlainFile, RelPath,
    complete_checkpoints,
};

/// Largest description of an adapter.
const MAX_CONFIG: Bytes = Bytes::mib(1);
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

/// Why something could not be taken.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("{path}: {why}")]
    File { path: PathBuf, why: io::Error },
    #[error(transparent)]
    Read(#[from] FileError),
    #[error("{0} is gone")]
    Gone(RelPath),
    #[error("{0} changed while it was taken")]
    Changed(String),
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
    taking: Option<Taking>,
    packaged: bool,
}

/// A candidate as it was when it changed last.
#[derive(Debug)]
struct Seen {
    entries: Vec<Entry>,
    since: Instant,
    /// It was judged as it is, and is no checkpoint.
    wanting: bool,
}

/// A copy under way, of a checkpoint's step or of the package.
type Taking = (Option<Step>, JoinHandle<Result<(), KeepError>>);

/// Files to copy under one name.
struct Take {
    name: String,
    step: Step,
    kind: &'static str,
    files: Vec<(String, PlainFile)>,
    /// What an adapter says its base is called.
    base: Option<String>,
}

impl Keeper {
    /// For an attempt of this job; what was kept by an earlier life of the agent is known.
    #[must_use]
    pub fn new(dirs: AttemptDirs, job: ToolJob) -> Self {
        let done: BTreeSet<Step> = kept_in(&dirs).into_iter().map(|(step, _)| step).collect();
        let (newest, mut rule) = (done.last().copied(), Rule::of(&job, ranks::kept(&dirs)));
        if let Some(step) = newest {
            rule.learn_in(&dirs.kept().join(name_of(step)));
        }
        let (seen, taking, packaged) = (BTreeMap::new(), None, false);
        Self { dirs, rule, job, seen, done, newest, taking, packaged }
    }

    /// The folder of the newest checkpoint that is kept, and its step.
    #[must_use]
    pub fn newest(&self) -> Option<(Step, PathBuf)> {
        Some((self.newest?, self.dirs.kept().join(name_of(self.newest?))))
    }

    /// Begins to take the earliest complete checkpoint that is not kept. With `ended` nobody writes any more. Returns
    /// whether there is nothing left to take.
    pub fn look(&mut self, now: Instant, ended: bool) -> bool {
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
        for candidate in all {
            let step = candidate.step;
            if self.done.contains(&step) || !self.is_due(&candidate, now, ended) {
                continue;
            }
            if let Err(why) = judge(&output, &self.rule, &candidate) {
                tracing::debug!(%step, "no checkpoint as it is: {why}");
                self.seen.entry(step).and_modify(|seen| seen.wanting = true);
                continue;
            }
            self.rule.learn(&candidate.entries);
            self.done.insert(step);
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
    fn is_due(&mut self, candidate: &Candidate, now: Instant, ended: bool) -> bool {
        let settle = self.rule.settle();
        match self.seen.get(&candidate.step) {
            Some(seen) if seen.entries == candidate.entries => {
                let still = now.saturating_duration_since(seen.since) >= settle;
                !seen.wanting && (still || ended)
            }
            _ => {
                let entries = candidate.entries.clone();
                let seen = Seen { entries, since: now, wanting: false };
                self.seen.insert(candidate.step, seen);
                ended
            }
        }
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

/// Copies aside, writes the manifest last, and gives the final name.
fn copy(kept: &Path, take: &Take) -> Result<(), KeepError> {
    let aside = kept.join(format!("{}.tmp", take.name));
    let of = |path: &Path| {
        let path = path.to_owned();
        move |why| KeepError::File { path, why }
    };
    let _ = fs::remove_dir_all(&aside);
    fs::create_dir_all(&aside).map_err(of(&aside))?;
    let mut listed = Vec::new();
    for (name, file) in &take.files {
        let place = aside.join(name);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder).map_err(of(folder))?;
        }
        let (size, sha256) = match rewritten(name, file, take)? {
            Some(content) => {
                write_synced(&place, &content).map_err(of(&place))?;
                (content.len() as u64, digest::digest(&digest::SHA256, &content))
            }
            None => copy_file(file, &place)?,
        };
        listed.push(json!({"path": name, "bytes": size, "sha256": hex(&sha256)}));
    }
    let manifest = json!({"v": 1, "step": take.step.get(), "kind": take.kind, "files": listed});
    let place = aside.join(MANIFEST_NAME);
    write_synced(&place, manifest.to_string().as_bytes()).map_err(of(&place))?;
    let named = kept.join(&take.name);
    let _ = fs::remove_dir_all(&named);
    fs::rename(&aside, &named).map_err(of(&named))?;
    File::open(kept).and_then(|folder| folder.sync_all()).map_err(of(kept))
}

/// Small files that must not be kept as they are: a path of this attempt's folder crashes older versions elsewhere, and
/// an adapter's base is known by its public name.
fn rewritten(name: &str, file: &PlainFile, take: &Take) -> Result<Option<Vec<u8>>, KeepError> {
    if name == STATE_NAME {
        let content = file.read_all(MAX_STATE_SIZE)?;
        return Ok(Some(without_best_path(&content)));
    }
    if name == "adapter_config.json"
        && let Some(base) = &take.base
    {
        let content = file.read_all(MAX_CONFIG)?;
        if let Ok(Value::Object(mut config)) = serde_json::from_slice(&content) {
            config.insert("base_model_name_or_path".to_owned(), Value::String(base.clone()));
            return Ok(Some(Value::Object(config).to_string().into_bytes()));
        }
    }
    Ok(None)
}

/// The state file with no path of the best checkpoint; everything else to the byte, NaN included.
fn without_best_path(content: &[u8]) -> Vec<u8> {
    const KEY: &str = "\"best_model_checkpoint\":";
    let Ok(text) = std::str::from_utf8(content) else { return content.to_vec() };
    let Some(at) = text.find(KEY).map(|at| at + KEY.len()) else { return content.to_vec() };
    let rest = text[at..].trim_start();
    let Some(value) = rest.strip_prefix('"') else { return content.to_vec() };
    let Some(end) = value.find('"') else { return content.to_vec() };
    format!("{} null{}", &text[..at], &value[end + 1..]).into_bytes()
}

fn write_synced(place: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(place)?;
    file.write_all(content)?;
    file.sync_all()
}

fn copy_file(from: &PlainFile, place: &Path) -> Result<(u64, digest::Digest), KeepError> {
    let of = |why| KeepError::File { path: place.to_owned(), why };
    let mut to = File::create(place).map_err(of)?;
    let mut sha256 = digest::Context::new(&digest::SHA256);
    let size = from.pieces(|piece| {
        sha256.update(piece);
        to.write_all(piece).map_err(of)
    })?;
    to.sync_all().map_err(of)?;
    if from.identity_now()? != from.identity() {
        return Err(KeepError::Changed(place.display().to_string()));
    }
    Ok((size, sha256.finish()))
}

fn hex(digest: &digest::Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "keep_tests.rs"]
mod tests;
