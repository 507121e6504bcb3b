//! What is wrong with a spec, said with the line it stands on.
//!
//! Problems of content are all collected, up to [`MAX_PROBLEMS`]; a text that is not YAML stops at its first one.

use std::fmt;

use hone_proto::error::{Reason, Refusal};

/// Problems that one error lists; the rest are counted. More than a screenful helps nobody.
pub const MAX_PROBLEMS: usize = 20;

/// Longest text of an error that crosses the wire: it travels percent-encoded in a header, and HTTP/2 peers commonly
/// limit all headers together to 16 KiB.
const MAX_WIRE_TEXT: usize = 4096;

/// Columns of a source line that an excerpt shows; a longer line is cut to a window around the place.
const EXCERPT_COLUMNS: usize = 100;

/// Why a spec was refused: at least one problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    name: String,
    problems: Vec<Problem>,
    omitted: usize,
}

/// The kind of a problem, for whoever branches on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemKind {
    /// The text is not the YAML that hone reads: syntax, encoding, several documents, a key that stands twice.
    Syntax,
    /// The text as a whole, its nesting or its aliases exceed a bound.
    TooLarge,
    /// There is no such key.
    UnknownKey,
    /// A required key is absent.
    Missing,
    /// Text where a number belongs, and the like.
    WrongType,
    /// The right type, but not an acceptable value.
    BadValue,
    /// Each value is fine, but not together.
    Conflict,
    /// hone cannot do that yet.
    NotSupported,
    /// A file or directory that the spec names cannot be used.
    Input,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its kind.
    pub kind: ProblemKind,
    /// What is wrong, in a phrase.
    pub what: String,
    /// The key, such as `train.batch.effective`; empty for the text as a whole.
    pub path: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The line as it stands in the source, cut to a window and free of control characters.
    pub excerpt: String,
    /// What to do about it; empty when `what` says it all.
    pub hint: String,
    /// First marked character of the excerpt, and how many.
    mark: (usize, usize),
}

/// A place in the text of a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// From 1.
    pub(super) line: u32,
    /// In characters, from 1.
    pub(super) column: u32,
    /// In characters; 0 when it is not known.
    pub(super) len: u32,
}

/// A place with its source line, kept where the text itself is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) place: Place,
    excerpt: String,
    mark: (usize, usize),
}

impl Origin {
    /// The place within its text.
    pub(super) fn within(text: &str, place: Place) -> Self {
        let line = usize::try_from(place.line.saturating_sub(1)).unwrap_or(usize::MAX);
        Self::new(lines(text).nth(line).unwrap_or_default(), place)
    }

    /// The place on its line, which is `source`.
    pub(super) fn new(source: &str, place: Place) -> Self {
        let at = usize::try_from(place.column.saturating_sub(1)).unwrap_or(0);
        let start = at.saturating_sub(EXCERPT_COLUMNS / 2);
        // A shorter line is shown whole.
        let start = if source.chars().nth(EXCERPT_COLUMNS).is_none() { 0 } else { start };
        let excerpt: String = source.chars().skip(start).take(EXCERPT_COLUMNS).map(safe).collect();
        let excerpt = excerpt.trim_end().to_owned();
        let from = at.saturating_sub(start);
        let room = excerpt.chars().count().saturating_sub(from).max(1);
        let len = usize::try_from(place.len).unwrap_or(1).clamp(1, room);
        Self { place, excerpt, mark: (from, len) }
    }

    /// A problem here.
    pub(super) fn problem(&self, kind: ProblemKind, path: &str, what: String) -> Problem {
        Problem {
            kind,
            what,
            path: path.to_owned(),
            line: self.place.line,
            column: self.place.column,
            excerpt: self.excerpt.clone(),
            hint: String::new(),
            mark: self.mark,
        }
    }
}

/// The lines of a text as YAML counts them: a carriage return ends one too, alone or before a line feed.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split("\r\n").flat_map(|lines| lines.split(['\n', '\r']))
}

/// The character as an excerpt shows it: one column each, and nothing that steers a terminal or reorders text.
fn safe(c: char) -> char {
    match c {
        '\t' => ' ',
        '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// A piece of the user's text for a message, in quotes.
pub(super) fn quoted(text: &str, limit: usize) -> String {
    format!("`{}`", printable(text, limit))
}

/// At most `limit` characters of `text`, safe to print.
pub(super) fn printable(text: &str, limit: usize) -> String {
    let mut shown: String = text.chars().take(limit).map(safe).collect();
    if text.chars().nth(limit).is_some() {
        shown.push('…');
    }
    shown
}

impl SpecError {
    pub(super) fn new(name: &str, problems: Vec<Problem>, omitted: usize) -> Self {
        let name = name.chars().take(200).map(safe).collect();
        Self { name, problems, omitted }
    }

    /// Where the text came from, as it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The problems in the order of the file; never empty.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many more there are than [`Self::problems`] lists.
    #[must_use]
    pub const fn omitted(&self) -> usize {
        self.omitted
    }

    fn write_problem(&self, f: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.name, problem.line, problem.column)?;
        if !problem.path.is_empty() {
            write!(f, "{}: ", problem.path)?;
        }
        f.write_str(&problem.what)?;
        if !problem.excerpt.is_empty() {
            let number = problem.line.to_string();
            let (blank, (from, len)) = (" ".repeat(number.len()), problem.mark);
            write!(f, "\n{number} | {}", problem.excerpt)?;
            write!(f, "\n{blank} | {}{}", " ".repeat(from), "^".repeat(len))?;
        }
        if !problem.hint.is_empty() {
            write!(f, "\nhint: {}", problem.hint)?;
        }
        Ok(())
    }
}

impl fmt::Display for SpecError {
    /// Each problem as `name:line:column: key: what`, its source line with a mark, and its hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len() + self.omitted;
        if count > 1 {
            writeln!(f, "{} has {count} problems\n", self.name)?;
        }
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                f.write_str("\n\n")?;
            }
            self.write_problem(f, problem)?;
        }
        if self.omitted > 0 {
            write!(f, "\n\nand {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecError {}

impl From<&SpecError> for Refusal {
    /// The refusal of a submit; a very long text is cut between two problems.
    fn from(error: &SpecError) -> Self {
        let mut kept = error.clone();
        while kept.problems.len() > 1 && kept.to_string().len() > MAX_WIRE_TEXT {
            kept.problems.pop();
            kept.omitted += 1;
        }
        Self::new(Reason::BadSpec, kept.to_string())
    }
}
