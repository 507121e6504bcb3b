//! What real runs left behind, for the tests.

use std::path::{Path, PathBuf};

/// Where a fixture lies.
pub(super) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/trainer").join(name)
}

/// The content of a fixture.
pub(super) fn bytes(name: &str) -> Vec<u8> {
    let path = path(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The content of a fixture that is text.
pub(super) fn text(name: &str) -> String {
    text_of(&path(name))
}

/// The content of a file that is text.
pub(super) fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What one attempt of a tool left.
pub(super) struct Attempt {
    /// For messages.
    pub(super) name: String,
    /// Where it lies.
    pub(super) folder: PathBuf,
    /// Steps that were done before.
    pub(super) begin: u64,
}

impl Attempt {
    /// The one from the base model.
    pub(super) fn first(fixture: &str) -> Self {
        Self { name: fixture.to_owned(), folder: path(fixture), begin: 0 }
    }

    /// The one from the checkpoint of step 10.
    fn resumed(fixture: &str) -> Self {
        let folder = path(fixture).join("resumed");
        Self { name: format!("{fixture}, resumed"), folder, begin: 10 }
    }

    /// Its files whose paths fit, sorted.
    pub(super) fn files(&self, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.folder, &mut found);
        let other = self.folder.join("resumed");
        found.retain(|path| !path.starts_with(&other) && fits(&path.to_string_lossy()));
        found.sort();
        found
    }

    /// The content of one of its files.
    pub(super) fn text(&self, name: &str) -> String {
        text_of(&self.folder.join(name))
    }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        if entry.path().is_dir() {
            walk(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

/// The attempts of every tool on the `Trainer` that the recipes ran.
pub(super) fn attempts() -> Vec<Attempt> {
    let fixtures = [
        "hf-4.57.6-full",
        "hf-5.23.0-full",
        "trl-1.16.0-lora",
        "llamafactory-0.9.5-lora",
        "axolotl-0.18.0-lora",
        "unsloth-2026.10.9-lora",
    ];
    fixtures.into_iter().flat_map(|name| [Attempt::first(name), Attempt::resumed(name)]).collect()
}
