//! What a fine-tuning run needs, computed before it starts: pure arithmetic, no I/O, no clock, no model names.
//!
//! A [`shape::ModelShape`] says what is trained, a [`run::Run`] how, and a [`stack::Stack`] by which software; from the
//! three, [`memory::memory`] makes an account of GPU memory, part by part and phase by phase, and [`verdict::verdict`]
//! holds it against a card. Everything is bytes as `u64`; shapes and runs are bounded where they are made, so that no
//! sum here can overflow.
//!
//! The formulas are those of the operations that the libraries run, counted tensor by tensor: what autograd saves, what
//! a checkpointed layer makes again, how often the loss copies the logits. Facts that differ between versions of the
//! software are fields of the stack, never constants of a formula.

pub mod memory;
pub mod run;
pub mod shape;
pub mod stack;
pub mod verdict;

/// Bytes of a GiB.
pub const GIB: u64 = 1 << 30;
