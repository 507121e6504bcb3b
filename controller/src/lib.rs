//! hone's controller: the fleet's state machine, what surrounds it, and the `hone` command.

pub mod core;
pub mod durable;
pub mod placement;
pub mod store;
