//! The cores and the placement decide without I/O, clock or chance: a name of one of these in their code is a defect.

use super::source::{code, files};

/// Where pure code lives.
const PURE: [&str; 5] = [
    "agent/src/core",
    "controller/src/core",
    "controller/src/placement",
    "controller/src/fit",
    "controller/src/strategy",
];

/// What it must not name, and why.
const IMPURE: [(&str, &str); 20] = [
    ("tokio", "the core is synchronous"),
    ("tonic", "the core speaks domain types"),
    ("futures_util", "the core is synchronous"),
    (".await", "the core is synchronous"),
    ("async ", "the core is synchronous"),
    ("sled", "the driver persists"),
    ("bollard", "the driver acts"),
    ("Instant", "time is an input"),
    ("SystemTime", "time is an input"),
    ("Now::read", "time is an input"),
    ("jiff", "time is an input"),
    ("clock_gettime", "time is an input"),
    ("rand", "chance is an input"),
    ("uuid::", "ids are inputs"),
    ("std::fs", "the driver does I/O"),
    ("std::net", "the driver does I/O"),
    ("std::io", "the driver does I/O"),
    ("std::env", "settings are inputs"),
    ("std::thread", "one task owns the core"),
    ("HashMap", "its order differs from run to run; use BTreeMap"),
];

/// Whether `code` holds `word` and not only as a part of a longer name.
fn names(code: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + word.len()..]);
        let starts = word.starts_with(|c: char| c.is_alphanumeric());
        let ends = word.ends_with(|c: char| c.is_alphanumeric());
        !(starts && part(before.chars().next_back()) || ends && part(after.chars().next()))
    })
}

#[test]
fn pure_modules_name_nothing_impure() {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for file in files() {
        let Some(module) = PURE.iter().find(|module| {
            let rest = file.path.strip_prefix(**module).unwrap_or("-");
            rest == ".rs" || (rest.starts_with('/') && rest.ends_with(".rs"))
        }) else {
            continue;
        };
        seen.push(*module);
        let text = file.text();
        for (number, line) in code(&text) {
            for (word, why) in IMPURE.iter().filter(|(word, _)| names(line, word)) {
                found.push(format!("{}:{number} names {word}: {why}", file.path));
            }
        }
    }
    for module in &PURE[..3] {
        assert!(seen.contains(module), "{module} is not there: this test guards nothing");
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_name_is_told_from_a_part_of_one() {
    assert!(names("use tokio::sync;", "tokio"));
    assert!(names("x.await?", ".await"));
    assert!(names("let now = std::time::Instant::now();", "Instant"));
    assert!(!names("a branded operand", "rand"));
    assert!(!names("struct Instantly;", "Instant"));
}
