//! What the passes over the tokens keep and make: saved activations, logits and loss, and the working set of a layer.
//!
//! Counted per token from the operations of the common decoder code in half precision with an attention kernel that
//! materialises no mask. `h` hidden, `q` all query heads, `k` all key heads, `i` width of the feed-forward part, `a`
//! query heads, `V` vocabulary.

use crate::fit::run::{Method, Quant, Run, Targets};
use crate::fit::shape::ModelShape;
use crate::fit::stack::{Residual, Stack};

/// Bytes per token of the scales of a layer's two norms, fp32.
const SCALES: u64 = 8;

/// Bytes, for all tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Activations {
    /// What the forward pass keeps.
    pub(super) saved: u64,
    /// Logits and loss.
    pub(super) loss: u64,
    /// What the gradient of one layer takes beside what is saved.
    pub(super) working_set: u64,
}

/// Counts them. `adapters` is the number of parameters of all adapters, which autocast casts and keeps until the loss is
/// there; a layer that is computed again casts its own.
pub(super) fn count(shape: &ModelShape, run: &Run, stack: &Stack, adapters: u64) -> Activations {
    let n = shape.numbers();
    let tokens = run.tokens();
    let layer = layer(shape, run, stack);
    let transient = transient(shape, run, stack);
    let quantised = run.quant() != Quant::None;
    // A 4-bit matrix is made whole for its product. That of the last one is gone again when the products of the
    // feed-forward part are differentiated, which is where most activations are alive: the larger of both counts.
    let dequantised = if quantised { 2 * n.hidden * n.mlp } else { 0 };
    let at_product = tokens * transient;
    let at_matrix = tokens * (2 * n.hidden + 2 * n.mlp) + dequantised;
    let at_layer = at_product.max(at_matrix);
    let casts = if stack.autocast && stack.adapter_bytes == 4 { 2 * adapters } else { 0 };
    let loss = tokens * loss(shape, run, stack);
    if run.checkpointing() {
        let loss = loss + casts;
        let saved = tokens * n.layers * stack.residual.bytes() * n.hidden;
        let working_set = tokens * layer + at_layer + casts / n.layers;
        Activations { saved, loss, working_set }
    } else {
        Activations { saved: tokens * n.layers * layer + casts, loss, working_set: at_layer }
    }
}

/// Bytes per token that one layer saves.
///
/// Everything trained: `16h + 4q + 4k + 8i + 4a + 8` (each norm 4h in fp32, 2h normalised, 2h output and 4 for its scale;
/// 4a the log-sum-exp of the attention). A frozen base saves no inputs of its matrices: `8h + 4q + 4k + 6i + 4a + 8`,
/// and the adapters save theirs. Equal to the byte to what a shape-only run of the libraries counts.
pub(super) fn layer(shape: &ModelShape, run: &Run, stack: &Stack) -> u64 {
    let n = shape.numbers();
    let (h, q, k, i, a) = (n.hidden, shape.query(), shape.key(), n.mlp, n.heads);
    let visited = shape.visited_experts();
    let single = stack.residual == Residual::Single;
    // Each visited expert copies its tokens and its result.
    let routed = if n.experts > 0 { visited * 2 * stack.residual.bytes() * h } else { 0 };
    let Method::Lora { rank, targets } = run.method() else {
        return 16 * h + 4 * q + 4 * k + 8 * i * visited + 4 * a + SCALES + routed;
    };
    let kept = if run.quant() != Quant::None && stack.quantised_saves_input {
        // The input of gate and up, and that of down.
        visited * stack.residual.bytes() * (h + i)
    } else {
        0
    };
    if single {
        // Gate, its activation and up are fp32. The adapters' inputs are in the terms of h and q.
        return 14 * h + 6 * q + 4 * k + 12 * i * visited + SCALES + routed + kept;
    }
    let base = 8 * h + 4 * q + 4 * k + 6 * i * visited + 4 * a + SCALES;
    base + routed + kept + adapter_inputs(shape, rank, targets, stack)
}

/// Bytes per token that the adapters of one layer save: each its own copy of its input (fp32, or half under autocast),
/// and the low-rank product. Adapters in half precision share the inputs that are there.
fn adapter_inputs(shape: &ModelShape, rank: u64, targets: Targets, stack: &Stack) -> u64 {
    let attention: Vec<_> = shape
        .attention()
        .into_iter()
        .zip(targets.attention)
        .filter_map(|(linear, on)| on.then_some(linear.input))
        .collect();
    let feed_forward: Vec<_> = if targets.feed_forward {
        shape.feed_forward().iter().map(|linear| linear.input).collect()
    } else {
        Vec::new()
    };
    let visited = shape.visited_experts();
    let counted = |inputs: &[u64]| u64::try_from(inputs.len()).unwrap_or(0);
    let products = rank * (counted(&attention) + visited * counted(&feed_forward));
    if stack.adapter_bytes == 2 {
        let [query, key, value, _] = targets.attention;
        let shared = if query || key || value { 2 * shape.numbers().hidden } else { 0 };
        let wide = 2 * (shape.numbers().hidden + shape.numbers().mlp);
        return shared + if targets.feed_forward { visited * wide } else { 0 } + 2 * products;
    }
    let width = if stack.autocast { 2 } else { 4 };
    let inputs: u64 = attention.iter().sum::<u64>() + visited * feed_forward.iter().sum::<u64>();
    width * (inputs + products)
}

/// Bytes per token that the gradient of one layer makes for a moment, where most of it is alive: at the products of
/// the feed-forward part.
///
/// Half precision: `6i + 2h`, and `8h` where that part has adapters (a shape-only run gives 267,857 for a layer that
/// measures 266,546). fp32 residual: `12i + 9h`; the coefficient of `h` is empirical, from the slope between two
/// micro-batches of one configuration (991.5 kB per token measured, 991.2 counted).
fn transient(shape: &ModelShape, run: &Run, stack: &Stack) -> u64 {
    let n = shape.numbers();
    let (h, i) = (n.hidden, n.mlp);
    // One expert at a time: with an even router it holds its share of the tokens.
    let share = |bytes: u64| match n.experts {
        0 => bytes,
        experts => bytes * n.experts_per_token / experts,
    };
    if stack.residual == Residual::Single {
        return share(12 * i) + 9 * h;
    }
    let adapted = match run.method() {
        Method::Lora { targets, .. } if targets.feed_forward => 8 * h,
        _ => 0,
    };
    share(6 * i) + 2 * h + adapted
}

/// Bytes per token of logits and loss, with the final norm and the input of the head: `6h` below a frozen base, `8h`
/// where all is trained, and `8h` more in fp32. Fused kernels save the `2h` of the norm.
fn loss(shape: &ModelShape, run: &Run, stack: &Stack) -> u64 {
    let h = shape.numbers().hidden;
    let head = if run.method() == Method::Full { 8 * h } else { 6 * h };
    let single = if stack.residual == Residual::Single { 8 * h } else { 0 };
    let fused = if stack.fused_kernels { 2 * h } else { 0 };
    stack.loss.per_logit * shape.numbers().vocab + head + single - fused
}
