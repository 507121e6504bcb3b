//! The account against figures computed by hand, and its laws.

use proptest::prelude::*;

use super::activations::layer;
use super::*;
use crate::fit::run::{MOST_GPUS, MOST_RANK, MOST_TOKENS, Targets};
use crate::fit::shape::Numbers;
use crate::fit::shape::tests::{eight_b, seven_b, shape};
use crate::fit::stack::{LossPath, Residual, workspace};

/// One of the ends of a range.
fn end(low: u64, high: u64) -> impl Strategy<Value = u64> {
    prop_oneof![Just(low), Just(high), low..=high]
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let widths = (end(1, 1 << 20), end(1, 1 << 20), end(1, 1 << 10), end(1, 1 << 10));
    let counts =
        (end(1, 1 << 12), end(1, 1 << 24), end(1, 1 << 24), prop_oneof![Just(0), end(1, 1 << 10)]);
    (widths, counts).prop_map(|((hidden, mlp, heads, head_dim), (layers, vocab, rows, experts))| {
        Numbers {
            hidden,
            mlp,
            heads,
            kv_heads: heads,
            head_dim,
            layers,
            vocab,
            max_positions: rows,
            experts,
            experts_per_token: experts,
            ..eight_b()
        }
    })
}

proptest! {
    /// Sums that went over the end would panic here.
    #[test]
    fn no_shape_and_run_are_too_large_to_count(
        numbers in numbers(),
        tokens in end(1, MOST_TOKENS),
        rank in end(1, MOST_RANK),
        kept in any::<bool>(),
        gpus in end(1, MOST_GPUS),
        quant in prop_oneof![
            Just(Quant::None),
            Just(Quant::Nf4 { double: false }),
            Just(Quant::Gptq4 { group: 1 }),
        ],
    ) {
        let Ok(shape) = ModelShape::new(numbers) else { return Ok(()) };
        let targets = Targets { attention: [true; 4], feed_forward: true };
        let all = Stack {
            frozen_in_single: true,
            rope_cache: RopeCache::All,
            quantised_saves_input: true,
            autocast: true,
            ..stack()
        };
        for method in [Method::Full, Method::Lora { rank, targets }] {
            let run = Run::new(method, quant, tokens, 1, !kept).and_then(|run| run.sharded(gpus));
            let Ok(run) = run else { continue };
            for residual in [Residual::Half, Residual::Single] {
                if let Ok(account) = memory(&shape, &run, &Stack { residual, ..all }) {
                    prop_assert!(account.peak >= account.resident.total());
                }
            }
        }
    }
}

const ATTENTION: Targets = Targets { attention: [true; 4], feed_forward: false };

fn stack() -> Stack {
    Stack {
        loss: LossPath::SHIFTED,
        residual: Residual::Half,
        frozen_in_single: false,
        autocast: false,
        adapter_bytes: 4,
        foreach: true,
        fused_kernels: false,
        rope_cache: RopeCache::None,
        quantised_saves_input: false,
        workspace: workspace(8),
    }
}

fn lora(quant: Quant, seq_len: u64) -> Run {
    let method = Method::Lora { rank: 16, targets: ATTENTION };
    Run::new(method, quant, seq_len, 4, true).expect("a run")
}

fn full() -> Run {
    Run::new(Method::Full, Quant::None, 4096, 4, true).expect("a run")
}

/// Bytes per token and layer, published with the formulas: rank 16 on query, key, value and output.
#[test]
fn a_layer_saves_what_a_shape_only_run_counts() {
    assert_eq!(layer(&shape(eight_b()), &full(), &stack()), 200_840);
    assert_eq!(layer(&shape(seven_b()), &full(), &stack()), 186_504);
    let run = lora(Quant::None, 4096);
    let saved = |stack: &Stack| layer(&shape(eight_b()), &run, stack);
    assert_eq!(saved(&stack()), 205_192);
    // Published as 173,128 with the cast of the adapters, 2 · 425,984 bytes over 1,024 tokens.
    assert_eq!(saved(&Stack { autocast: true, ..stack() }), 173_128 - 832);
    assert_eq!(saved(&Stack { adapter_bytes: 2, ..stack() }), 147_720);
}

/// Measured: 80,318,097,408 bytes, where weights, gradients, states and the copies of the optimizer decide.
#[test]
fn a_full_run_takes_ten_bytes_a_parameter_at_the_step() {
    let fused = Stack { loss: LossPath::FUSED_LINEAR, ..stack() };
    let account = memory(&shape(eight_b()), &full(), &fused).expect("a dense model is counted");
    assert_eq!(account.bound_by, Phase::Step);
    assert_eq!(account.peak, 10 * 8_030_261_248 + 17_039_360);
    let by_one = Stack { foreach: false, ..fused };
    let account = memory(&shape(eight_b()), &full(), &by_one).expect("a dense model is counted");
    assert_eq!(account.step, 0);
    assert_eq!(account.resident.total() + account.gradients, 8 * 8_030_261_248 + 17_039_360);
    // The first layer is differentiated while the gradients of all others are there.
    assert_eq!(account.bound_by, Phase::Backward);
}

/// Measured: 80,320,612,864 bytes on each of two cards under autocast, and 36,225,955,840 for 7,241,732,096 parameters
/// without.
#[test]
fn shards_are_fp32_under_autocast() {
    let run =
        |seq| Run::new(Method::Full, Quant::None, seq, 2, true).and_then(|run| run.sharded(2));
    let liger = Stack { loss: LossPath::FUSED_LINEAR, autocast: true, ..stack() };
    let account = memory(&shape(eight_b()), &run(4096).expect("a run"), &liger).expect("counted");
    assert_eq!(account.bound_by, Phase::Step);
    assert_eq!(account.peak, 20 * 8_030_261_248 / 2 + 17_039_360);
    let small = shape(Numbers { vocab: 32_000, ..eight_b() });
    let account = memory(&small, &run(4096).expect("a run"), &stack()).expect("counted");
    assert_eq!(account.peak, 10 * 7_241_732_096 / 2 + 17_039_360);
}

/// Measured on four cards with 65,536 tokens each: 57,380,385,280 bytes, bound by the backward pass. By hand: two bytes of
/// 8,030,261,248 parameters and sixteen of 13,631,488 by four; embedding, head and one layer gathered.
#[test]
fn sharded_adapters_gather_head_and_layer() {
    let method = Method::Lora { rank: 16, targets: ATTENTION };
    let run = Run::new(method, Quant::None, 4096, 16, true).and_then(|run| run.sharded(4));
    let liger =
        Stack { loss: LossPath::FUSED_LINEAR, autocast: true, fused_kernels: true, ..stack() };
    let account = memory(&shape(eight_b()), &run.expect("a run"), &liger).expect("counted");
    let root = 2 * 2 * 128_256 * 4096;
    assert_eq!(account.gathered, root + (2 * 8_030_261_248 - root) / 32);
    let resident = (2 * 8_030_261_248 + 12 * 13_631_488) / 4 + 17_039_360;
    assert_eq!((account.resident.total(), account.gradients), (resident, 13_631_488));
    assert!(account.peak.abs_diff(57_380_385_280) < 10_000_000, "{account:?}");
}

/// The same by hand: 2 bytes of 7,241,732,096 parameters, 16 of 13,631,488 less the gradients that come later; per
/// token 2 · 4096 for 32 layers, 12 · 32,000 and 6 · 4096. Measured: 25,653,881,344 bytes.
#[test]
fn adapters_on_a_small_vocabulary_are_bound_by_the_loss() {
    let seven = shape(Numbers { vocab: 32_000, ..eight_b() });
    let account = memory(&seven, &lora(Quant::None, 4096), &stack()).expect("counted");
    let resident = 2 * 7_241_732_096 + 12 * 13_631_488 + 17_039_360;
    let per_token = 2 * 4096 * 32 + 12 * 32_000 + 6 * 4096;
    assert_eq!(account.bound_by, Phase::Loss);
    assert_eq!(account.peak, resident + 16_384 * per_token);
    assert!(account.peak.abs_diff(25_653_881_344) < 10_000_000, "{account:?}");
}

#[test]
fn more_of_anything_never_takes_less() {
    let shape = shape(eight_b());
    let peak = |run: &Run, stack: &Stack| memory(&shape, run, stack).expect("counted").peak;
    for quant in [Quant::None, Quant::Nf4 { double: true }, Quant::Nf4 { double: false }] {
        let peaks: Vec<_> = (1..20).map(|n| peak(&lora(quant, 512 * n), &stack())).collect();
        assert!(peaks.is_sorted(), "{peaks:?}");
    }
    let kept = Run::new(Method::Full, Quant::None, 4096, 4, false).expect("a run");
    assert!(peak(&kept, &stack()) > peak(&full(), &stack()));
    let nf4 = lora(Quant::Nf4 { double: true }, 4096);
    let single = Stack { residual: Residual::Single, ..stack() };
    assert!(peak(&nf4, &single) > peak(&nf4, &stack()));
    assert!(peak(&nf4, &stack()) < peak(&lora(Quant::None, 4096), &stack()));
}

#[test]
fn what_was_never_checked_is_said() {
    let old = shape(Numbers { norm: Norm::Layer, gated: false, ..eight_b() });
    let refused = |shape: &ModelShape, run: &Run| memory(shape, run, &stack()).err();
    let adapters = refused(&old, &lora(Quant::None, 8));
    assert_eq!(adapters, Some(NotModelled::AdaptersOnOldLayers));
    assert_eq!(refused(&old, &full()), None);
    let kept = Run::new(Method::Full, Quant::None, 8, 1, false).expect("a run");
    assert_eq!(refused(&old, &kept), Some(NotModelled::LayersWithoutCheckpointing));
    let experts = shape(Numbers { experts: 8, experts_per_token: 2, ..eight_b() });
    assert_eq!(refused(&experts, &kept), Some(NotModelled::ExpertsWithoutCheckpointing));
    let many = lora(Quant::None, 8).sharded(2).expect("a run");
    assert_eq!(refused(&experts, &many), Some(NotModelled::Sharded));
    let single = Stack { residual: Residual::Single, ..stack() };
    let none = memory(&shape(eight_b()), &lora(Quant::None, 8), &single);
    assert_eq!(none.err(), Some(NotModelled::SingleResidual));
}
