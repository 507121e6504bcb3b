//! What a spec says and a tool decides itself: hone's own trainer goes by every key, another tool does not. Such a key
//! is neither refused, since a spec may serve several tools, nor passed over in silence.

use super::keys;
use super::node::{Node, Value};
use super::types::Trainer;
use super::words::TrainerKind;

/// Keys, or sections of keys, that no tool but hone's own trainer goes by.
const OF_ALL: &[&str] = &[
    "data.template",
    "data.system",
    "data.bad_rows",
    "data.preload",
    "train.sharding",
    "evaluate",
    "log_level",
];

/// Those besides that hone writes into no configuration where it writes none. How long it trains stays,
/// since its completion is told by that.
const OF_SCRIPTS: &[&str] = &[
    "method",
    "train",
    "data.train.format",
    "data.loss_on",
    "data.overlong",
    "data.eval.split_from",
    "data.eval.fraction",
    "data.eval.seed",
    "checkpoint.every",
];

/// What stays of a section that is otherwise left to a script.
const KEPT: &[&str] = &["train.epochs", "train.max_steps"];

/// Where a script can be asked for a checkpoint hone asks by these; the former stands for `auto`.
const KEPT_WITH_REQUEST: &[&str] = &["checkpoint.every", "checkpoint.every.minutes"];

/// What hone asks of the Trainer of Hugging Face whatever the script: how often it logs and saves.
const KEPT_BY_HF: &[&str] = &["train.log_every", "checkpoint.every"];

/// A tool, and whether the spec says how it is asked for a checkpoint.
#[derive(Debug, Clone, Copy)]
struct Tool {
    kind: TrainerKind,
    asked: bool,
}

/// The keys that the text gives and this trainer decides itself, in the order of the text.
pub(super) fn to_the_tool(root: &Node, trainer: &Trainer) -> Vec<String> {
    let checkpoint = trainer.tool.as_ref().and_then(|tool| tool.checkpoint.as_ref());
    let asked = checkpoint.is_some_and(|checkpoint| checkpoint.request.is_some());
    let mut left = Vec::new();
    if trainer.kind != TrainerKind::Hone {
        walk(root, "", Tool { kind: trainer.kind, asked }, &mut left);
    }
    left
}

fn walk(node: &Node, under: &str, tool: Tool, left: &mut Vec<String>) {
    let Value::Map(entries) = &node.value else { return };
    for entry in entries {
        let path = keys::join(under, &entry.key);
        if matches!(entry.node.value, Value::Map(_)) && keys::has_children(&path) {
            walk(&entry.node, &path, tool, left);
        } else if !matches!(entry.node.value, Value::Null) && is_left(&path, tool) {
            left.push(path);
        }
    }
}

fn is_left(path: &str, Tool { kind, asked }: Tool) -> bool {
    let within = |one: &&str| {
        path.strip_prefix(*one).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let of_scripts = !kind.is_rendered() && OF_SCRIPTS.iter().any(within);
    let kept = KEPT.iter().any(within)
        || kind == TrainerKind::Hf && KEPT_BY_HF.iter().any(within)
        || asked && KEPT_WITH_REQUEST.contains(&path);
    (of_scripts || OF_ALL.iter().any(within)) && !kept
}

/// Keys that the warning names; the rest are counted.
const MAX_NAMED: usize = 6;

/// What the user is told of them, in one line.
pub(super) fn warning(kind: TrainerKind, left: &[String]) -> Option<String> {
    let named: Vec<_> = left.iter().take(MAX_NAMED).map(|path| format!("`{path}`")).collect();
    let more = match left.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let says = if !kind.is_rendered() { "the script decides" } else { "the tool decides" };
    (!named.is_empty()).then(|| {
        format!("with kind {} {says} these itself: {}{more}", kind.name(), named.join(", "))
    })
}
