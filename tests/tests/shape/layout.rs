//! What lies where, what may be run, how long a file may be, and what no committed file says.

use std::collections::BTreeSet;

use super::source::{code, files};

/// The top level, and nothing else.
const TOP: [&str; 20] = [
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "agent",
    "clippy.toml",
    "controller",
    "deny.toml",
    "deploy",
    "docs",
    "proto",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "tests",
    ".gitattributes",
];

/// Must be there and may be run.
const COMMANDS: [&str; 5] =
    [".ci/run", "deploy/prepare", "deploy/trainer/build", "deploy/trainer/test", "tests/run"];

/// Longest file of written code; tests apart.
const MAX_LINES: usize = 500;

#[test]
fn the_top_level_holds_what_it_should() {
    let found: BTreeSet<String> = files()
        .iter()
        .map(|file| file.path.split('/').next().unwrap_or_default().to_owned())
        .collect();
    let unknown: Vec<_> = found.iter().filter(|name| !TOP.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "unexpected at the top level: {unknown:?}");
}

#[test]
fn scripts_may_be_run_and_nothing_else_may() {
    let files = files();
    for command in COMMANDS {
        let file = files.iter().find(|file| file.path == command);
        assert!(file.is_some_and(|file| file.executable), "{command} must exist and be executable");
    }
    for file in files {
        let script = file.text().starts_with("#!") && !file.path.ends_with(".rs");
        assert_eq!(script, file.executable, "{}: script {script}", file.path);
    }
}

#[test]
fn files_are_short() {
    let long: Vec<String> = files()
        .iter()
        .filter(|file| file.is_written_rust() && !file.is_test())
        .map(|file| (file.text().lines().take_while(|line| *line != "mod tests {").count(), file))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, file)| format!("{}: {lines} lines", file.path))
        .collect();
    assert!(long.is_empty(), "longer than {MAX_LINES} lines: {long:?}");
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<String> = files()
        .into_iter()
        .filter(|file| file.is_written_rust() && !file.text().starts_with("//!"))
        .map(|file| file.path)
        .collect();
    assert!(silent.is_empty(), "without a `//!` header: {silent:?}");
}

/// The lints see the same and `unwrap` wherever code is compiled; this also sees what is not.
#[test]
fn nothing_is_switched_off_or_left_over() {
    let words = ["#[ignore", "todo!(", "unimplemented!(", "dbg!(", "#![allow("];
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.is_written_rust()) {
        let text = file.text();
        // Strings of this very test name what it looks for.
        if file.path.starts_with("tests/tests/shape/") {
            continue;
        }
        for (number, line) in code(&text) {
            for word in words.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{number} has {word}", file.path));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A workspace of its own, since all of it is compiled in another way: it has a lock file, and so versions, of its own.
const APART: &str = "tests/fuzz/Cargo.toml";

#[test]
fn every_package_takes_the_workspace_s_lints() {
    let own = |path: &str| path.ends_with("/Cargo.toml") && path != APART;
    for file in files().iter().filter(|file| own(&file.path)) {
        let text = file.text();
        assert!(text.contains("[lints]\nworkspace = true"), "{} has lints of its own", file.path);
        let versions = text.lines().filter(|line| line.contains("version = \"")).count();
        assert_eq!(versions, 0, "{}: versions are declared once, in the root", file.path);
    }
}
