//! The network between agents and the controller: sessions that keep order, arrive late, and break; and what was on
//! its way when they broke may still arrive.

use hone_controller::core::{Heartbeat, Hello, Session, ToAgent};
use hone_proto::event::{Event, Stream};
use hone_proto::id::SpoolId;

use super::world::{Happening, World};

/// What an agent says on a session.
#[derive(Debug, Clone)]
pub(super) enum FromNode {
    Hello(Box<Hello>),
    Heartbeat(Heartbeat),
    Events(SpoolId, Stream, Vec<Event>),
}

/// One connection.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) node: usize,
    /// Which life of the controller answered it, and the number it gave.
    pub(super) session: Option<(u64, Session)>,
    /// The agent still uses it.
    pub(super) open_at_node: bool,
    /// The controller still reads from it.
    pub(super) open_at_hub: bool,
    /// Nothing gets through any more, although neither side may know.
    pub(super) dead: bool,
    /// What was on its way up when it died is lost.
    up_lost: bool,
    last_up: u64,
    last_down: u64,
}

impl World {
    pub(super) fn open_link(&mut self, node: usize) -> u64 {
        self.next_link += 1;
        let link = Link {
            node,
            session: None,
            open_at_node: true,
            open_at_hub: true,
            dead: false,
            up_lost: false,
            last_up: 0,
            last_down: 0,
        };
        self.links.insert(self.next_link, link);
        self.next_link
    }

    fn latency(&mut self) -> u64 {
        let slow = !self.calm && self.chance.one_in(40);
        if slow {
            self.count("message late");
        }
        let span = if slow { self.chance.span(1_000, 40_000) } else { self.chance.span(2, 300) };
        nanos(span)
    }

    /// Sends to the controller, in order within the session. What is said into a dead session is lost.
    pub(super) fn send_up(&mut self, link: u64, message: FromNode) {
        if let Some(at) = self.departs(link, |open| &mut open.last_up) {
            self.at(at, Happening::ToHub(link, Box::new(message)));
        }
    }

    /// Sends to an agent, in order within the session.
    pub(super) fn send_down(&mut self, link: u64, message: ToAgent) {
        if let Some(at) = self.departs(link, |open| &mut open.last_down) {
            self.at(at, Happening::ToNode(link, Box::new(message)));
        }
    }

    fn departs(&mut self, link: u64, last: fn(&mut Link) -> &mut u64) -> Option<u64> {
        let now = self.now;
        let delay = self.latency();
        let open = self.links.get_mut(&link).filter(|open| !open.dead)?;
        if self.machines[open.node].cut_until > now {
            self.count("message lost");
            self.break_link(link);
            return None;
        }
        let last = last(open);
        *last = (now + delay).max(*last + 1);
        Some(*last)
    }

    /// Whether a message to the controller still gets through. After the first that does not, none does.
    pub(super) fn arrives_up(&mut self, link: u64) -> bool {
        let lost = self.chance.one_in(2);
        let Some(open) = self.links.get_mut(&link) else { return false };
        open.up_lost |= open.dead && lost;
        let (after, arrives) = (open.dead, open.open_at_hub && !open.up_lost);
        if !arrives {
            self.count("message lost");
        } else if after {
            self.count("message arrived after its session broke");
        }
        arrives
    }

    /// A machine goes down: what it had sent and nobody had received is never sent again.
    pub(super) fn lose_sent(&mut self, node: usize) {
        for open in self.links.values_mut().filter(|open| open.node == node) {
            open.up_lost = true;
        }
    }

    /// The connection breaks. Each side learns of it in its own time, or not before the other shows up again.
    pub(super) fn break_link(&mut self, link: u64) {
        let Some(open) = self.links.get_mut(&link) else { return };
        if open.dead {
            return;
        }
        // What is on its way up may still arrive: a stream that was read late.
        open.dead = true;
        self.count("link broken");
        let node = nanos(self.chance.span(0, 45_000));
        self.after(node, Happening::NodeLearns(link));
        if !self.chance.one_in(4) {
            let hub = nanos(self.chance.span(0, 60_000));
            self.after(hub, Happening::HubLearns(link));
        }
    }
}

pub(super) fn nanos(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
