//! Bounds of the bulk service, each with its reason.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hone_proto::error::{Reason, Refusal};
use hone_proto::identity::Peer;

/// Bounds of the bulk service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Uploads, and as many downloads, that one peer may have in progress. 4: an agent stages an input and saves two
    /// checkpoints at most; more would only share the same link.
    pub streams_per_peer: usize,
    /// Chunks that all streams together hold in memory. 64: 256 MiB.
    pub chunks_in_memory: usize,
    /// Chunks of one stream that are verified and synced at the same time. 4: enough to keep a disk busy while the
    /// next chunk comes in.
    pub puts_per_stream: usize,
    /// A stream on which nothing moved for so long ends. 60 s: a frame takes half of it at 256 kbit/s.
    pub stall: Duration,
    /// From the first frame of a chunk to its last. 10 min: 7 KiB/s; whoever is slower holds memory for nothing.
    pub chunk: Duration,
    /// How often the scope of an open upload is checked again. 10 s: the time in which a revocation takes effect.
    pub recheck: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_per_peer: 4,
            chunks_in_memory: 64,
            puts_per_stream: 4,
            stall: hone_proto::bulk::STALL,
            chunk: Duration::from_secs(600),
            recheck: Duration::from_secs(10),
        }
    }
}

type Counts = Arc<Mutex<HashMap<Peer, usize>>>;

/// Streams in progress, by peer.
#[derive(Debug)]
pub(super) struct Slots {
    counts: Counts,
    most: usize,
}

/// One stream in progress; ends with it.
#[derive(Debug)]
pub(super) struct Slot {
    counts: Counts,
    peer: Peer,
}

impl Slots {
    pub(super) fn new(most: usize) -> Self {
        Self { counts: Arc::default(), most }
    }

    /// A slot of this peer, while it has one free.
    pub(super) fn take(&self, peer: &Peer) -> Result<Slot, Refusal> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer.clone()).or_default();
        if *count >= self.most {
            let message = format!("{} streams are in progress already", self.most);
            return Err(Refusal::new(Reason::Overloaded, message));
        }
        *count += 1;
        Ok(Slot { counts: Arc::clone(&self.counts), peer: peer.clone() })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_counted_per_peer_and_come_back() {
        let (slots, a) = (Slots::new(2), Peer::Node("a".parse().expect("a node id")));
        let held = [slots.take(&a), slots.take(&a)];
        assert_eq!(slots.take(&a).map(drop), Err(refused()));
        assert!(slots.take(&Peer::User("a".parse().expect("a user name"))).is_ok());
        drop(held);
        assert!(slots.take(&a).is_ok());
        assert!(slots.counts.lock().expect("not poisoned").is_empty());
    }

    fn refused() -> Refusal {
        Refusal::new(Reason::Overloaded, "2 streams are in progress already")
    }
}
