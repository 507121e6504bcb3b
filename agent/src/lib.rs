//! hone's agent: one node, its Docker, its jobs.

pub mod core;
pub mod host;
pub mod inventory;
pub mod logs;
pub mod observe;
pub mod runtime;
pub mod spool;
pub mod state;
pub mod trainer;
