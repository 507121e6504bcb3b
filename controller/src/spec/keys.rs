//! Every key of a spec, once: its shape and bounds, its default, and what it means.
//!
//! The reader takes bounds and words from here, the suggestion for a typo is searched here, and `docs/spec.md` is
//! written from here. Tests prove that the defaults are the true ones and that no key is missing.

use hone_proto::quantity::Bytes;

use super::not_yet;
use super::words::{
    BadRows, ContainerUser, DataFormat, Export, Kind, LogLevel, LossOn, MethodKind, Network,
    OptimizerName, Overlong, Precision, Preload, QuantType, ScheduleKind, Sharding, StopSignal,
    Telemetry, Template, TrainerKind,
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
    "name", Text, Else("the model's name, or `job`"),
        "The job's name for people: a-z, 0-9, `.`, `_`, `-`, at most 64. Need not be unique, since the job gets a number.";
    "project", Text, Is("default"),
        "The boundary of sharing: quotas, caches, visibility.";
    "labels", Other("a mapping of text to text"), Else("none"),
        "Your own marks, at most 32; hone keeps them and gives them no meaning.";
    "model", SectionOr("a path, such as `./model`"), Required,
        "The base model: a directory in Hugging Face layout. Kinds `hf` and `custom` can do without, and `custom` with any directory.";
    "model.path", Path, Required,
        "The directory; relative to the spec. It is uploaded once and found again by its content.";
    "model.name", Text, Else("the directory's name"),
        "What records and packages call the model.";
    "data", SectionOr("a path, such as `./train.jsonl`"), Required,
        "The rows: one file, or a directory of files. Kinds `hf` and `custom` can do without.";
    "data.train", SectionOr("a path"), Required,
        "Rows to train on.";
    "data.train.path", Path, Required,
        "A file of rows (JSON Lines, JSON, CSV, Parquet or Arrow), or a directory of them; relative to the spec.";
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
    "data.system", Text, Else("none"),
        "A system prompt for conversations that have none of their own; of several lines, if need be.";
    "data.loss_on", Word(LossOn::NAMES), Is("answers"),
        "Which tokens count. The model shall learn to answer, not to ask.";
    "data.overlong", Word(Overlong::NAMES), Is("truncate"),
        "What happens to rows longer than `train.seq_len`; how many is logged.";
    "data.bad_rows", Word(BadRows::NAMES), Is("error"),
        "What happens when rows cannot be read. They say that a file is not what you think it is, and all are named at once; `skip` trains without them.";
    "data.preload", Word(Preload::NAMES), Is("auto"),
        "Whether tokenised rows are kept in memory: a slow disk then costs nothing after the start. Read as they are needed, they may be larger than memory.";
    "method", SectionOr("one of its types"), Inner,
        "What is trained.";
    "method.type", Word(MethodKind::NAMES), Is("lora"),
        "LoRA needs a fraction of the memory and rarely loses quality on small data; `freeze` trains a part of the model itself, `full` all of it. docs/methods.md compares them.";
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
    "method.lora.rslora", Flag, Is("false"),
        "Scale by alpha / √r instead of alpha / r: larger ranks then keep learning as fast.";
    "method.lora.dora", Flag, Is("false"),
        "Train the length of each weight row apart from its direction: closer to full fine-tuning at small ranks, and slower.";
    "method.quant", Section, Else("a base in 16 or 32 bits"),
        "How the frozen base below an adapter is kept; only with type `lora`. On a CPU too.";
    "method.quant.bits", Other("4 or 8"), Else("`4`"),
        "Bits of each weight. 4 needs a quarter of the memory of 16; 8 is closer to it.";
    "method.quant.type", Word(QuantType::NAMES), Else("`nf4`"),
        "What the 4 bits stand for. nf4 fits weights better; 8 bits take no notice of it.";
    "method.quant.double", Flag, Else("`true`"),
        "Quantise the scales of 4-bit blocks too: 0.4 bits less for each weight.";
    "method.freeze", Section, Else("only with type `freeze`"),
        "What is trained while the rest of the model is frozen: one of the two keys.";
    "method.freeze.last_layers", Whole(1, 10_000), Else("by `modules`"),
        "So many of the last transformer blocks.";
    "method.freeze.modules", Other("a list of module names"), Else("by `last_layers`"),
        "Every module whose name ends so, such as `mlp.down_proj` or `layers.31`. Not with `llamafactory`, which trains whole blocks.";
    "train", Section, Inner,
        "How it is trained.";
    "train.epochs", Real(0.001, 1000.0), Is("1.0"),
        "Passes over the training rows. One is the safe start; more may overfit. Not together with `max_steps`.";
    "train.max_steps", Whole(1, 10_000_000), Else("by epochs"),
        "Optimizer steps, instead of epochs.";
    "train.seq_len", Whole(8, 1 << 20), Is("1024"),
        "Longest row in tokens. Memory grows with it, and most chat rows are shorter.";
    "train.packing", Flag, Is("false"),
        "Put several rows into one sequence of up to `seq_len` tokens, none of which sees another: short rows then cost no padding. A batch counts sequences, so it holds more rows than without.";
    "train.batch", SectionOr("the effective batch"), Inner,
        "Rows per optimizer step.";
    "train.batch.effective", Whole(1, 65_536), Is("16"),
        "Rows per optimizer step, whatever the hardware: it decides what is learned. micro × accumulation × GPUs is exactly this, so with `trl`, `axolotl` and `llamafactory` it must be a multiple of the GPUs.";
    "train.batch.micro", Other("`auto` or a divisor of `effective`"), Is("auto"),
        "Rows at once: it decides memory and speed only. `auto` is the largest divisor of `effective` up to 8.";
    "train.optimizer", Section, Inner,
        "What turns gradients into steps.";
    "train.optimizer.name", Word(OptimizerName::NAMES), Is("adamw"),
        "The optimizer.";
    "train.optimizer.bits", Other("8 or 32"), Is("32"),
        "Bits of each of its moments. 8 saves six bytes for each trained weight: much with `full`, little with `lora`.";
    "train.optimizer.paged", Flag, Is("false"),
        "Let its moments move to main memory when the GPU's is short. Needs a GPU.";
    "train.optimizer.lr", Real(1e-12, 1.0), Else("0.0002 for lora, 0.00002 for the others"),
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
        "bf16 where the GPU has it, else fp16 with loss scaling; fp32 without a GPU.";
    "train.activation_checkpointing", Flag, Is("false"),
        "Compute activations again instead of keeping them: less memory, about a third slower.";
    "train.sharding", Word(Sharding::NAMES), Is("none"),
        "Whether each of several GPUs holds the whole model, or only a part of every layer (`full`): weights, gradients and the optimizer's state then shrink with their number, and every layer is gathered as it is needed. For what does not fit one GPU.";
    "train.seed", Whole(0, u32::MAX as u64), Is("42"),
        "Fixes initialisation, data order and dropout. The same seed, image and hardware give the same weights.";
    "train.log_every", Whole(1, 100_000), Is("1"),
        "Optimizer steps between two metric records. They are small, and the curve is then complete.";
    "train.eval_every", Whole(1, 10_000_000), Else("only at start and end"),
        "Optimizer steps between two evaluations on the held-out rows.";
    "checkpoint", Section, Inner,
        "What survives a lost node.";
    "checkpoint.every", SectionOr("`auto`"), Inner,
        "When to save: whichever of its keys comes first. `auto` goes by the measured time of a save: at most a fiftieth of the time goes into saving, and saves lie at most half an hour apart. Another tool goes by one of them alone, by `steps` where they are given, and its attempt says what it was not told.";
    "checkpoint.every.steps", Whole(1, 10_000_000), Else("`100`, unless another interval is given"),
        "Optimizer steps between two checkpoints: the most that is trained again after a failure.";
    "checkpoint.every.epochs", Real(0.001, 1000.0), Else("not by epochs"),
        "Passes over the training rows between two checkpoints.";
    "checkpoint.every.minutes", Real(0.1, 10_080.0), Else("not by time"),
        "Minutes of training between two checkpoints.";
    "checkpoint.keep", Section, Inner,
        "What to keep on the node's disk.";
    "checkpoint.keep.last", Whole(1, 100), Is("2"),
        "Committed checkpoints that stay on the node, newest first. Two, so that one damaged file costs no attempt.";
    "trainer", Section, Inner,
        "What runs in the container.";
    "trainer.kind", Word(TrainerKind::NAMES), Is("hone"),
        "hone's own trainer, or an image that keeps the same contract; or the tool that the image holds. hone writes the configuration of `trl`, `axolotl` and `llamafactory` (seen with TRL 1.16.0, Axolotl 0.18.0 and 0.19.0, LLaMA-Factory 0.9.5); `torchtune` and `unsloth` run by your own command and file; `hf` is a script around the Trainer of Hugging Face, and `custom` anything else.";
    "trainer.image", Text, Else("`hone-trainer:cpu` with kind `hone`; required with any other"),
        "An image of the submitting machine's engine, or a reference by digest (`name@sha256:…`) that nodes pull. The job records its digest.";
    "trainer.command", Other("a list of text"), Else("the image's own, or what hone writes for the tool; required with `torchtune`, `unsloth`, `hf` and `custom`"),
        "Overrides the image's command; no shell is involved. With a tool whose command hone would write, it replaces that one.";
    "trainer.config", Path, Else("none"),
        "Your own configuration file of the tool, at most 16 KiB of text; relative to the spec, read at submit. hone lays over it what it must and shows that as a difference; with `torchtune`, `unsloth` and `custom` it stays as it is. It lies at `/hone/tool/NAME` (`KIND.yaml` where hone writes the command), and where `trainer.command` names it, alone or as `--key=…`, that path takes its place; with `hf` it is the last argument otherwise. Not with kind `hone`, as every key below.";
    "trainer.override", Other("a mapping of the tool's own keys"), Else("none"),
        "Raw keys of the tool: the last word, over `trainer.config` and over what hone sets.";
    "trainer.telemetry", Word(Telemetry::NAMES), Else("`auto`"),
        "How metrics are read. `auto` takes the most trustworthy that there is: pushed, TensorBoard files, the tool's own logs, printed lines.";
    "trainer.stdout_patterns", Other("a list of regular expressions"), Else("none"),
        "How to read printed lines, at most 16 patterns. Named groups say what a line holds: `(?P<step>…)` and `(?P<epoch>…)`, each other name is that metric.";
    "trainer.checkpoint", Section, Else("the tool's own rule; none with `custom` and `torchtune`"),
        "Where checkpoints appear and what makes one complete. Only with `torchtune`, `unsloth`, `hf` and `custom`; without it, a `custom` or `torchtune` job starts from its beginning each time, and a `custom` one leaves no package.";
    "trainer.checkpoint.path", Text, Required,
        "Path within the output folder with `{step}` or `{epoch}` once, such as `ckpt-{step}`.";
    "trainer.checkpoint.complete", Section, Required,
        "What makes a checkpoint complete: one of the following. Nothing else is ever uploaded or resumed from.";
    "trainer.checkpoint.complete.marker", Text, Else("by `settled`"),
        "A file that the tool writes last into the checkpoint, which is a folder then.";
    "trainer.checkpoint.complete.settled", Other("a time from 1s to 1h such as `10s`"), Else("by `marker`"),
        "Nothing in it has changed for so long. Weaker than a marker: choose more than the longest pause of a save; and what is saved upon a stop counts only if the script then ends with 0.";
    "trainer.checkpoint.request", Text, Else("it cannot be asked"),
        "A file in the output folder that hone makes to ask for a checkpoint: the tool looks for it after each step, takes it away and saves. With it `checkpoint.every.minutes` and `auto` count, and a job whose `stop` is `none` saves before it is ended.";
    "trainer.resume", Section, Else("the tool's own way; with `torchtune`, `unsloth` and `custom`, the variable `HONE_RESUME_FROM`"),
        "How the tool is told where to go on: one of the following. They are left out where an attempt starts from the beginning.";
    "trainer.resume.argument", Text, Else("none"),
        "One more argument of the command, in which `{path}` stands for the checkpoint: `--resume={path}`.";
    "trainer.resume.environment", Text, Else("none"),
        "A variable that names the checkpoint.";
    "trainer.stop", Word(StopSignal::NAMES), Else("by the tool's version; `term` with `custom`"),
        "The signal at which the tool saves and stops. `none`: it cannot, so it is ended and goes on from its last checkpoint.";
    "trainer.env", Other("a mapping of names to text"), Else("none"),
        "Variables for the tool, at most 64. `HONE_*`, `LD_*`, `NVIDIA_*` and others that reach the host or hone are refused. They are kept with the job, which others can read: no place for secrets.";
    "resources", Section, Inner,
        "What a node must have free, and what the container is limited to.";
    "resources.gpus", SectionOr("a count"), Inner,
        "Whole GPUs.";
    "resources.gpus.count", Whole(0, 64), Is("0"),
        "How many, all of one node; 0 trains on the CPU.";
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
    "export", Other("a list of `adapter` or `model`"), Else("`[adapter]` for lora, `[model]` for full; `[model]` for a `custom` trainer that says what its checkpoints are, else none"),
        "What the package holds. An empty list makes none. With `custom` it is the last complete checkpoint.";
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

/// Whether the key at `path` is a section.
pub(super) fn has_children(path: &str) -> bool {
    children(path).next().is_some()
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
