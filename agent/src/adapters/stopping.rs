//! How the tool of an attempt is stopped, remembered beside the attempt: the agent that stops it may be another life
//! than the one that rendered it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::job::StopSignal;
use crate::layout::AttemptDirs;

fn place(dirs: &AttemptDirs) -> PathBuf {
    dirs.root().join("stop-by")
}

/// Remembers it, and how long the stop may take, out of the container's reach.
///
/// # Errors
/// When it cannot be written.
pub fn keep(dirs: &AttemptDirs, stop: StopSignal, grace: Duration) -> io::Result<()> {
    std::fs::write(place(dirs), format!("{} {}", stop.name(), grace.as_secs()))
}

/// How the attempt's tool is stopped; nothing where hone's own trainer runs.
#[must_use]
pub fn kept(dirs: &AttemptDirs) -> Option<(StopSignal, Duration)> {
    let text = std::fs::read_to_string(place(dirs)).ok()?;
    let (word, grace) = text.split_once(' ').unwrap_or((&text, ""));
    let known = StopSignal::ALL.into_iter().find(|signal| signal.name() == word);
    Some((known.unwrap_or(StopSignal::None), Duration::from_secs(grace.parse().unwrap_or(0))))
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
            let grace = Duration::from_secs(120);
            keep(&dirs, stop, grace).expect("kept");
            assert_eq!(kept(&dirs), Some((stop, grace)));
        }
    }
}
