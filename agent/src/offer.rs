//! What a node offers to placement, followed while it runs: a GPU that falls off the bus, and what others take, change
//! it within a sample.

use hone_proto::inventory::{Allocatable, Foreign, Inventory, Limits, allocatable};
use hone_proto::quantity::Bytes;
use hone_proto::sample::{GpuState, NodeSample};

use crate::observe::foreign::ForeignUse;

/// What a node has, what others use of it, and what is left.
#[derive(Debug)]
pub struct Offer {
    inventory: Inventory,
    limits: Limits,
    foreign: Foreign,
    others: ForeignUse,
    full: bool,
}

impl Offer {
    /// What is offered of `inventory` under these limits while nobody else is known to use any of it.
    #[must_use]
    pub fn new(inventory: Inventory, limits: Limits) -> Self {
        Self {
            inventory,
            limits,
            foreign: Foreign::default(),
            others: ForeignUse::default(),
            full: false,
        }
    }

    /// What the node has.
    #[must_use]
    pub const fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// What others were last seen to use.
    #[must_use]
    pub const fn foreign(&self) -> &Foreign {
        &self.foreign
    }

    /// What may be promised.
    #[must_use]
    pub fn allocatable(&self) -> Allocatable {
        let all = allocatable(&self.inventory, &self.limits, &self.foreign);
        if self.full { Allocatable { disk: Bytes::ZERO, ..all } } else { all }
    }

    /// While the agent's disk is full it takes nothing new, whatever was promised: jobs wait for room, here or elsewhere.
    /// True when the offer must be told anew.
    pub fn fill(&mut self, full: bool) -> bool {
        std::mem::replace(&mut self.full, full) != full
    }

    /// A new inventory.
    pub fn renew(&mut self, inventory: Inventory) {
        self.inventory = inventory;
    }

    /// Takes over what a sample tells, and what others were last found to use of the disk; true when the offer must be
    /// told anew.
    pub fn follow(&mut self, sample: &NodeSample, disk_of_others: Bytes) -> bool {
        let states = self.inventory.follow(&sample.gpus);
        if states {
            let working =
                self.inventory.gpus.iter().filter(|gpu| gpu.state == GpuState::Ok).count();
            let all = self.inventory.gpus.len();
            tracing::warn!("{working} of {all} GPUs work now; what this node offers has changed");
        }
        match self.others.update(sample, disk_of_others) {
            Some(foreign) => {
                self.foreign = foreign;
                true
            }
            None => states,
        }
    }
}

#[cfg(test)]
#[path = "offer_tests.rs"]
mod tests;
