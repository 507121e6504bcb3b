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
//! cargo run --release -p hone-tests --bin simulate -- --seeds 100000
//! cargo run --release -p hone-tests --bin simulate -- --from 4711 --seeds 1 --trace
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
mod world;

use std::collections::BTreeMap;
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
            faults: Duration::from_secs(25 * 60),
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

impl Report {
    /// How often this happened.
    #[must_use]
    pub fn count(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }
}

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
