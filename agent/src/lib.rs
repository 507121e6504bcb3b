//! hone's agent: one node, its Docker, its jobs.

pub mod config;
pub mod core;
pub mod driver;
pub mod host;
pub mod inventory;
pub mod layout;
pub mod logs;
pub mod observe;
pub mod runtime;
pub mod spool;
pub mod state;
pub mod trainer;
