//! The validated method: what of the model is trained, and how the rest of it is kept.

use serde::{Serialize, Serializer};

use crate::spec::words::{MethodKind, QuantType};

#[derive(Debug, Clone, Serialize)]
pub(in crate::spec) struct Method {
    #[serde(rename = "type")]
    pub(in crate::spec) kind: MethodKind,
    /// Present exactly when `kind` is LoRA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::spec) lora: Option<Lora>,
    /// How the base below the LoRA adapter is kept; 16 bits without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::spec) quant: Option<Quant>,
    /// Present exactly when `kind` is freeze.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::spec) freeze: Option<Freeze>,
}

#[derive(Debug, Clone, Serialize)]
pub(in crate::spec) struct Lora {
    pub(in crate::spec) r: u32,
    pub(in crate::spec) alpha: u32,
    pub(in crate::spec) dropout: f64,
    pub(in crate::spec) targets: Targets,
    pub(in crate::spec) rslora: bool,
    pub(in crate::spec) dora: bool,
}

/// A quantised base.
#[derive(Debug, Clone, Copy, Serialize)]
pub(in crate::spec) struct Quant {
    pub(in crate::spec) bits: QuantBits,
    #[serde(rename = "type")]
    pub(in crate::spec) kind: QuantType,
    pub(in crate::spec) double: bool,
}

/// Bits of a weight of a quantised base.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::spec) enum QuantBits {
    #[default]
    Four,
    Eight,
}

impl Serialize for QuantBits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(match self {
            Self::Four => 4,
            Self::Eight => 8,
        })
    }
}

/// What is trained while the rest is frozen.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::spec) enum Freeze {
    /// The last blocks.
    LastLayers(u32),
    /// Every module whose name ends so.
    Modules(Vec<String>),
}

/// Which layers get an adapter.
#[derive(Debug, Clone)]
pub(in crate::spec) enum Targets {
    AllLinear,
    Named(Vec<String>),
}

impl Targets {
    pub(in crate::spec) const ALL_LINEAR: &str = "all-linear";
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::AllLinear => serializer.serialize_str(Self::ALL_LINEAR),
            Self::Named(names) => names.serialize(serializer),
        }
    }
}
