//! A whole fleet in one thread, from one seed.
//!
//! One controller, three to six agents and the people who use them: production cores (`Fleet::handle`,
//! `Agent::handle`) under the production drivers' rule (what must be durable first, then the rest), with models of
//! everything else: store, journal, spool, engine, trainers, network, clocks. Time is a number in a queue. Any process
//! can die between any two effects; messages are late, lost with their session or said again; disks fill up; wall
//! clocks are set; machines are rebooted, cut off and wiped.
//!
//! After every turn a checker compares what became durable with what it knows from outside (`check`); it never asks
//! the cores what they think of themselves alone. At the end faults stop, and every job must reach an end.
//!
//! ```text
//! tests/simulate --seeds 100000
//! tests/simulate --from 4711 --seeds 1 --trace
//! ```

mod agent;
mod chance;
mod check;
mod engine;
mod hub;
mod link;
mod people;
mod perform;
mod plan;
mod sabotage;
mod spool;
mod trainers;
mod uplink;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

pub use self::sabotage::Sabotage;

/// What a run is like.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// How long faults happen, in simulated time.
    pub faults: Duration,
    /// Within how long after the last fault every job must have ended, in simulated time.
    pub bound: Duration,
    /// After every how many turns of the controller its store is loaded anew and compared with its memory; it is after
    /// every crash as well.
    pub replay_every: u64,
    /// A guard to break, to see that the checker notices.
    pub sabotage: Option<Sabotage>,
    /// Whether what happens is written down.
    pub trace: bool,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            faults: Duration::from_secs(15 * 60),
            bound: Duration::from_secs(6 * 3600),
            replay_every: 97,
            sabotage: None,
            trace: false,
        }
    }
}

/// What happened in a run that went well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// A hash over everything that happened: the same seed gives the same.
    pub hash: u64,
    /// Simulated time.
    pub lasted: Duration,
    /// What happened, when it was written down.
    pub trace: Vec<String>,
    /// How often each thing happened, by name.
    pub counts: BTreeMap<&'static str, u64>,
}

/// Every fault that a fleet is put through. Each happens many times in a few hundred seeds, or the model has become
/// kinder than the world; a test sees to it.
pub const FAULTS: [&str; 36] = [
    "message late",
    "message lost",
    "message arrived after its session broke",
    "link broken",
    "node cut off",
    "all nodes cut off",
    "answer lost",
    "events sent again",
    "request said twice",
    "commit said again",
    "commit in a foreign name",
    "commit of a step that is passed",
    "token spent again",
    "controller died",
    "controller died before its turn was durable",
    "controller died between two effects",
    "controller died of a full disk",
    "controller's disk full",
    "controller's machine rebooted",
    "controller's wall clock set",
    "agent died",
    "agent died before its turn",
    "agent died between report and state",
    "agent died between two effects",
    "agent died of a full disk",
    "agent's disk full",
    "agent's wall clock set",
    "machine rebooted",
    "machine wiped",
    "engine hung",
    "engine restarted",
    "container taken",
    "stray container",
    "trainer's files are the buffer",
    "logs dropped",
    "offer changed",
];

/// Something that must never happen did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}, after {at:?}: {what}")]
pub struct Violation {
    /// Replays it.
    pub seed: u64,
    /// Simulated time.
    pub at: Duration,
    /// What.
    pub what: String,
    /// What happened until then, when it was written down.
    pub trace: Vec<String>,
}

impl Violation {
    /// The command that runs this seed again and writes down what happens.
    #[must_use]
    pub fn replay(&self) -> String {
        let seed = self.seed;
        format!("tests/simulate --from {seed} --seeds 1 --trace")
    }
}

/// Runs one fleet.
///
/// # Errors
/// The first thing that must never happen, if any does.
pub fn run(seed: u64, config: &SimConfig) -> Result<Report, Violation> {
    let mut world = world::World::new(seed, config.clone());
    match world.run() {
        Ok(()) => Ok(world.report()),
        Err(what) => Err(world.violation(seed, what)),
    }
}

/// Runs many fleets, one per seed, on every core of this machine, and adds up what happened in them.
///
/// # Errors
/// Of the seeds that were run until one failed, the lowest that did.
pub fn run_all(seeds: Range<u64>, config: &SimConfig) -> Result<Totals, Box<Violation>> {
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut totals = Totals::default();
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            match run(seed, config) {
                Ok(report) => totals.add(report),
                Err(violation) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(Box::new(violation));
                }
            }
        }
        Ok(totals)
    };
    let mut all = Totals::default();
    let mut first: Option<Box<Violation>> = None;
    for result in on_every_core(work) {
        match result {
            Ok(totals) => all.merge(totals),
            Err(violation) if first.as_ref().is_none_or(|f| violation.seed < f.seed) => {
                first = Some(violation);
            }
            Err(_) => {}
        }
    }
    first.map_or(Ok(all), Err)
}

/// Breaks each guard in turn and looks whether the checker notices. Names each with the first violation within these
/// seeds, or with none: a checker that notices nothing would pass every run.
#[must_use]
pub fn break_guards(seeds: &Range<u64>) -> Vec<(Sabotage, Option<Violation>)> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut noticed = Vec::new();
        while let Some(guard) = Sabotage::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let config = SimConfig { sabotage: Some(*guard), ..SimConfig::default() };
            let first = seeds.clone().find_map(|seed| run(seed, &config).err());
            noticed.push((*guard, first));
        }
        noticed
    };
    on_every_core(work).into_iter().flatten().collect()
}

/// Runs this on as many threads as there are cores.
fn on_every_core<T: Send>(work: impl Fn() -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        let results = workers.into_iter().map(std::thread::ScopedJoinHandle::join);
        results
            .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// What happened in many runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Runs.
    pub seeds: u64,
    /// How often each thing happened, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// What happened, where it was written down.
    pub trace: Vec<String>,
}

impl Totals {
    /// Faults that never happened.
    #[must_use]
    pub fn never(&self) -> Vec<&'static str> {
        FAULTS.into_iter().filter(|what| !self.counts.contains_key(what)).collect()
    }

    fn add(&mut self, report: Report) {
        let Report { counts, trace, .. } = report;
        self.merge(Self { seeds: 1, counts, trace });
    }

    fn merge(&mut self, other: Self) {
        self.seeds += other.seeds;
        for (what, count) in other.counts {
            *self.counts.entry(what).or_default() += count;
        }
        self.trace.extend(other.trace);
    }
}
