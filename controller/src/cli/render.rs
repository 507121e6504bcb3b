//! Turning values into text for people: pure functions, no terminal, no clock.

pub mod curve;
pub mod fit;
pub mod hardware;
pub mod human;
pub mod job;
pub mod node;
pub mod samples;
pub mod table;
