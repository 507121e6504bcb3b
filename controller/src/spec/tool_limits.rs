//! What a tool whose configuration hone writes cannot do: said where the job is submitted, before an image was pulled.
//! A tool with a configuration of its user's own is asked for none of this.

use super::error::ProblemKind;
use super::problems::Problems;
use super::reader::Section;
use super::types::{Resources, Train, Trainer};
use super::words::TrainerKind;

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
    let here = at.as_ref().map_or_else(|| section.here(), super::reader::At::here);
    let what = format!(
        "{rows} rows in each step cannot be shared evenly among {gpus} GPUs by kind `{}`",
        trainer.kind.name()
    );
    let hint = format!("set `train.batch.effective` to a multiple of {gpus}");
    p.add(ProblemKind::Conflict, here, what, hint);
}
