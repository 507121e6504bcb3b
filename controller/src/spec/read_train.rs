//! From the tree to a spec: training and checkpoints.

use super::error::ProblemKind;
use super::node::Value;
use super::problems::Problems;
use super::reader::{At, Section};
use super::types::{
    Batch, Checkpoint, Every, Intervals, Keep, Length, Method, Optimizer, OptimizerBits, Resources,
    Schedule, Train,
};
use super::words::{MethodKind, OptimizerName, Precision, ScheduleKind, Sharding};

/// Moments decay by at most this: beyond it the trainer's corrections lose all precision.
const MAX_BETA: f64 = 0.9999;

pub(super) fn train(top: &Section<'_>, method: Option<MethodKind>, p: &mut Problems<'_>) -> Train {
    let section = top.section("train", p);
    Train {
        length: length(&section, p),
        seq_len: section.small("seq_len", p).unwrap_or(1024),
        packing: section.flag("packing", p).unwrap_or(false),
        batch: batch(&section, p),
        optimizer: optimizer(&section, method, p),
        schedule: schedule(&section, p),
        clip_norm: section.real("clip_norm", p).unwrap_or(1.0),
        precision: section.word("precision", p).unwrap_or(Precision::Auto),
        activation_checkpointing: section.flag("activation_checkpointing", p).unwrap_or(false),
        sharding: section.word("sharding", p).unwrap_or(Sharding::None),
        seed: section.small("seed", p).unwrap_or(42),
        log_every: section.small("log_every", p).unwrap_or(1),
        eval_every: section.small("eval_every", p),
    }
}

/// Refuses to spread over GPUs what cannot be, or where there are none to spread it over.
pub(super) fn require_shardable(
    top: &Section<'_>,
    train: &Train,
    method: Option<&Method>,
    resources: &Resources,
    p: &mut Problems<'_>,
) {
    if train.sharding != Sharding::Full {
        return;
    }
    let section = top.section("train", p);
    let Some(at) = section.get("sharding") else { return };
    let optimizer = train.optimizer;
    let (what, hint) = if resources.gpus.count < 2 {
        (
            "spreads a model over several GPUs, and the job has fewer than two",
            "set `resources.gpus.count` to 2 or more, or `sharding: none`",
        )
    } else if method.is_some_and(|method| method.quant.is_some()) {
        (
            "does not work with a quantised base, whose weights cannot be cut into parts",
            "remove `method.quant`, or set `sharding: none`",
        )
    } else if method.and_then(|method| method.lora.as_ref()).is_some_and(|lora| lora.dora) {
        (
            "does not work with DoRA, which looks at whole weights of other layers",
            "remove `method.lora.dora`, or set `sharding: none`",
        )
    } else if optimizer.name != OptimizerName::Adamw
        || optimizer.bits == OptimizerBits::Eight
        || optimizer.paged
    {
        (
            "works with `adamw` in 32 bits alone: other states are not kept weight by weight",
            "set `train.optimizer` to `{name: adamw, bits: 32, paged: false}`, or `sharding: none`",
        )
    } else {
        return;
    };
    p.add(ProblemKind::Conflict, at.here(), what, hint);
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
        Some(MethodKind::Full | MethodKind::Freeze) => 2e-5,
        _ => 2e-4,
    };
    let name = section.word("name", p).unwrap_or(OptimizerName::Adamw);
    let bits = section.get("bits").and_then(|at| optimizer_bits(&at, p)).unwrap_or_default();
    let paged = section.flag("paged", p).unwrap_or(false);
    if name == OptimizerName::Adafactor && (bits == OptimizerBits::Eight || paged) {
        let extra = if paged { section.get("paged") } else { section.get("bits") };
        let here = extra.as_ref().map_or_else(|| section.here(), At::here);
        let hint = "remove it, or set the name to `adamw`: adafactor keeps almost no state";
        p.add(ProblemKind::Conflict, here, "has no meaning with `adafactor`", hint);
    }
    Optimizer {
        name,
        bits,
        paged,
        lr: section.real("lr", p).unwrap_or(lr),
        weight_decay: section.real("weight_decay", p).unwrap_or(0.0),
        betas: section.get("betas").and_then(|at| betas(&at, p)).unwrap_or([0.9, 0.999]),
    }
}

fn optimizer_bits(at: &At<'_>, p: &mut Problems<'_>) -> Option<OptimizerBits> {
    match at.whole(p)? {
        8 => Some(OptimizerBits::Eight),
        32 => Some(OptimizerBits::ThirtyTwo),
        other => {
            at.bad(p, format!("must be 8 or 32, not {other}"), "8 needs a quarter of the memory");
            None
        }
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
    let keep = section.section("keep", p);
    Checkpoint {
        every: every(&section, p),
        keep: Keep { last: keep.small("last", p).unwrap_or(2) },
    }
}

/// Steps between two checkpoints where nothing else is said.
const STEPS: u32 = 100;

fn every(checkpoint: &Section<'_>, p: &mut Problems<'_>) -> Every {
    let auto = |at: &At<'_>| matches!(&at.node.value, Value::Text(text) if text == Every::AUTO);
    if checkpoint.get("every").is_some_and(|at| auto(&at)) {
        return Every::Auto;
    }
    let section = checkpoint.section("every", p);
    let mut given = Intervals {
        steps: section.small("steps", p),
        epochs: section.real("epochs", p),
        minutes: section.real("minutes", p),
    };
    if given.epochs.is_none() && given.minutes.is_none() {
        given.steps = given.steps.or(Some(STEPS));
    }
    Every::Given(given)
}
