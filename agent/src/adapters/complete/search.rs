//! What in an output folder may be a checkpoint, by its name. Only folders on the way there are listed, and one that
//! cannot be hides no other.

use std::collections::BTreeMap;

use hone_proto::id::Step;
use hone_proto::pattern::{PathPattern, PathPosition};

use super::{BOUNDS, Rule};
use crate::trainer::{Dir, Entry, EntryKind, FileError, RelPath, step_of};

/// Entries of an output folder that are looked at.
const MAX_ENTRIES: usize = 10_000;

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

/// What an output folder holds.
#[derive(Debug, Default)]
pub struct Found {
    /// Everything that may be a checkpoint, earliest step first.
    pub candidates: Vec<Candidate>,
    /// What is named like a checkpoint, or like a folder of some, and cannot be listed.
    pub faults: Vec<(RelPath, String)>,
}

/// Everything in the output that may be a checkpoint. Nothing of it is read.
///
/// # Errors
/// When the output itself cannot be read.
pub fn candidates(output: &Dir, rule: &Rule) -> Result<Found, FileError> {
    let mut search = Search::default();
    match rule {
        Rule::None => {}
        Rule::HuggingFace(_) => {
            for path in output.subdirectories(MAX_ENTRIES)? {
                if let Some(step) = step_of(path.as_str()) {
                    search.folder(step, output, &path, path.clone());
                }
            }
        }
        Rule::Custom { path: pattern, .. } => {
            search.along(pattern, output, None, 0, PathPosition::default())?;
        }
    }
    let Search { found, faults } = search;
    Ok(Found { candidates: found.into_values().collect(), faults })
}

#[derive(Debug, Default)]
struct Search {
    found: BTreeMap<Step, Candidate>,
    faults: Vec<(RelPath, String)>,
}

impl Search {
    /// A folder of this name in `dir`.
    fn folder(&mut self, step: Step, dir: &Dir, name: &RelPath, path: RelPath) {
        match dir.dir(name).and_then(|dir| dir.map(|dir| dir.walk(BOUNDS)).transpose()) {
            Ok(Some(entries)) => {
                self.found.insert(step, Candidate { step, path, folder: true, entries });
            }
            // Removed meanwhile.
            Ok(None) => {}
            Err(error) => self.faults.push((path, error.to_string())),
        }
    }

    /// Goes down where the pattern leads, and nowhere else.
    fn along(
        &mut self,
        pattern: &PathPattern,
        dir: &Dir,
        above: Option<&RelPath>,
        depth: usize,
        known: PathPosition,
    ) -> Result<(), FileError> {
        for entry in dir.entries(MAX_ENTRIES)? {
            let name = entry.path.clone();
            let Some(position) = pattern.name_at(depth, name.as_str(), known) else { continue };
            let path = above.map_or_else(|| Ok(name.clone()), |above| above.join(&name));
            let Ok(path) = path else { continue };
            let is_last = depth + 1 == pattern.depth();
            let step = position.step.or(position.epoch).map(Step::new);
            match (entry.kind, is_last, step) {
                (EntryKind::Directory, false, _) => {
                    let below = dir.dir(&name).and_then(|dir| match dir {
                        Some(dir) => self.along(pattern, &dir, Some(&path), depth + 1, position),
                        None => Ok(()),
                    });
                    if let Err(error) = below {
                        self.faults.push((path, error.to_string()));
                    }
                }
                (EntryKind::Directory, true, Some(step)) => self.folder(step, dir, &name, path),
                (EntryKind::File, true, Some(step)) => {
                    let entries = vec![Entry { path: path.clone(), ..entry }];
                    self.found.insert(step, Candidate { step, path, folder: false, entries });
                }
                (EntryKind::Other, true, _) => {
                    self.faults.push((path, "it is neither a file nor a folder".to_owned()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
