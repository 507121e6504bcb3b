//! What a directory holds, without opening any of it: names, kinds, sizes, times of the last change.

use rustix::fs::{AtFlags, Dir as RawDir, FileType, statat};
use rustix::io::Errno;

use super::{Dir, FileError, RelPath, fault};

/// What an entry is. A link is neither: nothing is ever followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A link, a device, a pipe or a socket.
    Other,
}

/// One entry of a directory, as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name; beneath the directory that [`Dir::walk`] began in, its path.
    pub path: RelPath,
    /// What it is.
    pub kind: EntryKind,
    /// Its size in bytes.
    pub size: u64,
    /// When its content last changed: seconds and nanoseconds since 1970.
    pub modified: (i64, u64),
}

/// How much of a tree is looked at: a hostile one may have no end.
#[derive(Debug, Clone, Copy)]
pub struct WalkBounds {
    /// Directories within directories.
    pub depth: usize,
    /// Entries in all.
    pub entries: usize,
}

impl Dir {
    /// The entries directly in this directory, sorted by name. Names that [`RelPath`] refuses are left out, and so is
    /// what vanishes meanwhile.
    ///
    /// # Errors
    /// When the directory cannot be read or holds more than `limit` entries.
    pub fn entries(&self, limit: usize) -> Result<Vec<Entry>, FileError> {
        let listed = RawDir::read_from(&self.fd).map_err(|errno| fault(".", errno))?;
        let mut found = Vec::new();
        for (count, entry) in listed.enumerate() {
            // Two of them are the directory itself and its parent.
            if count >= limit.saturating_add(2) {
                return Err(FileError::TooMany { path: ".".to_owned(), limit });
            }
            let entry = entry.map_err(|errno| fault(".", errno))?;
            let Some(path) =
                entry.file_name().to_str().ok().and_then(|name| name.parse::<RelPath>().ok())
            else {
                continue;
            };
            let stat = match statat(&self.fd, path.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(fault(path.as_str(), errno)),
            };
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => EntryKind::File,
                FileType::Directory => EntryKind::Directory,
                _ => EntryKind::Other,
            };
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            let modified = (stat.st_mtime, stat.st_mtime_nsec);
            found.push(Entry { path, kind, size, modified });
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Everything beneath this directory down to the bound's depth, each directory before what it holds.
    ///
    /// # Errors
    /// When a directory cannot be read, or there are more entries than the bound allows.
    pub fn walk(&self, bounds: WalkBounds) -> Result<Vec<Entry>, FileError> {
        let mut found = Vec::new();
        self.walk_into(None, bounds, &mut found)?;
        Ok(found)
    }

    fn walk_into(
        &self,
        above: Option<&RelPath>,
        bounds: WalkBounds,
        found: &mut Vec<Entry>,
    ) -> Result<(), FileError> {
        for mut entry in self.entries(bounds.entries.saturating_sub(found.len()))? {
            let name = entry.path.clone();
            if let Some(above) = above {
                // What is too deep or too long for a path of ours is out of the bound as well.
                let Ok(path) = above.join(&name) else { continue };
                entry.path = path;
            }
            let path = entry.path.clone();
            let deeper = entry.kind == EntryKind::Directory && bounds.depth > 0;
            if found.len() >= bounds.entries {
                return Err(FileError::TooMany { path: ".".to_owned(), limit: bounds.entries });
            }
            found.push(entry);
            if !deeper {
                continue;
            }
            // Swapped for a link or removed meanwhile: the next look tells.
            if let Ok(Some(dir)) = self.dir(&name) {
                let bounds = WalkBounds { depth: bounds.depth - 1, ..bounds };
                dir.walk_into(Some(&path), bounds, found)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_told_in_order_without_following_anything() {
        let temp = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(temp.path().join("a/b/c")).expect("made");
        std::fs::write(temp.path().join("a/b/file"), "12345").expect("written");
        std::os::unix::fs::symlink("/", temp.path().join("root")).expect("linked");
        let dir = Dir::open(temp.path()).expect("opened");
        let told = |depth| {
            let entries = dir.walk(WalkBounds { depth, entries: 10 }).expect("readable");
            entries.into_iter().map(|e| (e.path.to_string(), e.kind)).collect::<Vec<_>>()
        };
        let all = [
            ("a".to_owned(), EntryKind::Directory),
            ("a/b".to_owned(), EntryKind::Directory),
            ("a/b/c".to_owned(), EntryKind::Directory),
            ("a/b/file".to_owned(), EntryKind::File),
            ("root".to_owned(), EntryKind::Other),
        ];
        assert_eq!(told(5), all);
        assert_eq!(told(0), [all[0].clone(), all[4].clone()]);
    }

    #[test]
    fn more_than_the_bound_is_an_error_at_any_depth() {
        let temp = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(temp.path().join("a/b")).expect("made");
        for n in 0..5 {
            std::fs::write(temp.path().join(format!("a/b/{n}")), "").expect("written");
        }
        let dir = Dir::open(temp.path()).expect("opened");
        let walk = |entries| dir.walk(WalkBounds { depth: 3, entries });
        assert_eq!(walk(7).expect("it fits").len(), 7);
        assert!(matches!(walk(6), Err(FileError::TooMany { .. })));
        assert!(matches!(walk(1), Err(FileError::TooMany { .. })));
    }
}
