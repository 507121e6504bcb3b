//! What files below a folder take on their disk. Whoever writes there may be hostile: each folder is opened beneath the
//! one that names it and no link is followed, so that nothing outside is ever counted.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use hone_proto::quantity::Bytes;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat};

/// Most files that are counted. Jobs keep some thousands.
pub const MAX_FILES: usize = 200_000;

/// Deepest folder that is looked into; each level costs an open file.
const MAX_DEPTH: usize = 64;

/// The kernel's unit of allocation, whatever the file system's is.
const BLOCK: u64 = 512;

/// What a walk has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Space that is taken.
    pub bytes: Bytes,
    /// False when there is more than was counted: too many files, or too deep.
    pub whole: bool,
}

/// Counts what is below `dir`, on its file system only; a file with several names once. Blocks for as long as it takes
/// to look at every file.
#[must_use]
pub fn usage(dir: &Path) -> Usage {
    let nothing = Usage { bytes: Bytes::ZERO, whole: true };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(top) = openat(CWD, dir, flags, Mode::empty()) else { return nothing };
    let Ok(own) = fstat(&top) else { return nothing };
    let mut walk = Walk {
        device: own.st_dev,
        blocks: u64::try_from(own.st_blocks).unwrap_or(0),
        seen: 0,
        linked: BTreeSet::new(),
        whole: true,
    };
    walk.folder(top, 0);
    Usage { bytes: Bytes::new(walk.blocks.saturating_mul(BLOCK)), whole: walk.whole }
}

struct Walk {
    device: u64,
    blocks: u64,
    seen: usize,
    linked: BTreeSet<u64>,
    whole: bool,
}

impl Walk {
    fn folder(&mut self, folder: OwnedFd, depth: usize) {
        let Ok(entries) = Dir::read_from(&folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.seen += 1;
            if self.seen > MAX_FILES {
                self.whole = false;
                return;
            }
            // What vanished meanwhile takes no space.
            let Ok(stat) = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let again = !is_folder && stat.st_nlink > 1 && !self.linked.insert(stat.st_ino);
            if stat.st_dev != self.device || again {
                continue;
            }
            self.blocks = self.blocks.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0));
            if !is_folder {
                continue;
            }
            if depth == MAX_DEPTH {
                self.whole = false;
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(below) = openat(&folder, name, flags, Mode::empty()) {
                self.folder(below, depth + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn counted(dir: &Path) -> u64 {
        let usage = usage(dir);
        assert!(usage.whole);
        usage.bytes.get()
    }

    #[test]
    fn what_a_job_writes_is_counted_once_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().expect("a folder");
        let (own, other) = (dir.path().join("own"), dir.path().join("other"));
        std::fs::create_dir_all(own.join("jobs/1")).expect("made");
        std::fs::create_dir(&other).expect("made");
        let mib = vec![7; 1 << 20];
        std::fs::write(own.join("jobs/1/weights"), &mib).expect("written");
        std::fs::hard_link(own.join("jobs/1/weights"), own.join("kept")).expect("linked");
        std::fs::write(other.join("big"), &mib).expect("written");
        std::os::unix::fs::symlink(&other, own.join("elsewhere")).expect("linked");
        std::os::unix::fs::symlink(other.join("big"), own.join("file")).expect("linked");
        let one = counted(&own);
        assert!((MIB..MIB + (64 << 10)).contains(&one), "{one}");
        std::os::unix::fs::symlink(&own, dir.path().join("link")).expect("linked");
        assert_eq!(counted(&dir.path().join("link")), 0, "the folder itself was a link");
        assert_eq!(counted(&dir.path().join("nothing")), 0);
    }

    #[test]
    fn a_hole_takes_no_space() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = std::fs::File::create(dir.path().join("sparse")).expect("made");
        file.set_len(1 << 40).expect("grown");
        assert!(counted(dir.path()) < MIB);
    }

    #[test]
    fn what_is_too_deep_to_be_counted_is_not_taken_for_little() {
        let dir = tempfile::tempdir().expect("a folder");
        let deep: std::path::PathBuf = std::iter::repeat_n("a", MAX_DEPTH + 2).collect();
        std::fs::create_dir_all(dir.path().join(deep)).expect("made");
        assert!(!usage(dir.path()).whole);
    }
}
