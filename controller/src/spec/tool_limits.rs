//! What a tool whose configuration hone writes cannot do: said where the job is submitted, before an image was pulled.
//! A tool with a configuration of its user's own is asked for none of this.

use super::error::ProblemKind;
use super::problems::Problems;
use super::reader::{At, Section};
use super::types::{Freeze, Method, Resources, Train, Trainer};
use super::words::{MethodKind, TrainerKind};

/// Whether hone writes the configuration of this tool from the spec alone.
pub(super) fn is_written(trainer: &Trainer) -> bool {
    trainer.kind != TrainerKind::Hone
        && trainer.kind.is_rendered()
        && trainer.tool.as_ref().is_none_or(|tool| tool.config.is_none())
}

/// Refuses a batch that the GPUs cannot share evenly: a tool has one figure for all of its processes.
pub(super) fn require_even_batch(
    top: &Section<'_>,
    trainer: &Trainer,
    train: &Train,
    resources: &Resources,
    p: &mut Problems<'_>,
) {
    let (rows, gpus) = (train.batch.effective, resources.gpus.count);
    if !is_written(trainer) || gpus < 2 || rows.is_multiple_of(gpus) {
        return;
    }
    let section = top.section("train", p);
    let at = section.get("batch");
    let here = at.as_ref().map_or_else(|| section.here(), At::here);
    let what = format!(
        "{rows} rows in each step cannot be shared evenly among {gpus} GPUs by kind `{}`",
        trainer.kind.name()
    );
    let hint = format!("set `train.batch.effective` to a multiple of {gpus}");
    p.add(ProblemKind::Conflict, here, what, hint);
}

/// Refuses a method that the tool has not, or has in another sense: it would train other weights than the spec says.
pub(super) fn require_known_method(
    top: &Section<'_>,
    trainer: &Trainer,
    method: Option<&Method>,
    p: &mut Problems<'_>,
) {
    let Some(method) = method.filter(|method| method.kind == MethodKind::Freeze) else { return };
    if !is_written(trainer) {
        return;
    }
    let by_name = matches!(method.freeze, Some(Freeze::Modules(_)));
    let (what, hint) = match (trainer.kind, by_name) {
        (TrainerKind::LlamaFactory, false) => return,
        (TrainerKind::LlamaFactory, true) => (
            "trains whole last blocks, and no modules by name",
            "use `last_layers`, or name a configuration of your own with `trainer.config`",
        ),
        _ => (
            "does not train a part of a model",
            "use `lora` or `full`, or name a configuration of your own with `trainer.config`",
        ),
    };
    let Some(at) = top.get("method") else { return };
    let what = format!("kind `{}` {what}", trainer.kind.name());
    p.add(ProblemKind::Conflict, at.here(), what, hint);
}
