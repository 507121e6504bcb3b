//! A path inside a manifest: valid by construction, so that joining it beneath a directory cannot leave it.

use std::fmt;
use std::str::FromStr;

use super::ManifestError;

/// Longest path, in bytes.
pub const MAX_PATH: usize = 512;

/// Most names in a path.
pub const MAX_DEPTH: usize = 8;

/// Longest name, in bytes: what Linux filesystems hold.
pub const MAX_NAME: usize = 255;

/// A relative path of plain names. It still must be opened beneath its root without following links: the names are
/// safe, what lies under them may not be.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelPath(String);

impl RelPath {
    /// The path as text, `/` between names.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names, outermost first; at least one.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The directories above it, outermost first.
    pub fn directories(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }

    /// Checks a path and says what is wrong with it.
    fn flaw(text: &str) -> Option<&'static str> {
        if text.is_empty() {
            Some("it is empty")
        } else if text.len() > MAX_PATH {
            Some("it is longer than 512 bytes")
        } else if text.split('/').count() > MAX_DEPTH {
            Some("it is more than 8 names deep")
        } else {
            text.split('/').find_map(name_flaw)
        }
    }
}

fn name_flaw(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("it is absolute or holds an empty name"),
        "." | ".." => Some("it holds a name that stands for another directory"),
        _ if name.len() > MAX_NAME => Some("it holds a name longer than 255 bytes"),
        _ if name.contains(|c: char| c.is_control() || c == '\\') => {
            Some("it holds a control character or a backslash")
        }
        _ => None,
    }
}

impl FromStr for RelPath {
    type Err = ManifestError;
    fn from_str(text: &str) -> Result<Self, ManifestError> {
        match Self::flaw(text) {
            None => Ok(Self(text.to_owned())),
            Some(why) => Err(ManifestError::BadPath { path: shown(text), why }),
        }
    }
}

/// A refused path for people: escaped, and cut to 80 characters.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath({:?})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_could_leave_the_root_or_trick_a_reader_is_refused() {
        let long_name = "n".repeat(256);
        let long_path = ["d".repeat(200), "d".repeat(200), "d".repeat(200)].join("/");
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            "..",
            "a/../b",
            "./a",
            "a/.",
            "a\0b",
            "a\nb",
            "a\x1b[31m",
            "a\u{85}b",
            "a\\b",
            "1/2/3/4/5/6/7/8/9",
            &long_name,
            &long_path,
        ] {
            assert!(bad.parse::<RelPath>().is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "...", "..a", "a/b.bin", "ü/日本", "1/2/3/4/5/6/7/8", ".hidden"] {
            assert!(good.parse::<RelPath>().is_ok(), "{good:?} was refused");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_path_joined_to_a_root_stays_beneath_it(
            text in prop_oneof![any::<String>(), "[./a\\\\\0]{0,12}"],
        ) {
            if let Ok(path) = text.parse::<RelPath>() {
                let plain = Path::new(path.as_str()).components().all(|c| matches!(c, Component::Normal(_)));
                prop_assert!(plain, "{:?}", path);
                prop_assert_eq!(Path::new(path.as_str()).components().count(), path.names().count());
            }
        }
    }
}
