//! The software stack as data: what differs between versions and switches of the libraries, and decides bytes.

/// How the loss treats the logits: bytes alive at once per logit, at the peak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LossPath {
    /// Bytes per token and vocabulary entry while the loss is computed.
    pub per_logit: u64,
    /// Of these, what the log-softmax takes.
    pub log_softmax: u64,
}

impl LossPath {
    /// Logits cast to fp32, shifted and copied, and their log-softmax: 4 + 4 + 4 (transformers up to 4.45).
    pub const SHIFTED: Self = Self { per_logit: 12, log_softmax: 4 };
    /// As above with the bf16 logits still alive (transformers 4.46 to 4.49).
    pub const SHIFTED_BESIDE_HALF: Self = Self { per_logit: 14, log_softmax: 4 };
    /// A model that does not cast its logits: half-precision copies only.
    pub const HALF: Self = Self { per_logit: 8, log_softmax: 2 };
    /// Head and loss in one kernel: a chunk of logits at a time.
    pub const FUSED_LINEAR: Self = Self { per_logit: 0, log_softmax: 0 };

    /// The same path with a cross-entropy kernel that writes the gradient over the logits: no log-softmax
    /// (measured: 4.0 bytes per logit less in fp32, 2.0 in half precision).
    #[must_use]
    pub const fn in_place(self) -> Self {
        Self { per_logit: self.per_logit - self.log_softmax, log_softmax: 0 }
    }
}

/// Width of the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// As the weights: two bytes.
    Half,
    /// Four bytes: preparing a model for k-bit training casts its norms to fp32, and what follows stays so.
    Single,
}

impl Residual {
    /// Bytes per element.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Half => 2,
            Self::Single => 4,
        }
    }
}

/// Which models keep sine and cosine of every position in each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeCache {
    /// None: they are computed in each pass.
    None,
    /// Models with experts, whose code was renewed later (seen in transformers 4.45).
    Experts,
    /// All (transformers up to 4.42).
    All,
}

/// What the software does, as far as it decides memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stack {
    /// How the loss treats the logits.
    pub loss: LossPath,
    /// Width of the residual stream.
    pub residual: Residual,
    /// Frozen parameters that are not quantised stay cast to fp32 (and are not cast back by the trainer).
    pub frozen_in_single: bool,
    /// Operations run under autocast.
    pub autocast: bool,
    /// Bytes of an adapter's element: 4, or 2 where adapters take the base's precision.
    pub adapter_bytes: u64,
    /// AdamW works on all tensors at once, and needs a copy of them at each step.
    pub foreach: bool,
    /// Fused kernels for normalisation, rotation and adapters.
    pub fused_kernels: bool,
    /// Which models keep sine and cosine of every position in each layer.
    pub rope_cache: RopeCache,
    /// The product with a 4-bit matrix saves its input (old bitsandbytes).
    pub quantised_saves_input: bool,
    /// Workspaces of the matrix library inside the allocator's count: one for each of two handles.
    pub workspace: u64,
}

/// Bytes of the matrix library's workspaces on a card of this compute capability: 8.125 MiB for each handle before 9.0,
/// 32 MiB from then on; the forward and the autograd thread hold one each (measured on 8.0: 17.0 to 17.6 MB).
#[must_use]
pub const fn workspace(major: u32) -> u64 {
    const MIB: u64 = 1 << 20;
    if major >= 9 { 2 * 32 * MIB } else { 2 * (8 * MIB + MIB / 8) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspaces_are_what_was_measured() {
        assert_eq!(workspace(8), 17_039_360);
        assert_eq!(workspace(9), 67_108_864);
    }

    #[test]
    fn an_in_place_loss_saves_the_log_softmax() {
        assert_eq!(LossPath::SHIFTED.in_place().per_logit, 8);
        assert_eq!(LossPath::HALF.in_place().per_logit, 6);
        assert_eq!(LossPath::FUSED_LINEAR.in_place().per_logit, 0);
    }
}
