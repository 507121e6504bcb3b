//! YAML text as a tree in which everything knows its place.
//!
//! The parser stops at the first type error that serde meets and forgets the key's path. So serde only fills this
//! tree, by a visitor that takes anything, and `read` gives it meaning and collects every problem.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Error, Location, Options, Spanned};

use super::error::{Origin, Place, ProblemKind, SpecError, lines, printable, quoted};

/// Longest text of a spec. The controller keeps it as one record, which holds 64 KiB.
pub const MAX_TEXT: usize = 60 * 1024;

/// Deepest nesting: twice what the deepest key needs.
const MAX_DEPTH: usize = 12;

/// Values and keys that a spec may hold, also after aliases are replaced by what they stand for.
const MAX_NODES: usize = 8192;

/// Anchors and aliases, each.
const MAX_ALIASES: usize = 64;

/// What to do about tabs.
const NO_TABS: &str = "indent with spaces";

/// One value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value as YAML's core schema reads it.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Whole(i128),
    Real(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One line of a mapping.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

impl Value {
    /// What it is, for messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Whole(_) | Self::Real(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// `bytes` as text.
pub(super) fn utf8<'t>(bytes: &'t [u8], name: &str) -> Result<&'t str, SpecError> {
    if bytes.len() > MAX_TEXT {
        return Err(too_long(name));
    }
    std::str::from_utf8(bytes).map_err(|error| not_utf8(bytes, &error, name))
}

/// The tree of `text`, or the first reason why there is none.
pub(super) fn parse(text: &str, name: &str) -> Result<Node, SpecError> {
    if text.len() > MAX_TEXT {
        return Err(too_long(name));
    }
    let root: Spanned<Value> = serde_saphyr::from_str_with_options(text, options())
        .map_err(|e| explain(&e, text, name))?;
    Ok(node(root))
}

/// How long it is nobody knows: no more of it was read than shows that it is too long.
fn too_long(name: &str) -> SpecError {
    let what = format!("the file has more than the {MAX_TEXT} bytes of the largest spec");
    let mut problem = Origin::new("", Place { line: 1, column: 1, len: 0 }).problem(
        ProblemKind::TooLarge,
        "",
        what,
    );
    problem.hint = "a spec names its data, it does not hold it: is this the right file?".to_owned();
    SpecError::new(name, vec![problem], 0)
}

fn not_utf8(bytes: &[u8], error: &std::str::Utf8Error, name: &str) -> SpecError {
    let shown = String::from_utf8_lossy(bytes);
    let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
    let line = lines(&valid).count();
    let column = lines(&valid).last().unwrap_or_default().chars().count() + 1;
    let place = Place { line: small(line), column: small(column), len: 1 };
    let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
    let what = format!("the byte 0x{byte:02x} is not UTF-8 text");
    let mut problem = Origin::within(&shown, place).problem(ProblemKind::Syntax, "", what);
    problem.hint = "save the file as UTF-8; is this the right file?".to_owned();
    SpecError::new(name, vec![problem], 0)
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: 1,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_recorded_anchor_events: 4 * MAX_NODES,
            max_recorded_anchor_bytes: 4 * MAX_TEXT,
            max_total_scalar_bytes: 2 * MAX_TEXT,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
            max_replay_stack_depth: MAX_DEPTH,
            max_alias_expansions_per_anchor: MAX_ALIASES,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

/// The parser's error in our words where the user can do something about it, in its own where not.
fn explain(error: &Error, text: &str, name: &str) -> SpecError {
    let error = error.without_snippet();
    let place = error.location().map_or(Place { line: 1, column: 1, len: 1 }, place_of);
    let (kind, what, hint) = match error {
        Error::AliasError { error: inner, .. } => words(inner),
        other => words(other),
    };
    // The parser notices a tab where it looks for the next token, at the end of what stands before; or it takes it for
    // part of a value, and stumbles on the same line.
    let (place, what, hint) = match tab_from(text, place) {
        Some(tab) if hint == NO_TABS => (tab, what, hint),
        Some(tab) if kind == ProblemKind::Syntax && tab.line == place.line => {
            (tab, "a tab in the indentation".to_owned(), NO_TABS)
        }
        _ => (place, what, hint),
    };
    let mut problem = Origin::within(text, place).problem(kind, "", what);
    problem.hint = hint.to_owned();
    SpecError::new(name, vec![problem], 0)
}

/// The first tab in the indentation of a line, from the line of `place` on.
fn tab_from(text: &str, place: Place) -> Option<Place> {
    let indented_by =
        |line: &str| line.chars().take_while(|c| matches!(c, ' ' | '\t')).position(|c| c == '\t');
    let before = usize::try_from(place.line.saturating_sub(1)).unwrap_or(usize::MAX);
    let mut lines = lines(text).enumerate().skip(before);
    let (line, column) = lines.find_map(|(line, text)| Some((line, indented_by(text)?)))?;
    Some(Place { line: small(line + 1), column: small(column + 1), len: 1 })
}

fn words(error: &Error) -> (ProblemKind, String, &'static str) {
    use ProblemKind::{Syntax, TooLarge};
    const ALIASES: &str = "write the values out instead of using `&` and `*`";
    match error {
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().map_or_else(|| "a key".to_owned(), |key| quoted(key, 60));
            (Syntax, format!("{key} stands twice in this mapping"), "keep one of the two")
        }
        Error::MultipleDocuments { .. }
        | Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => (
            Syntax,
            "a second document begins here".to_owned(),
            "one file holds one job: put each job in a file of its own",
        ),
        Error::MergeKeyNotAllowed { .. } => {
            (Syntax, "merge keys (`<<`) are not part of a spec".to_owned(), "write the keys out")
        }
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. } => {
            (TooLarge, "the aliases stand for too many values".to_owned(), ALIASES)
        }
        Error::Budget { breach, .. } => budget(breach, ALIASES),
        other => {
            let (_, what) = plain(other);
            let hint = if what.contains("tabs") {
                NO_TABS
            } else if what.contains("mapping values are not allowed") {
                "check the indentation of this line, and put text that holds `: ` in quotes"
            } else if what == "expected string scalar" {
                "each key is plain text"
            } else {
                "each line is `key: value`, indented with spaces; text with special characters goes in quotes"
            };
            (Syntax, printable(&what, 200), hint)
        }
    }
}

/// The parser's own words for an error, without the place that stands in them.
pub(super) fn plain(error: &Error) -> (Place, String) {
    let error = error.without_snippet();
    let full = error.to_string();
    let at = error.location();
    let place = at.map_or(Place { line: 1, column: 1, len: 1 }, place_of);
    let told = at.map(|l| format!(" at line {}, column {}", l.line(), l.column()));
    let what = told.and_then(|told| full.strip_suffix(&told).map(str::to_owned)).unwrap_or(full);
    (place, what)
}

fn budget(breach: &BudgetBreach, aliases: &'static str) -> (ProblemKind, String, &'static str) {
    let (what, hint) = match breach {
        BudgetBreach::Depth { .. } => {
            (format!("nested more than {MAX_DEPTH} levels deep"), "no key of a spec is that deep")
        }
        BudgetBreach::Aliases { .. } | BudgetBreach::Anchors { .. } => {
            (format!("more than {MAX_ALIASES} anchors or aliases"), aliases)
        }
        BudgetBreach::RecordedAnchorEvents { .. }
        | BudgetBreach::RecordedAnchorBytes { .. }
        | BudgetBreach::AliasAnchorRatio { .. } => {
            ("the aliases stand for too many values".to_owned(), aliases)
        }
        _ => (
            format!("more than {MAX_NODES} keys and values"),
            "a spec names its data, it does not hold it",
        ),
    };
    (ProblemKind::TooLarge, what, hint)
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn place_of(location: Location) -> Place {
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Place {
        line: narrow(location.line()).max(1),
        column: narrow(location.column()).max(1),
        len: narrow(location.span().len()),
    }
}

fn node(spanned: Spanned<Value>) -> Node {
    Node { place: place_of(spanned.referenced), value: spanned.value }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Whole(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Whole(value.into()))
    }
    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Whole(value))
    }
    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
        i128::try_from(value).map(Value::Whole).map_err(|_| E::custom("this number is too large"))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Real(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }
    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Value, E> {
        Err(E::custom("binary values are not part of a spec"))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = access.next_element::<Spanned<Value>>()? {
            if list.len() >= MAX_NODES {
                return Err(A::Error::custom("this list is too long"));
            }
            list.push(node(item));
        }
        Ok(Value::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = access.next_entry::<Spanned<String>, Spanned<Value>>()? {
            if map.len() >= MAX_NODES {
                return Err(A::Error::custom("this mapping is too long"));
            }
            let place = place_of(key.referenced);
            map.push(Entry { key: key.value, place, node: node(value) });
        }
        Ok(Value::Map(map))
    }
}
