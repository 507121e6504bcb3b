//! Time, what happens in it, and in which order.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::time::Duration;

use hone_agent::core as agent_core;
use hone_controller::core::{Commit, Effect, Fleet, Reply, ToAgent};
use hone_proto::error::Refusal;
use hone_proto::time::{BootNanos, Now, WallNanos};

use super::agent::Machine;
use super::chance::Chance;
use super::check::Checker;
use super::hub::{Hub, WALL, Waits, settings};
use super::link::{FromNode, Link, nanos};
use super::people::Person;
use super::{Report, SimConfig, Violation};

/// Lines of trace that are kept.
const TRACE: usize = 20_000;

/// How a step went: the text of a violation if it found one.
pub(super) type Step = Result<(), String>;

/// Something that happens at a time.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    HubStart,
    HubTick(u64),
    HubTurn(u64),
    ToHub(u64, Box<FromNode>),
    ToNode(u64, Box<ToAgent>),
    HubLearns(u64),
    NodeLearns(u64),
    NodeStart(usize),
    NodeTurn(usize, u64),
    /// An effect that takes its time is carried out, on the boot on which it was begun.
    Done {
        node: usize,
        life: u64,
        boots: u64,
        effect: Box<agent_core::Effect>,
    },
    Told(usize, u64, Vec<agent_core::Input>),
    Calls {
        node: usize,
        life: u64,
        call: u64,
        commit: Commit,
    },
    Committed {
        node: usize,
        life: u64,
        call: u64,
        result: Result<Reply, Refusal>,
    },
    CommitLost {
        node: usize,
        life: u64,
        call: u64,
    },
    Trains(usize, String, u64),
    Saved(usize, String, u64),
    Asks(u64),
    Answered(u64, Result<Reply, Refusal>),
    Unanswered(u64),
    People,
    Fault,
    Calm,
    Over,
}

/// Everything.
pub(super) struct World {
    pub(super) config: SimConfig,
    pub(super) chance: Chance,
    pub(super) now: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    order: u64,
    pub(super) hub: Hub,
    pub(super) machines: Vec<Machine>,
    pub(super) links: BTreeMap<u64, Link>,
    pub(super) next_link: u64,
    pub(super) people: BTreeMap<u64, Person>,
    pub(super) next_wish: u64,
    /// Faults are over.
    pub(super) calm: bool,
    pub(super) checker: Checker,
    /// Commits that were called before, to be said again.
    pub(super) old_commits: Vec<(usize, Commit)>,
    counts: BTreeMap<&'static str, u64>,
    hasher: DefaultHasher,
    lines: Vec<String>,
}

impl World {
    pub(super) fn new(seed: u64, config: SimConfig) -> Self {
        let mut chance = Chance::new(seed);
        let count = chance.between(3, 6);
        let now = nanos(Duration::from_secs(60));
        let (fleet, effects) = Fleet::found(
            settings(),
            "fleet".parse().expect("an id"),
            "ada".parse().expect("a name"),
            Now { wall: WallNanos::new(WALL + now), boot: BootNanos::new(now) },
        );
        let mut store = BTreeMap::new();
        for effect in effects {
            if let Effect::Put(key, value) = effect {
                store.insert(key, value);
            }
        }
        let hub = Hub {
            fleet: Some(fleet),
            life: 0,
            store,
            inbox: Default::default(),
            open: BTreeMap::new(),
            last_session: 0,
            waiting: BTreeMap::new(),
            tickets: 0,
            turning: false,
            full_until: 0,
            booted: 0,
            wall: 0,
            turns: 0,
            restored: false,
        };
        let mut world = Self {
            config,
            machines: (0..count).map(|n| Machine::new(n, &mut chance, now)).collect(),
            chance,
            now,
            queue: BTreeMap::new(),
            order: 0,
            hub,
            links: BTreeMap::new(),
            next_link: 0,
            people: BTreeMap::new(),
            next_wish: 0,
            calm: false,
            checker: Checker::default(),
            old_commits: Vec::new(),
            counts: BTreeMap::new(),
            hasher: DefaultHasher::new(),
            lines: Vec::new(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 0..self.machines.len() {
            self.enrol(node);
            let delay = nanos(self.chance.span(0, 5_000));
            self.after(delay, Happening::NodeStart(node));
        }
        self.after(1, Happening::HubTick(0));
        self.after(nanos(Duration::from_secs(2)), Happening::People);
        self.after(nanos(Duration::from_secs(20)), Happening::Fault);
        let faults = nanos(self.config.faults);
        self.after(faults, Happening::Calm);
        let bound = nanos(self.config.bound);
        self.after(faults + bound, Happening::Over);
    }

    pub(super) fn at(&mut self, at: u64, what: Happening) {
        self.order += 1;
        self.queue.insert((at, self.order), what);
    }

    pub(super) fn after(&mut self, delay: u64, what: Happening) {
        self.at(self.now + delay, what);
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
        self.trace(|_| format!("({what})"));
    }

    pub(super) fn hash(&mut self, what: &(impl Hash + ?Sized)) {
        what.hash(&mut self.hasher);
    }

    pub(super) fn trace(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.config.trace && self.lines.len() < TRACE {
            let at = Duration::from_nanos(self.now);
            let line = line(self);
            self.lines.push(format!("{:>10.3} {line}", at.as_secs_f64()));
        }
    }

    pub(super) fn run(&mut self) -> Step {
        while let Some(((at, _), what)) = self.queue.pop_first() {
            self.now = at;
            self.hash(&at);
            if matches!(what, Happening::Over) {
                return Err(format!("not everything came to its end: {}", self.unfinished()));
            }
            if self.calm && self.finished() {
                return self.last_look();
            }
            self.happen(what)?;
        }
        Err("nothing happens any more".to_owned())
    }

    fn happen(&mut self, what: Happening) -> Step {
        match what {
            Happening::HubStart => self.hub_start(),
            Happening::HubTick(life) if life == self.hub.life && self.hub.fleet.is_some() => {
                self.hub_tell(hone_controller::core::Input::Tick, Waits::Nobody);
                self.after(nanos(Duration::from_secs(5)), Happening::HubTick(life));
                Ok(())
            }
            Happening::HubTurn(life) if life == self.hub.life => self.hub_turn(),
            Happening::ToHub(link, message) => {
                self.hub_hears(link, *message);
                Ok(())
            }
            Happening::ToNode(link, message) => self.node_hears(link, *message),
            Happening::HubLearns(link) => {
                self.hub_learns(link);
                Ok(())
            }
            Happening::NodeLearns(link) => {
                self.node_learns(link);
                Ok(())
            }
            Happening::NodeStart(node) => self.node_start(node),
            Happening::NodeTurn(node, life) => self.node_turn(node, life),
            Happening::Done { node, life, boots, effect } if boots == self.machines[node].boots => {
                self.done(node, life, *effect)
            }
            Happening::Told(node, life, inputs) => self.tell(node, life, inputs),
            Happening::Calls { node, life, call, commit } => {
                self.calls(node, life, call, commit);
                Ok(())
            }
            Happening::Committed { node, life, call, result } => {
                self.committed(node, life, call, Some(result))
            }
            Happening::CommitLost { node, life, call } => self.committed(node, life, call, None),
            Happening::Trains(node, container, life) => {
                self.trains(node, &container, life);
                Ok(())
            }
            Happening::Saved(node, container, life) => {
                self.saved(node, &container, life);
                Ok(())
            }
            Happening::Asks(wish) => {
                self.asks(wish);
                Ok(())
            }
            Happening::Answered(wish, result) => {
                self.answered(wish, result);
                Ok(())
            }
            Happening::Unanswered(wish) => {
                self.unanswered(wish);
                Ok(())
            }
            Happening::People => {
                self.people_act();
                Ok(())
            }
            Happening::Fault => self.fault(),
            Happening::Calm => {
                self.calm_down();
                Ok(())
            }
            // Whoever was to do it is no more.
            Happening::HubTick(_)
            | Happening::HubTurn(_)
            | Happening::Done { .. }
            | Happening::Over => Ok(()),
        }
    }

    pub(super) fn report(&mut self) -> Report {
        Report {
            trace: std::mem::take(&mut self.lines),
            hash: self.hasher.finish(),
            lasted: Duration::from_nanos(self.now),
            counts: self.counts.clone(),
        }
    }

    pub(super) fn violation(&mut self, seed: u64, what: String) -> Violation {
        Violation {
            seed,
            at: Duration::from_nanos(self.now),
            what,
            trace: std::mem::take(&mut self.lines),
        }
    }
}
