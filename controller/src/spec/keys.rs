//! Every key of a spec, once: its shape and bounds, its default, and what it means.
//!
//! The reader takes bounds and words from here, the suggestion for a typo is searched here, and `docs/spec.md` is
//! written from here. Tests prove that the defaults are the true ones and that no key is missing.

use hone_proto::quantity::Bytes;

use super::not_yet;
use super::words::{
    ContainerUser, DataFormat, Export, Kind, LogLevel, LossOn, MethodKind, Network, OptimizerName,
    Overlong, Precision, ScheduleKind, Template, TrainerKind,
};

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its full path, such as `train.batch.effective`.
    pub path: &'static str,
    /// What it takes.
    pub shape: Shape,
    /// What holds without it.
    pub absent: Absent,
    /// What it means, and why the default is what it is.
    pub meaning: &'static str,
}

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// A mapping of further keys.
    Section,
    /// A mapping of further keys, or in short what the text says.
    SectionOr(&'static str),
    /// Text.
    Text,
    /// A path on the machine that submits; relative to the spec.
    Path,
    /// true or false.
    Flag,
    /// A whole number.
    Whole(u64, u64),
    /// A number.
    Real(f64, f64),
    /// A size with its unit.
    Size(Bytes, Bytes),
    /// One of these words.
    Word(&'static [&'static str]),
    /// What the text says.
    Other(&'static str),
}

/// What holds when a key is absent.
#[derive(Debug, Clone, Copy)]
pub enum Absent {
    /// The key must be given.
    Required,
    /// This value, written as in a spec.
    Is(&'static str),
    /// No single value; the text says what happens.
    Else(&'static str),
    /// A section: its keys have their own.
    Inner,
}

use self::Absent::{Else, Inner, Is, Required};
use Shape::{Flag, Other, Path, Real, Section, SectionOr, Size, Text, Whole, Word};

/// Keeps the table a table: two lines for each key.
macro_rules! table {
    ($($path:literal, $shape:expr, $absent:expr, $meaning:literal;)*) => {
        &[$(Key { path: $path, shape: $shape, absent: $absent, meaning: $meaning },)*]
    };
}

const TIB: u64 = 1024;

/// Every key, in the order of the documentation; each section stands before its keys.
pub const KEYS: &[Key] = table! {
    "version", Whole(1, 1), Is("1"),
        "Version of this format.";
    "kind", Word(Kind::NAMES), Is("finetune"),
        "What the job does.";
    "name", Text, Else("the model's name"),
        "The job's name for people: a-z, 0-9, `.`, `_`, `-`, at most 64. Need not be unique, since the job gets a number.";
    "project", Text, Is("default"),
        "The boundary of sharing: quotas, caches, visibility.";
    "labels", Other("a mapping of text to text"), Else("none"),
        "Your own marks, at most 32; hone keeps them and gives them no meaning.";
    "model", SectionOr("a path, such as `./model`"), Required,
        "The base model: a directory in Hugging Face layout.";
    "model.path", Path, Required,
        "The directory; relative to the spec. It is uploaded once and found again by its content.";
    "model.name", Text, Else("the directory's name"),
        "What records and packages call the model.";
    "data", SectionOr("a path, such as `./train.jsonl`"), Required,
        "The rows: one file, or a directory of files.";
    "data.train", SectionOr("a path"), Required,
        "Rows to train on.";
    "data.train.path", Path, Required,
        "A JSON Lines or JSON file, or a directory of them; relative to the spec.";
    "data.train.format", Word(DataFormat::NAMES), Is("auto"),
        "What a row looks like; `auto` goes by the keys of the first row, and the choice is logged.";
    "data.eval", SectionOr("a path"), Inner,
        "Held-out rows, on which base and tuned model are compared: rows of their own, or a part of the training rows.";
    "data.eval.path", Path, Else("split from train"),
        "Rows of their own, in the format of the training rows.";
    "data.eval.split_from", Word(&["train"]), Is("train"),
        "Hold out a part of the training rows, which then are never trained on. Without held-out rows nobody could tell learning from memorising, so this is the default.";
    "data.eval.fraction", Real(0.001, 0.5), Is("0.05"),
        "The part that is held out. A twentieth is enough to see a difference and costs little.";
    "data.eval.seed", Whole(0, u32::MAX as u64), Is("7"),
        "Chooses the held-out rows; apart from `train.seed`, so that runs with different seeds stay comparable.";
    "data.template", Word(Template::NAMES), Is("tokenizer"),
        "How a conversation becomes text. The tokenizer's own template is what the model has seen before.";
    "data.loss_on", Word(LossOn::NAMES), Is("answers"),
        "Which tokens count. The model shall learn to answer, not to ask.";
    "data.overlong", Word(Overlong::NAMES), Is("truncate"),
        "What happens to rows longer than `train.seq_len`; how many is logged.";
    "method", SectionOr("`lora` or `full`"), Inner,
        "What is trained.";
    "method.type", Word(MethodKind::NAMES), Is("lora"),
        "LoRA needs a fraction of the memory and rarely loses quality on small data.";
    "method.lora", Section, Inner,
        "Only with type `lora`.";
    "method.lora.r", Whole(1, 1024), Is("16"),
        "Rank of the adapter: its size, and how much it can learn.";
    "method.lora.alpha", Whole(1, 4096), Else("2 × r"),
        "Scale of the adapter (alpha / r). Twice the rank keeps the learning rate's meaning when r changes.";
    "method.lora.dropout", Real(0.0, 0.95), Is("0.0"),
        "Dropout on the adapter's input. Worth trying above zero when the data is small and the loss on held-out rows rises.";
    "method.lora.targets", Other("`all-linear`, or a list of module names"), Is("all-linear"),
        "Which layers get an adapter. All of them comes closest to full fine-tuning.";
    "train", Section, Inner,
        "How it is trained.";
    "train.epochs", Real(0.001, 1000.0), Is("1.0"),
        "Passes over the training rows. One is the safe start; more may overfit. Not together with `max_steps`.";
    "train.max_steps", Whole(1, 10_000_000), Else("by epochs"),
        "Optimizer steps, instead of epochs.";
    "train.seq_len", Whole(8, 1 << 20), Is("1024"),
        "Longest row in tokens. Memory grows with it, and most chat rows are shorter.";
    "train.batch", SectionOr("the effective batch"), Inner,
        "Rows per optimizer step.";
    "train.batch.effective", Whole(1, 65_536), Is("16"),
        "Rows per optimizer step, whatever the hardware: it decides what is learned. micro × accumulation is exactly this.";
    "train.batch.micro", Other("`auto` or a divisor of `effective`"), Is("auto"),
        "Rows at once: it decides memory and speed only. `auto` is the largest divisor of `effective` up to 8.";
    "train.optimizer", Section, Inner,
        "What turns gradients into steps.";
    "train.optimizer.name", Word(OptimizerName::NAMES), Is("adamw"),
        "The optimizer.";
    "train.optimizer.lr", Real(1e-12, 1.0), Else("0.0002 for lora, 0.00002 for full"),
        "Peak learning rate. Adapters start from zero and bear ten times more.";
    "train.optimizer.weight_decay", Real(0.0, 1.0), Is("0.0"),
        "Decoupled weight decay.";
    "train.optimizer.betas", Other("a list of two numbers from 0 to 0.9999"), Is("[0.9,0.999]"),
        "Decay of the two moments.";
    "train.schedule", Section, Inner,
        "How the learning rate changes.";
    "train.schedule.type", Word(ScheduleKind::NAMES), Is("cosine"),
        "The curve after the warm-up.";
    "train.schedule.warmup", Real(0.0, 0.9), Is("0.03"),
        "Part of all steps over which the rate rises from zero: the optimizer's moments are not yet known then.";
    "train.clip_norm", Real(0.0, 1000.0), Is("1.0"),
        "Longest gradient; 0 turns it off. One bad row then cannot ruin the run.";
    "train.precision", Word(Precision::NAMES), Is("auto"),
        "bf16 where the hardware has it, else fp32: neither needs loss scaling.";
    "train.activation_checkpointing", Flag, Is("false"),
        "Compute activations again instead of keeping them: less memory, about a third slower.";
    "train.seed", Whole(0, u32::MAX as u64), Is("42"),
        "Fixes initialisation, data order and dropout. The same seed, image and hardware give the same weights.";
    "train.log_every", Whole(1, 100_000), Is("1"),
        "Optimizer steps between two metric records. They are small, and the curve is then complete.";
    "train.eval_every", Whole(1, 10_000_000), Else("only at start and end"),
        "Optimizer steps between two evaluations on the held-out rows.";
    "checkpoint", Section, Inner,
        "What survives a lost node.";
    "checkpoint.every", Section, Inner,
        "When to save.";
    "checkpoint.every.steps", Whole(1, 10_000_000), Is("100"),
        "Optimizer steps between two checkpoints: the most that is trained again after a failure.";
    "checkpoint.keep", Section, Inner,
        "What to keep on the node's disk.";
    "checkpoint.keep.last", Whole(1, 100), Is("2"),
        "Committed checkpoints that stay on the node, newest first. Two, so that one damaged file costs no attempt.";
    "trainer", Section, Inner,
        "What runs in the container.";
    "trainer.kind", Word(TrainerKind::NAMES), Is("hone"),
        "hone's own trainer, or an image that keeps the same contract.";
    "trainer.image", Text, Is("hone-trainer:cpu"),
        "An image of the submitting machine's engine, or a reference by digest (`name@sha256:…`) that nodes pull. The job records its digest.";
    "trainer.command", Other("a list of text"), Else("the image's own"),
        "Overrides the image's command; no shell is involved.";
    "resources", Section, Inner,
        "What a node must have free, and what the container is limited to.";
    "resources.gpus", SectionOr("a count"), Inner,
        "Whole GPUs.";
    "resources.gpus.count", Whole(0, 64), Is("0"),
        "How many; 0 trains on the CPU.";
    "resources.gpus.vram", Size(Bytes::mib(1), Bytes::gib(TIB)), Else("any GPU will do"),
        "Memory that each must have free.";
    "resources.cpu", Real(0.1, 1024.0), Is("1"),
        "Cores. One is enough to feed a GPU; training on the CPU is faster with more.";
    "resources.memory", Size(Bytes::mib(64), Bytes::gib(64 * TIB)), Is("4 GiB"),
        "Memory, which is also the container's limit: beyond it the kernel ends the attempt. Enough for models below a billion parameters with LoRA.";
    "resources.disk", Size(Bytes::mib(1), Bytes::gib(1024 * TIB)), Is("10 GiB"),
        "Disk for inputs, checkpoints and the package.";
    "resources.shm", Size(Bytes::mib(1), Bytes::gib(TIB)), Is("256 MiB"),
        "Shared memory (`/dev/shm`), part of `memory`; data loaders and NCCL use it.";
    "resources.network", Word(Network::NAMES), Is("none"),
        "A relaxation when not `none`, shown in `hone show`: inputs are staged before the start, so training needs no network.";
    "resources.max_hours", Real(0.01, 8760.0), Else("no limit"),
        "Wall time of one attempt; it saves and stops then.";
    "resources.max_attempts", Whole(1, 100), Is("5"),
        "Placements before the job fails: enough for lost nodes, and a job that always fails ends.";
    "container", Section, Inner,
        "Relaxations of the closed container, each shown in `hone show`.";
    "container.user", Word(ContainerUser::NAMES), Is("attempt"),
        "`image` runs as uid 0 with every capability dropped, for images whose interpreter lies under /root.";
    "on_disconnect", Section, Inner,
        "When the node cannot reach the controller.";
    "on_disconnect.wait", Other("`auto`, `forever`, or 30s to 30d such as `45m`"), Is("auto"),
        "How long training goes on unheard before it saves and the job is placed elsewhere. `auto`: for ever while no other node could hold the job, else 30 minutes.";
    "evaluate", Section, Inner,
        "What is measured at the end.";
    "evaluate.base_model", Flag, Is("true"),
        "Evaluate the base model on the same held-out rows: without it the tuned model's figure means little.";
    "export", Other("a list of `adapter` or `model`"), Else("`[adapter]` for lora, `[model]` for full"),
        "What the package holds. An empty list makes none.";
    "log_level", Word(LogLevel::NAMES), Is("info"),
        "The least grave record that the trainer logs.";
};

const _: () = assert!(Export::NAMES.len() == 2, "the shape of `export` names its words");

/// The key at `path`.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The full path of `name` in the section `under`.
pub(super) fn join(under: &str, name: &str) -> String {
    if under.is_empty() { name.to_owned() } else { format!("{under}.{name}") }
}

/// The names of the keys directly in the section `under`.
fn children(under: &str) -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter_map(move |key| {
        let name = match under {
            "" => key.path,
            _ => key.path.strip_prefix(under)?.strip_prefix('.')?,
        };
        (!name.contains('.')).then_some(name)
    })
}

/// Advice for the unknown key `name` in the section `under`; empty when there is none better than the list.
pub(super) fn advice(under: &str, name: &str) -> String {
    // A key of a spec is never longer; the distance to a very long one would only take time.
    let name: String = name.chars().take(64).collect();
    if let Some(near) = nearest(&name, children(under)) {
        return format!("did you mean `{near}`?");
    }
    let lower = name.to_lowercase();
    if let Some((_, path)) = not_yet::ELSEWHERE.iter().find(|(other, _)| *other == lower) {
        return format!("hone calls it `{path}`");
    }
    let suffix = format!(".{lower}");
    let places: Vec<_> = KEYS
        .iter()
        .map(|key| key.path)
        .filter(|path| *path == lower || path.ends_with(&suffix))
        .collect();
    if let [only] = places[..] {
        return format!("it belongs at `{only}`");
    }
    let known: Vec<_> = children(under).map(|name| format!("`{name}`")).collect();
    format!("known here: {}", known.join(", "))
}

/// The candidate that `name` is most likely a typo of.
pub(super) fn nearest(
    name: &str,
    candidates: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    let name = name.to_lowercase().replace('-', "_");
    candidates
        .map(|one| (strsim::damerau_levenshtein(&name, one), one))
        // A third of the letters wrong is a typo; more is another word.
        .filter(|(distance, one)| *distance <= (one.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, one)| one)
}
