//! One row of a table: a configuration, and what came of it.

use serde::Deserialize;

use super::shapes::Shapes;
use super::{TableError, profile, records};
use crate::fit::GIB;
use crate::fit::memory::{Memory, NotModelled, memory};
use crate::fit::run::{Method, Quant, Run, RunError, Targets};

/// Columns without which nothing is said of a configuration.
const COLUMNS: [&str; 6] = ["id", "model", "method", "seq_len", "micro_batch", "framework"];

/// A row as it is written. A column that a table does not have is empty.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Names the row.
    pub id: String,
    /// Id of the model.
    pub model: String,
    /// `full`, `lora`, `qlora`, `gptq-lora` and others.
    pub method: String,
    /// How the weights are quantised; empty where they are not.
    pub quant: String,
    /// Rank of the adapters.
    pub lora_r: String,
    /// Which matrices have one.
    pub lora_targets: String,
    /// Name of the optimizer, with its implementation.
    pub optimizer: String,
    /// Padded length.
    pub seq_len: String,
    /// Rows at once.
    pub micro_batch: String,
    /// `1` with gradient checkpointing, `0` without.
    pub grad_ckpt: String,
    /// The trainer and its switches.
    pub framework: String,
    /// Card, with its nominal size.
    pub gpu: String,
    /// What was measured, GiB.
    pub measured_gib: String,
    /// Which quantity was measured.
    pub what_measured: String,
    /// Where the row is from.
    pub source: String,
    /// A, B or C.
    pub confidence: String,
    /// Cards; one where it is empty.
    pub n_gpus: String,
    /// How several cards share the work.
    pub parallel: String,
    /// Size of the card of an outcome, GiB.
    pub capacity_gib: String,
    /// What came of a run that was not measured.
    pub outcome: String,
    /// Facts about the software, in words.
    pub notes: String,
}

/// Why a row has no prediction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmodelled {
    /// The model's shape is not known.
    #[error("the shape of `{0}` is not known")]
    Shape(String),
    /// The software is not known.
    #[error("no profile of `{0}`")]
    Framework(String),
    /// Something of the configuration is not known.
    #[error("{what} `{value}` is not known")]
    Unknown {
        /// Which column.
        what: &'static str,
        /// What it says.
        value: String,
    },
    /// Cards that share the work in another way than by full shards.
    #[error("{0} GPUs by `{1}` are not modelled yet")]
    Cards(String, String),
    /// Another quantity was measured.
    #[error("`{0}` was measured; only the allocator's peak is predicted yet")]
    Quantity(String),
    /// The configuration makes no sense.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The account has no formula for it.
    #[error(transparent)]
    Account(#[from] NotModelled),
}

impl Row {
    /// Reads a table.
    ///
    /// # Errors
    /// When it is not a CSV file with a header that names a configuration.
    pub fn read(text: &str) -> Result<Vec<Self>, TableError> {
        records("configurations", &COLUMNS, text)
    }

    /// Whether the row tells an outcome and no measurement.
    #[must_use]
    pub fn is_outcome(&self) -> bool {
        self.measured_gib.is_empty() && !self.outcome.is_empty()
    }

    /// Whether several cards share the run.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        !matches!(self.n_gpus.as_str(), "" | "1")
    }

    /// What was measured, GiB.
    #[must_use]
    pub fn measured(&self) -> Option<f64> {
        self.measured_gib.parse().ok().filter(|gib: &f64| gib.is_finite() && *gib > 0.0)
    }

    /// Bytes of the card that the row ran on, as far as it says: nominal gigabytes are taken as GiB.
    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        let named = || self.gpu.rsplit_once('-')?.1.strip_suffix("GB");
        let text = if self.capacity_gib.is_empty() { named()? } else { &self.capacity_gib };
        text.trim()
            .parse::<u64>()
            .ok()
            .filter(|gib| (1..1 << 20).contains(gib))
            .map(|gib| gib * GIB)
    }

    /// The account of the row.
    ///
    /// # Errors
    /// When it cannot be modelled.
    pub fn predict(&self, shapes: &Shapes) -> Result<Memory, Unmodelled> {
        let stack = profile::stack(self)?;
        if !self.is_outcome() && self.what_measured != "torch max_allocated" {
            return Err(Unmodelled::Quantity(self.what_measured.clone()));
        }
        let Some(shape) = shapes.get(&self.model) else {
            return Err(Unmodelled::Shape(self.model.clone()));
        };
        Ok(memory(shape, &self.run()?, &stack)?)
    }

    fn run(&self) -> Result<Run, Unmodelled> {
        let quant = match self.quant.as_str() {
            "" => Quant::None,
            "bnb nf4 double-quant" => Quant::Nf4 { double: true },
            "bnb nf4 (no DQ)" => Quant::Nf4 { double: false },
            "gptq 4-bit g128" => Quant::Gptq4 { group: 128 },
            other => return Err(unknown("quantisation", other)),
        };
        let method = match self.method.as_str() {
            "full" => Method::Full,
            "lora" | "qlora" | "gptq-lora" => {
                Method::Lora { rank: number("rank", &self.lora_r)?, targets: self.targets()? }
            }
            other => return Err(unknown("method", other)),
        };
        let fits = match self.method.as_str() {
            "qlora" => matches!(quant, Quant::Nf4 { .. }),
            "gptq-lora" => matches!(quant, Quant::Gptq4 { .. }),
            _ => quant == Quant::None,
        };
        if !fits {
            return Err(unknown("quantisation", &self.quant));
        }
        let checkpointing = match self.grad_ckpt.as_str() {
            "1" => true,
            "0" => false,
            other => return Err(unknown("gradient checkpointing", other)),
        };
        let seq_len = number("length", &self.seq_len)?;
        let micro_batch = number("micro-batch", &self.micro_batch)?;
        let run = Run::new(method, quant, seq_len, micro_batch, checkpointing)?;
        match (self.n_gpus.as_str(), self.parallel.as_str()) {
            _ if !self.is_shared() => Ok(run),
            // The trainers with a profile shard fully unless they are told otherwise.
            (gpus, "" | "FSDP full shard") => Ok(run.sharded(number("number of GPUs", gpus)?)?),
            (gpus, parallel) => Err(Unmodelled::Cards(gpus.to_owned(), parallel.to_owned())),
        }
    }

    fn targets(&self) -> Result<Targets, Unmodelled> {
        let (attention, feed_forward) = match self.lora_targets.as_str() {
            "attn all-linear (q,k,v,o)" | "q,k,v,o" => ([true; 4], false),
            "q,v" => ([true, false, true, false], false),
            "q,k,v" => ([true, true, true, false], false),
            "all linear" | "all-linear" | "attn all + mlp" => ([true; 4], true),
            other => return Err(unknown("set of targets", other)),
        };
        Ok(Targets { attention, feed_forward })
    }
}

fn number(what: &'static str, text: &str) -> Result<u64, Unmodelled> {
    text.trim().parse().map_err(|_| unknown(what, text))
}

fn unknown(what: &'static str, value: &str) -> Unmodelled {
    Unmodelled::Unknown { what, value: value.to_owned() }
}
