//! Keys that take one word of a few: the words, as an enum each.

use serde::{Serialize, Serializer};

/// A closed set of words.
pub(super) trait Words: Copy + 'static {
    /// Every word with what it stands for.
    const ALL: &'static [(&'static str, Self)];
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$word_doc])* $word,)* }

        impl $name {
            /// The words in the order of the documentation.
            pub const NAMES: &[&str] = &[$($text,)*];

            /// The word, as it stands in a spec and in `/hone/spec.json`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$word => $text,)* }
            }
        }
        impl Words for $name {
            const ALL: &[(&str, Self)] = &[$(($text, Self::$word),)*];
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    )*};
}

words! {
    /// What a job does.
    Kind {
        /// Continue to train a model that has learned something.
        Finetune = "finetune",
    }
    /// What a row of data looks like.
    DataFormat {
        /// By the keys of the first row.
        Auto = "auto",
        /// `instruction`, `input`, `output`.
        Alpaca = "alpaca",
        /// `messages` with role and content.
        Messages = "messages",
        /// `conversations` with from and value.
        Sharegpt = "sharegpt",
        /// `prompt` and `completion`.
        PromptCompletion = "prompt_completion",
        /// `text`, as it is.
        Text = "text",
    }
    /// How a conversation becomes text.
    Template {
        /// By the chat template that comes with the tokenizer.
        Tokenizer = "tokenizer",
        /// Turn after turn without any marks, for models that have no template.
        Plain = "plain",
        /// `<|im_start|>` and `<|im_end|>` around every turn, as many models know it.
        Chatml = "chatml",
    }
    /// Which tokens count in the loss.
    LossOn {
        /// Those of the answers.
        Answers = "answers",
        /// Those of each conversation's last answer.
        LastAnswer = "last_answer",
        /// All.
        All = "all",
    }
    /// What happens to a row longer than `train.seq_len`.
    Overlong {
        /// It loses its end.
        Truncate = "truncate",
        /// It is left out, and counted.
        Drop = "drop",
        /// The job fails.
        Error = "error",
    }
    /// What happens when rows cannot be read.
    BadRows {
        /// The job fails before training and names them.
        Error = "error",
        /// They are left out, and counted.
        Skip = "skip",
    }
    /// Whether tokenised rows are kept in memory.
    Preload {
        /// If they fit beside the model.
        Auto = "auto",
        /// Always; the job fails if they do not fit.
        Memory = "memory",
        /// Never: they are read as they are needed.
        None = "none",
    }
    /// What is trained.
    MethodKind {
        /// Small matrices beside the linear layers.
        Lora = "lora",
        /// The last blocks, or named modules.
        Freeze = "freeze",
        /// Every weight.
        Full = "full",
    }
    /// What turns gradients into steps.
    OptimizerName {
        /// Adam with decoupled weight decay.
        Adamw = "adamw",
        /// One moment, kept as rows and columns.
        Adafactor = "adafactor",
    }
    /// The sixteen values that a 4-bit weight can have.
    QuantType {
        /// Spaced for weights that are normally distributed.
        Nf4 = "nf4",
        /// A floating-point number of 4 bits.
        Fp4 = "fp4",
    }
    /// How the learning rate changes.
    ScheduleKind {
        /// Half a cosine down to zero.
        Cosine = "cosine",
        /// A straight line down to zero.
        Linear = "linear",
        /// Not at all after the warm-up.
        Constant = "constant",
    }
    /// The type that the arithmetic is done in.
    Precision {
        /// bf16 where the hardware has it, else fp32.
        Auto = "auto",
        /// 32 bits.
        Fp32 = "fp32",
        /// bfloat16.
        Bf16 = "bf16",
        /// IEEE half precision with loss scaling.
        Fp16 = "fp16",
    }
    /// How several GPUs hold one model.
    Sharding {
        /// Each holds all of it.
        None = "none",
        /// Each holds a part of every layer.
        Full = "full",
    }
    /// What runs in the container.
    TrainerKind {
        /// hone's own trainer.
        Hone = "hone",
        /// TRL's command line.
        Trl = "trl",
        /// Axolotl.
        Axolotl = "axolotl",
        /// LLaMA-Factory.
        LlamaFactory = "llamafactory",
        /// torchtune.
        Torchtune = "torchtune",
        /// Unsloth's command line.
        Unsloth = "unsloth",
        /// A script around the Trainer of Hugging Face.
        Hf = "hf",
        /// Anything else.
        Custom = "custom",
    }
    /// How the metrics of a tool are read.
    Telemetry {
        /// From whatever it offers, the most trustworthy first.
        Auto = "auto",
        /// As it pushes them.
        Push = "push",
        /// From its TensorBoard files.
        Tensorboard = "tensorboard",
        /// From what it prints.
        Stdout = "stdout",
    }
    /// The signal at which a tool saves and stops.
    StopSignal {
        /// SIGTERM.
        Term = "term",
        /// SIGINT.
        Int = "int",
        /// SIGUSR1.
        Usr1 = "usr1",
        /// None: it is ended, and goes on from its last checkpoint.
        None = "none",
    }
    /// What the container may reach.
    Network {
        /// Nothing.
        None = "none",
        /// Whatever the engine's bridge reaches.
        Egress = "egress",
    }
    /// Who the container's process is.
    ContainerUser {
        /// A uid of its own for each attempt.
        Attempt = "attempt",
        /// uid 0 inside, every capability dropped.
        Image = "image",
    }
    /// What a finished job leaves.
    Export {
        /// The LoRA adapter with an inference script.
        Adapter = "adapter",
        /// The whole model with an inference script.
        Model = "model",
    }
    /// The least grave record that the trainer logs.
    LogLevel {
        /// Everything.
        Debug = "debug",
        /// What happens.
        Info = "info",
        /// What is worth a look.
        Warning = "warning",
        /// What failed.
        Error = "error",
    }
}
