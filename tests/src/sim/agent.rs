//! A machine and the agent on it: the production core under the production driver's rule. What it reports is spooled
//! and synced, then its state is kept, then the rest happens. It can die before, between and after.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hone_agent::core::input::Input;
use hone_agent::core::state::{AgentState, Stage};
use hone_agent::core::{Agent, Effect, Settings};
use hone_controller::core::{Heartbeat, Hello, ToAgent};
use hone_controller::placement::{Capacity, Gpu};
use hone_proto::event::{Event, Payload, Position, Stream};
use hone_proto::id::{AttemptId, BootId, NodeId, Seq};
use hone_proto::quantity::{Bytes, MilliCpu};
use hone_proto::time::{BootNanos, Now, WallNanos};

use super::Sabotage;
use super::chance::Chance;
use super::engine::Engine;
use super::hub::WALL;
use super::link::{FromNode, nanos};
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
        let mut inputs = self.read_trainers(node);
        let machine = &mut self.machines[node];
        if machine.engine.hangs_until <= self.now {
            let asked = machine.time(self.now).boot;
            let containers = machine.engine.list();
            let list = Input::Observed { containers, asked };
            if self.chance.one_in(3) {
                let delay = nanos(self.chance.span(1, 3_000));
                self.after(delay, Happening::Told(node, life, Box::new(list)));
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
            self.node_stop(node, back);
            return Ok(());
        }
        let state_first = self.config.sabotage == Some(Sabotage::StateBeforeReports);
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
            self.node_stop(node, back);
            return Ok(());
        }
        if keep && !state_first {
            self.keep(node);
        }
        let most = dies.and_then(|point| usize::try_from(point).ok()).map(|point| point - 2);
        for effect in rest.into_iter().take(most.unwrap_or(usize::MAX)) {
            self.trace(|w| format!("{} > {effect:?}", w.machines[node].id));
            self.start_effect(node, effect);
        }
        if most.is_some() {
            self.node_stop(node, back);
        }
        Ok(())
    }

    fn keep(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        if let Some(process) = &machine.agent {
            machine.kept = process.agent.state().clone();
        }
    }

    /// Connects when it should, says that it lives, and gives up a link on which nothing was heard.
    fn keep_link(&mut self, node: usize) {
        let now = self.now;
        let machine = &mut self.machines[node];
        let Some(process) = &mut machine.agent else { return };
        match process.link {
            None if process.next_try <= now => {
                process.next_try = now + nanos(Duration::from_secs(10));
                process.welcomed = false;
                process.heard = now;
                process.told.clone_from(&machine.capacity);
                let held = process.agent.held();
                let generation = process.agent.generation();
                let hello = Hello {
                    node: machine.id.clone(),
                    session: Default::default(),
                    boot: machine.boot(),
                    spool: machine.spool.id.clone(),
                    attempts: held,
                    highest_generation: generation,
                    capacity: machine.capacity.clone(),
                    inventory: vec![7; 300],
                    hostname: machine.id.to_string(),
                    version: "sim".to_owned(),
                };
                let link = self.open_link(node);
                if let Some(process) = &mut self.machines[node].agent {
                    process.link = Some(link);
                }
                self.send_up(link, FromNode::Hello(Box::new(hello)));
            }
            None => {}
            Some(link) => {
                let patience = if process.welcomed { 45 } else { 20 };
                if now - process.heard > nanos(Duration::from_secs(patience)) {
                    process.link = None;
                    self.abandon(link);
                } else if process.welcomed {
                    self.heartbeat(node, link);
                }
            }
        }
    }

    fn heartbeat(&mut self, node: usize, link: u64) {
        let now = self.now;
        let machine = &mut self.machines[node];
        let boot = machine.time(now).boot;
        let Some(process) = &mut machine.agent else { return };
        process.beat += 1;
        process.beats.insert(process.beat, boot);
        let changed = process.told != machine.capacity;
        process.told.clone_from(&machine.capacity);
        let beat = Heartbeat {
            node: machine.id.clone(),
            session: Default::default(),
            number: process.beat,
            revision: process.agent.state().revision,
            attempts: process.agent.held(),
            capacity: changed.then(|| machine.capacity.clone()),
        };
        self.send_up(link, FromNode::Heartbeat(beat));
    }

    /// From the spool to the controller, states first, in order, a bounded way ahead. Only what a power cut spares:
    /// a number that was sent must never be given to something else.
    pub(super) fn push(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        let Some(process) = &mut machine.agent else { return };
        let Some(link) = process.link.filter(|_| process.welcomed) else { return };
        let early = self.config.sabotage == Some(Sabotage::SendBeforeSync);
        let mut batches = Vec::new();
        for stream in Stream::ALL {
            let lane = machine.spool.lane(stream);
            let end = if early { lane.last() } else { lane.synced() };
            let (sent, _) = process.sent.entry(stream).or_default();
            let events = lane.read(stream, *sent, end, 60);
            if let Some(last) = events.last() {
                *sent = usize::try_from(last.seq.get()).unwrap_or(0);
                batches.push((stream, events));
            }
        }
        let spool = machine.spool.id.clone();
        for (stream, events) in batches {
            self.send_up(link, FromNode::Events(spool.clone(), stream, events));
        }
    }

    pub(super) fn node_hears(&mut self, link: u64, message: ToAgent) -> Step {
        let Some(open) = self.links.get(&link).filter(|open| open.open_at_node) else {
            return Ok(());
        };
        let node = open.node;
        let now = self.now;
        let machine = &mut self.machines[node];
        let life = machine.life;
        let Some(process) = machine.agent.as_mut().filter(|p| p.link == Some(link)) else {
            return Ok(());
        };
        process.heard = now;
        match message {
            ToAgent::Welcome { positions, .. } => {
                process.welcomed = true;
                for position in positions {
                    self.acked(node, &position, true);
                }
                self.push(node);
                Ok(())
            }
            ToAgent::Ack(position) => {
                self.acked(node, &position, false);
                self.push(node);
                Ok(())
            }
            ToAgent::HeartbeatAck(number) => {
                let newer = process.beats.split_off(&(number + 1));
                let acked = std::mem::replace(&mut process.beats, newer);
                match acked.get(&number) {
                    Some(sent) => {
                        let sent = *sent;
                        self.tell(node, life, vec![Input::Heard { sent }])
                    }
                    None => Ok(()),
                }
            }
            ToAgent::Desired(set) => self.tell(node, life, vec![Input::Desired(set)]),
        }
    }

    fn acked(&mut self, node: usize, position: &Position, fresh: bool) {
        let machine = &mut self.machines[node];
        if position.spool != machine.spool.id {
            return;
        }
        machine.spool.lane(position.stream).ack(position.seq);
        let seq = usize::try_from(position.seq.get()).unwrap_or(0);
        let Some(process) = &mut machine.agent else { return };
        let (sent, acked) = process.sent.entry(position.stream).or_default();
        if fresh || (seq == *acked && *sent > seq) {
            *sent = seq;
        }
        *acked = if fresh { seq } else { seq.max(*acked) };
    }

    pub(super) fn node_learns(&mut self, link: u64) {
        let Some(open) = self.links.get_mut(&link) else { return };
        open.open_at_node = false;
        let node = open.node;
        let delay = nanos(self.chance.span(100, 10_000));
        let now = self.now;
        if let Some(process) = self.machines[node].agent.as_mut().filter(|p| p.link == Some(link)) {
            process.link = None;
            process.next_try = now + delay;
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
