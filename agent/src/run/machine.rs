//! Measures this machine: the inventory now and then, a sample each second, a rollup each ten.

use std::sync::PoisonError;
use std::time::Duration;

use hone_proto::event::Payload;
use hone_proto::inventory::{Allocatable, EngineFacts, Foreign, Inventory, allocatable};
use hone_proto::sample::rollup::Aggregator;
use hone_proto::time::Now;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::driver::{Handle, Record};
use crate::host::HostRoots;
use crate::inventory::Collector;
use crate::layout::Layout;
use crate::link::SharedMachine;
use crate::observe::cgroup::Place;
use crate::observe::foreign::{ForeignUse, own_disk};
use crate::observe::gpu::{GpuSettings, Gpus};
use crate::observe::{ContainerRef, Sampler, SamplerSettings};
use crate::runtime::Runtime;
use crate::watch::Watcher;

/// How often the machine is measured.
const EVERY: Duration = Duration::from_secs(1);

/// Samples between two inventories: a disk or a driver changes rarely.
const INVENTORY_EVERY: u32 = 300;

/// Samples between two looks at what hone's own files take.
const OWN_DISK_EVERY: u32 = 60;

/// Starts measuring on a thread of its own, since drivers and disks may block. The future resolves with the first
/// inventory.
pub(super) fn start(
    config: &Config,
    layout: &Layout,
    engine: impl Runtime + 'static,
    machine: &SharedMachine,
    watcher: &Watcher,
    driver: &Handle,
) -> impl Future<Output = ()> + Send + 'static {
    let (first, measured) = oneshot::channel();
    let limits = config.policy.limits();
    let nvml = config.gpu.nvml.clone();
    let (layout, machine) = (layout.clone(), SharedMachine::clone(machine));
    let (watcher, driver) = (watcher.clone(), driver.clone());
    let runtime = tokio::runtime::Handle::current();
    let measure = move || {
        let engine_facts = || -> EngineFacts {
            runtime.block_on(engine.facts()).unwrap_or_else(|error| {
                tracing::warn!("the container engine does not tell what it is: {error}");
                EngineFacts::default()
            })
        };
        let facts = engine_facts();
        let gpus = Gpus::start(GpuSettings { library: nvml, ..GpuSettings::default() });
        let root = layout.root().to_owned();
        let collector = Collector::new(HostRoots::default(), root.clone(), gpus.clone());
        let settings = SamplerSettings {
            roots: HostRoots::default(),
            cgroup_version: facts.cgroup_version,
            state_dir: Some(root.clone()),
            engine_root: Some(facts.root_dir.clone()),
        };
        let mut inventory = collector.collect(&facts);
        let mut foreign = Foreign::default();
        publish(&machine, &inventory, allocatable(&inventory, &limits, &foreign));
        // The link may have gone already.
        let _ = first.send(());
        let mut sampler = Sampler::new(settings, gpus);
        let mut rollups = Aggregator::default();
        let mut others = ForeignUse::default();
        let mut own = own_disk(&root);
        for turn in 1_u32.. {
            std::thread::park_timeout(EVERY);
            if turn.is_multiple_of(OWN_DISK_EVERY) {
                own = own_disk(&root);
            }
            if turn.is_multiple_of(INVENTORY_EVERY) {
                inventory = collector.collect(&engine_facts());
                publish(&machine, &inventory, allocatable(&inventory, &limits, &foreign));
            }
            let containers: Vec<_> = watcher
                .pids()
                .into_iter()
                .map(|(attempt, pid)| ContainerRef { attempt, place: Place::Pid(pid) })
                .collect();
            let sample = sampler.sample(Now::read(), &containers);
            let mount = inventory.disks.iter().find(|disk| disk.holds_state);
            let mount = mount.map_or("/", |disk| disk.mount.as_str());
            if let Some(now) = others.update(&sample, mount, own) {
                foreign = now;
                publish(&machine, &inventory, allocatable(&inventory, &limits, &foreign));
            }
            if let Some(rollup) = rollups.push(&sample) {
                let payload = Payload::Hardware(Box::new(rollup.into()));
                let events = vec![(Now::read(), payload)];
                let record = Record { events, ..Record::default() };
                if driver.record_blocking(record).is_err() {
                    return;
                }
            }
            let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
            machine.sample = Some(sample.into());
        }
    };
    if let Err(error) = std::thread::Builder::new().name("measure".to_owned()).spawn(measure) {
        tracing::error!("this machine is not measured: {error}");
    }
    async move {
        // Without a measurement the node offers nothing; it joins all the same.
        let _ = measured.await;
    }
}

fn publish(machine: &SharedMachine, inventory: &Inventory, offer: Allocatable) {
    let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
    machine.inventory = Some(inventory.clone());
    machine.allocatable = offer;
}
