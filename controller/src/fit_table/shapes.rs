//! Shapes of models by id: a table that is built in, and tables that a user brings.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{TableError, records};
use crate::fit::shape::{ModelShape, Norm, Numbers};

/// Shapes of popular models, from their published configuration files.
const BUILT_IN: &str = include_str!("../../data/shapes.csv");

/// One row of a table of shapes; flags are 0 or 1.
#[derive(Debug, Deserialize)]
struct Line {
    hf_id: String,
    hidden: u64,
    layers: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    intermediate: u64,
    vocab: u64,
    tied: u8,
    gated: u8,
    qkv_bias: u8,
    o_bias: u8,
    mlp_bias: u8,
    norm: String,
    norms_per_layer: u64,
    qk_norm: u8,
    n_experts: u64,
    #[serde(default)]
    experts_per_token: Option<u64>,
    learned_pos: u64,
    lm_head_bias: u8,
    max_pos: u64,
}

/// Shapes by id.
#[derive(Debug, Clone, Default)]
pub struct Shapes(BTreeMap<String, ModelShape>);

impl Shapes {
    /// The built-in table.
    ///
    /// # Errors
    /// Never: a test reads it.
    pub fn built_in() -> Result<Self, TableError> {
        let mut shapes = Self::default();
        shapes.add(BUILT_IN)?;
        Ok(shapes)
    }

    /// Adds the shapes of a table, which win over those that are there. Where it is silent on experts per token, those
    /// of the shape that was there stay, or else two; where it tells fewer positions (some tables give the attention's
    /// window), the more stay.
    ///
    /// # Errors
    /// When it is not a CSV file with these columns, or when no model can have one of its shapes.
    pub fn add(&mut self, text: &str) -> Result<(), TableError> {
        let lines: Vec<Line> = records("shapes", &["hf_id"], text)?;
        for line in lines {
            let before = self.0.get(&line.hf_id).map(ModelShape::numbers);
            let numbers = numbers(&line, before);
            let shape = ModelShape::new(numbers)
                .map_err(|source| TableError::Shape { id: line.hf_id.clone(), source })?;
            self.0.insert(line.hf_id, shape);
        }
        Ok(())
    }

    /// The shape of a model.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&ModelShape> {
        self.0.get(id)
    }

    /// All ids, sorted.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

fn numbers(line: &Line, before: Option<&Numbers>) -> Numbers {
    /// Experts that a token visits where nothing says how many.
    const USUAL_EXPERTS: u64 = 2;
    let known = before.map(|numbers| numbers.experts_per_token).filter(|experts| *experts > 0);
    let visited = line.experts_per_token.or(known).unwrap_or(USUAL_EXPERTS);
    Numbers {
        hidden: line.hidden,
        layers: line.layers,
        heads: line.heads,
        kv_heads: line.kv_heads,
        head_dim: line.head_dim,
        mlp: line.intermediate,
        vocab: line.vocab,
        tied: line.tied != 0,
        gated: line.gated != 0,
        qkv_bias: line.qkv_bias != 0,
        o_bias: line.o_bias != 0,
        mlp_bias: line.mlp_bias != 0,
        norm: if line.norm == "LayerNorm" { Norm::Layer } else { Norm::Rms },
        norms_per_layer: line.norms_per_layer,
        qk_norm: line.qk_norm != 0,
        experts: line.n_experts,
        experts_per_token: if line.n_experts > 0 { visited } else { 0 },
        learned_positions: line.learned_pos,
        lm_head_bias: line.lm_head_bias != 0,
        max_positions: line.max_pos.max(before.map_or(0, |numbers| numbers.max_positions)),
    }
}
