//! The fleet's history: what people changed, and what the fleet and its nodes did. Each of the two has a bound of its
//! own, so that no node can push out of it what people did.

use std::collections::{BTreeMap, VecDeque};

use hone_proto::id::{NodeId, UserName};
use hone_proto::time::{BootNanos, Now};

use super::Fleet;
use super::keys::Key;
use super::record::FleetEvent;

/// How long further complaints about one node are only counted.
const COMPLAINTS: std::time::Duration = std::time::Duration::from_secs(3600);

/// Lines by number, in two rings.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct History {
    lines: BTreeMap<u64, FleetEvent>,
    by_people: VecDeque<u64>,
    by_fleet: VecDeque<u64>,
}

/// A complaint about a node that was written down, and how often it came again since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complaint {
    since: BootNanos,
    more: u64,
}

impl History {
    pub(super) const fn lines(&self) -> &BTreeMap<u64, FleetEvent> {
        &self.lines
    }

    /// Adds a line; of its ring `keep` remain. Returns the numbers of those that went.
    pub(super) fn add(&mut self, line: FleetEvent, keep: u64) -> Vec<u64> {
        let ring = if line.actor.is_some() { &mut self.by_people } else { &mut self.by_fleet };
        ring.push_back(line.number);
        self.lines.insert(line.number, line);
        let surplus = ring.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
        let gone: Vec<u64> = ring.drain(..surplus).collect();
        for number in &gone {
            self.lines.remove(number);
        }
        gone
    }
}

impl Fleet {
    /// Adds a line to the history, and drops the oldest past the bound.
    pub(super) fn note(
        &mut self,
        now: Now,
        kind: &str,
        actor: Option<UserName>,
        fill: impl FnOnce(&mut FleetEvent),
    ) {
        self.meta.last_event += 1;
        let number = self.meta.last_event;
        let mut event = FleetEvent {
            number,
            at: now.wall,
            kind: kind.to_owned(),
            job: None,
            attempt: None,
            node: None,
            actor,
            text: String::new(),
        };
        fill(&mut event);
        self.dirty.insert(Key::Meta);
        self.dirty.insert(Key::Event(number));
        let gone = self.history.add(event, self.settings.keep_history);
        self.dirty.extend(gone.into_iter().map(Key::Event));
    }

    /// Notes something about what a node sends, which it could send any number of times: one line of each kind in an
    /// hour, with the count of those that had none.
    pub(super) fn complain(
        &mut self,
        now: Now,
        kind: &'static str,
        id: &NodeId,
        fill: impl FnOnce(&mut FleetEvent),
    ) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        let known = node.complaints.get_mut(kind);
        let more = match known {
            Some(known) if now.boot.since(known.since) < COMPLAINTS => {
                known.more += 1;
                return;
            }
            Some(known) => known.more,
            None => 0,
        };
        node.complaints.insert(kind, Complaint { since: now.boot, more: 0 });
        self.note(now, kind, None, |line| {
            line.node = Some(id.clone());
            fill(line);
            if more > 0 {
                line.text.push_str(&format!("; {more} more like the last one had no line"));
            }
        });
    }
}
