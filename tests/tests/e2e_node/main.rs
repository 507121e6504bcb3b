//! Real processes without anything to train: what a node measures arrives at the controller, collectors of spans that
//! hang or are away hold nothing up, a full disk ends no agent, and at the real engine a node gets an image that it lacks
//! and sweeps what is its own and nobody's.

mod collectors;
mod engine;
mod full_disk;
mod nvml;
mod script;
