//! What hone's agent and controller agree on.
//!
//! The comments in `proto/hone/v1/*.proto` are the specification of the wire. Everything past the wire uses the
//! types of this crate: ids and quantities are newtypes that cannot be mixed up, and parsing happens once, at the
//! boundary.

pub mod assignment;
pub mod bulk;
pub mod convert;
pub mod enrol;
pub mod error;
pub mod event;
pub mod id;
pub mod identity;
pub mod inventory;
pub mod manifest;
pub mod pattern;
pub mod quantity;
pub mod sample;
pub mod telemetry;
pub mod time;
pub mod wire;
