//! From what a row says of its software to the facts of the stack.

use super::row::{Row, Unmodelled};
use crate::fit::stack::{LossPath, Residual, RopeCache, Stack, workspace};

/// The trainers whose stack is known, by the first word of their name; their switches stand in brackets.
const KNOWN: &str = "HF TRL";

/// How the names of cards of compute capability 9.0 and later begin.
const NINE: [&str; 4] = ["H", "B", "GH", "GB"];

/// The switches in brackets at the end of a framework's name: `none`, `bnb-baseline`, `foak-liger`…
fn switches(framework: &str) -> Option<&str> {
    let (_, rest) = framework.split_once('[')?;
    rest.strip_suffix(']')
}

/// The name of the profile that a row belongs to. Runs that are sharded over several cards have profiles of their own.
pub(super) fn name(row: &Row) -> String {
    let known = row.framework.starts_with(KNOWN);
    let name = switches(&row.framework).filter(|_| known).unwrap_or(&row.framework);
    if known && row.is_shared() { format!("{name}, sharded") } else { name.to_owned() }
}

/// The stack of `row`: what its switches imply, then what its notes say of versions.
///
/// Switches: `bnb-baseline` prepares the model for k-bit training by the library's own function (fp32 residual stream),
/// `bnb-accel` does not; `foak` has fused kernels for norms, rotation, adapters and an in-place cross-entropy; `liger`
/// fuses head and loss. Notes tell autocast, the loss path, and an older generation whose trainer leaves frozen
/// parameters in fp32, whose adapters without autocast take the base's precision, whose 4-bit product saves its input,
/// and whose models cache their rotations.
pub(super) fn stack(row: &Row) -> Result<Stack, Unmodelled> {
    let unknown = || Unmodelled::Framework(row.framework.clone());
    if !row.framework.starts_with(KNOWN) {
        return Err(unknown());
    }
    let mut single = false;
    let mut fused_kernels = false;
    let mut liger = false;
    match switches(&row.framework).ok_or_else(unknown)? {
        "none" | "bnb-accel" | "gptq-accel" => {}
        "bnb-baseline" => single = true,
        "foak" | "bnb-accel-foak" => fused_kernels = true,
        "foak-liger" | "bnb-accel-foak-liger" => (fused_kernels, liger) = (true, true),
        _ => return Err(unknown()),
    }
    let says = |words: &str| row.notes.contains(words);
    let older = says("older stack");
    let autocast = !says("no AMP");
    let written = if says("no fp32 logits upcast") {
        LossPath::HALF
    } else if says("keeps bf16+fp32 logits") {
        LossPath::SHIFTED_BESIDE_HALF
    } else {
        LossPath::SHIFTED
    };
    let loss = match (liger, fused_kernels) {
        (true, _) => LossPath::FUSED_LINEAR,
        (false, true) => written.in_place(),
        (false, false) => written,
    };
    let rope_cache = if older {
        RopeCache::All
    } else if says("transformers4.45") {
        RopeCache::Experts
    } else {
        RopeCache::None
    };
    Ok(Stack {
        loss,
        residual: if single { Residual::Single } else { Residual::Half },
        frozen_in_single: single && older,
        autocast,
        adapter_bytes: if older && !autocast { 2 } else { 4 },
        foreach: !row.optimizer.contains("fused"),
        fused_kernels,
        rope_cache,
        quantised_saves_input: older,
        workspace: workspace(if NINE.iter().any(|card| row.gpu.starts_with(card)) { 9 } else { 8 }),
    })
}
