//! How the tool of an attempt is steered, remembered beside the attempt: the agent that stops it may be another life than
//! the one that rendered it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::job::StopSignal;
use crate::layout::AttemptDirs;

/// What makes a tool save, and what makes it end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steering {
    /// How it is stopped.
    pub stop: StopSignal,
    /// How long that may take.
    pub grace: Duration,
    /// The file below its output that makes it save where it is, where it knows one.
    pub trigger: Option<String>,
}

fn place(dirs: &AttemptDirs) -> PathBuf {
    dirs.root().join("stop-by")
}

/// Remembers it, out of the container's reach.
///
/// # Errors
/// When it cannot be written.
pub fn keep(dirs: &AttemptDirs, steering: &Steering) -> io::Result<()> {
    let Steering { stop, grace, trigger } = steering;
    let trigger = trigger.as_deref().unwrap_or_default();
    std::fs::write(place(dirs), format!("{} {} {trigger}", stop.name(), grace.as_secs()))
}

/// How the attempt's tool is steered; nothing where hone's own trainer runs.
#[must_use]
pub fn kept(dirs: &AttemptDirs) -> Option<Steering> {
    let text = std::fs::read_to_string(place(dirs)).ok()?;
    let mut words = text.splitn(3, ' ');
    let word = words.next().unwrap_or_default();
    let known = StopSignal::ALL.into_iter().find(|signal| signal.name() == word);
    let grace = words.next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    let trigger = words.next().filter(|name| !name.is_empty()).map(str::to_owned);
    Some(Steering {
        stop: known.unwrap_or(StopSignal::None),
        grace: Duration::from_secs(grace),
        trigger,
    })
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
        for stop in StopSignal::ALL {
            for trigger in [None, Some("save".to_owned())] {
                let steering = Steering { stop, grace: Duration::from_secs(120), trigger };
                keep(&dirs, &steering).expect("kept");
                assert_eq!(kept(&dirs), Some(steering));
            }
        }
        std::fs::write(place(&dirs), "term 60").expect("written");
        let older = kept(&dirs).expect("of an agent that knew of no such file");
        assert_eq!(
            (older.stop, older.grace.as_secs(), older.trigger),
            (StopSignal::Term, 60, None)
        );
    }
}
