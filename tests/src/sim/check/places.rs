//! Promises: never more than what a node really offered last, counting what really runs there.

use std::collections::BTreeSet;

use hone_agent::core::SeenState;
use hone_controller::core::record::AttemptState;
use hone_controller::core::{Fleet, Node};

use super::Checker;
use crate::sim::agent::Machine;
use crate::sim::world::Step;

impl Checker {
    /// Looks at the nodes on which something was placed since the last look.
    pub(super) fn new_promises(&mut self, fleet: &Fleet, machines: &[Machine]) -> Step {
        let mut nodes = BTreeSet::new();
        for (id, job) in fleet.jobs() {
            let known = self.placed.get(id).copied();
            let fresh = job.attempts.iter().filter(|a| known.is_none_or(|known| a.token > known));
            nodes.extend(fresh.map(|attempt| attempt.node.clone()));
            if let Some(newest) = job.attempts.last() {
                self.placed.insert(*id, newest.token);
            }
        }
        for id in nodes {
            let node = fleet.nodes().get(&id);
            let machine = machines.iter().find(|machine| machine.id == id);
            if let (Some(node), Some(machine)) = (node, machine) {
                self.promises(fleet, node, machine)?;
            }
        }
        Ok(())
    }

    fn promises(&self, fleet: &Fleet, node: &Node, machine: &Machine) -> Step {
        let id = &machine.id;
        let offer = self.offers.get(id).ok_or("something was placed on a node without an offer")?;
        let running: BTreeSet<_> = machine
            .engine
            .containers
            .iter()
            .filter(|c| c.state == SeenState::Running && !c.foreign)
            .filter_map(|c| c.attempt)
            .collect();
        let (mut cpu, mut ram, mut disk) = (0, 0, 0);
        let mut gpus = BTreeSet::new();
        for job in fleet.jobs().values() {
            for attempt in job.attempts.iter().filter(|a| a.node == node.record.id) {
                let lost = matches!(attempt.state, AttemptState::Lost { .. });
                let runs = lost && running.contains(&job.record.attempt(attempt.token));
                if !attempt.is_open() && !runs {
                    continue;
                }
                cpu += u64::from(attempt.promise.cpu.get());
                ram += attempt.promise.ram.get();
                disk += attempt.promise.disk.get();
                for gpu in &attempt.promise.gpus {
                    if !gpus.insert(gpu) || !offer.gpus.iter().any(|g| g.uuid == *gpu) {
                        return Err(format!("{gpu} of {id} is promised twice, or was not offered"));
                    }
                }
            }
        }
        if cpu > u64::from(offer.cpu.get()) || ram > offer.ram.get() || disk > offer.disk.get() {
            return Err(format!(
                "{id} offers {} cores and {}; promised are {cpu} mCPU and {ram} bytes",
                offer.cpu, offer.ram
            ));
        }
        Ok(())
    }
}
