//! The list that grows while a tree is read: bounded, and sorted by place when it is done.

use super::error::{MAX_PROBLEMS, Origin, Place, Problem, ProblemKind, SpecError, lines};
use super::keys;

/// Problems that are looked into, so that a hostile text costs little; [`MAX_PROBLEMS`] of them are shown.
const MAX_EXPLAINED: usize = 4 * MAX_PROBLEMS;

/// Every problem met while a tree is read, with the text it stands in.
pub(super) struct Problems<'t> {
    lines: Vec<&'t str>,
    name: &'t str,
    list: Vec<Problem>,
    omitted: usize,
}

impl<'t> Problems<'t> {
    pub(super) fn new(text: &'t str, name: &'t str) -> Self {
        Self { lines: lines(text).collect(), name, list: Vec::new(), omitted: 0 }
    }

    /// Notes one problem.
    pub(super) fn add(
        &mut self,
        kind: ProblemKind,
        (path, place): (&str, Place),
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if self.full() {
            self.omitted += 1;
            return;
        }
        let mut problem = self.origin(place).problem(kind, path, what.into());
        problem.hint = hint.into();
        if problem.hint.is_empty() {
            problem.hint = about(path);
        }
        self.list.push(problem);
    }

    /// Whether more would only be counted.
    pub(super) fn full(&self) -> bool {
        self.list.len() >= MAX_EXPLAINED
    }

    /// A place with its source line.
    pub(super) fn origin(&self, place: Place) -> Origin {
        let line = usize::try_from(place.line.saturating_sub(1)).unwrap_or(usize::MAX);
        Origin::new(self.lines.get(line).unwrap_or(&""), place)
    }

    /// `value`, unless there was any problem.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, SpecError> {
        match value {
            Some(value) if self.list.is_empty() => Ok(value),
            _ => {
                self.list.sort_by_key(|problem| (problem.line, problem.column));
                let omitted = self.omitted + self.list.len().saturating_sub(MAX_PROBLEMS);
                self.list.truncate(MAX_PROBLEMS);
                Err(SpecError::new(self.name, self.list, omitted))
            }
        }
    }
}

/// What the key at `path` is, for a problem that needs no advice of its own.
fn about(path: &str) -> String {
    keys::find(path).map_or_else(String::new, |key| {
        let first = key.meaning.split_once(". ").map_or(key.meaning, |(first, _)| first);
        format!("`{path}`: {}", first.trim_end_matches('.'))
    })
}
