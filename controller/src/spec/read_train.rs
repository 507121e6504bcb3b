//! From the tree to a spec: method, training and checkpoints.

use super::error::{ProblemKind, quoted};
use super::node::Value;
use super::problems::Problems;
use super::reader::{At, Section};
use super::types::{
    Batch, Checkpoint, Every, Keep, Length, Lora, Method, Optimizer, Schedule, Targets, Train,
};
use super::words::{MethodKind, OptimizerName, Precision, ScheduleKind};

/// Modules that a list of targets may name; models have fewer kinds of linear layers.
const MAX_TARGETS: usize = 64;
/// Longest name of a module, in characters.
const MAX_TARGET: usize = 128;
/// Moments decay by at most this: beyond it the trainer's corrections lose all precision.
const MAX_BETA: f64 = 0.9999;

pub(super) fn method(top: &Section<'_>, p: &mut Problems<'_>) -> Option<Method> {
    let (kind, section) = match top.get("method") {
        None => (MethodKind::Lora, top.nothing("method")),
        Some(at) if matches!(at.node.value, Value::Text(_)) => {
            let short = At { path: "method.type".to_owned(), node: at.node };
            (short.word(p)?, top.nothing("method"))
        }
        Some(at) => {
            let section = Section::open(&at, p)?;
            // A wrong type leaves open what would be the defaults of much else.
            let kind = section.get("type").map_or(Some(MethodKind::Lora), |at| at.word(p));
            (kind?, section)
        }
    };
    if kind == MethodKind::Lora {
        return Some(Method { kind, lora: Some(lora(&section, p)) });
    }
    if let Some(extra) = section.get("lora") {
        let hint = "remove it, or set the type to `lora`";
        p.add(ProblemKind::Conflict, extra.here(), "has no meaning with type `full`", hint);
    }
    Some(Method { kind, lora: None })
}

fn lora(method: &Section<'_>, p: &mut Problems<'_>) -> Lora {
    let section = method.section("lora", p);
    let r = section.small("r", p).unwrap_or(16);
    Lora {
        r,
        alpha: section.small("alpha", p).unwrap_or(2 * r),
        dropout: section.real("dropout", p).unwrap_or(0.0),
        targets: section
            .get("targets")
            .and_then(|at| targets(&at, p))
            .unwrap_or(Targets::AllLinear),
    }
}

fn targets(at: &At<'_>, p: &mut Problems<'_>) -> Option<Targets> {
    if let Value::Text(text) = &at.node.value {
        if text == Targets::ALL_LINEAR {
            return Some(Targets::AllLinear);
        }
        let hint = format!("write `{}`, or a list such as `[q_proj, v_proj]`", Targets::ALL_LINEAR);
        at.bad(p, format!("does not know {}", quoted(text, 60)), hint);
        return None;
    }
    let items = at.list(p)?;
    if items.is_empty() || items.len() > MAX_TARGETS {
        at.bad(p, format!("must name 1 to {MAX_TARGETS} modules, not {}", items.len()), "");
        return None;
    }
    Some(Targets::Named(items.iter().filter_map(|item| target(item, p)).collect()))
}

fn target(at: &At<'_>, p: &mut Problems<'_>) -> Option<String> {
    let name = at.text(p)?;
    if name.len() <= MAX_TARGET
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
    {
        return Some(name);
    }
    let what = format!("{} is not the name of a module", quoted(&name, 60));
    at.bad(p, what, "names such as `q_proj`, as the model's code has them");
    None
}

pub(super) fn train(top: &Section<'_>, method: Option<MethodKind>, p: &mut Problems<'_>) -> Train {
    let section = top.section("train", p);
    Train {
        length: length(&section, p),
        seq_len: section.small("seq_len", p).unwrap_or(1024),
        batch: batch(&section, p),
        optimizer: optimizer(&section, method, p),
        schedule: schedule(&section, p),
        clip_norm: section.real("clip_norm", p).unwrap_or(1.0),
        precision: section.word("precision", p).unwrap_or(Precision::Auto),
        activation_checkpointing: section.flag("activation_checkpointing", p).unwrap_or(false),
        seed: section.small("seed", p).unwrap_or(42),
        log_every: section.small("log_every", p).unwrap_or(1),
        eval_every: section.small("eval_every", p),
    }
}

fn length(train: &Section<'_>, p: &mut Problems<'_>) -> Length {
    let epochs = train.real("epochs", p).map(Length::Epochs);
    let steps = train.small("max_steps", p).map(Length::Steps);
    if let (Some(_), Some(extra)) = (train.get("epochs"), train.get("max_steps")) {
        let hint = "keep one of the two: each sets the length";
        p.add(ProblemKind::Conflict, extra.here(), "stands beside `epochs`", hint);
    }
    steps.or(epochs).unwrap_or(Length::Epochs(1.0))
}

fn batch(train: &Section<'_>, p: &mut Problems<'_>) -> Batch {
    const DEFAULT: Batch = Batch { effective: 16, micro: None };
    let section = match train.get("batch") {
        Some(at) if matches!(at.node.value, Value::Whole(_) | Value::Real(_)) => {
            let short = At { path: "train.batch.effective".to_owned(), node: at.node };
            let effective = short.whole(p).and_then(|n| u32::try_from(n).ok());
            return effective.map_or(DEFAULT, |effective| Batch { effective, micro: None });
        }
        Some(at) => match Section::open(&at, p) {
            Some(section) => section,
            None => return DEFAULT,
        },
        None => return DEFAULT,
    };
    let given = section.small("effective", p);
    let effective = given.unwrap_or(DEFAULT.effective);
    let micro = match section.get("micro") {
        Some(at) if matches!(at.node.value, Value::Whole(_) | Value::Real(_)) => {
            at.whole(p).map(|n| (at, u32::try_from(n).unwrap_or(u32::MAX)))
        }
        Some(at) if !matches!(&at.node.value, Value::Text(text) if text == "auto") => {
            at.wrong_type(p);
            None
        }
        _ => None,
    };
    // What does not divide a wrong effective batch is no news.
    let known = given.is_some() || section.get("effective").is_none();
    if let (Some((at, micro)), true) = (&micro, known)
        && (*micro == 0 || !effective.is_multiple_of(*micro))
    {
        let fits = (1..=effective.min(64)).filter(|n| effective.is_multiple_of(*n));
        let fits: Vec<_> = fits.map(|n| n.to_string()).collect();
        let what = format!("must divide the effective batch of {effective}");
        p.add(ProblemKind::Conflict, at.here(), what, format!("it can be {}", fits.join(", ")));
    }
    Batch { effective, micro: micro.map(|(_, micro)| micro) }
}

fn optimizer(train: &Section<'_>, method: Option<MethodKind>, p: &mut Problems<'_>) -> Optimizer {
    let section = train.section("optimizer", p);
    let lr = match method {
        Some(MethodKind::Full) => 2e-5,
        _ => 2e-4,
    };
    Optimizer {
        name: section.word("name", p).unwrap_or(OptimizerName::Adamw),
        lr: section.real("lr", p).unwrap_or(lr),
        weight_decay: section.real("weight_decay", p).unwrap_or(0.0),
        betas: section.get("betas").and_then(|at| betas(&at, p)).unwrap_or([0.9, 0.999]),
    }
}

fn betas(at: &At<'_>, p: &mut Problems<'_>) -> Option<[f64; 2]> {
    let items = at.list(p)?;
    let [first, second] = &items[..] else {
        at.bad(p, format!("must be two numbers, not {}", items.len()), "such as `[0.9, 0.999]`");
        return None;
    };
    let first = first.real_within(p, 0.0, MAX_BETA);
    let second = second.real_within(p, 0.0, MAX_BETA);
    Some([first?, second?])
}

fn schedule(train: &Section<'_>, p: &mut Problems<'_>) -> Schedule {
    let section = train.section("schedule", p);
    Schedule {
        kind: section.word("type", p).unwrap_or(ScheduleKind::Cosine),
        warmup: section.real("warmup", p).unwrap_or(0.03),
    }
}

pub(super) fn checkpoint(top: &Section<'_>, p: &mut Problems<'_>) -> Checkpoint {
    let section = top.section("checkpoint", p);
    let every = section.section("every", p);
    let keep = section.section("keep", p);
    Checkpoint {
        every: Every { steps: every.small("steps", p).unwrap_or(100) },
        keep: Keep { last: keep.small("last", p).unwrap_or(2) },
    }
}
