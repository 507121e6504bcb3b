//! hone's agent: one node, its Docker, its jobs.

pub mod core;
pub mod logs;
pub mod runtime;
pub mod trainer;
