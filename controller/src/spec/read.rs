//! From the tree to a [`JobSpec`]: the top level, the model and the data.

use std::collections::BTreeMap;

use hone_proto::id::{JobName, ProjectName};

use super::error::{ProblemKind, quoted};
use super::left;
use super::node::{Node, Value};
use super::problems::Problems;
use super::read_method::method;
use super::read_run::{container, evaluate, export, on_disconnect, resources, trainer};
use super::read_train::{checkpoint, require_shardable, train};
use super::reader::{At, Section};
use super::tool_limits;
use super::types::{Data, EvalData, InputPath, JobSpec, Model, TrainData};
use super::words::{
    BadRows, DataFormat, Kind, LogLevel, LossOn, Overlong, Preload, Template, TrainerKind, Words,
};

/// Labels of one job: they are copied into every listing.
const MAX_LABELS: usize = 32;
/// Longest name of a label, and longest value, in characters.
const MAX_LABEL: usize = 63;
/// Longest name of a model, in characters.
const MAX_MODEL_NAME: usize = 128;

/// File names that say by their end that they hold rows, where a hub's data set would have none.
const ROW_FILES: [&str; 8] =
    [".jsonl", ".json", ".ndjson", ".txt", ".csv", ".tsv", ".parquet", ".arrow"];
/// Bytes of a system prompt: it stands in every row, and a spec is kept with its job.
const MAX_PROMPT: usize = 8192;

pub(super) fn job(root: &Node, source: &str, p: &mut Problems<'_>) -> Option<JobSpec> {
    let top = Section::root(root, p)?;
    let version = top.small("version", p).unwrap_or(1);
    let kind = top.word("kind", p).unwrap_or(Kind::Finetune);
    let name = name(&top, p);
    let project = project(&top, p);
    let labels = labels(&top, p);
    let trainer = trainer(&top, p);
    let tool = trainer.as_ref().map(|trainer| trainer.kind);
    // A tool that is named by a word nobody knows may be one that can do without: that is no news then.
    let optional = tool.is_none_or(TrainerKind::is_own_script);
    let model = optional_or(optional, &top, "model").then(|| model(&top, p));
    let data = optional_or(optional, &top, "data").then(|| data(&top, p));
    let method = method(&top, p);
    let train = train(&top, method.as_ref().map(|method| method.kind), p);
    let export = export(&top, method.as_ref().map(|method| method.kind), trainer.as_ref(), p);
    let checkpoint = checkpoint(&top, p);
    let resources = resources(&top, p);
    if tool == Some(TrainerKind::Hone) {
        require_shardable(&top, &train, method.as_ref(), &resources, p);
    }
    if let Some(trainer) = &trainer {
        tool_limits::require_even_batch(&top, trainer, &train, &resources, p);
        tool_limits::require_known_method(&top, trainer, method.as_ref(), p);
    }
    let container = container(&top, p);
    let on_disconnect = on_disconnect(&top, p);
    let evaluate = evaluate(&top, p);
    let log_level = top.word("log_level", p).unwrap_or(LogLevel::Info);
    let (trainer, model) = (trainer?, inside(model)?);
    let data = inside(data)?;
    let held_out = data.as_ref().is_some_and(|data| matches!(data.eval, EvalData::Own(_)));
    let left_to_tool = left::to_the_tool(root, left::Tool::of(&trainer, held_out));
    Some(JobSpec {
        version,
        kind,
        name: name.or_else(|| derived_name(model.as_ref().map_or("", |model| &model.name)))?,
        project,
        labels,
        model,
        data,
        method: method?,
        train,
        checkpoint,
        trainer,
        resources,
        container,
        on_disconnect,
        evaluate,
        export,
        log_level,
        source: source.to_owned(),
        left_to_tool,
    })
}

/// Whether this part is read: it stands there, or has to.
fn optional_or(optional: bool, top: &Section<'_>, name: &str) -> bool {
    !optional || top.get(name).is_some()
}

/// What is absent is fine; what is there and could not be read is not.
fn inside<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        None => Some(None),
        Some(None) => None,
        Some(found) => Some(found),
    }
}

fn name(top: &Section<'_>, p: &mut Problems<'_>) -> Option<JobName> {
    let at = top.get("name")?;
    let text = at.text(p)?;
    text.parse().map_err(|error: hone_proto::id::IdError| at.bad(p, error.why, "")).ok()
}

/// The model's name with what a job's name cannot hold replaced.
fn derived_name(model: &str) -> Option<JobName> {
    let plain: String = model
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .take(hone_proto::id::MAX_ID_LEN)
        .collect();
    plain.trim_start_matches(['.', '_', '-']).parse().or_else(|_| "job".parse()).ok()
}

fn project(top: &Section<'_>, p: &mut Problems<'_>) -> ProjectName {
    let read = top.get("project").and_then(|at| {
        let text = at.text(p)?;
        text.parse().map_err(|error: hone_proto::id::IdError| at.bad(p, error.why, "")).ok()
    });
    read.unwrap_or_else(ProjectName::default_project)
}

fn labels(top: &Section<'_>, p: &mut Problems<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let Some(at) = top.get("labels") else { return labels };
    let Value::Map(entries) = &at.node.value else {
        at.wrong_type(p);
        return labels;
    };
    if entries.len() > MAX_LABELS {
        at.bad(p, format!("{} labels, more than {MAX_LABELS}", entries.len()), "");
        return labels;
    }
    for entry in entries {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        if entry.key.is_empty() || entry.key.len() > MAX_LABEL || !entry.key.chars().all(legal) {
            let what = format!("{} cannot name a label", quoted(&entry.key, MAX_LABEL));
            let hint = format!("letters, digits, `.`, `_`, `-` and `/`, at most {MAX_LABEL}");
            p.add(ProblemKind::BadValue, (&at.path, entry.place), what, hint);
            continue;
        }
        let value = At { path: format!("labels.{}", entry.key), node: &entry.node };
        match &entry.node.value {
            Value::Text(_) => {}
            other => {
                let what = format!("takes text, not {}", other.kind());
                p.add(ProblemKind::WrongType, value.here(), what, "put it in quotes");
                continue;
            }
        }
        let Some(text) = value.text(p) else { continue };
        if text.chars().count() > MAX_LABEL {
            value.bad(p, format!("longer than {MAX_LABEL} characters"), "");
            continue;
        }
        labels.insert(entry.key.clone(), text);
    }
    labels
}

fn model(top: &Section<'_>, p: &mut Problems<'_>) -> Option<Model> {
    let at = top.required("model", p)?;
    let (path, name) = match at.node.value {
        Value::Text(_) => (short_path(&at, p, "model.path", &[]), None),
        _ => {
            let section = Section::open(&at, p)?;
            // A model that is named by what is not supported yet has been refused for that already.
            let path = match section.get("path") {
                None if section.has_unsupported() => None,
                _ => section.required("path", p).and_then(|at| path(&at, p)),
            };
            (path, section.get("name").map(|at| model_name(&at, p)))
        }
    };
    let path = path?;
    let name = match name {
        Some(given) => given?,
        None => last_component(&path.text),
    };
    Some(Model { path, name })
}

fn model_name(at: &At<'_>, p: &mut Problems<'_>) -> Option<String> {
    let text = at.text(p)?;
    if text.chars().count() > MAX_MODEL_NAME {
        at.bad(p, format!("longer than {MAX_MODEL_NAME} characters"), "");
        return None;
    }
    Some(text)
}

fn last_component(path: &str) -> String {
    let last = path.rsplit('/').find(|part| !matches!(*part, "" | "." | ".."));
    last.map_or_else(|| "model".to_owned(), |last| last.chars().take(MAX_MODEL_NAME).collect())
}

fn data(top: &Section<'_>, p: &mut Problems<'_>) -> Option<Data> {
    let at = top.required("data", p)?;
    let (train, section) = match at.node.value {
        Value::Text(_) => {
            let path = short_path(&at, p, "data.train.path", &ROW_FILES);
            (path.map(|path| TrainData { path, format: DataFormat::Auto }), top.nothing("data"))
        }
        _ => {
            let section = Section::open(&at, p)?;
            (train_data(&section, p), section)
        }
    };
    let eval = eval_data(&section, p);
    let template = section.word("template", p).unwrap_or(Template::Tokenizer);
    let loss_on = section.word("loss_on", p).unwrap_or(LossOn::Answers);
    let overlong = section.word("overlong", p).unwrap_or(Overlong::Truncate);
    let bad_rows = section.word("bad_rows", p).unwrap_or(BadRows::Error);
    let preload = section.word("preload", p).unwrap_or(Preload::Auto);
    let system = section.get("system").map(|at| prompt(&at, p));
    let system = match system {
        Some(given) => Some(given?),
        None => None,
    };
    Some(Data {
        train: train?,
        eval: eval?,
        template,
        system,
        loss_on,
        overlong,
        bad_rows,
        preload,
    })
}

/// Text for the model to read: of several lines, if need be.
fn prompt(at: &At<'_>, p: &mut Problems<'_>) -> Option<String> {
    let Value::Text(text) = &at.node.value else {
        return at.text(p);
    };
    let odd = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
    if text.len() > MAX_PROMPT {
        at.bad(p, format!("longer than {MAX_PROMPT} bytes"), "");
    } else if text.chars().any(odd) {
        at.bad(p, "holds control characters", "");
    } else if text.trim().is_empty() {
        at.bad(p, "is empty", "leave the key out instead");
    } else {
        return Some(text.clone());
    }
    None
}

fn train_data(data: &Section<'_>, p: &mut Problems<'_>) -> Option<TrainData> {
    let at = data.required("train", p)?;
    if matches!(at.node.value, Value::Text(_)) {
        let path = short_path(&at, p, "data.train.path", &ROW_FILES)?;
        return Some(TrainData { path, format: DataFormat::Auto });
    }
    let section = Section::open(&at, p)?;
    let format = section.word("format", p).unwrap_or(DataFormat::Auto);
    let path = section.required("path", p).and_then(|at| path(&at, p))?;
    Some(TrainData { path, format })
}

fn eval_data(data: &Section<'_>, p: &mut Problems<'_>) -> Option<EvalData> {
    let section = match data.get("eval") {
        None => data.nothing("eval"),
        Some(at) if matches!(at.node.value, Value::Text(_)) => {
            return short_path(&at, p, "data.eval.path", &ROW_FILES).map(EvalData::Own);
        }
        Some(at) => Section::open(&at, p)?,
    };
    let own = section.get("path");
    let split = ["split_from", "fraction", "seed"].into_iter().find_map(|key| section.get(key));
    if let (Some(_), Some(split)) = (&own, &split) {
        let hint =
            "held-out rows are either rows of their own (`path`) or split from the training rows";
        p.add(ProblemKind::Conflict, split.here(), "has no meaning beside `path`", hint);
        return None;
    }
    if let Some(own) = own {
        return path(&own, p).map(EvalData::Own);
    }
    let _: Option<SplitFrom> = section.word("split_from", p);
    let fraction = section.real("fraction", p).unwrap_or(0.05);
    let seed = section.small("seed", p).unwrap_or(7);
    Some(EvalData::Split { fraction, seed })
}

/// What held-out rows can be split from.
#[derive(Clone, Copy)]
enum SplitFrom {
    Train,
}

impl Words for SplitFrom {
    const ALL: &[(&str, Self)] = &[("train", Self::Train)];
}

/// A path in the short form of its section, where text without a slash or a dot could as well mean a hub's name.
fn short_path(at: &At<'_>, p: &mut Problems<'_>, key: &str, ends: &[&str]) -> Option<InputPath> {
    let mut path = path(at, p)?;
    path.key = key.to_owned();
    let text = path.text.as_str();
    let local = text.starts_with(['.', '/']) || ends.iter().any(|end| text.ends_with(end));
    if local || text.matches('/').count() > 1 {
        return Some(path);
    }
    let what =
        format!("{} looks like a name on a hub, which is not supported yet", quoted(text, 100));
    let hint = format!("for a local path write `./{}`", text.trim_end_matches('/'));
    p.add(ProblemKind::NotSupported, at.here(), what, hint);
    None
}

/// A path on the machine that submits.
pub(super) fn path(at: &At<'_>, p: &mut Problems<'_>) -> Option<InputPath> {
    let text = at.text(p)?;
    if text.contains("://") {
        let what = format!(
            "{} is not a local path, which is all that is supported yet",
            quoted(&text, 100)
        );
        p.add(ProblemKind::NotSupported, at.here(), what, "download it and name the file");
        return None;
    }
    if text.starts_with('~') {
        at.bad(
            p,
            "`~` is not expanded",
            "write a path that is relative to the spec, or an absolute one",
        );
        return None;
    }
    Some(InputPath { text, key: at.path.clone(), origin: p.origin(at.node.place) })
}
