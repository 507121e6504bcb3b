//! The account of one GPU among several that share parameters, gradients and optimizer states evenly (FSDP, full
//! shard): what is sharded is divided, and what a pass gathers comes on top.
//!
//! Partly empirical, from published runs on two and four cards. Their constants between phases are met to 0.01 GiB by
//! embedding and head, which stay gathered during a pass, and one layer; their slopes in tokens by the account of one
//! card and, below a frozen base, by a second copy of the residual stream for all layers but two while they are
//! differentiated.

use super::activations::{self, Activations};
use super::{Memory, Phase, Resident, buffers, weights};
use crate::fit::run::{Method, Run};
use crate::fit::shape::ModelShape;
use crate::fit::stack::{Residual, Stack};

/// Bytes of a single-precision element.
const SINGLE: u64 = 4;
/// Layers whose residual stream has no second copy.
const OPEN_LAYERS: u64 = 2;

/// The account of one of `run.gpus()` cards.
///
/// Frozen models are not prepared for k-bit training when they are sharded (their shards have one type), so that the
/// residual stream stays in half precision. Under autocast a full run's shards are fp32: 20 bytes a parameter at a step
/// that works on all at once.
pub(super) fn sharded(shape: &ModelShape, run: &Run, stack: &Stack) -> Memory {
    let n = shape.numbers();
    let gpus = run.gpus();
    let stack = Stack { residual: Residual::Half, frozen_in_single: false, ..*stack };
    let stored = weights::base(shape, run, &stack);
    let root = weights::HALF * n.vocab * n.hidden * if n.tied { 1 } else { 2 };
    let layer = stored.saturating_sub(root) / n.layers;
    let (trained, bytes, base) = match run.method() {
        Method::Full => {
            let bytes = if stack.autocast { SINGLE } else { weights::HALF };
            (shape.params(), bytes, bytes * shape.params())
        }
        Method::Lora { rank, targets } => {
            (weights::adapters(shape, rank, targets), stack.adapter_bytes, stored)
        }
    };
    let full = run.method() == Method::Full;
    let adapted = if full { 0 } else { trained };
    let resident = Resident {
        weights: base / gpus,
        adapters: bytes * adapted / gpus,
        optimizer: 2 * bytes * trained / gpus,
        buffers: buffers(shape, &stack),
        workspace: stack.workspace,
    };
    let Activations { saved, loss, working_set } = activations::count(shape, run, &stack, adapted);
    let copies = run.tokens() * weights::HALF * n.hidden * n.layers.saturating_sub(OPEN_LAYERS);
    let working_set = if full { working_set } else { working_set + copies };
    let gradients = bytes * trained / gpus;
    let step = if stack.foreach { gradients } else { 0 };
    // Gradients of adapters stay from step to step; those of a full run come while saved activations go.
    let (before, at_its_end) =
        if full { (0, saved / n.layers + gradients) } else { (gradients, saved + gradients) };
    let backward = root + if full { 0 } else { layer } + working_set;
    let phases = [
        (Phase::Loss, root + saved + loss + before),
        (Phase::Backward, backward + (saved + before).max(at_its_end)),
        (Phase::Step, gradients + step),
    ];
    let (bound_by, most) = phases.into_iter().max_by_key(|(_, bytes)| *bytes).unwrap_or(phases[0]);
    let peak = resident.total() + most;
    Memory {
        resident,
        gathered: root + layer,
        saved,
        loss,
        working_set,
        gradients,
        step,
        bound_by,
        peak,
    }
}
