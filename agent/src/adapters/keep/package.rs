//! The package of a run that completed: what the tool left as its result.

use std::time::Instant;

use hone_proto::id::Step;

use super::copy::{KeepError, Take};
use super::{BOUNDS, Keeper, TRIES, all_opened, is_kept, kept_in, kind_of};
use crate::adapters::job::ToolKind;
use crate::trainer::{Dir, Entry, PACKAGE_NAME, RelPath};

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

/// How far the package is.
#[derive(Debug, Default)]
pub(super) struct Package {
    /// There is nothing left to do.
    pub(super) done: bool,
    /// Tries that failed.
    pub(super) failed: u32,
}

impl Keeper {
    /// Makes the package of a run that completed, once. Returns whether there is nothing left to do.
    pub fn package(&mut self, step: Step) -> bool {
        if !self.is_free(Instant::now()) {
            return false;
        }
        if self.package.done {
            return true;
        }
        let begun = self.begin_package(step).and_then(|take| {
            let Some(take) = take else { return Ok(false) };
            self.start(None, take).map(|()| true)
        });
        match begun {
            Ok(true) => return false,
            Ok(false) => self.package.done = true,
            Err(error) => self.package_failed(&error.to_string()),
        }
        self.package.done
    }

    /// It was not made. It is tried again, but not for ever.
    pub(super) fn package_failed(&mut self, why: &str) {
        tracing::warn!("there is no package: {why}");
        self.package.failed += 1;
        if self.package.failed >= TRIES {
            self.package.done = true;
            let message = format!("the package of what was trained could not be made: {why}");
            self.told.tell("package_not_made", why, message);
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
        let wanted = |entry: &&Entry| is_kept(entry) && (custom || !is_of_training(&entry.path));
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

fn is_of_training(path: &RelPath) -> bool {
    let path = path.as_str();
    OF_TRAINING.iter().any(|name| path.starts_with(name)) || path.ends_with(".log")
}
