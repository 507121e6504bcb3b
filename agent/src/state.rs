//! What the agent keeps over a crash, in one file: a line with format, checksum and length, then JSON. Written aside,
//! synced, renamed. A damaged file is never taken for an empty one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::core::state::AgentState;

/// The format of this release.
const FORMAT: &str = "hone-agent-state 1";

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
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
    /// It is not what was written.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl StateError {
    /// Whether it failed for want of room.
    #[must_use]
    pub fn is_full_disk(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full_disk(source))
    }
}

/// Whether an operation failed for want of room.
pub(crate) fn is_full_disk(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The file.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// At this place.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// What was kept; nothing on the first start.
    pub fn load(&self) -> Result<AgentState, StateError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(AgentState::default());
            }
            Err(source) => {
                return Err(StateError::Io { verb: "read", path: self.path.clone(), source });
            }
        };
        let damaged =
            |why: &str| StateError::Damaged { path: self.path.clone(), why: why.to_owned() };
        let (head, body) = text.split_once('\n').ok_or_else(|| damaged("it has no body"))?;
        let sum = head
            .strip_prefix(FORMAT)
            .ok_or_else(|| damaged("it was written by another release"))?
            .trim();
        if sum != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
            return Err(damaged("its checksum does not match"));
        }
        serde_json::from_str(body).map_err(|error| damaged(&error.to_string()))
    }

    /// Keeps it, durably.
    pub fn save(&self, state: &AgentState) -> Result<(), StateError> {
        let failed = |source| StateError::Io { verb: "write", path: self.path.clone(), source };
        let body = serde_json::to_string(state).map_err(|error| failed(error.into()))?;
        let text = format!("{FORMAT} {:08x}\n{body}", crc32c::crc32c(body.as_bytes()));
        write_durably(&self.path, text.as_bytes()).map_err(failed)
    }
}

/// Writes a file aside, syncs it, and puts it in its place, also in the folder's own record.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written {
        // On a full disk half a file would take room from the next try.
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    fs::rename(&aside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_proto::id::Revision;

    #[test]
    fn what_is_saved_comes_back_and_damage_is_noticed() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("state");
        let file = StateFile::new(path.clone());
        assert_eq!(file.load().expect("a first start"), AgentState::default());
        let state = AgentState { revision: Revision::new(7), ..AgentState::default() };
        file.save(&state).expect("saved");
        assert_eq!(file.load().expect("loaded"), state);
        let text = fs::read_to_string(&path).expect("text");
        for cut in [0, 5, text.len() / 2, text.len() - 1] {
            fs::write(&path, &text[..cut]).expect("cut");
            assert!(matches!(file.load(), Err(StateError::Damaged { .. })), "cut at {cut}");
        }
        fs::write(&path, text.replace('7', "8")).expect("changed");
        assert!(matches!(file.load(), Err(StateError::Damaged { .. })));
    }
}
