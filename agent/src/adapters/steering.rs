//! What was settled when an attempt's tool was rendered, remembered beside the attempt: the agent that stops it, or takes
//! its checkpoints, may be another life than the one that rendered it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::job::StopSignal;
use crate::layout::AttemptDirs;

/// What makes a tool save, what makes it end, and who saves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steering {
    /// How it is stopped.
    pub stop: StopSignal,
    /// How long that may take.
    pub grace: Duration,
    /// The file below its output that makes it save where it is, where it knows one.
    pub trigger: Option<String>,
    /// Processes that train together, where hone starts them: a checkpoint is whole once each has saved its part.
    pub ranks: Option<usize>,
}

fn place(dirs: &AttemptDirs) -> PathBuf {
    dirs.root().join("steering.json")
}

/// Remembers it, out of the container's reach.
///
/// # Errors
/// When it cannot be written.
pub fn keep(dirs: &AttemptDirs, steering: &Steering) -> io::Result<()> {
    std::fs::write(place(dirs), serde_json::to_vec(steering)?)
}

/// How the attempt's tool is steered; nothing where hone's own trainer runs.
#[must_use]
pub fn kept(dirs: &AttemptDirs) -> Option<Steering> {
    let place = place(dirs);
    let content = std::fs::read(&place).ok()?;
    let steering = serde_json::from_slice(&content);
    steering
        .inspect_err(|error| tracing::warn!(file = %place.display(), %error, "it cannot be read"))
        .ok()
}

#[cfg(test)]
mod tests {
    use hone_proto::id::{Attempt, AttemptId, Generation, JobId, Token};

    use super::*;
    use crate::layout::Layout;

    #[test]
    fn it_is_remembered_as_it_was() {
        let dir = tempfile::tempdir().expect("a folder");
        let token = Token { generation: Generation::new(1), attempt: Attempt::new(1) };
        let layout = Layout::new(dir.path().to_owned());
        let dirs = layout.attempt(AttemptId { job: JobId::new(1), token });
        std::fs::create_dir_all(dirs.root()).expect("made");
        assert_eq!(kept(&dirs), None, "hone's own trainer");
        for (stop, trigger, ranks) in [
            (StopSignal::Term, None, None),
            (StopSignal::None, Some("save now".to_owned()), Some(8)),
        ] {
            let steering = Steering { stop, grace: Duration::from_secs(120), trigger, ranks };
            keep(&dirs, &steering).expect("kept");
            assert_eq!(kept(&dirs), Some(steering));
        }
    }
}
