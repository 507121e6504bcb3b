//! How many processes of an attempt's tool train together, remembered beside the attempt: a checkpoint is whole once each
//! of them has saved its part.

use std::io;
use std::path::PathBuf;

use crate::layout::AttemptDirs;

fn place(dirs: &AttemptDirs) -> PathBuf {
    dirs.root().join("ranks")
}

/// Remembers it, out of the container's reach; nothing where it is not known.
///
/// # Errors
/// When it cannot be written.
pub fn keep(dirs: &AttemptDirs, ranks: Option<usize>) -> io::Result<()> {
    ranks.map_or(Ok(()), |ranks| std::fs::write(place(dirs), ranks.to_string()))
}

/// How many there are, where hone started them.
#[must_use]
pub fn kept(dirs: &AttemptDirs) -> Option<usize> {
    std::fs::read_to_string(place(dirs)).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use hone_proto::id::{Attempt, AttemptId, Generation, JobId, Token};

    use super::*;
    use crate::layout::Layout;

    #[test]
    fn it_is_remembered_where_it_is_known() {
        let dir = tempfile::tempdir().expect("a folder");
        let token = Token { generation: Generation::new(1), attempt: Attempt::new(1) };
        let layout = Layout::new(dir.path().to_owned());
        let dirs = layout.attempt(AttemptId { job: JobId::new(1), token });
        std::fs::create_dir_all(dirs.root()).expect("made");
        keep(&dirs, None).expect("nothing to keep");
        assert_eq!(kept(&dirs), None);
        keep(&dirs, Some(8)).expect("kept");
        assert_eq!(kept(&dirs), Some(8));
    }
}
