//! What a spec says and a tool decides itself: hone's own trainer goes by every key, another tool does not. Such a key
//! is neither refused, since a spec may serve several tools, nor passed over in silence.
//!
//! A test of the agent proves that every other key changes what it renders.

use super::keys;
use super::node::{Node, Value};
use super::tool_limits::is_written;
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

/// Those besides that hone writes into no tool's configuration, and those that are the file's own affair where the user
/// brings one.
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

/// Those besides that a configuration by hone does not say.
const OF_WRITTEN: &[&str] =
    &["data.loss_on", "data.eval.split_from", "data.eval.fraction", "data.eval.seed"];

/// What hone asks of the Trainer of Hugging Face whatever else its configuration says.
const KEPT_BY_HF: &[&str] = &["train.log_every", "checkpoint.every"];

/// How long a script trains: its completion is told by that.
const LENGTH: &str = "train.max_steps";

/// Where a script can be asked for a checkpoint hone asks by these; the former stands for `auto`.
const KEPT_WITH_REQUEST: &[&str] = &["checkpoint.every", "checkpoint.every.minutes"];

/// A tool, and what its spec says that decides whether other keys mean something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tool {
    kind: TrainerKind,
    /// Whether hone writes its configuration from the spec alone.
    written: bool,
    /// Whether the spec says how it is asked for a checkpoint.
    asked: bool,
    /// Whether there are held-out rows of their own.
    held_out: bool,
}

impl Tool {
    pub(super) fn of(trainer: &Trainer, held_out: bool) -> Self {
        let checkpoint = trainer.tool.as_ref().and_then(|tool| tool.checkpoint.as_ref());
        let asked = checkpoint.is_some_and(|checkpoint| checkpoint.request.is_some());
        Self { kind: trainer.kind, written: is_written(trainer), asked, held_out }
    }

    /// Whether it decides what the key at `path` says.
    pub(super) fn decides(self, path: &str) -> bool {
        let among = |keys: &[&str]| keys.iter().any(|key| is_within(path, key));
        if self.kind == TrainerKind::Hone {
            return false;
        }
        if among(OF_ALL) || self.cannot_by_time(path) {
            return true;
        }
        if self.written {
            return among(OF_WRITTEN)
                || path == "data.overlong" && self.kind != TrainerKind::Axolotl
                || path == "train.eval_every" && !self.held_out;
        }
        let is_rendered = self.kind.is_rendered();
        let kept = !is_rendered && path == LENGTH
            || (is_rendered || self.kind == TrainerKind::Hf) && among(KEPT_BY_HF)
            || self.asked && KEPT_WITH_REQUEST.contains(&path);
        let raw = path == "trainer.override" && !is_rendered && self.kind != TrainerKind::Hf;
        among(OF_SCRIPTS) && !kept || raw
    }

    /// Minutes mean nothing to the `Trainer`; Axolotl can be asked, from some release on.
    fn cannot_by_time(self, path: &str) -> bool {
        let steered = [TrainerKind::Trl, TrainerKind::LlamaFactory, TrainerKind::Hf];
        path == "checkpoint.every.minutes" && !self.asked && steered.contains(&self.kind)
    }
}

fn is_within(path: &str, section: &str) -> bool {
    path.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The keys that the text gives and this trainer decides itself, in the order of the text.
pub(super) fn to_the_tool(root: &Node, tool: Tool) -> Vec<String> {
    let mut left = Vec::new();
    walk(root, "", tool, &mut left);
    left
}

fn walk(node: &Node, under: &str, tool: Tool, left: &mut Vec<String>) {
    let Value::Map(entries) = &node.value else { return };
    for entry in entries {
        let path = keys::join(under, &entry.key);
        if matches!(entry.node.value, Value::Map(_)) && keys::has_children(&path) {
            walk(&entry.node, &path, tool, left);
        } else if !matches!(entry.node.value, Value::Null) && tool.decides(&path) {
            left.push(path);
        }
    }
}

/// Keys that the warning names; the rest are counted.
const MAX_NAMED: usize = 6;

/// What the user is told of them, in one line.
pub(super) fn warning(trainer: &Trainer, left: &[String]) -> Option<String> {
    let named: Vec<_> = left.iter().take(MAX_NAMED).map(|path| format!("`{path}`")).collect();
    let more = match left.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let says = if !trainer.kind.is_rendered() {
        "the script decides"
    } else if is_written(trainer) {
        "the tool decides"
    } else {
        "the tool, by your configuration file, decides"
    };
    (!named.is_empty()).then(|| {
        let kind = trainer.kind.name();
        format!("with kind {kind} {says} these itself: {}{more}", named.join(", "))
    })
}
