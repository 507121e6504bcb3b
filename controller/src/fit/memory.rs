//! The account of GPU memory of one run: what is resident, what each phase adds, and the peak.
//!
//! The figure is the most that the framework's allocator hands out at once (`max_memory_allocated`): the context of the
//! driver, fragmentation and cached blocks are not in it.

mod activations;
mod sharded;
mod weights;

#[cfg(test)]
mod tests;

use serde::Serialize;

use super::run::{Method, Quant, Run};
use super::shape::{ModelShape, Norm};
use super::stack::{RopeCache, Stack};
use activations::Activations;

/// A phase of a training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The forward pass ends: everything saved, logits and loss.
    Loss,
    /// One layer is computed again and its gradient taken: the last one with all inputs saved, or the first one with
    /// nearly all gradients.
    Backward,
    /// All gradients and what the optimizer adds.
    Step,
}

/// What is there between steps. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Resident {
    /// Parameters of the base model.
    pub weights: u64,
    /// Parameters of the adapters.
    pub adapters: u64,
    /// States of the optimizer.
    pub optimizer: u64,
    /// Buffers of the model.
    pub buffers: u64,
    /// Workspaces of the matrix library.
    pub workspace: u64,
}

impl Resident {
    /// All of it.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.weights + self.adapters + self.optimizer + self.buffers + self.workspace
    }
}

/// The account. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What is there between steps.
    pub resident: Resident,
    /// What several cards share and each holds whole for a while; 0 on one card.
    pub gathered: u64,
    /// What the forward pass keeps for the backward pass.
    pub saved: u64,
    /// Logits and loss, at their peak.
    pub loss: u64,
    /// What the gradient of one layer takes beside what is saved.
    pub working_set: u64,
    /// All gradients.
    pub gradients: u64,
    /// What a step of the optimizer takes for its own duration.
    pub step: u64,
    /// The phase that needs most.
    pub bound_by: Phase,
    /// What it needs.
    pub peak: u64,
}

/// Why a run has no account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotModelled {
    /// Layers of another kind than those counted.
    #[error("adapters on layers with layer norm, biases or learned positions are not counted yet")]
    AdaptersOnOldLayers,
    /// Layers of another kind than those counted, all of whose activations count.
    #[error(
        "layers with layer norm, biases or four norms are counted with gradient checkpointing only"
    )]
    LayersWithoutCheckpointing,
    /// Experts without checkpointing.
    #[error("experts are counted with gradient checkpointing only")]
    ExpertsWithoutCheckpointing,
    /// What other cards hold of them.
    #[error("several GPUs are counted for dense models with gradient checkpointing only")]
    Sharded,
    /// Half of what an fp32 residual stream needs was never observed.
    #[error(
        "an fp32 residual stream is counted for quantised weights with gradient checkpointing only"
    )]
    SingleResidual,
}

/// The account of `run` of a model of `shape` by `stack`, on one GPU or for each of several.
///
/// # Errors
/// When a part of it has no formula that was ever checked.
pub fn memory(shape: &ModelShape, run: &Run, stack: &Stack) -> Result<Memory, NotModelled> {
    refuse(shape, run, stack)?;
    if run.gpus() > 1 {
        return Ok(sharded::sharded(shape, run, stack));
    }
    let n = shape.numbers();
    let trained = match run.method() {
        Method::Full => shape.params(),
        Method::Lora { rank, targets } => weights::adapters(shape, rank, targets),
    };
    let adapted = if run.method() == Method::Full { 0 } else { trained };
    // Parameters, gradients and states of AdamW share a precision.
    let bytes = match run.method() {
        Method::Full => weights::HALF,
        Method::Lora { .. } => stack.adapter_bytes,
    };
    let resident = Resident {
        weights: weights::base(shape, run, stack),
        adapters: bytes * adapted,
        optimizer: 2 * bytes * trained,
        buffers: buffers(shape, stack),
        workspace: stack.workspace,
    };
    let gradients = bytes * trained;
    let step = if stack.foreach { bytes * trained } else { 0 };
    let Activations { saved, loss, working_set } = activations::count(shape, run, stack, adapted);
    // The head's gradient comes first, and that of an embedding of its own last; in between, each layer's takes the
    // place of what the layer saved.
    let head = if run.method() == Method::Full { bytes * n.vocab * n.hidden } else { 0 };
    let embedding = if n.tied { 0 } else { head };
    let at_its_start = saved + head;
    let at_its_end = saved / n.layers + gradients - embedding;
    let phases = [
        (Phase::Loss, saved + loss),
        (Phase::Backward, working_set + at_its_start.max(at_its_end)),
        (Phase::Step, gradients + step),
    ];
    let (bound_by, most) = phases.into_iter().max_by_key(|(_, bytes)| *bytes).unwrap_or(phases[0]);
    let peak = resident.total() + most;
    Ok(Memory { resident, gathered: 0, saved, loss, working_set, gradients, step, bound_by, peak })
}

/// Bytes of sine and cosine that the layers keep, in half precision.
fn buffers(shape: &ModelShape, stack: &Stack) -> u64 {
    let n = shape.numbers();
    let cached = match stack.rope_cache {
        RopeCache::All => true,
        RopeCache::Experts => n.experts > 0,
        RopeCache::None => false,
    };
    if cached { 2 * weights::HALF * n.layers * n.max_positions * n.head_dim } else { 0 }
}

/// Refuses what has no checked formula.
fn refuse(shape: &ModelShape, run: &Run, stack: &Stack) -> Result<(), NotModelled> {
    let n = shape.numbers();
    let old =
        n.norm == Norm::Layer || !n.gated || n.learned_positions > 0 || n.norms_per_layer != 2;
    let lora = matches!(run.method(), Method::Lora { .. });
    if old && lora {
        return Err(NotModelled::AdaptersOnOldLayers);
    }
    if old && !run.checkpointing() {
        return Err(NotModelled::LayersWithoutCheckpointing);
    }
    if n.experts > 0 && !run.checkpointing() {
        return Err(NotModelled::ExpertsWithoutCheckpointing);
    }
    if run.gpus() > 1 && (n.experts > 0 || !run.checkpointing()) {
        return Err(NotModelled::Sharded);
    }
    let single = stack.residual == super::stack::Residual::Single;
    if single && (run.quant() == Quant::None || !run.checkpointing()) {
        return Err(NotModelled::SingleResidual);
    }
    Ok(())
}
