//! The tools' names for figures, and hone's: one table. What is not in it keeps the tool's name.
//!
//! Sources: what the Hugging Face `Trainer`, TRL, Axolotl, LLaMA-Factory, torchtune, torchtitan and Keras log, and how
//! TensorBoard's callback of the `Trainer` rewrites names (`eval_x` to `eval/x`, everything else to `train/x`).

use super::point::Split;

/// What a figure's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The figure is the step.
    Step,
    /// The figure is the number of steps in all.
    Total,
    /// The figure is the position in the data, in passes.
    Epoch,
    /// A figure that hone has a name for.
    Known {
        /// What it was measured on.
        split: Split,
        /// hone's name.
        name: &'static str,
        /// Which of a tool's several figures for this name is the best: the lowest.
        rank: u8,
    },
    /// Any other figure.
    Other {
        /// What it was measured on, as far as the name tells.
        split: Split,
        /// Its name without what only says the split.
        name: String,
    },
}

/// A tool's name, hone's name, rank. Names of evaluations begin with `eval_` by now.
const KNOWN: [(&str, &str, u8); 18] = [
    ("loss", "loss", 0),
    ("loss_metrics/global_avg_loss", "loss", 0),
    ("loss_metrics/global_max_loss", "loss_max", 0),
    ("eval_loss", "eval_loss", 0),
    ("learning_rate", "learning_rate", 0),
    ("lr", "learning_rate", 1),
    ("grad_norm", "grad_norm", 0),
    // Padding or not: what the `Trainer` was told to count, then what the tool counts by itself.
    ("num_input_tokens_seen", "tokens_seen", 0),
    ("tokens/total", "tokens_seen", 1),
    ("total_tokens", "tokens_seen", 1),
    ("num_tokens", "tokens_seen", 2),
    ("tokens/trainable", "tokens_seen", 3),
    // Of the last interval, then an average since the start.
    ("tokens/train_per_sec_per_gpu", "tokens_per_second", 0),
    ("tokens_per_second_per_gpu", "tokens_per_second", 0),
    ("throughput(tps)", "tokens_per_second", 0),
    ("train_tokens_per_second", "tokens_per_second", 1),
    ("mean_token_accuracy", "token_accuracy", 0),
    ("eval_mean_token_accuracy", "eval_token_accuracy", 0),
];

/// Names of the step.
const STEP: [&str; 4] = ["step", "current_steps", "current_step", "global_step"];
/// Names of the number of steps in all.
const TOTAL: [&str; 2] = ["total_steps", "max_steps"];
/// Beginnings that only say what was measured on, and what they become.
const PREFIXES: [(&str, &str); 6] = [
    ("train/", ""),
    ("eval/", "eval_"),
    ("test/", "test_"),
    ("val_", "eval_"),
    ("validation_metrics/", "eval_"),
    ("predict_", "test_"),
];

/// What `raw` means, as a tool writes it in a flat list of figures or as TensorBoard's tag.
pub(super) fn meaning(raw: &str) -> Meaning {
    let rewritten = PREFIXES.iter().find_map(|(from, to)| {
        let rest = raw.strip_prefix(from).filter(|rest| !rest.is_empty())?;
        Some(format!("{to}{rest}"))
    });
    let name = rewritten.as_deref().unwrap_or(raw);
    if STEP.contains(&name) {
        return Meaning::Step;
    }
    if TOTAL.contains(&name) {
        return Meaning::Total;
    }
    if name == "epoch" {
        return Meaning::Epoch;
    }
    let split = split_of(name);
    match KNOWN.iter().find(|(tool, _, _)| *tool == name) {
        Some((_, name, rank)) => Meaning::Known { split, name, rank: *rank },
        None => Meaning::Other { split, name: name.to_owned() },
    }
}

fn split_of(name: &str) -> Split {
    if name.starts_with("eval_") {
        Split::Eval
    } else if name.starts_with("test_") {
        Split::Test
    } else {
        Split::Train
    }
}

/// A tag of Keras's TensorBoard callback: the figure's name, and whether its step counts epochs.
///
/// Figures of a whole epoch are written at the epoch's number, those of a batch or an evaluation at the step. Keras
/// writes training and evaluation to folders of their own (`train`, `validation`), with the same names.
pub(super) fn keras_tag(tag: &str, validation: bool) -> Option<(String, Axis)> {
    let named = |name: &str| {
        if validation { format!("eval_{name}") } else { name.to_owned() }
    };
    if let Some(name) =
        tag.strip_prefix("evaluation_").and_then(|rest| rest.strip_suffix("_vs_iterations"))
    {
        return Some((format!("eval_{name}"), Axis::Step));
    }
    let (name, axis) = tag
        .strip_prefix("epoch_")
        .map(|name| (name, Axis::Epoch))
        .or_else(|| tag.strip_prefix("batch_").map(|name| (name, Axis::Step)))?;
    (!name.is_empty()).then(|| (named(name), axis))
}

/// What the step of a TensorBoard event counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    /// Optimizer steps.
    Step,
    /// Whole passes over the data, the first is 0.
    Epoch,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_s_names_become_hone_s() {
        for (raw, split, name) in [
            ("loss", Split::Train, "loss"),
            ("train/loss", Split::Train, "loss"),
            ("eval/loss", Split::Eval, "eval_loss"),
            ("val_loss", Split::Eval, "eval_loss"),
            ("validation_metrics/loss", Split::Eval, "eval_loss"),
            ("loss_metrics/global_avg_loss", Split::Train, "loss"),
            ("lr", Split::Train, "learning_rate"),
            ("train/num_input_tokens_seen", Split::Train, "tokens_seen"),
            ("tokens/total", Split::Train, "tokens_seen"),
            ("train/tokens/train_per_sec_per_gpu", Split::Train, "tokens_per_second"),
            ("tokens_per_second_per_gpu", Split::Train, "tokens_per_second"),
            ("eval_mean_token_accuracy", Split::Eval, "eval_token_accuracy"),
        ] {
            let Meaning::Known { split: found, name: known, .. } = meaning(raw) else {
                panic!("{raw} is not known")
            };
            assert_eq!((found, known), (split, name), "{raw}");
        }
        // The mean over a whole run is not the loss of a step.
        for (raw, split, name) in [
            ("train_loss", Split::Train, "train_loss"),
            ("train/train_loss", Split::Train, "train_loss"),
            ("val_accuracy", Split::Eval, "eval_accuracy"),
            ("predict_loss", Split::Test, "test_loss"),
            ("eval/", Split::Train, "eval/"),
            ("reward", Split::Train, "reward"),
        ] {
            assert_eq!(meaning(raw), Meaning::Other { split, name: name.to_owned() }, "{raw}");
        }
        assert_eq!(meaning("current_steps"), Meaning::Step);
        assert_eq!(meaning("train/epoch"), Meaning::Epoch);
        assert_eq!(meaning("total_steps"), Meaning::Total);
    }

    #[test]
    fn keras_counts_epochs_and_steps() {
        let tag = |tag, validation| keras_tag(tag, validation);
        assert_eq!(tag("epoch_loss", false), Some(("loss".to_owned(), Axis::Epoch)));
        assert_eq!(tag("epoch_loss", true), Some(("eval_loss".to_owned(), Axis::Epoch)));
        assert_eq!(tag("batch_loss", false), Some(("loss".to_owned(), Axis::Step)));
        let evaluation = tag("evaluation_loss_vs_iterations", true);
        assert_eq!(evaluation, Some(("eval_loss".to_owned(), Axis::Step)));
        assert_eq!(tag("train/loss", false), None);
    }
}
