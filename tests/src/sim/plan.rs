//! What goes wrong, when it stops, and what must be true in the end.

use std::time::Duration;

use hone_agent::core::SeenState;
use hone_agent::core::state::AgentState;
use hone_controller::core::record::{JobState, NodeAdmin, Role};
use hone_controller::core::{Command, Input, Session};
use hone_proto::id::{Attempt, AttemptId, Generation, JobId, Token};
use hone_proto::quantity::Bytes;

use super::engine::Temper;
use super::hub::Waits;
use super::link::{FromNode, nanos};
use super::spool::Spool;
use super::world::{Happening, Step, World};

impl World {
    pub(super) fn fault(&mut self) -> Step {
        if self.calm {
            return Ok(());
        }
        let next = nanos(self.chance.span(2_000, 90_000));
        self.after(next, Happening::Fault);
        let all = u64::try_from(self.machines.len()).unwrap_or(1);
        let node = usize::try_from(self.chance.between(0, all - 1)).unwrap_or(0);
        match self.chance.between(0, 23) {
            0..=2 => {
                let back = nanos(self.chance.span(500, 60_000));
                self.hub_stop(back);
            }
            3 => {
                self.hub.restored = self.hub.fleet.is_some();
                self.hub_stop(nanos(Duration::from_secs(30)));
                self.hub.booted = self.now;
                self.count("controller's machine rebooted");
            }
            4 => {
                self.hub.full_until = self.now + nanos(self.chance.span(1_000, 90_000));
                self.count("controller's disk full");
            }
            5 => {
                self.count("controller's wall clock set");
                self.hub.wall += self.jump();
            }
            6..=8 => {
                let back = nanos(self.chance.span(500, 60_000));
                self.node_stop(node, back);
            }
            9 | 10 => self.reboot(node, false)?,
            11 => self.reboot(node, true)?,
            12 => {
                self.machines[node].full_until = self.now + nanos(self.chance.span(1_000, 120_000));
                self.count("agent's disk full");
            }
            13 => {
                self.count("agent's wall clock set");
                let jump = self.jump();
                self.machines[node].wall += jump;
            }
            14 => {
                if let Some(link) = self.machines[node].agent.as_ref().and_then(|p| p.link) {
                    self.break_link(link);
                }
            }
            15 | 16 => {
                let span = nanos(self.chance.span(5_000, 300_000));
                self.cut(node, span);
            }
            17 => {
                // So long that attempts are given up; of the largest machine, to which their jobs come back.
                let span = nanos(self.chance.span(200_000, 900_000));
                let largest = self.chance.one_in(2);
                self.cut(if largest { 0 } else { node }, span);
            }
            18 => {
                let span = nanos(self.chance.span(20_000, 240_000));
                self.count("all nodes cut off");
                for node in 0..self.machines.len() {
                    self.cut(node, span);
                }
            }
            19 => {
                self.machines[node].engine.hangs_until =
                    self.now + nanos(self.chance.span(5_000, 120_000));
                self.count("engine hung");
            }
            20 => {
                self.machines[node].engine.end_all(255);
                self.count("engine restarted");
            }
            21 => self.take_container(node),
            22 => self.stray(node),
            _ => self.offer(node),
        }
        Ok(())
    }

    /// How far somebody sets a wall clock.
    fn jump(&mut self) -> i64 {
        let span = i64::try_from(nanos(self.chance.span(1_000, 30 * 3_600_000))).unwrap_or(0);
        if self.chance.one_in(2) { span } else { -span }
    }

    fn cut(&mut self, node: usize, span: u64) {
        self.count("node cut off");
        let until = self.now + span;
        let machine = &mut self.machines[node];
        machine.cut_until = machine.cut_until.max(until);
    }

    /// Power goes and comes back; perhaps on an empty disk.
    fn reboot(&mut self, node: usize, wipe: bool) -> Step {
        let back = nanos(self.chance.span(5_000, 200_000));
        self.node_stop(node, back);
        self.lose_sent(node);
        self.count(if wipe { "machine wiped" } else { "machine rebooted" });
        let now = self.now;
        let machine = &mut self.machines[node];
        machine.boots += 1;
        machine.booted = now;
        machine.engine.end_all(137);
        machine.spool.power_cut();
        self.checker.survived(&machine.spool)?;
        if wipe {
            machine.wipes += 1;
            machine.engine = Default::default();
            machine.kept = AgentState::default();
            self.checker.wiped(&machine.spool);
            let id = format!("s{node}-{}", machine.wipes).parse().expect("an id");
            machine.spool = Spool::new(id);
        }
        // A process that was down already starts when it would have.
        if machine.agent.is_none() {
            self.after(back, Happening::NodeStart(node));
        }
        Ok(())
    }

    /// Somebody kills or removes a container behind the agent's back.
    fn take_container(&mut self, node: usize) {
        let removes = self.chance.one_in(2);
        let oom = self.chance.one_in(3);
        let machine = &mut self.machines[node];
        let state = machine.agent.as_ref().map_or(&machine.kept, |process| process.agent.state());
        let engine = &mut machine.engine;
        let running = engine.containers.iter().find(|c| c.state == SeenState::Running);
        if let Some((id, attempt)) = running.map(|c| (c.id.clone(), c.attempt)) {
            if removes {
                let record = attempt.and_then(|attempt| state.attempts.get(&attempt));
                let known = record.is_some_and(|record| record.container.as_ref() == Some(&id));
                if let Some(attempt) = attempt.filter(|_| !known) {
                    // Its start was never confirmed, and nothing is left of it: it may be started.
                    self.checker.never_seen(attempt, machine.wipes);
                }
                engine.containers.retain(|c| c.id != id);
            } else {
                engine.exit(&id, 137, oom);
            }
            self.count("container taken");
        }
    }

    /// A container that nobody asked for: with labels of an attempt that is not, without readable labels, or not ours.
    fn stray(&mut self, node: usize) {
        let kind = self.chance.between(0, 2);
        let now = self.now;
        let token = Token { generation: Generation::new(1), attempt: Attempt::new(77) };
        let unknown = AttemptId { job: JobId::new(7_777), token };
        let engine = &mut self.machines[node].engine;
        let id = engine.create((kind == 0).then_some(unknown), Temper::Good);
        engine.start(&id, now);
        if let Some(container) = engine.get(&id) {
            container.foreign = kind == 2;
        }
        self.count("stray container");
    }

    /// What others use of a machine changes. The first machine keeps what every job needs.
    fn offer(&mut self, node: usize) {
        let ram = Bytes::gib(self.chance.between(if node == 0 { 20 } else { 2 }, 32));
        self.machines[node].capacity.ram = ram;
        self.count("offer changed");
    }

    /// Faults end: what is broken is repaired, what was drained is resumed.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        self.trace(|_| "faults are over".to_owned());
        self.hub.full_until = 0;
        for machine in &mut self.machines {
            machine.full_until = 0;
            machine.cut_until = 0;
            machine.engine.hangs_until = 0;
            for container in &mut machine.engine.containers {
                if container.temper == Temper::Deaf {
                    container.temper = Temper::Good;
                }
            }
        }
        self.after(1, Happening::HubStart);
        for node in 0..self.machines.len() {
            self.after(1, Happening::NodeStart(node));
            let id = self.machines[node].id.clone();
            if !self.machines[node].revoked {
                self.want("ada", Role::Admin, Command::Resume(id));
            }
        }
    }

    pub(super) fn hub_hears(&mut self, link: u64, message: FromNode) {
        if !self.arrives_up(link) || self.hub.fleet.is_none() {
            return;
        }
        let life = self.hub.life;
        let Some(open) = self.links.get_mut(&link) else { return };
        let id = self.machines[open.node].id.clone();
        match message {
            FromNode::Hello(mut hello) => {
                self.hub.last_session += 1;
                let session = Session(self.hub.last_session);
                open.session = Some((life, session));
                self.hub.open.insert(id, (session, link));
                hello.session = session;
                self.hub_tell(Input::Hello(hello), Waits::Nobody);
            }
            FromNode::Heartbeat(mut beat) => {
                let Some((_, session)) = open.session.filter(|(l, _)| *l == life) else { return };
                beat.session = session;
                self.hub_tell(Input::Heartbeat(beat), Waits::Nobody);
            }
            FromNode::Events(spool, stream, events) => {
                if open.session.is_none_or(|(l, _)| l != life) {
                    return;
                }
                // As the listener takes them: over the wire, where what is too long is cut.
                let wire = events.into_iter().map(hone_proto::wire::Event::from);
                let taken = wire.map(|event| hone_proto::convert::event::reported(stream, event));
                let Ok(events) = taken.collect() else { return };
                let events = Input::Events { node: id, spool, stream, events };
                self.hub_tell(events, Waits::Nobody);
            }
        }
    }

    pub(super) fn hub_learns(&mut self, link: u64) {
        let life = self.hub.life;
        let Some(open) = self.links.get_mut(&link) else { return };
        if !std::mem::replace(&mut open.open_at_hub, false) {
            return;
        }
        let node = self.machines[open.node].id.clone();
        if let Some((_, session)) = open.session.filter(|(l, _)| *l == life) {
            self.hub_tell(Input::Closed { node, session }, Waits::Nobody);
        }
    }

    /// Whether every job has ended, everything is told, and every machine is empty.
    pub(super) fn finished(&self) -> bool {
        self.hub.fleet.is_some() && self.unfinished().is_empty()
    }

    pub(super) fn unfinished(&self) -> String {
        let Some(fleet) = &self.hub.fleet else { return "the controller is down".to_owned() };
        for (id, job) in fleet.jobs() {
            if !matches!(job.record.state, JobState::Ended { .. }) {
                let last = job.attempts.last().map(|a| (&a.node, &a.state, a.stop));
                return format!("job {id} is {:?}; its last attempt: {last:?}", job.record.state);
            }
        }
        if self.people.values().any(|person| !person.done && person.tries < 60) {
            return "somebody waits for an answer".to_owned();
        }
        for machine in &self.machines {
            let node = fleet.nodes().get(&machine.id);
            if node.is_none_or(|node| node.record.admin == NodeAdmin::Revoked) {
                continue;
            }
            let Some(process) = &machine.agent else {
                return format!("the agent of {} is down", machine.id);
            };
            if let Some((id, record)) = process.agent.state().attempts.iter().next() {
                return format!("{} still holds {id}: {:?}", machine.id, record.stage);
            }
            if machine.engine.containers.iter().any(|c| !c.foreign) {
                return format!("{} still has containers", machine.id);
            }
            for (stream, lane) in &machine.spool.lanes {
                if !lane.is_empty() {
                    return format!("{} still has {} to tell", machine.id, stream.name());
                }
            }
        }
        String::new()
    }

    pub(super) fn last_look(&mut self) -> Step {
        self.replay()?;
        let Some(fleet) = &self.hub.fleet else { return Ok(()) };
        self.checker.last_look(fleet)?;
        let jobs = fleet.jobs().len();
        for _ in 0..jobs {
            self.count("jobs ended");
        }
        Ok(())
    }
}
