//! The configuration file of a tool that a spec names: read where the job is submitted, and checked there for its
//! messages and in the controller for its authority.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::error::{Origin, Place, ProblemKind, SpecError, lines, quoted};
use super::node;
use super::types::{InputPath, JobSpec};
use super::words::TrainerKind;

/// Longest configuration file, in bytes: it travels within the attempt's spec. Those of real tools have a few hundred
/// lines.
pub const MAX_CONFIG: usize = 16 * 1024;

impl JobSpec {
    fn config(&self) -> Option<&InputPath> {
        self.trainer.tool.as_ref().and_then(|tool| tool.config.as_ref())
    }
    /// Whether a submit of this spec must bring the text of a tool's configuration file.
    #[must_use]
    pub fn has_config(&self) -> bool {
        self.config().is_some()
    }
}

/// The text of the configuration file that `spec` names, with a path relative to `base_dir`; nothing when it names none.
/// Reads the file.
///
/// # Errors
/// Names the line of the spec when the file cannot be read, and the line of the file when the tool could not read it.
pub fn read_config(spec: &JobSpec, base_dir: &Path) -> Result<Option<String>, SpecError> {
    let Some(named) = spec.config() else { return Ok(None) };
    let path = base_dir.join(&named.text);
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // One byte over the bound shows that it is too long.
        let limit = u64::try_from(MAX_CONFIG).unwrap_or(u64::MAX).saturating_add(1);
        std::fs::File::open(&path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let shown = path.display().to_string();
    let bytes = read().map_err(|error| {
        let what = format!("cannot read {}: {error}", quoted(&shown, 200));
        let mut problem = named.origin.problem(ProblemKind::Input, &named.key, what);
        problem.hint = "paths in a spec are relative to the spec's own directory".to_owned();
        SpecError::new(&spec.source, vec![problem], 0)
    })?;
    if bytes.len() > MAX_CONFIG {
        return Err(too_long(&shown));
    }
    let text = node::utf8(&bytes, &shown)?;
    check(spec.trainer.kind, named.file_name(), text, &shown)?;
    Ok(Some(text.to_owned()))
}

/// Checks a text that was sent as the configuration file of `spec`.
///
/// # Errors
/// Names the line that the tool could not read.
pub fn check_config(spec: &JobSpec, text: &str) -> Result<(), SpecError> {
    let Some(named) = spec.config() else { return Ok(()) };
    if text.len() > MAX_CONFIG {
        return Err(too_long(&named.text));
    }
    check(spec.trainer.kind, named.file_name(), text, &named.text)
}

fn too_long(name: &str) -> SpecError {
    let what = format!("the file has more than {MAX_CONFIG} bytes");
    let hint =
        "a tool's configuration names its data, it does not hold it: is this the right file?";
    problem(name, "", Place { line: 1, column: 1, len: 0 }, ProblemKind::TooLarge, what, hint)
}

fn problem(
    name: &str,
    text: &str,
    place: Place,
    kind: ProblemKind,
    what: String,
    hint: &str,
) -> SpecError {
    let mut problem = Origin::within(text, place).problem(kind, "", what);
    problem.hint = hint.to_owned();
    SpecError::new(name, vec![problem], 0)
}

/// Refuses what the tool could not read: each begins with a mapping, in YAML or, by the file's name, in JSON. What a
/// script reads that is neither by its name is its own affair.
fn check(kind: TrainerKind, file: &str, text: &str, name: &str) -> Result<(), SpecError> {
    let start = Place { line: 1, column: 1, len: 1 };
    if let Some(at) = text.chars().position(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
    {
        let before: String = text.chars().take(at).collect();
        let line = lines(&before).count();
        let column = lines(&before).last().unwrap_or_default().chars().count();
        let place = Place { line: narrow(line), column: narrow(column) + 1, len: 1 };
        let hint = "save it as plain text; is this the right file?";
        let what = "holds control characters".to_owned();
        return Err(problem(name, text, place, ProblemKind::BadValue, what, hint));
    }
    let ends = |ends: &[&str]| ends.iter().any(|end| file.to_ascii_lowercase().ends_with(end));
    let json = ends(&[".json"]);
    let own = match kind {
        TrainerKind::Custom => true,
        TrainerKind::Hf => !json && !ends(&[".yaml", ".yml"]),
        _ => false,
    };
    if own {
        return Ok(());
    }
    let found = if json { in_json(text) } else { in_yaml(text) };
    let hint = format!("{} reads a mapping of keys to values here", kind.name());
    match found {
        Ok(Root::Mapping) => Ok(()),
        Ok(Root::Other(what)) => {
            let what = format!("the file is a mapping of keys to values, not {what}");
            Err(problem(name, text, start, ProblemKind::WrongType, what, &hint))
        }
        Err((place, what)) => Err(problem(name, text, place, ProblemKind::Syntax, what, &hint)),
    }
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX - 1)
}

fn in_json(text: &str) -> Result<Root, (Place, String)> {
    serde_json::from_str(text).map_err(|error| {
        let place = Place {
            line: narrow(error.line()).max(1),
            column: narrow(error.column()).max(1),
            len: 1,
        };
        let full = error.to_string();
        let what = full.split(" at line ").next().unwrap_or(&full);
        (place, format!("is no JSON: {}", quoted(what, 200)))
    })
}

fn in_yaml(text: &str) -> Result<Root, (Place, String)> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 64,
            flow_nesting_limit: 64,
            max_documents: 1,
            max_nodes: MAX_CONFIG,
            max_events: 4 * MAX_CONFIG,
            max_total_scalar_bytes: 2 * MAX_CONFIG,
        },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (place, what) = node::plain(&error);
        (place, format!("is no YAML: {}", quoted(&what, 200)))
    })
}

/// What a text is as a whole.
enum Root {
    Mapping,
    Other(&'static str),
}

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyRoot)
    }
}

struct AnyRoot;

impl<'de> Visitor<'de> for AnyRoot {
    type Value = Root;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Root, A::Error> {
        while access.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Root::Mapping)
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut access: A) -> Result<Root, A::Error> {
        while access.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Root::Other("a list"))
    }
    fn visit_unit<E>(self) -> Result<Root, E> {
        Ok(Root::Other("nothing"))
    }
    fn visit_none<E>(self) -> Result<Root, E> {
        Ok(Root::Other("nothing"))
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Root, D::Error> {
        Root::deserialize(deserializer)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Root, E> {
        Ok(Root::Other("true or false"))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Root, E> {
        Ok(Root::Other("a number"))
    }
    fn visit_u64<E>(self, _: u64) -> Result<Root, E> {
        Ok(Root::Other("a number"))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Root, E> {
        Ok(Root::Other("a number"))
    }
    fn visit_str<E>(self, _: &str) -> Result<Root, E> {
        Ok(Root::Other("text"))
    }
}
