//! Inventories and samples of nodes as text.

use hone_proto::wire::{Allocatable, Inventory, NodeSample};

/// A sample in at most a few lines: memory, utilisation, temperature.
#[must_use]
pub fn brief(_sample: &NodeSample) -> Vec<String> {
    Vec::new()
}

/// What placement may promise, in one line.
#[must_use]
pub fn allocatable(_allocatable: &Allocatable) -> String {
    String::new()
}

/// What a node has, in paragraphs.
#[must_use]
pub fn inventory(_inventory: &Inventory, _width: usize) -> Vec<String> {
    Vec::new()
}
