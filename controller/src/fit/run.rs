//! How a model is trained: what of it, in which precision, on how many tokens at once.

/// Most tokens of one micro-batch.
pub const MOST_TOKENS: u64 = 1 << 22;
/// Most cards of one run.
pub const MOST_GPUS: u64 = 1 << 14;
/// Highest rank of an adapter.
pub const MOST_RANK: u64 = 1 << 14;

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Every parameter, in the precision of the weights.
    Full,
    /// Low-rank adapters; the base is frozen.
    Lora {
        /// Rank of the adapters.
        rank: u64,
        /// Which matrices have one.
        targets: Targets,
    },
}

/// Which matrices of each layer have an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    /// Query, key, value and output, in this order.
    pub attention: [bool; 4],
    /// All of the feed-forward part.
    pub feed_forward: bool,
}

/// How the weights of the layers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quant {
    /// Two bytes an element.
    None,
    /// Four bits in blocks of 64.
    Nf4 {
        /// The scales of the blocks are quantised themselves.
        double: bool,
    },
    /// Four bits by GPTQ, in groups of this many rows with a scale and a zero each.
    Gptq4 {
        /// Rows of a group.
        group: u64,
    },
}

/// One training run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    method: Method,
    quant: Quant,
    tokens: u64,
    checkpointing: bool,
    gpus: u64,
}

/// A run that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// No tokens, or more than any card holds.
    #[error("{seq_len} × {micro_batch} tokens at once; it must be between 1 and {MOST_TOKENS}")]
    Tokens {
        /// Padded length.
        seq_len: u64,
        /// Rows at once.
        micro_batch: u64,
    },
    /// A rank outside of what is used.
    #[error("a rank of {0}; it must be between 1 and {MOST_RANK}")]
    Rank(u64),
    /// A group that no tool makes.
    #[error("a group of {0} rows; it must be between 1 and {MOST_RANK}")]
    Group(u64),
    /// No cards, or more than anybody has.
    #[error("{0} GPUs; it must be between 1 and {MOST_GPUS}")]
    Gpus(u64),
    /// Quantised weights have no gradient.
    #[error("quantised weights cannot be trained in full")]
    QuantisedFull,
}

impl Run {
    /// A run of `micro_batch` rows, padded to `seq_len`, at once. Accumulating over micro-batches does not change the
    /// peak (measured: 27.73 to 27.74 GiB for 1 to 64).
    ///
    /// # Errors
    /// When the run makes no sense.
    pub fn new(
        method: Method,
        quant: Quant,
        seq_len: u64,
        micro_batch: u64,
        checkpointing: bool,
    ) -> Result<Self, RunError> {
        let tokens = seq_len.checked_mul(micro_batch);
        let Some(tokens) = tokens.filter(|tokens| (1..=MOST_TOKENS).contains(tokens)) else {
            return Err(RunError::Tokens { seq_len, micro_batch });
        };
        if let Quant::Gptq4 { group } = quant
            && !(1..=MOST_RANK).contains(&group)
        {
            return Err(RunError::Group(group));
        }
        match method {
            Method::Lora { rank, .. } if !(1..=MOST_RANK).contains(&rank) => {
                return Err(RunError::Rank(rank));
            }
            Method::Full if quant != Quant::None => return Err(RunError::QuantisedFull),
            _ => {}
        }
        Ok(Self { method, quant, tokens, checkpointing, gpus: 1 })
    }

    /// The same run on each of `gpus` cards, which share parameters, gradients and states evenly (FSDP, full shard).
    ///
    /// # Errors
    /// When there are none, or too many.
    pub fn sharded(self, gpus: u64) -> Result<Self, RunError> {
        if (1..=MOST_GPUS).contains(&gpus) {
            Ok(Self { gpus, ..self })
        } else {
            Err(RunError::Gpus(gpus))
        }
    }

    /// Cards that share the run.
    #[must_use]
    pub const fn gpus(&self) -> u64 {
        self.gpus
    }

    /// What is trained.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// How the weights are stored.
    #[must_use]
    pub const fn quant(&self) -> Quant {
        self.quant
    }

    /// Tokens on the device at once.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Only the input of each layer is kept for the backward pass, and the rest is computed again.
    #[must_use]
    pub const fn checkpointing(&self) -> bool {
        self.checkpointing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let run = |method, quant, seq| Run::new(method, quant, seq, 2, true);
        assert!(run(Method::Full, Quant::None, 0).is_err());
        assert!(run(Method::Full, Quant::None, u64::MAX).is_err());
        let nf4 = Quant::Nf4 { double: true };
        assert_eq!(run(Method::Full, nf4, 8), Err(RunError::QuantisedFull));
        let targets = Targets { attention: [true; 4], feed_forward: false };
        assert_eq!(run(Method::Lora { rank: 0, targets }, nf4, 8), Err(RunError::Rank(0)));
        let lora = Method::Lora { rank: 8, targets };
        assert_eq!(run(lora, Quant::Gptq4 { group: 0 }, 8), Err(RunError::Group(0)));
        assert_eq!(run(Method::Full, Quant::None, 8).map(|run| run.tokens()), Ok(16));
    }
}
