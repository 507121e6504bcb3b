//! Bytes of the parameters: of the base as stored, and how many the adapters have.

use crate::fit::run::{Quant, Run, Targets};
use crate::fit::shape::{Linear, ModelShape};
use crate::fit::stack::Stack;

/// Bytes of a half-precision element.
pub(super) const HALF: u64 = 2;
/// Bytes of a single-precision element.
const SINGLE: u64 = 4;
/// Elements of a 4-bit block, which have one scale.
const BLOCK: u64 = 64;
/// Scales of a second-level block, which have one scale again.
const SECOND_BLOCK: u64 = 256;

/// Bytes of a matrix of `elements` in NF4, exactly as bitsandbytes keeps it: two elements a byte, the scales of the
/// blocks (fp32, or one byte each with an fp32 scale per 256 and their offset), and the fp32 code tables of 16 and of
/// 256 entries.
#[must_use]
pub(super) const fn nf4(elements: u64, double: bool) -> u64 {
    let blocks = elements.div_ceil(BLOCK);
    let packed = elements.div_ceil(2);
    if double {
        packed
            + blocks
            + SINGLE * blocks.div_ceil(SECOND_BLOCK)
            + SINGLE
            + 16 * SINGLE
            + 256 * SINGLE
    } else {
        packed + SINGLE * blocks + 16 * SINGLE
    }
}

/// Bytes of a matrix in GPTQ: two elements a byte, for each group of its rows a half-precision scale and a four-bit zero
/// per column, and an fp32-wide group number per row.
#[must_use]
pub(super) const fn gptq4(linear: Linear, group: u64) -> u64 {
    let groups = linear.input.div_ceil(group) * linear.output;
    linear.elements().div_ceil(2) + HALF * groups + groups.div_ceil(2) + SINGLE * linear.input
}

/// Bytes of the base model. Only the matrices inside the layers are quantised: embedding, head, norms, biases and
/// routers are not.
pub(super) fn base(shape: &ModelShape, run: &Run, stack: &Stack) -> u64 {
    let stored = |linear: Linear| match run.quant() {
        Quant::None => HALF * linear.elements(),
        Quant::Nf4 { double } => nf4(linear.elements(), double),
        Quant::Gptq4 { group } => gptq4(linear, group),
    };
    let layers = shape.numbers().layers;
    let experts = shape.stored_experts();
    let (mut elements, mut bytes) = (0, 0);
    let attention = shape.attention().into_iter().map(|linear| (linear, 1));
    let feed_forward = shape.feed_forward().into_iter().map(|linear| (linear, experts));
    for (linear, times) in attention.chain(feed_forward) {
        elements += times * linear.elements();
        bytes += times * stored(linear);
    }
    let rest = if stack.frozen_in_single { SINGLE } else { HALF };
    layers * bytes + rest * (shape.params() - layers * elements)
}

/// Parameters of the adapters: `rank · (input + output)` for every targeted matrix.
pub(super) fn adapters(shape: &ModelShape, rank: u64, targets: Targets) -> u64 {
    let attention = shape.attention().into_iter().zip(targets.attention);
    let attention: u64 =
        attention.filter(|(_, on)| *on).map(|(linear, _)| linear.input + linear.output).sum();
    let feed_forward: u64 = if targets.feed_forward {
        let one: u64 = shape.feed_forward().iter().map(|linear| linear.input + linear.output).sum();
        shape.stored_experts() * one
    } else {
        0
    };
    rank * shape.numbers().layers * (attention + feed_forward)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::shape::tests::{eight_b, shape};

    #[test]
    fn four_bits_take_what_the_library_takes() {
        // 4096 × 4096: 262,144 blocks, 1,024 of the second level.
        assert_eq!(nf4(4096 * 4096, true), 8_388_608 + 262_144 + 4096 + 4 + 64 + 1024);
        assert_eq!(nf4(4096 * 4096, false), 8_388_608 + 1_048_576 + 64);
        // Groups of 128 rows: 32 · 4096 scales and zeros, 4096 group numbers.
        let square = Linear { input: 4096, output: 4096 };
        assert_eq!(gptq4(square, 128), 8_388_608 + 262_144 + 65_536 + 16_384);
        assert_eq!(nf4(65, true), 33 + 2 + 4 + 4 + 64 + 1024);
    }

    #[test]
    fn adapters_have_the_parameters_that_the_library_prints() {
        let all = Targets { attention: [true; 4], feed_forward: false };
        // Per layer, at rank 16: q and o 16 · 8192 each, k and v 16 · 5120 each.
        let expected = 32 * (2 * 16 * 8192 + 2 * 16 * 5120);
        assert_eq!(adapters(&shape(eight_b()), 16, all), expected);
        let more = Targets { feed_forward: true, ..all };
        let expected = expected + 32 * 3 * 16 * (4096 + 14_336);
        assert_eq!(adapters(&shape(eight_b()), 16, more), expected);
    }
}
