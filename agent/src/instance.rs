//! The instance marker: beside its identity, a node keeps that it has run, and with which spool. A start that finds the
//! marker but not the state or the spool is refused: an agent that began with nothing would take its own running
//! containers for strays and kill them, and would tell its events anew or not at all. Until somebody restores what is
//! gone or accepts the loss, nothing is touched.
//!
//! A marker of another node means that this machine has joined again: what belonged to the former node is set aside,
//! and the new one begins clean.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hone_proto::id::SpoolId;
use hone_proto::identity::SpiffeId;
use serde::{Deserialize, Serialize};

use crate::core::state::AgentState;
use crate::layout::Layout;
use crate::spool::{Bounds, Spool, SpoolError};
use crate::state::{StateError, StateFile, write_durably};

/// Version of the marker's format.
const VERSION: u32 = 1;

/// What state and spool are known to have been, `identity/instance.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    version: u32,
    /// Who has run.
    node: String,
    /// The spool that it wrote.
    spool: SpoolId,
}

/// Why a node must not begin.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// It has run before, and its state is gone.
    #[error("this node has run before, but its state is gone: {} is missing", .0.display())]
    StateLost(PathBuf),
    /// It has run before, and its spool is gone, or a part of it.
    #[error("this node has run before, but its spool is gone: {} is not complete", .0.display())]
    SpoolLost(PathBuf),
    /// The spool is not the one that the node wrote.
    #[error("the spool in {} is {found}, but this node wrote {wrote}: was it copied, or restored?", path.display())]
    SpoolReplaced {
        /// Where it lies.
        path: PathBuf,
        /// Which is there.
        found: SpoolId,
        /// Which should be.
        wrote: SpoolId,
    },
    /// The marker is not what was written.
    #[error("{} is damaged: {why}", path.display())]
    Marker {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file operation failed.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The state cannot be used.
    #[error("the state cannot be read")]
    State(#[from] StateError),
    /// The spool cannot be used.
    #[error("the spool cannot be opened")]
    Spool(#[from] SpoolError),
}

/// What happens to jobs when a lost state is accepted.
const WITHOUT_STATE: &str = "the containers that still run for this node are killed at the next start, and its jobs go on from their last committed checkpoints";

/// What is lost with a spool.
const WITHOUT_SPOOL: &str = "what had not reached the controller yet is lost; running jobs go on, and their metrics and logs are read again from the start";

impl InstanceError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let what = match self {
            Self::StateLost(_) | Self::State(StateError::Damaged { .. }) => WITHOUT_STATE,
            Self::SpoolLost(_) | Self::SpoolReplaced { .. } | Self::Spool(SpoolError::Id(_)) => {
                WITHOUT_SPOOL
            }
            Self::Marker { path, .. } => {
                return Some(format!(
                    "remove {} if the state and the spool beside it are this node's own",
                    path.display()
                ));
            }
            Self::Io { .. } | Self::State(_) | Self::Spool(_) => return None,
        };
        Some(format!(
            "nothing was touched. Put it back if it was moved or not mounted. Or run `hone-agent accept-loss` once: {what}"
        ))
    }
}

fn io_at<'a>(verb: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> InstanceError + 'a {
    move |source| InstanceError::Io { verb, path: path.to_owned(), source }
}

/// What a node begins with.
pub struct Begun {
    /// Its events.
    pub spool: Spool,
    /// Where its state is kept.
    pub file: StateFile,
    /// What was kept.
    pub state: AgentState,
}

/// Opens what a node has kept, or makes it when it never ran.
pub fn begin(layout: &Layout, node: &SpiffeId, bounds: Bounds) -> Result<Begun, InstanceError> {
    let node = node.to_string();
    let known = match Marker::read(&layout.marker())? {
        Some(marker) if marker.node == node => {
            marker.check(layout)?;
            true
        }
        Some(former) => {
            let aside = former.node.rsplit('/').next().unwrap_or("node").to_owned();
            let what = [layout.state(), layout.spool(), layout.attempts()];
            let place = set_aside(layout, &aside, &what)?;
            tracing::warn!(
                former = former.node,
                "this machine has joined again; what the former node left lies in {}, and its containers are not touched",
                place.display()
            );
            fs::create_dir_all(layout.attempts()).map_err(io_at("create", &layout.attempts()))?;
            false
        }
        None => false,
    };
    let file = StateFile::new(layout.state());
    let state = file.load()?;
    let spool = Spool::open(&layout.spool(), bounds)?;
    if !known {
        // The marker last: it must never name what was not there.
        file.save(&state)?;
        Marker { version: VERSION, node, spool: spool.id().clone() }.write(&layout.marker())?;
    }
    Ok(Begun { spool, file, state })
}

/// What was found to be lost, and is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The state.
    pub state: bool,
    /// The spool.
    pub spool: bool,
    /// Where what cannot be used was moved to.
    pub kept_in: Option<PathBuf>,
}

impl Loss {
    /// What will happen, a sentence each.
    #[must_use]
    pub fn consequences(&self) -> Vec<&'static str> {
        let all = [(self.state, WITHOUT_STATE), (self.spool, WITHOUT_SPOOL)];
        all.into_iter().filter_map(|(lost, what)| lost.then_some(what)).collect()
    }
}

/// Accepts that state or spool are gone or unusable: begins them anew, so that the next start is an ordinary one. What
/// is still there and cannot be used is moved aside, and what is whole stays. `chance` sets where the uids of new
/// attempts begin, away from those of containers that still run.
pub fn accept_loss(layout: &Layout, node: &SpiffeId, chance: u32) -> Result<Loss, InstanceError> {
    let marker = Marker::read(&layout.marker())?.filter(|marker| marker.node == node.to_string());
    let Some(marker) = marker else {
        // It never ran: there is nothing that could be lost.
        return Ok(Loss { state: false, spool: false, kept_in: None });
    };
    let state = match state_is_there(layout) {
        Ok(()) => false,
        Err(InstanceError::StateLost(_) | InstanceError::State(StateError::Damaged { .. })) => true,
        Err(other) => return Err(other),
    };
    let spool = match marker.spool_is_there(layout) {
        Ok(()) => false,
        Err(
            InstanceError::SpoolLost(_)
            | InstanceError::SpoolReplaced { .. }
            | InstanceError::Spool(SpoolError::Id(_)),
        ) => true,
        Err(other) => return Err(other),
    };
    let unusable = [(state, layout.state()), (spool, layout.spool())];
    let unusable: Vec<_> = unusable
        .into_iter()
        .filter(|(lost, path)| *lost && path.exists())
        .map(|(_, p)| p)
        .collect();
    let kept_in = match &unusable[..] {
        [] => None,
        some => Some(set_aside(layout, "lost", some)?),
    };
    if state {
        let fresh = AgentState { next_uid: chance, ..AgentState::default() };
        StateFile::new(layout.state()).save(&fresh)?;
    }
    if spool {
        let id = Spool::open(&layout.spool(), Bounds::default())?.id().clone();
        Marker { spool: id, ..marker }.write(&layout.marker())?;
    }
    Ok(Loss { state, spool, kept_in })
}

impl Marker {
    fn read(path: &Path) -> Result<Option<Self>, InstanceError> {
        let damaged = |why: String| InstanceError::Marker { path: path.to_owned(), why };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_at("read", path)(source)),
        };
        let marker: Self = toml::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if marker.version != VERSION {
            return Err(damaged(format!("its version is {}, not {VERSION}", marker.version)));
        }
        Ok(Some(marker))
    }

    fn write(&self, path: &Path) -> Result<(), InstanceError> {
        let text = toml::to_string(self).map_err(|error| InstanceError::Marker {
            path: path.to_owned(),
            why: error.to_string(),
        })?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io_at("create", folder))?;
        }
        write_durably(path, text.as_bytes()).map_err(io_at("write", path))
    }

    /// Everything that the node had when it last ran.
    fn check(&self, layout: &Layout) -> Result<(), InstanceError> {
        state_is_there(layout)?;
        self.spool_is_there(layout)
    }

    fn spool_is_there(&self, layout: &Layout) -> Result<(), InstanceError> {
        let path = layout.spool();
        match Spool::kept(&path)? {
            None => Err(InstanceError::SpoolLost(path)),
            Some(found) if found != self.spool => {
                Err(InstanceError::SpoolReplaced { path, found, wrote: self.spool.clone() })
            }
            Some(_) => Ok(()),
        }
    }
}

fn state_is_there(layout: &Layout) -> Result<(), InstanceError> {
    let path = layout.state();
    if !path.try_exists().map_err(io_at("read", &path))? {
        return Err(InstanceError::StateLost(path));
    }
    StateFile::new(path).load()?;
    Ok(())
}

/// Moves these into a new folder below `former/`.
fn set_aside(layout: &Layout, name: &str, what: &[PathBuf]) -> Result<PathBuf, InstanceError> {
    let above = layout.former();
    fs::create_dir_all(&above).map_err(io_at("create", &above))?;
    let place = (1_u32..)
        .map(|nth| above.join(format!("{name}-{nth}")))
        .find(|place| !place.exists())
        .unwrap_or_else(|| above.join(name));
    fs::create_dir(&place).map_err(io_at("create", &place))?;
    for path in what {
        let Some(name) = path.file_name() else { continue };
        match fs::rename(path, place.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_at("move", path)(error));
            }
            _ => {}
        }
    }
    for folder in [layout.root(), &above, &place] {
        fs::File::open(folder).and_then(|it| it.sync_all()).map_err(io_at("sync", folder))?;
    }
    Ok(place)
}

#[cfg(test)]
#[path = "instance_tests.rs"]
mod tests;
