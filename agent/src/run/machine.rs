//! Measures this machine: a sample each second, a rollup each ten; and on a thread of its own, since that takes a while,
//! the inventory and what others have on the disk.

use std::path::PathBuf;
use std::sync::{PoisonError, mpsc};
use std::time::Duration;

use hone_proto::event::Payload;
use hone_proto::inventory::{EngineFacts, Inventory, Limits};
use hone_proto::quantity::Bytes;
use hone_proto::sample::NodeSample;
use hone_proto::sample::rollup::Aggregator;
use hone_proto::time::Now;
use tokio::sync::oneshot;

use super::beat::Beat;
use crate::config::Config;
use crate::driver::{Handle, Record};
use crate::host::HostRoots;
use crate::inventory::Collector;
use crate::layout::Layout;
use crate::link::SharedMachine;
use crate::observe::cgroup::Place;
use crate::observe::foreign::disk_of_others;
use crate::observe::gpu::{GpuSettings, Gpus};
use crate::observe::{ContainerRef, Sampler, SamplerSettings};
use crate::offer::Offer;
use crate::runtime::Runtime;
use crate::watch::Watcher;

/// How often the machine is measured.
const EVERY: Duration = Duration::from_secs(1);

/// How often it is looked what others have on the disk: hone's own files must be counted for it.
const SURVEY_EVERY: Duration = Duration::from_secs(60);

/// Surveys between two inventories: a disk or a driver changes rarely.
const INVENTORY_EVERY: u32 = 5;

/// What takes too long to be looked at for each sample.
struct Survey {
    disk_of_others: Bytes,
    inventory: Option<Inventory>,
}

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
    let parts = Parts {
        limits: config.policy.limits(),
        nvml: config.gpu.nvml.clone(),
        layout: layout.clone(),
        machine: SharedMachine::clone(machine),
        watcher: watcher.clone(),
        driver: driver.clone(),
    };
    let runtime = tokio::runtime::Handle::current();
    let engine_facts = move || -> EngineFacts {
        runtime.block_on(engine.facts()).unwrap_or_else(|error| {
            tracing::warn!("the container engine does not tell what it is: {error}");
            EngineFacts::default()
        })
    };
    let measure = move || parts.measure(engine_facts, first);
    if let Err(error) = std::thread::Builder::new().name("measure".to_owned()).spawn(measure) {
        tracing::error!("this machine is not measured: {error}");
    }
    async move {
        // Without a measurement the node offers nothing; it joins all the same.
        let _ = measured.await;
    }
}

/// What measuring begins with.
struct Parts {
    limits: Limits,
    nvml: Option<PathBuf>,
    layout: Layout,
    machine: SharedMachine,
    watcher: Watcher,
    driver: Handle,
}

impl Parts {
    /// Until the driver ends.
    fn measure(
        self,
        engine_facts: impl Fn() -> EngineFacts + Send + 'static,
        first: oneshot::Sender<()>,
    ) {
        let Self { limits, nvml, layout, machine, watcher, driver } = self;
        let facts = engine_facts();
        let gpus = Gpus::start(GpuSettings { library: nvml, ..GpuSettings::default() });
        let root = layout.root().to_owned();
        let collector = Collector::new(HostRoots::default(), root.clone(), gpus.clone());
        let settings = SamplerSettings {
            roots: HostRoots::default(),
            cgroup_version: facts.cgroup_version,
            state_dir: Some(root),
            engine_root: Some(facts.root_dir.clone()),
        };
        let mut offer = Offer::new(collector.collect(&facts), limits);
        offer.fill(driver.view().borrow().full);
        publish(&machine, &offer);
        // The link may have gone already.
        let _ = first.send(());
        let view = driver.view();
        let others = move || {
            let held = view.borrow().held.clone();
            disk_of_others(&layout, &held)
        };
        let measuring = Measuring {
            sampler: Sampler::new(settings, gpus),
            offer,
            disk_of_others: others(),
            machine,
            watcher,
            driver,
        };
        measuring.run(&survey(move |turn| Survey {
            disk_of_others: others(),
            inventory: turn
                .is_multiple_of(INVENTORY_EVERY)
                .then(|| collector.collect(&engine_facts())),
        }));
    }
}

/// What takes a sample each second.
struct Measuring {
    sampler: Sampler,
    offer: Offer,
    disk_of_others: Bytes,
    machine: SharedMachine,
    watcher: Watcher,
    driver: Handle,
}

impl Measuring {
    /// Until the driver ends.
    fn run(mut self, surveys: &mpsc::Receiver<Survey>) {
        let mut rollups = Aggregator::default();
        let mut beat = Beat::new(EVERY);
        loop {
            let now = beat.wait();
            for survey in surveys.try_iter() {
                self.disk_of_others = survey.disk_of_others;
                if let Some(inventory) = survey.inventory {
                    self.offer.renew(inventory);
                    publish(&self.machine, &self.offer);
                }
            }
            let sample = self.sample(now);
            if let Some(rollup) = rollups.push(&sample) {
                let payload = Payload::Hardware(Box::new(rollup.into()));
                let events = vec![(Now::read(), payload)];
                let record = Record { events, ..Record::default() };
                if self.driver.record_blocking(record).is_err() {
                    return;
                }
            }
            let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
            machine.sample = Some(sample.into());
        }
    }

    fn sample(&mut self, now: Now) -> NodeSample {
        let containers: Vec<_> = self
            .watcher
            .running()
            .into_iter()
            .map(|(attempt, init)| ContainerRef { attempt, place: Place::Init(init) })
            .collect();
        let sample = self.sampler.sample(now, &containers);
        let full = self.offer.fill(self.driver.view().borrow().full);
        if self.offer.follow(&sample, self.disk_of_others) || full {
            publish(&self.machine, &self.offer);
        }
        sample
    }
}

/// Looks now and then, for as long as somebody wants to know.
fn survey(look: impl Fn(u32) -> Survey + Send + 'static) -> mpsc::Receiver<Survey> {
    let (tell, told) = mpsc::sync_channel(1);
    let run = move || {
        for turn in 1_u32.. {
            std::thread::park_timeout(SURVEY_EVERY);
            if tell.send(look(turn)).is_err() {
                return;
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("survey".to_owned()).spawn(run) {
        tracing::error!("this machine is not surveyed: {error}");
    }
    told
}

fn publish(machine: &SharedMachine, offer: &Offer) {
    let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
    machine.inventory = Some(offer.inventory().clone());
    machine.allocatable = offer.allocatable();
}
