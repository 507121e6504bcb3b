//! hone's controller: the fleet, and the `hone` command.

mod durable;
pub mod store;
