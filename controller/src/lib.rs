//! hone's controller: the fleet's state machine, what surrounds it, and the `hone` command.

pub mod api;
pub mod backup;
pub mod chunks;
pub mod cli;
pub mod config;
pub mod core;
pub mod driver;
pub mod durable;
pub mod fit;
pub mod fit_table;
pub mod identity;
pub mod placement;
pub mod renewal;
pub mod restore;
pub mod series;
pub mod serve;
pub mod setup;
pub mod spec;
pub mod store;
