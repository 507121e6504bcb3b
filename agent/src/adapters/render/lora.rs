//! An adapter by the spec, under a tool's own names.

use serde_json::{Value, json};

use crate::adapters::config::Config;
use crate::adapters::job::ToolJob;

/// What a tool calls the parts of an adapter whose names differ between tools.
pub(super) struct Names {
    pub(super) rank: &'static str,
    pub(super) rslora: &'static str,
    pub(super) dora: &'static str,
}

/// Fills in the adapter; `targets` is the tool's own word for which layers have one.
pub(super) fn fill(config: &mut Config, job: &ToolJob, names: &Names, targets: (&str, Value)) {
    config.fill(names.rank, job.whole("/method/lora/r").unwrap_or(16));
    config.fill("lora_alpha", job.number("/method/lora/alpha").map_or(json!(32), whole_or_real));
    config.fill("lora_dropout", job.number("/method/lora/dropout").unwrap_or(0.0));
    config.fill(targets.0, targets.1);
    for (key, at) in [(names.rslora, "/method/lora/rslora"), (names.dora, "/method/lora/dora")] {
        if job.flag(at) == Some(true) {
            config.fill(key, true);
        }
    }
}

/// The layers that the spec names; absent when it means all linear ones.
pub(super) fn targets(job: &ToolJob) -> Option<&Vec<Value>> {
    job.spec.pointer("/method/lora/targets").and_then(Value::as_array)
}

/// Tools want a whole number where there is one.
pub(super) fn whole_or_real(number: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "a whole number far below 2^53")]
    if number.fract() == 0.0 && number.abs() < 1e15 { json!(number as i64) } else { json!(number) }
}
