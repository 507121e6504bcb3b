//! From the spool to the controller: in order, a bounded way ahead of what is acknowledged.

use std::collections::BTreeMap;

use hone_proto::event::{Position, Stream};
use hone_proto::id::Seq;
use hone_proto::wire;
use hone_proto::wire::agent_message::Message;
use tokio::sync::mpsc;

use crate::spool::{Spool, SpoolError};

/// Into the stream to the controller.
pub type SessionSender = mpsc::Sender<wire::AgentMessage>;

/// Events on their way, per stream: enough to fill a link with a long way, little enough to send again.
const WINDOW: u64 = 4096;

/// Bytes of one batch.
const BATCH: usize = 256 << 10;

#[derive(Debug, Default)]
struct Progress {
    sent: u64,
    acked: u64,
}

/// What the open session has been sent.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    sender: Option<SessionSender>,
    streams: BTreeMap<Stream, Progress>,
}

impl Outbox {
    /// A new session: what follows these positions is sent again.
    pub(super) fn attach(&mut self, sender: SessionSender, positions: Vec<Position>) {
        self.sender = Some(sender);
        self.streams = positions
            .into_iter()
            .map(|p| (p.stream, Progress { sent: p.seq.get(), acked: p.seq.get() }))
            .collect();
    }

    /// Another session is about to begin.
    pub(super) fn detach(&mut self) {
        self.sender = None;
    }

    pub(super) fn acked(&mut self, position: &Position) {
        let progress = self.streams.entry(position.stream).or_default();
        let seq = position.seq.get();
        if seq == progress.acked && progress.sent > seq {
            // A batch brought nothing new: what lies between got lost, and is sent again.
            progress.sent = seq;
        }
        progress.acked = progress.acked.max(seq);
    }

    /// Sends as much as the window and the stream to the controller take, states first.
    pub(super) fn push(&mut self, spool: &mut Spool) -> Result<(), SpoolError> {
        let Some(sender) = &self.sender else { return Ok(()) };
        for stream in Stream::ALL {
            loop {
                let progress = self.streams.entry(stream).or_default();
                let behind = spool.synced(stream).get() > progress.sent;
                if !behind || progress.sent.saturating_sub(progress.acked) >= WINDOW {
                    break;
                }
                let Ok(place) = sender.try_reserve() else {
                    if sender.is_closed() {
                        self.sender = None;
                    }
                    return Ok(());
                };
                let events = spool.read(stream, Seq::new(progress.sent), BATCH)?;
                let Some(last) = events.last().map(|event| event.seq) else { break };
                progress.sent = last;
                let batch = wire::EventBatch {
                    spool_id: spool.id().to_string(),
                    stream: wire::EventStream::from(stream).into(),
                    events,
                };
                place.send(wire::AgentMessage { message: Some(Message::Events(batch)) });
            }
        }
        Ok(())
    }
}
