//! The shape of a decoder model: the numbers of its `config.json` that decide what it needs.

/// Most parameters that a shape may have. Twenty bytes each are still far from the end of `u64`.
const MOST_PARAMS: u128 = 1 << 50;
/// Most elements of a width.
const MOST_WIDTH: u64 = 1 << 20;
/// Most layers.
const MOST_LAYERS: u64 = 1 << 12;
/// Most experts of a layer.
const MOST_EXPERTS: u64 = 1 << 10;
/// Most rows of a vocabulary, or positions.
const MOST_ROWS: u64 = 1 << 24;
/// Most norms of a layer.
const MOST_NORMS: u64 = 16;

/// How a layer normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// A weight per hidden element.
    Rms,
    /// A weight and a bias per hidden element.
    Layer,
}

/// A shape that no model can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A number is zero or beyond every model.
    #[error("`{what}` is {value}; it must be between {least} and {most}")]
    OutOfRange {
        /// Which number.
        what: &'static str,
        /// What it is.
        value: u64,
        /// The least that it may be.
        least: u64,
        /// The most that it may be.
        most: u64,
    },
    /// All together are beyond every model.
    #[error("the shape has {0} parameters, more than {MOST_PARAMS}")]
    TooLarge(u128),
}

/// The numbers of one model. Counts of elements, not bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    /// Width of the residual stream.
    pub hidden: u64,
    /// Decoder layers.
    pub layers: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Elements of one head.
    pub head_dim: u64,
    /// Width of the feed-forward part (of one expert).
    pub mlp: u64,
    /// Rows of the embedding, as stored.
    pub vocab: u64,
    /// The output head is the embedding.
    pub tied: bool,
    /// The feed-forward part has a gate (three matrices, not two).
    pub gated: bool,
    /// Biases of query, key and value.
    pub qkv_bias: bool,
    /// Bias of the attention's output.
    pub o_bias: bool,
    /// Biases of the feed-forward part.
    pub mlp_bias: bool,
    /// Kind of normalisation.
    pub norm: Norm,
    /// Normalisations per layer.
    pub norms_per_layer: u64,
    /// Query and key are normalised per head.
    pub qk_norm: bool,
    /// Experts per layer; 0 for a dense model.
    pub experts: u64,
    /// Experts that each token visits; 0 for a dense model.
    pub experts_per_token: u64,
    /// Rows of a learned position embedding; 0 where there is none.
    pub learned_positions: u64,
    /// Bias of the output head.
    pub lm_head_bias: bool,
    /// Positions that the model was made for.
    pub max_positions: u64,
}

/// One matrix that tokens are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// Elements of its input.
    pub input: u64,
    /// Elements of its output.
    pub output: u64,
}

impl Linear {
    /// Elements of its weight.
    #[must_use]
    pub const fn elements(self) -> u64 {
        self.input * self.output
    }
}

/// The checked shape of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelShape(Numbers);

impl ModelShape {
    /// Checks `numbers`.
    ///
    /// # Errors
    /// When a number is outside what any model has.
    pub fn new(numbers: Numbers) -> Result<Self, ShapeError> {
        let n = &numbers;
        // The least and the most of each.
        let bounds = [
            ("hidden", n.hidden, 1, MOST_WIDTH),
            ("layers", n.layers, 1, MOST_LAYERS),
            ("heads", n.heads, 1, MOST_WIDTH),
            ("kv_heads", n.kv_heads, 1, MOST_WIDTH),
            ("head_dim", n.head_dim, 1, MOST_WIDTH / n.heads.max(n.kv_heads).max(1)),
            ("intermediate", n.mlp, 1, MOST_WIDTH),
            ("vocab", n.vocab, 1, MOST_ROWS),
            ("max_pos", n.max_positions, 1, MOST_ROWS),
            ("norms_per_layer", n.norms_per_layer, 0, MOST_NORMS),
            ("n_experts", n.experts, 0, MOST_EXPERTS),
            ("experts_per_token", n.experts_per_token, n.experts.min(1), n.experts),
            ("learned_pos", n.learned_positions, 0, MOST_ROWS),
        ];
        let outside =
            |&&(_, value, least, most): &&(_, u64, u64, u64)| !(least..=most).contains(&value);
        if let Some(&(what, value, least, most)) = bounds.iter().find(outside) {
            return Err(ShapeError::OutOfRange { what, value, least, most });
        }
        let params = count(n);
        if params > MOST_PARAMS {
            return Err(ShapeError::TooLarge(params));
        }
        Ok(Self(numbers))
    }

    /// The numbers themselves.
    #[must_use]
    pub const fn numbers(&self) -> &Numbers {
        &self.0
    }

    /// Width of all query heads together.
    #[must_use]
    pub const fn query(&self) -> u64 {
        self.0.heads * self.0.head_dim
    }

    /// Width of all key heads together, which is also that of all value heads.
    #[must_use]
    pub const fn key(&self) -> u64 {
        self.0.kv_heads * self.0.head_dim
    }

    /// All parameters, a tied head once:
    /// `V·h·(1|2) + L·(2hq + 2hk + biases + experts·(3|2)·h·i + router + norms) + final norm + positions + head bias`.
    #[must_use]
    pub fn params(&self) -> u64 {
        u64::try_from(count(&self.0)).unwrap_or(u64::MAX)
    }

    /// Query, key, value and output of one layer.
    #[must_use]
    pub const fn attention(&self) -> [Linear; 4] {
        let (h, q, k) = (self.0.hidden, self.query(), self.key());
        [
            Linear { input: h, output: q },
            Linear { input: h, output: k },
            Linear { input: h, output: k },
            Linear { input: q, output: h },
        ]
    }

    /// The matrices of one feed-forward part: gate, up and down, or up and down.
    #[must_use]
    pub fn feed_forward(&self) -> Vec<Linear> {
        let (h, i) = (self.0.hidden, self.0.mlp);
        let up = Linear { input: h, output: i };
        let down = Linear { input: i, output: h };
        if self.0.gated { vec![up, up, down] } else { vec![up, down] }
    }

    /// Feed-forward parts that one layer stores.
    #[must_use]
    pub fn stored_experts(&self) -> u64 {
        self.0.experts.max(1)
    }

    /// Feed-forward parts that one token visits in a layer.
    #[must_use]
    pub fn visited_experts(&self) -> u64 {
        self.0.experts_per_token.max(1)
    }
}

/// Parameters, wide enough for any numbers.
fn count(n: &Numbers) -> u128 {
    let wide = u128::from;
    let (h, i, layers, vocab) = (wide(n.hidden), wide(n.mlp), wide(n.layers), wide(n.vocab));
    let (q, k) = (wide(n.heads) * wide(n.head_dim), wide(n.kv_heads) * wide(n.head_dim));
    let norm = if n.norm == Norm::Layer { 2 * h } else { h };
    let matrices = if n.gated { 3 } else { 2 };
    let mlp_bias = if n.mlp_bias { (matrices - 1) * i + h } else { 0 };
    let layer = 2 * h * q
        + 2 * h * k
        + if n.qkv_bias { q + 2 * k } else { 0 }
        + if n.o_bias { h } else { 0 }
        + wide(n.experts.max(1)) * (matrices * h * i + mlp_bias)
        + wide(n.experts) * h
        + wide(n.norms_per_layer) * norm
        + if n.qk_norm { 2 * wide(n.head_dim) } else { 0 };
    vocab * h * if n.tied { 1 } else { 2 }
        + layers * layer
        + norm
        + wide(n.learned_positions) * h
        + if n.lm_head_bias { vocab } else { 0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An 8B decoder with grouped heads and a vocabulary of 128,256.
    pub(crate) fn eight_b() -> Numbers {
        Numbers {
            hidden: 4096,
            layers: 32,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            mlp: 14_336,
            vocab: 128_256,
            tied: false,
            gated: true,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            norm: Norm::Rms,
            norms_per_layer: 2,
            qk_norm: false,
            experts: 0,
            experts_per_token: 0,
            learned_positions: 0,
            lm_head_bias: false,
            max_positions: 8192,
        }
    }

    /// A 7B decoder whose keys have as many heads as its queries.
    pub(crate) fn seven_b() -> Numbers {
        Numbers { kv_heads: 32, mlp: 11_008, vocab: 32_000, max_positions: 4096, ..eight_b() }
    }

    pub(crate) fn shape(numbers: Numbers) -> ModelShape {
        ModelShape::new(numbers).expect("a model has this shape")
    }

    #[test]
    fn published_totals_are_met_exactly() {
        assert_eq!(shape(eight_b()).params(), 8_030_261_248);
        assert_eq!(shape(seven_b()).params(), 6_738_415_616);
    }

    #[test]
    fn what_no_model_has_is_refused() {
        let zero = ModelShape::new(Numbers { layers: 0, ..eight_b() });
        assert!(matches!(zero, Err(ShapeError::OutOfRange { what: "layers", value: 0, .. })));
        let wide = ModelShape::new(Numbers { mlp: u64::MAX, ..eight_b() });
        assert!(
            matches!(wide, Err(ShapeError::OutOfRange { what: "intermediate", .. })),
            "{wide:?}"
        );
        let heads = ModelShape::new(Numbers { heads: MOST_WIDTH, ..eight_b() });
        assert!(matches!(heads, Err(ShapeError::OutOfRange { what: "head_dim", .. })), "{heads:?}");
        let large = ModelShape::new(Numbers {
            hidden: MOST_WIDTH,
            mlp: MOST_WIDTH,
            experts: MOST_EXPERTS,
            experts_per_token: 1,
            ..eight_b()
        });
        assert!(matches!(large, Err(ShapeError::TooLarge(_))), "{large:?}");
        let lost = ModelShape::new(Numbers { experts: 8, ..eight_b() });
        assert!(matches!(lost, Err(ShapeError::OutOfRange { what: "experts_per_token", .. })));
    }
}
