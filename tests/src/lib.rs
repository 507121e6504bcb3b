//! What the tests of the whole product share.

pub mod cluster;
pub mod controller;
pub mod docker;
pub mod identities;
pub mod registry;
pub mod sim;
