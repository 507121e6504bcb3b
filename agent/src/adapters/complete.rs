//! Which of a tool's checkpoints are complete. No tool on Hugging Face's `Trainer` writes them atomically: files appear
//! in a folder that has its final name from the start, the state file last, and rotation takes them away again with the
//! state file last. So a folder counts only when every part agrees and nothing in it has changed for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use hone_proto::id::Step;
use hone_proto::pattern::PathPattern;
use hone_proto::quantity::Bytes;

use super::job::{Complete, ToolJob};
use crate::tools::state::{MAX_STATE_SIZE, STATE_NAME, TrainerState};
use crate::tools::{safetensors, zip_end};
use crate::trainer::{Dir, Entry, EntryKind, FileError, RelPath, WalkBounds, open_file, step_of};

/// How long nothing may have changed: longer than a save pauses between two files.
pub const SETTLE: Duration = Duration::from_secs(3);
/// What a checkpoint may hold.
pub const BOUNDS: WalkBounds = WalkBounds { depth: 8, entries: 10_000 };
/// Entries of an output folder that are looked at.
const MAX_ENTRIES: usize = 10_000;
/// Hugging Face's own mark of a save that is under way.
const UNDER_WAY: &str = "checkpoint-is-incomplete.txt";
/// Weights in one file, by method.
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "model.safetensors"];
/// Weights in several.
const INDEX: &str = "model.safetensors.index.json";
/// Largest index.
const MAX_INDEX: Bytes = Bytes::mib(16);

/// How a tool's checkpoints are judged.
#[derive(Debug, Clone)]
pub enum Rule {
    /// As Hugging Face's `Trainer` writes them.
    HuggingFace,
    /// As the spec says.
    Custom {
        /// Where they lie.
        path: PathPattern,
        /// What makes one complete.
        complete: Complete,
    },
    /// There are none.
    None,
}

impl Rule {
    /// The rule for a job.
    #[must_use]
    pub fn of(job: &ToolJob) -> Self {
        match &job.checkpoint {
            Some(wish) => match PathPattern::new(&wish.path) {
                Ok(path) => Self::Custom { path, complete: wish.complete.clone() },
                Err(_) => Self::None,
            },
            None if job.kind.is_hugging_face() => Self::HuggingFace,
            None => Self::None,
        }
    }

    /// How long nothing may have changed.
    #[must_use]
    pub fn settle(&self) -> Duration {
        match self {
            Self::HuggingFace | Self::None => SETTLE,
            // A marker is written last; a moment shows that it is not being rewritten.
            Self::Custom { complete, .. } => complete.settle().unwrap_or(Duration::from_secs(1)),
        }
    }
}

/// A folder, or a file, that may be a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its step, as its name says.
    pub step: Step,
    /// Its place in the output.
    pub path: RelPath,
    /// Whether it is a folder; else it is one file.
    pub folder: bool,
    /// Names, sizes and times of what it holds: as long as these stay, nothing has changed.
    pub entries: Vec<Entry>,
}

/// Everything in the output that may be a checkpoint, earliest step first. Nothing of it is read.
///
/// # Errors
/// When the output cannot be read.
pub fn candidates(output: &Dir, rule: &Rule) -> Result<Vec<Candidate>, FileError> {
    let mut found = BTreeMap::new();
    match rule {
        Rule::None => {}
        Rule::HuggingFace => {
            for path in output.subdirectories(MAX_ENTRIES)? {
                let Some(step) = step_of(path.as_str()) else { continue };
                let entries = walked(output, &path)?;
                found.insert(step, Candidate { step, path, folder: true, entries });
            }
        }
        Rule::Custom { path: pattern, .. } => {
            for entry in output.walk(BOUNDS)? {
                let Some(position) = pattern.position(entry.path.as_str()) else { continue };
                let Some(step) = position.step.or(position.epoch).map(Step::new) else { continue };
                let path = entry.path.clone();
                let folder = entry.kind == EntryKind::Directory;
                let entries = match entry.kind {
                    EntryKind::Directory => walked(output, &path)?,
                    EntryKind::File => vec![entry],
                    EntryKind::Other => continue,
                };
                found.insert(step, Candidate { step, path, folder, entries });
            }
        }
    }
    Ok(found.into_values().collect())
}

fn walked(output: &Dir, path: &RelPath) -> Result<Vec<Entry>, FileError> {
    output.dir(path)?.map_or_else(|| Ok(Vec::new()), |dir| dir.walk(BOUNDS))
}

/// Whether a candidate is a checkpoint as it is now.
///
/// # Errors
/// What it lacks, for people.
pub fn judge(output: &Dir, rule: &Rule, candidate: &Candidate) -> Result<(), String> {
    match rule {
        Rule::HuggingFace => {
            let dir = output.dir(&candidate.path).map_err(|error| error.to_string())?;
            hugging_face(&dir.ok_or("it is gone")?, &candidate.entries, candidate.step)
        }
        Rule::Custom { complete, .. } => custom(candidate, complete),
        Rule::None => Err("its tool has no checkpoints".to_owned()),
    }
}

fn custom(candidate: &Candidate, complete: &Complete) -> Result<(), String> {
    let entries = &candidate.entries;
    if !entries.iter().any(|entry| entry.kind == EntryKind::File) {
        return Err("it is empty".to_owned());
    }
    match complete {
        Complete::SettledS(_) => Ok(()),
        Complete::Marker(_) if !candidate.folder => Err("a file holds no marker".to_owned()),
        Complete::Marker(name) if entries.iter().any(|entry| entry.path.as_str() == name) => Ok(()),
        Complete::Marker(_) => Err("its marker is not there".to_owned()),
    }
}

/// Whether a folder is a checkpoint of the `Trainer`.
fn hugging_face(dir: &Dir, entries: &[Entry], step: Step) -> Result<(), String> {
    let has = |name: &str| entries.iter().any(|entry| entry.path.as_str() == name);
    if has(UNDER_WAY) {
        return Err("the tool says that it is still being written".to_owned());
    }
    let state = read(dir, STATE_NAME, MAX_STATE_SIZE)?;
    let state = TrainerState::parse(&state, Some(Step::new(u64::MAX)))
        .map_err(|error| format!("{STATE_NAME}: {error}"))?;
    if state.global_step != step {
        return Err(format!("{STATE_NAME} is of step {}", state.global_step));
    }
    weights(dir, &has)?;
    if !has("scheduler.pt") {
        return Err("scheduler.pt is missing: nothing could go on exactly from here".to_owned());
    }
    let optimizer = has("optimizer.pt")
        || entries.iter().any(|entry| {
            let path = entry.path.as_str();
            path.ends_with("/.metadata") && path.starts_with("optimizer_")
                || path.starts_with("global_step")
                || path == "optimizer.bin"
        });
    if !optimizer {
        return Err("the optimizer's state is missing: it would go on with a fresh one".to_owned());
    }
    for entry in entries {
        let path = entry.path.as_str();
        if (path.ends_with(".pt") || path.ends_with(".pth")) && !whole_archive(dir, &entry.path)? {
            return Err(format!("{path} is cut off"));
        }
        if path.ends_with(".safetensors") {
            whole_tensors(dir, &entry.path)?;
        }
    }
    Ok(())
}

fn weights(dir: &Dir, has: &impl Fn(&str) -> bool) -> Result<(), String> {
    if WEIGHTS.iter().any(|name| has(name)) || has("pytorch_model_fsdp_0") {
        return Ok(());
    }
    if !has(INDEX) {
        return Err("its weights are missing".to_owned());
    }
    let index: serde_json::Value = serde_json::from_slice(&read(dir, INDEX, MAX_INDEX)?)
        .map_err(|error| format!("{INDEX}: {error}"))?;
    let map = index.get("weight_map").and_then(serde_json::Value::as_object);
    let map = map.ok_or_else(|| format!("{INDEX} names no file"))?;
    let missing = map.values().filter_map(serde_json::Value::as_str).find(|name| !has(name));
    missing.map_or(Ok(()), |name| Err(format!("{name} is missing")))
}

fn read(dir: &Dir, name: &'static str, limit: Bytes) -> Result<Vec<u8>, String> {
    let file = open_file(dir, &RelPath::constant(name))?;
    file.read_all(limit).map_err(|error| error.to_string())
}

fn whole_archive(dir: &Dir, path: &RelPath) -> Result<bool, String> {
    zip_end::is_whole(&open_file(dir, path)?).map_err(|error| error.to_string())
}

fn whole_tensors(dir: &Dir, path: &RelPath) -> Result<(), String> {
    let whole = safetensors::is_whole(&open_file(dir, path)?).map_err(|error| error.to_string())?;
    whole.map_err(|fault| format!("{path}: {fault}"))
}
