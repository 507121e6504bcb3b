//! Going back to an export. What `hone restore` does.
//!
//! ```text
//! read and check every byte of the export ─► is it this fleet's? can this release read it?
//!   ─► is there state? then only when that was said ─► fill a new generation beside it, sync, verify
//!   ─► switch: one rename. Before it a crash leaves what was there, after it the export.
//! ```
//! Nothing of what was there is removed. The start that follows raises the generation, so that nothing counts any more
//! that was granted after the export was written.

use std::io;
use std::path::{Path, PathBuf};

use hone_proto::id::{FleetId, Generation};
use hone_proto::time::Now;

use crate::core::keys::RecordError;
use crate::core::{Effect, Fleet, Settings};
use crate::driver::{Journal, JournalError};
use crate::durable;
use crate::identity::{Authority, AuthorityError};
use crate::setup::{DataDir, SetupError};
use crate::store::{ExportSummary, Present, SledStore, StoreError, read_export, verify_export};

/// Why an export was not restored. In each case what was there is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is no controller in the folder.
    #[error(transparent)]
    SetUp(#[from] SetupError),
    /// The authority cannot be opened; without it nobody would trust the controller.
    #[error("the certificate authority cannot be used")]
    Authority(#[from] AuthorityError),
    /// The file is not a whole export.
    #[error("{} cannot be restored", path.display())]
    Export {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: StoreError,
    },
    /// The export is whole, and this release cannot read what it holds.
    #[error("{} holds what this release cannot read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Which record.
        source: RecordError,
    },
    /// The export is another fleet's.
    #[error("the export is of {exported}, and the authority in {} is of {here}", dir.display())]
    OtherFleet {
        /// The export's.
        exported: FleetId,
        /// The authority's.
        here: FleetId,
        /// The data folder.
        dir: PathBuf,
    },
    /// A controller runs on the folder.
    #[error("a controller runs on {}", .0.display())]
    Running(PathBuf),
    /// There is state, and nobody said that it may be set aside.
    #[error("{} holds state: {what}", dir.display())]
    Present {
        /// The data folder.
        dir: PathBuf,
        /// How it compares with the export.
        what: String,
    },
    /// The state cannot be written.
    #[error("the state cannot be restored")]
    Store(#[source] StoreError),
}

/// Why the first start after a restore cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The file that remembers generations cannot be used.
    #[error("{} cannot be used", path.display())]
    Generation {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of events cannot be looked at.
    #[error("the files of events cannot be looked at")]
    Journal(#[from] JournalError),
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The export.
    pub export: ExportSummary,
    /// Jobs that it knows.
    pub jobs: usize,
    /// Nodes that it knows.
    pub nodes: usize,
    /// Where the state lies that was in use before.
    pub set_aside: Option<PathBuf>,
}

/// Goes back to the export in `from`. State that is there is set aside when `replace` says so.
///
/// # Errors
/// Whatever is not as it must be; then nothing was changed.
pub fn restore(dir: &DataDir, from: &Path, replace: bool) -> Result<Restored, RestoreError> {
    dir.address()?;
    let authority = Authority::open(&dir.authority(), Now::read().wall)?;
    let bad = |source| RestoreError::Export { path: from.to_owned(), source };
    let summary = verify_export(from).map_err(bad)?;
    let fleet = fleet_in(from)?;
    if fleet.meta().fleet != *authority.fleet() {
        return Err(RestoreError::OtherFleet {
            exported: fleet.meta().fleet.clone(),
            here: authority.fleet().clone(),
            dir: dir.path().to_owned(),
        });
    }
    let in_use = SledStore::present(dir.store()).map_err(|error| failed(dir, error))?;
    if in_use.is_some() && !replace {
        let what = compare(dir, summary).map_err(|error| failed(dir, error))?;
        return Err(RestoreError::Present { dir: dir.path().to_owned(), what });
    }
    let present = if replace { Present::SetAside } else { Present::Refuse };
    let export =
        SledStore::import(dir.store(), from, present).map_err(|error| failed(dir, error))?;
    Ok(Restored { export, jobs: fleet.jobs().len(), nodes: fleet.nodes().len(), set_aside: in_use })
}

fn fleet_in(from: &Path) -> Result<Fleet, RestoreError> {
    let path = || from.to_owned();
    let records =
        read_export(from).map_err(|source| RestoreError::Export { path: path(), source })?;
    let text = |(key, value): (Vec<u8>, _)| (String::from_utf8_lossy(&key).into_owned(), value);
    Fleet::load(Settings::default(), records.into_iter().map(text))
        .map_err(|source| RestoreError::Unreadable { path: path(), source })
}

/// How the state that is there compares with an export, for people.
fn compare(dir: &DataDir, export: ExportSummary) -> Result<String, StoreError> {
    let here = match SledStore::open(dir.store()) {
        Ok(store) => store.stats().seq,
        Err(error @ StoreError::InUse { .. }) => return Err(error),
        Err(error) => return Ok(format!("it cannot be used ({error})")),
    };
    Ok(match here.checked_sub(export.seq) {
        Some(0) => "it is what the export holds".to_owned(),
        Some(newer) => format!("it is {newer} commits newer than the export"),
        None => "it is older than the export".to_owned(),
    })
}

/// What the first start after a restore begins with: a generation that no life of this folder had, and files of events
/// that are no longer than what is there of them.
///
/// # Errors
/// A file cannot be read or written.
pub fn begin(
    dir: &DataDir,
    fleet: &mut Fleet,
    journal: &mut Journal,
    now: Now,
) -> Result<Vec<Effect>, BeginError> {
    let path = dir.generation();
    let failed = |source| BeginError::Generation { path: path.clone(), source };
    let mut effects = fleet.begin_generation_above(now, highest_generation(&path).map_err(failed)?);
    // Before anything is granted under it: this export may be restored again, after the state was lost again.
    let text = format!("{}\n", fleet.meta().generation);
    durable::write_atomic(&path, text.as_bytes()).map_err(failed)?;
    for (file, length) in journal.salvage()? {
        let key = file.key();
        tracing::error!(file = key, length, "events that the restored state knows are missing");
        effects.push(Effect::Put(key, length.to_string().into_bytes()));
    }
    Ok(effects)
}

fn highest_generation(path: &Path) -> io::Result<Generation> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let number = text.trim().parse().map_err(|_| io::Error::other("it is no number"))?;
            Ok(Generation::new(number))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Generation::new(0)),
        Err(error) => Err(error),
    }
}

fn failed(dir: &DataDir, error: StoreError) -> RestoreError {
    match error {
        StoreError::InUse { .. } => RestoreError::Running(dir.path().to_owned()),
        other => RestoreError::Store(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_life_of_a_folder_has_the_generation_of_another_and_events_that_are_gone_are_not_counted()
    {
        let scratch = tempfile::tempdir().expect("a folder");
        let dir = DataDir::new(scratch.path());
        let known = ("length/job/7/logs".to_owned(), b"4000".to_vec());
        let mut seen = Generation::new(1);
        for _ in 0..3 {
            // Each time the same export, of generation 1.
            let fleet = "fleet-1".parse().expect("an id");
            let ada = "ada".parse().expect("a name");
            let (mut fleet, _) = Fleet::found(Settings::default(), fleet, ada, Now::read());
            let mut journal = Journal::open(&dir.series(), [known.clone()]).expect("a journal");
            let effects = begin(&dir, &mut fleet, &mut journal, Now::read()).expect("it begins");
            assert!(fleet.meta().generation > seen, "{} came twice", fleet.meta().generation);
            seen = fleet.meta().generation;
            assert!(effects.contains(&Effect::Put(known.0.clone(), b"0".to_vec())), "{effects:?}");
        }
        std::fs::write(dir.generation(), "many\n").expect("it is damaged");
        assert!(highest_generation(&dir.generation()).is_err());
    }
}
