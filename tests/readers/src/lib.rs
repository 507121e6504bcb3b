//! What must hold for every reader of foreign bytes, whatever the bytes: a target each. `tests/fuzz` searches for bytes
//! that break one, guided by what code they reach; `tests/tests/readers` tries the seeds and a fixed number of their
//! mutations in every run of the tests.
//!
//! A target is given bytes as a tool would leave them, and panics when the reader does not keep a promise: a figure
//! that nobody wrote, one that is told twice, bytes in two pieces that say something else than in one. [`Target::run`]
//! also holds every reader to a bound on memory, where [`peak_alloc::PeakAlloc`] is the program's allocator.

#![expect(
    clippy::panic,
    reason = "a broken promise is told by a panic, to whatever engine runs the target"
)]

mod check;
mod figures;
mod files;
mod growing;
pub mod mutate;
mod printed;
mod seeds;
mod spec;

use peak_alloc::PeakAlloc;

/// Longest input, in bytes, of the search and of the mutations.
pub const MAX_LEN: usize = 64 * 1024;

/// A reader with what must hold for it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Gives it bytes; panics when a promise is broken.
    check: fn(&[u8]),
    /// Bytes to begin with.
    seeds: fn() -> Vec<Vec<u8>>,
    /// Words that its format is made of.
    pub words: &'static [&'static str],
    /// Bytes of memory that it may take besides, for each byte of input.
    per_byte: usize,
}

/// Bytes of memory that any reader may take however little it is given.
const FIXED: usize = 512 * 1024;

/// All of them.
pub const TARGETS: [Target; 18] = [
    of("json", figures::json, seeds::json, JSON, 64),
    of("point", figures::point, seeds::names, NAMES, 64),
    of("lines", growing::lines, seeds::lines, JSON, 96),
    of("state", figures::state, seeds::states, JSON, 96),
    of("push", figures::push, seeds::bodies, PUSH, 96),
    of("tfevents", growing::events, seeds::events, NAMES, 256),
    of("tfevents_records", growing::records, seeds::records, NAMES, 256),
    of("safetensors", files::safetensors, seeds::tensors, SAFETENSORS, 32),
    of("zip_end", files::zip_end, seeds::archives, &["PK\u{5}\u{6}", "PK\u{6}\u{6}"], 4),
    of("shards", files::shards, seeds::indexes, SHARDS, 64),
    of("elastic", files::elastic, seeds::errors, ELASTIC, 64),
    of("signs", files::signs, seeds::last_lines, SIGNS, 8),
    of("logs", printed::logs, seeds::logs, LOGS, 32),
    of("printed_dict", printed::dict, seeds::printed, PRINTED, 128),
    of("printed_torchtune", printed::torchtune, seeds::printed, PRINTED, 128),
    of("printed_any", printed::any, seeds::printed, PRINTED, 128),
    of("spec", spec::spec, seeds::specs, SPEC, 512),
    of("spec_config", spec::config, seeds::configs, SPEC, 512),
];

const fn of(
    name: &'static str,
    check: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
    words: &'static [&'static str],
    per_byte: usize,
) -> Target {
    Target { name, check, seeds, words, per_byte }
}

const JSON: &[&str] = &[
    "NaN",
    "Infinity",
    "-Infinity",
    "null",
    "true",
    "1e999",
    "-0.0",
    "1.5",
    "\\u0065",
    "\"step\":",
    "\"loss\":",
    "\"eval_loss\":",
    "\"epoch\":",
    "\"lr\":",
    "\"total_steps\":",
    "\"global_step\":",
    "\"max_steps\":",
    "\"log_history\":[",
    "\"best_metric\":",
    "\"stateful_callbacks\":{",
    "\"early_stopping_patience\":",
    "\"early_stopping_patience_counter\":",
    "\"tokens/total\":",
    "18446744073709551615",
    "},{",
    "\n",
];
const NAMES: &[&str] = &[
    "loss",
    "train/",
    "eval/",
    "val_",
    "step",
    "epoch",
    "tokens/total",
    "num_tokens",
    "lr",
    "epoch_loss",
    "batch_loss",
    "evaluation_loss_vs_iterations",
    "=NaN\n",
    "=inf\n",
    "=1\n",
];
const PUSH: &[&str] = &[
    "{\"trainerStatus\":{",
    "\"metrics\":[",
    "{\"name\":\"",
    "\",\"value\":\"",
    "current_step",
    "total_steps",
    "current_epoch",
    "epoch",
    "loss",
    "eval_loss",
    "nan",
    "inf",
    "1e999",
    "\n",
    "\"progressPercentage\":",
    "\"estimatedRemainingSeconds\":",
    "\"lastUpdatedTime\":\"",
];
const SAFETENSORS: &[&str] = &[
    "\"data_offsets\":[",
    "\"__metadata__\":{",
    "\"dtype\":\"F32\"",
    "\"shape\":[",
    "\0\0\0\0\0\0\0",
];
const SHARDS: &[&str] = &["\"weight_map\":{", "\"metadata\":{", ".safetensors\"", "\\u0065"];
const ELASTIC: &[&str] = &[
    "\"message\":{",
    "\"message\":\"",
    "\"errorCode\":",
    "\"extraInfo\":{",
    "\"py_callstack\":\"",
];
const SIGNS: &[&str] = &[
    "CUDA out of memory",
    "NCCL",
    "timeout",
    "Xid (PCI:",
    "MemoryError",
    "ChildFailedError",
    "\n",
];
const LOGS: &[&str] = &[
    "{\"log\":\"",
    "\",\"stream\":\"stdout\",\"time\":\"2026-11-29T10:00:00Z\"}\n",
    "stderr",
    "\\n",
    "\\r",
    "\\u001b[A",
    "Traceback (most recent call last):",
    "  File ",
    "10:00:09Z",
];
const PRINTED: &[&str] = &[
    "{'loss': ",
    "'epoch': ",
    "'nan'",
    "inf",
    "1e999",
    "\r",
    "5/40 [",
    "100%|#| ",
    "          ",
    "Epoch 1/3\n",
    "100/100 - 3s - ",
    "loss: 1.0",
    " - val_loss: ",
    "step: ",
    "validate step: ",
    "1|10|Loss: ",
    "tps: 1,234",
    "Traceback (most recent call last):",
];
const SPEC: &[&str] = &[
    "version: 1\n",
    "model: ",
    "data:\n",
    "  train: ",
    "trainer:\n",
    "  kind: ",
    "custom",
    "trl",
    "axolotl",
    "checkpoint:\n",
    "path: ",
    "{step}",
    "complete: {marker: DONE}",
    "settled: 5s",
    "&a ",
    "*a",
    "<<: ",
    "!!str ",
    ".nan",
    ".inf",
    "0x1f",
    "~",
    "- ",
    "\t",
    "env:\n",
    "...\n---\n",
];

/// The target of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

impl Target {
    /// Bytes to begin with: what real tools left behind, and what the fixtures lack.
    #[must_use]
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        (self.seeds)()
    }

    /// Gives the reader `bytes`.
    ///
    /// # Panics
    /// When it does not keep a promise.
    pub fn run(&self, bytes: &[u8]) {
        PeakAlloc.reset_peak_usage();
        let before = PeakAlloc.current_usage();
        (self.check)(bytes);
        let taken = PeakAlloc.peak_usage().saturating_sub(before);
        let most = FIXED + self.per_byte * bytes.len();
        assert!(
            taken <= most,
            "{taken} bytes of memory for {} of input: {}",
            bytes.len(),
            self.name
        );
    }
}
