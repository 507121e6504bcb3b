//! A spool as the agent's: per stream numbered events, durable up to what was synced, with the positions of readers in
//! the same frame. Everything that was ever numbered is remembered, for the checker.

use std::collections::{BTreeMap, BTreeSet};

use hone_proto::event::{Event, Payload, Stream};
use hone_proto::id::{AttemptId, Seq, SpoolId};

/// Events of a bounded stream. Few, so that a cut of minutes meets the bound.
const BOUND: usize = 16;

/// One stream.
#[derive(Debug, Clone, Default)]
pub(super) struct Lane {
    /// All events by number, the first is number 1.
    pub(super) all: Vec<Event>,
    /// Numbers up to here are dropped or acknowledged.
    gone: usize,
    /// Numbers up to here survive a power cut.
    synced: usize,
    /// The highest number that was ever sent.
    sent: usize,
    /// How far each attempt's file was read, and how far of that is synced.
    cursors: BTreeMap<AttemptId, usize>,
    synced_cursors: BTreeMap<AttemptId, usize>,
}

impl Lane {
    pub(super) const fn last(&self) -> usize {
        self.all.len()
    }

    pub(super) const fn synced(&self) -> usize {
        self.synced
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.gone == self.all.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.all.len() - self.gone >= BOUND
    }

    pub(super) fn cursor(&self, attempt: AttemptId) -> usize {
        self.cursors.get(&attempt).copied().unwrap_or(0)
    }

    /// Remembers that everything up to this number was sent. True when it had been before.
    pub(super) fn mark_sent(&mut self, seq: Seq) -> bool {
        let seq = usize::try_from(seq.get()).unwrap_or(usize::MAX);
        let again = seq <= self.sent;
        self.sent = self.sent.max(seq);
        again
    }

    pub(super) fn append(&mut self, mut event: Event) {
        event.seq = Seq::new(self.all.len() as u64 + 1);
        self.all.push(event);
    }

    pub(super) fn read_up_to(&mut self, attempt: AttemptId, position: usize) {
        self.cursors.insert(attempt, position);
    }

    pub(super) fn sync(&mut self) {
        self.synced = self.all.len();
        self.synced_cursors.clone_from(&self.cursors);
    }

    pub(super) fn drop_oldest(&mut self) -> usize {
        let before = self.gone;
        self.gone = self.gone.max(self.all.len().saturating_sub(BOUND - BOUND / 8));
        self.gone - before
    }

    pub(super) fn ack(&mut self, seq: Seq) {
        let seq = usize::try_from(seq.get()).unwrap_or(usize::MAX);
        self.gone = self.gone.max(seq.min(self.all.len()));
    }

    /// Up to `most` events after `after` that are synced; a hole comes as a gap record.
    pub(super) fn read(&self, stream: Stream, after: usize, end: usize, most: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let from = after.max(self.gone);
        if let Some(next) = self.all.get(from).filter(|_| from < end) {
            if from > after {
                let payload = Payload::Gap {
                    attempt: None,
                    what: stream.name().to_owned(),
                    count: (from - after) as u64,
                    reason: "the spool was full".to_owned(),
                };
                events.push(Event { seq: Seq::new(from as u64), payload, ..next.clone() });
            }
            events.extend(self.all[from..end.min(from + most)].iter().cloned());
        }
        events
    }
}

/// All streams.
#[derive(Debug, Clone)]
pub(super) struct Spool {
    pub(super) id: SpoolId,
    pub(super) lanes: BTreeMap<Stream, Lane>,
}

impl Spool {
    pub(super) fn new(id: SpoolId) -> Self {
        Self { id, lanes: Stream::ALL.into_iter().map(|s| (s, Lane::default())).collect() }
    }

    pub(super) fn lane(&mut self, stream: Stream) -> &mut Lane {
        self.lanes.entry(stream).or_default()
    }

    pub(super) fn sync_all(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.sync();
        }
    }

    /// The machine lost power: what was not synced is gone, with the positions that came with it.
    pub(super) fn power_cut(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.all.truncate(lane.synced);
            lane.gone = lane.gone.min(lane.synced);
            lane.cursors.clone_from(&lane.synced_cursors);
        }
    }

    /// Positions of attempts that are gone are of no use; a reader without its position would begin anew.
    pub(super) fn retain_readers(&mut self, held: &BTreeSet<AttemptId>) {
        for lane in self.lanes.values_mut() {
            lane.cursors.retain(|attempt, _| held.contains(attempt));
        }
    }
}
