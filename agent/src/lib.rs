//! hone's agent: one node, its Docker, its jobs.

pub mod adapters;
pub mod config;
pub mod core;
pub mod driver;
pub mod host;
pub mod instance;
pub mod inventory;
pub mod layout;
pub mod link;
pub mod logs;
pub mod observe;
pub mod offer;
pub mod perform;
pub mod preview;
pub mod report;
pub mod run;
pub mod runtime;
pub mod spool;
pub mod state;
pub mod tools;
pub mod trainer;
pub mod watch;
