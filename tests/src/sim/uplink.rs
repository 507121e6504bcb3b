//! What an agent says to the controller and hears from it, over whatever session it has.

use std::time::Duration;

use hone_agent::core::Input;
use hone_controller::core::{Heartbeat, Hello, ToAgent};
use hone_proto::event::{Position, Stream};

use super::Sabotage;
use super::link::{FromNode, nanos};
use super::world::{Step, World};

impl World {
    /// Connects when it should, says that it lives, and gives up a link on which nothing was heard.
    pub(super) fn keep_link(&mut self, node: usize) {
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
                    said: Some(machine.time(now).boot),
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
        let early = self.is_broken(Sabotage::SendBeforeSync);
        let machine = &mut self.machines[node];
        let Some(process) = &mut machine.agent else { return };
        let Some(link) = process.link.filter(|_| process.welcomed) else { return };
        let mut batches = Vec::new();
        let mut again = 0;
        for stream in Stream::ALL {
            let lane = machine.spool.lane(stream);
            let end = if early { lane.last() } else { lane.synced() };
            let (sent, _) = process.sent.entry(stream).or_default();
            let events = lane.read(stream, *sent, end, 60);
            if let Some(last) = events.last() {
                again += u64::from(lane.mark_sent(last.seq));
                *sent = usize::try_from(last.seq.get()).unwrap_or(0);
                batches.push((stream, events));
            }
        }
        let spool = machine.spool.id.clone();
        for _ in 0..again {
            self.count("events sent again");
        }
        for (stream, events) in batches {
            self.send_up(link, FromNode::Events(spool.clone(), stream, events));
        }
    }

    pub(super) fn node_hears(&mut self, link: u64, message: ToAgent) -> Step {
        let Some(open) = self.links.get(&link).filter(|open| open.open_at_node) else {
            self.count("message lost");
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
}
