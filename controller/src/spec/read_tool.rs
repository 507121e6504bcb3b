//! From the tree to a spec: the tool that a user brings.

use std::collections::BTreeMap;
use std::time::Duration;

use hone_proto::assignment::is_denied_variable;
use hone_proto::pattern::{LinePattern, PathPattern, PatternError};

use super::error::{ProblemKind, quoted};
use super::node::{Node, Value};
use super::problems::Problems;
use super::read::path;
use super::read_run::duration;
use super::reader::{At, Section};
use super::tool::{Complete, Resume, Tool, ToolCheckpoint};
use super::types::InputPath;
use super::words::{Telemetry, TrainerKind};

/// Keys that say how a tool is run; hone's own trainer needs none of them.
const TOOL_KEYS: [&str; 8] =
    ["config", "override", "telemetry", "stdout_patterns", "checkpoint", "resume", "stop", "env"];

/// Patterns of one job: each is tried on every line that the tool prints.
const MAX_PATTERNS: usize = 16;
/// Longest file name, and longest path template.
const MAX_NAME: usize = 128;
/// Variables of one job.
const MAX_ENV: usize = 64;
/// Bounds of a settle time.
const SETTLED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// How the names of formats end that are one file, whoever writes them.
const ONE_FILE: [&str; 14] = [
    ".keras",
    ".h5",
    ".hdf5",
    ".pt",
    ".pth",
    ".pkl",
    ".joblib",
    ".npz",
    ".safetensors",
    ".gguf",
    ".onnx",
    ".msgpack",
    ".zip",
    ".tar",
];

/// The settings of a tool, or none for hone's own trainer, which refuses them.
pub(super) fn tool(trainer: &Section<'_>, kind: TrainerKind, p: &mut Problems<'_>) -> Option<Tool> {
    if kind == TrainerKind::Hone {
        for at in TOOL_KEYS.into_iter().filter_map(|key| trainer.get(key)) {
            let hint = "hone's own trainer goes by `method`, `train` and `data`; for another tool set `trainer.kind`";
            p.add(ProblemKind::Conflict, at.here(), "has no meaning with kind `hone`", hint);
        }
        return None;
    }
    Some(Tool {
        config: trainer.get("config").and_then(|at| config(&at, p)),
        overrides: trainer.get("override").and_then(|at| overrides(&at, p)),
        telemetry: trainer.word("telemetry", p).unwrap_or(Telemetry::Auto),
        stdout_patterns: trainer
            .get("stdout_patterns")
            .map_or_else(Vec::new, |at| patterns(&at, p)),
        checkpoint: trainer.get("checkpoint").and_then(|at| checkpoint(&at, kind, p)),
        resume: trainer.get("resume").and_then(|at| resume(&at, p)),
        stop: trainer.word("stop", p),
        env: trainer.get("env").map_or_else(BTreeMap::new, |at| env(&at, p)),
    })
}

fn config(at: &At<'_>, p: &mut Problems<'_>) -> Option<InputPath> {
    let config = path(at, p)?;
    if is_file_name(config.file_name()) {
        return Some(config);
    }
    let what = format!("{} is not a plain file name", quoted(config.file_name(), 60));
    at.bad(p, what, "letters, digits, `.`, `_` and `-`, since the tool sees the file by its name");
    None
}

fn is_file_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty()
        && !matches!(name, "." | "..")
        && name.len() <= MAX_NAME
        && name.chars().all(legal)
}

impl InputPath {
    /// The last part of the path.
    pub(super) fn file_name(&self) -> &str {
        self.text.rsplit('/').next().unwrap_or_default()
    }
}

type Map = serde_json::Map<String, serde_json::Value>;

fn overrides(at: &At<'_>, p: &mut Problems<'_>) -> Option<Map> {
    match json(at.node, &at.path, p)? {
        serde_json::Value::Object(map) => (!map.is_empty()).then_some(map),
        _ => {
            at.wrong_type(p);
            None
        }
    }
}

/// The value as JSON, which is what the tool's configuration is made of.
fn json(node: &Node, path: &str, p: &mut Problems<'_>) -> Option<serde_json::Value> {
    use serde_json::{Number, Value as Json};
    let number = match &node.value {
        Value::Null => return Some(Json::Null),
        Value::Bool(flag) => return Some(Json::Bool(*flag)),
        Value::Text(text) if text.chars().all(is_printable) => {
            return Some(Json::String(text.clone()));
        }
        Value::Text(_) => {
            p.add(ProblemKind::BadValue, (path, node.place), "holds control characters", "");
            return None;
        }
        Value::List(items) => {
            return items
                .iter()
                .map(|item| json(item, path, p))
                .collect::<Option<_>>()
                .map(Json::Array);
        }
        Value::Map(entries) => {
            let pair = |entry: &super::node::Entry, p: &mut Problems<'_>| {
                if entry.key.is_empty() || !entry.key.chars().all(is_printable) {
                    let what = format!("{} cannot be a key", quoted(&entry.key, 60));
                    p.add(ProblemKind::BadValue, (path, entry.place), what, "");
                    return None;
                }
                Some((entry.key.clone(), json(&entry.node, path, p)?))
            };
            return entries
                .iter()
                .map(|entry| pair(entry, p))
                .collect::<Option<_>>()
                .map(Json::Object);
        }
        Value::Whole(number) => i64::try_from(*number)
            .map(Number::from)
            .or_else(|_| u64::try_from(*number).map(Number::from))
            .ok(),
        Value::Real(number) => Number::from_f64(*number),
    };
    if number.is_none() {
        p.add(ProblemKind::BadValue, (path, node.place), "is no number that JSON can hold", "");
    }
    number.map(Json::Number)
}

fn is_printable(c: char) -> bool {
    !c.is_control() || matches!(c, '\n' | '\t')
}

fn patterns(at: &At<'_>, p: &mut Problems<'_>) -> Vec<String> {
    let items = at.list(p).unwrap_or_default();
    if items.len() > MAX_PATTERNS {
        at.bad(p, format!("{} patterns, more than {MAX_PATTERNS}", items.len()), "");
        return Vec::new();
    }
    items.iter().filter_map(|item| pattern(item, p)).collect()
}

fn pattern(at: &At<'_>, p: &mut Problems<'_>) -> Option<String> {
    const HINT: &str = r"such as `step (?P<step>\d+) loss (?P<loss>[-+.\deE]+)`";
    let text = at.text(p)?;
    let Err(error) = LinePattern::new(&text) else { return Some(text) };
    let (what, hint) = match error {
        PatternError::Syntax(why) => {
            (format!("is no regular expression: {}", quoted(&why, 100)), HINT)
        }
        PatternError::TooLarge => {
            ("takes too much memory".to_owned(), "counted repetitions such as `{1000}` multiply")
        }
        PatternError::NoFigure => (
            "has no named group that is a figure, so nothing could be read with it".to_owned(),
            HINT,
        ),
        other => (other.to_string(), ""),
    };
    at.bad(p, what, hint);
    None
}

fn checkpoint(at: &At<'_>, kind: TrainerKind, p: &mut Problems<'_>) -> Option<ToolCheckpoint> {
    if kind.is_rendered() {
        let what =
            format!("has no meaning with kind `{}`, whose checkpoints hone knows", kind.name());
        p.add(ProblemKind::Conflict, at.here(), what, "remove it");
        return None;
    }
    let section = Section::open(at, p)?;
    let path = section.required("path", p).and_then(|at| template(&at, p));
    let complete = section.required("complete", p).and_then(|at| complete(&at, p));
    let hint = "the name of a file in the output folder, such as `save-now`";
    let request = section.get("request").and_then(|at| file_name(&at, hint, p));
    let (path, complete) = (path?, complete?);
    if let (Complete::Marker(_), Some(end)) = (&complete, one_file(&path)) {
        let what = format!("names a file in the checkpoint, which by its `{end}` is itself one");
        let hint =
            "say `complete: {settled: 10s}`, or save into a folder whose name ends otherwise";
        let at = section.get("complete").unwrap_or(At { path: at.path.clone(), node: at.node });
        p.add(ProblemKind::Conflict, at.here(), what, hint);
        return None;
    }
    Some(ToolCheckpoint { path, complete, request })
}

/// The end of a path by which it is one file, and no folder.
fn one_file(path: &str) -> Option<&'static str> {
    let path = path.to_ascii_lowercase();
    ONE_FILE.into_iter().find(|end| path.ends_with(end))
}

/// A path in which one number stands for what it is a checkpoint of.
fn template(at: &At<'_>, p: &mut Problems<'_>) -> Option<String> {
    const HINT: &str = "such as `ckpt-{step}`, relative to the output folder";
    let text = at.text(p)?;
    let filled = text.replacen("{step}", "0", 1);
    let filled = if filled == text { text.replacen("{epoch}", "0", 1) } else { filled };
    let legal =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '=' | '+');
    let why = if filled == text {
        "must hold `{step}` or `{epoch}`"
    } else if filled.contains("{step}") || filled.contains("{epoch}") {
        "must hold `{step}` or `{epoch}` once"
    } else if text.starts_with('/') {
        "must be relative"
    } else if filled.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "must be plain, without `.`, `..` and empty parts"
    } else if !filled.chars().all(legal) {
        "takes letters, digits and `._-/=+` besides the number"
    } else if text.len() > MAX_NAME || PathPattern::new(&text).is_err() {
        "is too long, or too deep"
    } else {
        return Some(text);
    };
    at.bad(p, why, HINT);
    None
}

fn complete(at: &At<'_>, p: &mut Problems<'_>) -> Option<Complete> {
    let section = Section::open(at, p)?;
    let (name, at) = one_of(at, &section, ["marker", "settled"], p)?;
    if name == "settled" {
        return settled(&at, p).map(Complete::Settled);
    }
    let hint = "the name of a file in the checkpoint, such as `DONE`";
    file_name(&at, hint, p).map(Complete::Marker)
}

fn file_name(at: &At<'_>, hint: &str, p: &mut Problems<'_>) -> Option<String> {
    let text = at.text(p)?;
    if is_file_name(&text) {
        return Some(text);
    }
    let what = format!("{} is not a plain file name", quoted(&text, 60));
    at.bad(p, what, hint);
    None
}

fn settled(at: &At<'_>, p: &mut Problems<'_>) -> Option<Duration> {
    const HINT: &str = "a time from 1s to 1h, such as `10s`";
    let Value::Text(text) = &at.node.value else {
        at.bad(p, "a time needs a unit", HINT);
        return None;
    };
    let time = duration(text).filter(|time| (SETTLED.0..=SETTLED.1).contains(time));
    if time.is_none() {
        at.bad(p, format!("{} is not such a time", quoted(text, 60)), HINT);
    }
    time
}

fn resume(at: &At<'_>, p: &mut Problems<'_>) -> Option<Resume> {
    let section = Section::open(at, p)?;
    let (name, at) = one_of(at, &section, ["argument", "environment"], p)?;
    let text = at.text(p)?;
    if name == "environment" {
        return is_variable(&at, &text, p).then_some(Resume::Environment(text));
    }
    let hint = "one argument, such as `--resume={path}`: no shell splits it";
    if text.matches("{path}").count() != 1 {
        at.bad(p, "must hold `{path}` once", hint);
    } else if text.chars().any(char::is_whitespace) {
        at.bad(p, "holds a space", hint);
    } else {
        return Some(Resume::Argument(text));
    }
    None
}

/// The one of two keys that is given.
fn one_of<'n>(
    at: &At<'n>,
    section: &Section<'n>,
    names: [&'static str; 2],
    p: &mut Problems<'_>,
) -> Option<(&'static str, At<'n>)> {
    let [first, second] = names;
    match (section.get(first), section.get(second)) {
        (Some(found), None) => Some((first, found)),
        (None, Some(found)) => Some((second, found)),
        (Some(_), Some(extra)) => {
            let what = format!("stands beside `{first}`");
            p.add(ProblemKind::Conflict, extra.here(), what, "keep one of the two");
            None
        }
        (None, None) => {
            let what = format!("needs `{first}` or `{second}`");
            p.add(ProblemKind::Missing, at.here(), what, "");
            None
        }
    }
}

fn env(at: &At<'_>, p: &mut Problems<'_>) -> BTreeMap<String, String> {
    let Value::Map(entries) = &at.node.value else {
        at.wrong_type(p);
        return BTreeMap::new();
    };
    if entries.len() > MAX_ENV {
        at.bad(p, format!("{} variables, more than {MAX_ENV}", entries.len()), "");
        return BTreeMap::new();
    }
    let mut env = BTreeMap::new();
    for entry in entries {
        let value = At { path: at.path.clone(), node: &entry.node };
        let Value::Text(text) = &entry.node.value else {
            let what = format!("takes text, not {}", entry.node.value.kind());
            p.add(ProblemKind::WrongType, value.here(), what, "put it in quotes");
            continue;
        };
        let name = Node { place: entry.place, value: Value::Text(entry.key.clone()) };
        let named = is_variable(&At { path: at.path.clone(), node: &name }, &entry.key, p);
        // Unlike other text, a variable may be empty.
        if named && (text.is_empty() || value.text(p).is_some()) {
            env.insert(entry.key.clone(), text.clone());
        }
    }
    env
}

/// Whether `name` may name a variable of the job; notes why not.
fn is_variable(at: &At<'_>, name: &str, p: &mut Problems<'_>) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let plain = !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(legal);
    if !plain || name.starts_with(|c: char| c.is_ascii_digit()) {
        let hint = "letters, digits and `_`, not beginning with a digit";
        at.bad(p, format!("{} cannot name a variable", quoted(name, 60)), hint);
        return false;
    }
    if is_denied_variable(name) {
        let hint = "it belongs to hone, or reaches hooks that run with the host's privileges";
        at.bad(p, format!("{} is not a job's to set", quoted(name, 60)), hint);
        return false;
    }
    true
}
