//! Which of a tool's checkpoints are complete. No tool on Hugging Face's `Trainer` writes them atomically: files appear
//! in a folder that has its final name from the start, the state file last, and rotation takes them away again with the
//! state file last. So a folder counts only when every part agrees and nothing in it has changed for a while.

mod search;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use hone_proto::id::Step;
use hone_proto::pattern::PathPattern;
use hone_proto::quantity::Bytes;

pub use self::search::{Candidate, Found, candidates};
use super::job::{Complete, ToolJob};
use super::render::saves::weights_only;
use crate::tools::shards::{self, INDEX_NAME, MAX_INDEX_SIZE};
use crate::tools::state::{MAX_STATE_SIZE, STATE_NAME, TrainerState};
use crate::tools::{safetensors, zip_end};
use crate::trainer::{Dir, Entry, EntryKind, MANIFEST_NAME, RelPath, WalkBounds, open_file};

/// How long nothing may have changed, at least: longer than a quick save pauses between two files.
pub const SETTLE: Duration = Duration::from_secs(3);
/// … and at most, where saves are slow: a tool that keeps few checkpoints removes one soon after the next is there, and
/// what a whole one holds is looked at besides.
const LONGEST_SETTLE: Duration = Duration::from_secs(30);
/// What a checkpoint may hold.
pub const BOUNDS: WalkBounds = WalkBounds { depth: 8, entries: 10_000 };
/// Hugging Face's own mark of a save that is under way.
const UNDER_WAY: &str = "checkpoint-is-incomplete.txt";
/// Weights in one file, by method.
const WEIGHTS: [&str; 5] = [
    "adapter_model.safetensors",
    "model.safetensors",
    "pytorch_model_fsdp.bin",
    // With `save_safetensors: false`, which Transformers knew before 5.0.
    "adapter_model.bin",
    "pytorch_model.bin",
];
/// Files of this ending that PyTorch wrote begin so; others, such as those of tokenizers, are no archives.
const PICKLED: [&str; 5] =
    ["adapter_model", "pytorch_model", "optimizer", "scheduler", "training_args"];
/// The file that names those of [`WEIGHTS`] that are no safetensors, when they are several.
const PICKLED_INDEX_NAME: &str = "pytorch_model.bin.index.json";
/// Largest `latest` of DeepSpeed: the name of a folder.
const MAX_LATEST: Bytes = Bytes::new(4096);

/// What a whole checkpoint of the `Trainer` holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Saves {
    /// Processes that train together, where that is known: each saves its random state.
    pub ranks: Option<usize>,
    /// Weights alone (`save_only_model`): nothing goes on exactly from there, which its user knows.
    pub weights_only: bool,
}

/// How a tool's checkpoints are judged.
#[derive(Debug, Clone)]
pub enum Rule {
    /// As Hugging Face's `Trainer` writes them.
    HuggingFace(Saves),
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
    /// The rule for a job whose tool trains in so many processes, where that is known.
    #[must_use]
    pub fn of(job: &ToolJob, ranks: Option<usize>) -> Self {
        match &job.checkpoint {
            Some(wish) => match PathPattern::new(&wish.path) {
                Ok(path) => Self::Custom { path, complete: wish.complete.clone() },
                Err(_) => Self::None,
            },
            None if job.kind.is_hugging_face() => {
                Self::HuggingFace(Saves { ranks, weights_only: weights_only(job) })
            }
            None => Self::None,
        }
    }

    /// How long nothing may have changed, where the fastest save that was seen took so long: twice that, since a save
    /// that is slow pauses for longer.
    #[must_use]
    pub fn settle(&self, fastest: Option<Duration>) -> Duration {
        match self {
            Self::HuggingFace(_) | Self::None => {
                (2 * fastest.unwrap_or_default()).clamp(SETTLE, LONGEST_SETTLE)
            }
            // A marker is written last; a moment shows that it is not being rewritten.
            Self::Custom { complete, .. } => complete.settle().unwrap_or(Duration::from_secs(1)),
        }
    }

    /// Whether nothing but its being still shows that one is whole: what is cut off is as still as what is finished.
    #[must_use]
    pub const fn is_stillness(&self) -> bool {
        matches!(self, Self::Custom { complete: Complete::SettledS(_), .. })
    }

    /// Takes note of how many processes saved a checkpoint that was found whole: later ones are of as many.
    pub fn learn(&mut self, entries: &[Entry]) {
        if let Self::HuggingFace(saves) = self {
            saves.ranks = saves.ranks.max(Some(Ranks::of(entries).count()).filter(|n| *n > 0));
        }
    }

    /// The same of a checkpoint that is kept in this folder.
    pub fn learn_in(&mut self, folder: &Path) {
        if let Ok(entries) = Dir::open(folder).and_then(|dir| dir.walk(BOUNDS)) {
            self.learn(&entries);
        }
    }
}

/// Whether a candidate is a checkpoint as it is now.
///
/// # Errors
/// What it lacks, for people.
pub fn judge(output: &Dir, rule: &Rule, candidate: &Candidate) -> Result<(), String> {
    match rule {
        Rule::HuggingFace(saves) => {
            let dir = output.dir(&candidate.path).map_err(|error| error.to_string())?;
            hugging_face(&dir.ok_or("it is gone")?, &candidate.entries, candidate.step, *saves)
        }
        Rule::Custom { complete, .. } => custom(candidate, complete),
        Rule::None => Err("its tool has no checkpoints".to_owned()),
    }
}

fn custom(candidate: &Candidate, complete: &Complete) -> Result<(), String> {
    let entries = &candidate.entries;
    let is_own = |entry: &Entry| entry.path.as_str() == MANIFEST_NAME;
    if !entries.iter().any(|entry| entry.kind == EntryKind::File && !is_own(entry)) {
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
fn hugging_face(dir: &Dir, entries: &[Entry], step: Step, saves: Saves) -> Result<(), String> {
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
    let ranks = Ranks::of(entries);
    let own = deepspeed(dir, entries)?;
    let has_own_weights = own.is_some_and(|own| own.weights);
    if ranks.weights != Some(true) {
        weights(dir, &has, has_own_weights)?;
    }
    if !saves.weights_only {
        // DeepSpeed may keep both among its own.
        if own.is_none() {
            training_state(&has, &ranks)?;
        }
        ranks.random_states(saves.ranks)?;
    }
    for entry in entries {
        let path = entry.path.as_str();
        if is_archive(path) && !whole_archive(dir, &entry.path)? {
            return Err(format!("{path} is cut off"));
        }
        if path.ends_with(".safetensors") {
            whole_tensors(dir, &entry.path)?;
        }
    }
    Ok(())
}

/// Whether the state of optimizer and schedule is there: without it a run would go on with fresh ones, and say nothing.
fn training_state(has: &impl Fn(&str) -> bool, ranks: &Ranks) -> Result<(), String> {
    if !has("scheduler.pt") {
        return Err("scheduler.pt is missing: nothing could go on exactly from here".to_owned());
    }
    if !has("optimizer.pt") && !has("optimizer.bin") && ranks.optimizer != Some(true) {
        return Err("the optimizer's state is missing: it would go on with a fresh one".to_owned());
    }
    Ok(())
}

/// What several ranks write side by side.
#[derive(Debug, Default)]
struct Ranks {
    /// Weights in parts, and whether the file that names them is there: PyTorch writes it last.
    weights: Option<bool>,
    /// The same of the optimizer's state.
    optimizer: Option<bool>,
    /// Ranks whose random state is there.
    random: BTreeSet<u32>,
    /// The random state of the only process of a run is there.
    alone: bool,
}

impl Ranks {
    fn of(entries: &[Entry]) -> Self {
        let mut ranks = Self::default();
        for entry in entries.iter().filter(|entry| entry.kind == EntryKind::File) {
            let path = entry.path.as_str();
            let named = path.ends_with("/.metadata");
            if path.starts_with("pytorch_model_fsdp_") {
                ranks.weights = Some(ranks.weights == Some(true) || named);
            } else if path.starts_with("optimizer_") {
                ranks.optimizer = Some(ranks.optimizer == Some(true) || named);
            }
            let rank = path.strip_prefix("rng_state_").and_then(|rest| rest.strip_suffix(".pth"));
            ranks.random.extend(rank.and_then(|rank| rank.parse::<u32>().ok()));
            ranks.alone |= path == "rng_state.pth";
        }
        ranks
    }

    /// How many processes have saved their random state.
    fn count(&self) -> usize {
        self.random.len().max(usize::from(self.alone))
    }

    /// Whether each of so many ranks has saved its random state. Where it is not known how many there are, that one
    /// before the last has not is seen all the same.
    fn random_states(&self, known: Option<usize>) -> Result<(), String> {
        if self.count() == 0 {
            return Err("no process has saved its random state".to_owned());
        }
        let behind = (0..).zip(&self.random).find(|(expected, rank)| expected != *rank);
        if let Some((rank, _)) = behind {
            return Err(format!("rng_state_{rank}.pth is missing"));
        }
        // A process that trains alone gives its file no number.
        if self.random.len() == 1 && known.is_none_or(|known| known < 2) {
            return Err("rank 0 alone has saved its random state".to_owned());
        }
        match known.filter(|known| *known > self.count()) {
            Some(known) => Err(format!("{} of {known} ranks have saved", self.count())),
            None => Ok(()),
        }
    }
}

/// DeepSpeed's own folder, which holds the training state.
#[derive(Debug, Clone, Copy)]
struct DeepSpeed {
    /// It holds weights as well. With ZeRO-3 they are nowhere else, unless they are gathered for each save.
    weights: bool,
}

/// DeepSpeed's own folder, where there is one: the file `latest`, which it writes last, names it.
fn deepspeed(dir: &Dir, entries: &[Entry]) -> Result<Option<DeepSpeed>, String> {
    if !entries.iter().any(|entry| entry.path.as_str().starts_with("global_step")) {
        return Ok(None);
    }
    let latest = read(dir, "latest", MAX_LATEST)?;
    let name = String::from_utf8_lossy(&latest);
    let within = format!("{}/", name.trim());
    let holds = |ending: &str| {
        entries.iter().filter(|entry| entry.kind == EntryKind::File).any(|entry| {
            let path = entry.path.as_str();
            path.starts_with(&within) && path.ends_with(ending)
        })
    };
    if holds("") {
        return Ok(Some(DeepSpeed { weights: holds("_model_states.pt") }));
    }
    Err(format!("the folder {} that `latest` names is not there", name.trim()))
}

fn weights(dir: &Dir, has: &impl Fn(&str) -> bool, elsewhere: bool) -> Result<(), String> {
    if WEIGHTS.iter().any(|name| has(name)) {
        return Ok(());
    }
    let Some(index) = [INDEX_NAME, PICKLED_INDEX_NAME].into_iter().find(|name| has(name)) else {
        return if elsewhere { Ok(()) } else { Err("its weights are missing".to_owned()) };
    };
    let names = shards::names(&read(dir, index, MAX_INDEX_SIZE)?)
        .map_err(|error| format!("{index}: {error}"))?;
    let missing = names.into_iter().find(|name| !has(name));
    missing.map_or(Ok(()), |name| Err(format!("{name} is missing")))
}

fn read(dir: &Dir, name: &'static str, limit: Bytes) -> Result<Vec<u8>, String> {
    let file = open_file(dir, &RelPath::constant(name))?;
    file.read_all(limit).map_err(|error| error.to_string())
}

/// Whether PyTorch wrote it, as an archive.
fn is_archive(path: &str) -> bool {
    let pickled = || PICKLED.iter().any(|name| path.starts_with(name));
    path.ends_with(".pt") || path.ends_with(".pth") || (path.ends_with(".bin") && pickled())
}

fn whole_archive(dir: &Dir, path: &RelPath) -> Result<bool, String> {
    zip_end::is_whole(&open_file(dir, path)?).map_err(|error| error.to_string())
}

fn whole_tensors(dir: &Dir, path: &RelPath) -> Result<(), String> {
    let whole = safetensors::is_whole(&open_file(dir, path)?).map_err(|error| error.to_string())?;
    whole.map_err(|fault| format!("{path}: {fault}"))
}
