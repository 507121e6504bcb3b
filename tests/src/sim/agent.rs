//! A machine and the agent on it: the production core under the production driver's rule. What it reports is spooled
//! and synced, then its state is kept, then the rest happens. It can die before, between and after.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hone_agent::core::input::Input;
use hone_agent::core::state::{AgentState, Stage};
use hone_agent::core::{Agent, Effect, Settings};
use hone_controller::placement::{Capacity, Gpu};
use hone_proto::event::{Event, Payload, Stream};
use hone_proto::id::{AttemptId, BootId, NodeId, Seq};
use hone_proto::quantity::{Bytes, MilliCpu};
use hone_proto::time::{BootNanos, Now, WallNanos};

use super::Sabotage;
use super::chance::Chance;
use super::engine::Engine;
use super::hub::WALL;
use super::link::nanos;
use super::spool::Spool;
use super::world::{Happening, Step, World};

/// From one look of an agent at everything to the next.
const TURN: Duration = Duration::from_secs(8);

/// One rented server.
pub(super) struct Machine {
    pub(super) id: NodeId,
    pub(super) capacity: Capacity,
    pub(super) boots: u64,
    pub(super) booted: u64,
    pub(super) wall: i64,
    pub(super) agent: Option<Process>,
    pub(super) life: u64,
    pub(super) kept: AgentState,
    pub(super) spool: Spool,
    pub(super) wipes: u64,
    pub(super) engine: Engine,
    pub(super) full_until: u64,
    pub(super) cut_until: u64,
    pub(super) revoked: bool,
    /// Since when each container runs that its agent does not know.
    pub(super) strays: BTreeMap<String, u64>,
}

/// The agent's process.
pub(super) struct Process {
    pub(super) agent: Agent,
    pub(super) link: Option<u64>,
    pub(super) welcomed: bool,
    pub(super) heard: u64,
    pub(super) next_try: u64,
    pub(super) beats: BTreeMap<u64, BootNanos>,
    pub(super) beat: u64,
    pub(super) told: Capacity,
    pub(super) sent: BTreeMap<Stream, (usize, usize)>,
    pub(super) draining: BTreeSet<AttemptId>,
    pub(super) removing: BTreeSet<AttemptId>,
    pub(super) calls: BTreeMap<u64, (AttemptId, hone_agent::core::Upload, u64)>,
    pub(super) next_call: u64,
}

impl Machine {
    pub(super) fn new(number: u64, chance: &mut Chance, now: u64) -> Self {
        // The first one can hold anything, so that every job can end.
        let gpus = if number == 0 { 2 } else { chance.between(0, 2) };
        let ram = if number == 0 { 32 } else { chance.between(8, 32) };
        Self {
            id: format!("n{number}").parse().expect("an id"),
            capacity: Capacity {
                gpus: (0..gpus)
                    .map(|g| Gpu { uuid: format!("GPU-{number}-{g}"), vram: Bytes::gib(24) })
                    .collect(),
                cpu: MilliCpu::cores(8),
                ram: Bytes::gib(ram),
                disk: Bytes::gib(100),
            },
            boots: 1,
            booted: now,
            wall: 0,
            agent: None,
            life: 0,
            kept: AgentState::default(),
            spool: Spool::new(format!("s{number}-0").parse().expect("an id")),
            wipes: 0,
            engine: Engine::default(),
            full_until: 0,
            cut_until: 0,
            revoked: false,
            strays: BTreeMap::new(),
        }
    }

    pub(super) fn boot(&self) -> BootId {
        format!("{}-{}", self.id, self.boots).parse().expect("an id")
    }

    pub(super) fn time(&self, now: u64) -> Now {
        Now {
            wall: WallNanos::new((now + WALL).saturating_add_signed(self.wall)),
            boot: BootNanos::new(now - self.booted + 1_000_000_000),
        }
    }

    pub(super) fn event(&self, now: u64, payload: Payload) -> Event {
        Event { seq: Seq::new(0), at: self.time(now), boot: self.boot(), payload }
    }
}

impl World {
    pub(super) fn node_start(&mut self, node: usize) -> Step {
        let machine = &mut self.machines[node];
        if machine.agent.is_some() {
            return Ok(());
        }
        let mut kept = machine.kept.clone();
        if self.chance.one_in(8) {
            let json = serde_json::to_string(&kept).map_err(|error| error.to_string())?;
            kept = serde_json::from_str(&json).map_err(|error| error.to_string())?;
            if kept != machine.kept {
                return Err("an agent's state changes when it is written and read".to_owned());
            }
        }
        machine.agent = Some(Process {
            agent: Agent::new(Settings::default(), kept, machine.boot()),
            link: None,
            welcomed: false,
            heard: self.now,
            next_try: self.now,
            beats: BTreeMap::new(),
            beat: 0,
            told: machine.capacity.clone(),
            sent: BTreeMap::new(),
            draining: BTreeSet::new(),
            removing: BTreeSet::new(),
            calls: BTreeMap::new(),
            next_call: 0,
        });
        machine.strays.clear();
        let life = machine.life;
        let delay = nanos(self.chance.span(1, 2_000));
        self.after(delay, Happening::NodeTurn(node, life));
        self.count("agent started");
        Ok(())
    }

    /// The process dies. Containers do not notice.
    pub(super) fn node_stop(&mut self, node: usize, back_in: u64) {
        let machine = &mut self.machines[node];
        let Some(process) = machine.agent.take() else { return };
        machine.life += 1;
        self.count("agent died");
        if let Some(link) = process.link {
            self.abandon(link);
        }
        self.after(back_in, Happening::NodeStart(node));
    }

    pub(super) fn abandon(&mut self, link: u64) {
        self.break_link(link);
        if let Some(open) = self.links.get_mut(&link) {
            open.open_at_node = false;
        }
    }

    /// Everything that an agent does by itself now and then.
    pub(super) fn node_turn(&mut self, node: usize, life: u64) -> Step {
        if self.machines[node].life != life || self.machines[node].agent.is_none() {
            return Ok(());
        }
        let jitter = self.chance.span(0, 2_000);
        self.after(nanos(TURN + jitter), Happening::NodeTurn(node, life));
        let read = self.read_trainers(node);
        let mut inputs = Vec::new();
        // What was read lies in the spool for a while before the core hears of it.
        if self.chance.one_in(2) {
            let delay = nanos(self.chance.span(1, 7_000));
            self.after(delay, Happening::Told(node, life, read));
        } else {
            inputs = read;
        }
        let machine = &mut self.machines[node];
        if machine.engine.hangs_until <= self.now {
            let asked = machine.time(self.now).boot;
            let containers = machine.engine.list();
            let list = Input::Observed { containers, asked };
            if self.chance.one_in(3) {
                let delay = nanos(self.chance.span(1, 3_000));
                self.after(delay, Happening::Told(node, life, vec![list]));
            } else {
                inputs.push(list);
            }
        }
        inputs.push(Input::Tick);
        self.tell(node, life, inputs)?;
        if self.machines[node].life != life {
            return Ok(());
        }
        if self.chance.one_in(2) && self.machines[node].full_until <= self.now {
            self.machines[node].spool.sync_all();
        }
        self.keep_link(node);
        self.push(node);
        self.find_strays(node)
    }

    /// One turn of the core, by the driver's rule.
    pub(super) fn tell(&mut self, node: usize, life: u64, inputs: Vec<Input>) -> Step {
        let now = self.now;
        let machine = &mut self.machines[node];
        if machine.life != life {
            return Ok(());
        }
        let time = machine.time(now);
        let Some(process) = &mut machine.agent else { return Ok(()) };
        let mut effects = Vec::new();
        let mut heard = Vec::new();
        for input in inputs {
            if self.config.trace && !matches!(input, Input::Tick) {
                heard.push(format!("{input:?}"));
            }
            effects.extend(process.agent.handle(time, input));
        }
        for line in heard {
            self.trace(|w| format!("{} < {line}", w.machines[node].id));
        }
        self.agent_perform(node, effects)
    }

    /// Reports, state, and then the rest.
    fn agent_perform(&mut self, node: usize, effects: Vec<Effect>) -> Step {
        let dies = (!self.calm && self.chance.one_in(600)).then(|| self.chance.between(0, 5));
        let (mut reports, mut keep, mut rest) = (Vec::new(), false, Vec::new());
        for effect in effects {
            match effect {
                Effect::Keep => keep = true,
                Effect::Report(payload) => reports.push(payload),
                other => rest.push(other),
            }
        }
        let now = self.now;
        let full = self.machines[node].full_until > now && (keep || !reports.is_empty());
        let back = nanos(self.chance.span(1_000, 30_000));
        if full || dies == Some(0) {
            let why = if full { "agent died of a full disk" } else { "agent died before its turn" };
            self.count(why);
            self.node_stop(node, back);
            return Ok(());
        }
        let state_first = self.is_broken(Sabotage::StateBeforeReports);
        if state_first && keep {
            self.keep(node);
        }
        if state_first && !self.calm && !reports.is_empty() && self.chance.one_in(40) {
            self.node_stop(node, back);
            return Ok(());
        }
        for payload in reports {
            self.trace(|w| format!("{} reports {payload:?}", w.machines[node].id));
            let machine = &mut self.machines[node];
            let stream = payload.stream();
            let event = machine.event(now, payload);
            machine.spool.lane(stream).append(event);
            machine.spool.lane(stream).sync();
        }
        if dies == Some(1) {
            self.count("agent died between report and state");
            self.node_stop(node, back);
            return Ok(());
        }
        if keep && !state_first {
            // What the state says was read must be as durable as the state.
            self.machines[node].spool.sync_all();
            self.keep(node);
        }
        let most = dies.and_then(|point| usize::try_from(point).ok()).map(|point| point - 2);
        for effect in rest.into_iter().take(most.unwrap_or(usize::MAX)) {
            self.trace(|w| format!("{} > {effect:?}", w.machines[node].id));
            self.start_effect(node, effect);
        }
        if most.is_some() {
            self.count("agent died between two effects");
            self.node_stop(node, back);
        }
        Ok(())
    }

    fn keep(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        if let Some(process) = &mut machine.agent {
            machine.kept = process.agent.state().clone();
            let held: BTreeSet<_> = process.agent.held().into_iter().collect();
            process.removing.retain(|attempt| held.contains(attempt));
            machine.spool.retain_readers(&held);
        }
    }

    /// Whether an agent knows what it does with a container.
    fn find_strays(&mut self, node: usize) -> Step {
        let now = self.now;
        let machine = &mut self.machines[node];
        let Some(process) = &machine.agent else { return Ok(()) };
        if machine.engine.hangs_until + nanos(TURN) > now || machine.full_until > now {
            machine.strays.clear();
            return Ok(());
        }
        let records = &process.agent.state().attempts;
        let running = machine.engine.list().into_iter().filter(|c| {
            let known = c.attempt.and_then(|id| records.get(&id)).is_some_and(|record| {
                matches!(record.stage, Stage::Staged)
                    || !record.wanted
                    || record.fenced
                    || record.stage == Stage::Running && record.container.as_ref() == Some(&c.id)
            });
            c.state == hone_agent::core::SeenState::Running && !known
        });
        let strays: BTreeSet<_> = running.map(|c| c.id).collect();
        machine.strays.retain(|id, _| strays.contains(id));
        for id in strays {
            let since = *machine.strays.entry(id.clone()).or_insert(now);
            if now - since > nanos(TURN) * 5 {
                return Err(format!("container {id} of {} runs and nobody tracks it", machine.id));
            }
        }
        Ok(())
    }
}
