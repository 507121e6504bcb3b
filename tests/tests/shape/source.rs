//! Reading the repository: its tracked files, and Rust code without comments and tests.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the repository is checked out.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the root").to_owned()
}

/// A file that is tracked, or that would be with the next `git add`.
#[derive(Debug)]
pub(crate) struct File {
    /// From the root.
    pub(crate) path: String,
    /// Whether its owner may run it.
    pub(crate) executable: bool,
}

impl File {
    /// What it holds.
    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(root().join(&self.path)).unwrap_or_default()
    }

    /// Whether it is Rust that a person wrote.
    pub(crate) fn is_written_rust(&self) -> bool {
        self.path.ends_with(".rs") && !self.path.starts_with("proto/src/generated/")
    }

    /// Whether all of it is a test.
    pub(crate) fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || name.starts_with("tests")
            || name.ends_with("tests.rs")
            || name.starts_with("fake")
    }
}

/// All files.
pub(crate) fn files() -> Vec<File> {
    use std::os::unix::fs::PermissionsExt as _;
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    let present = names.split_terminator('\0').filter_map(|path| {
        let facts = std::fs::symlink_metadata(root().join(path)).ok()?;
        let executable = facts.is_file() && facts.permissions().mode() & 0o100 != 0;
        Some(File { path: path.to_owned(), executable })
    });
    let files: Vec<File> = present.collect();
    assert!(files.len() > 100, "only {} files were found", files.len());
    files
}

/// Lines of code with their numbers: without comments, and without what follows `#[cfg(test)]` at the left margin,
/// which ends every file that has it.
pub(crate) fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let product = numbered.take_while(|(_, line)| !line.starts_with("mod tests {"));
    product.filter_map(|(number, line)| {
        let before = line.split("//").next().unwrap_or_default();
        Some((number, before)).filter(|(_, code)| !code.trim().is_empty())
    })
}
