//! What the tests of the whole product share.

pub mod agent;
pub mod cluster;
pub mod controller;
pub mod disk;
pub mod docker;
pub mod identities;
pub mod idle;
pub mod jobs;
pub mod otlp;
pub mod reach;
pub mod registry;
pub mod served;
pub mod sim;
