//! The thread itself: drain, decide, persist, act.
//!
//! The core bounds what it keeps before it changes anything, so that the store's limits are never met. Should an input
//! meet them all the same, it is refused alone: the fleet is read back from the store, as after a crash, since its memory
//! is ahead of the disk by that input. Streams end with it, and nodes connect again, which tells everything that is not
//! stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::NodeId;
use hone_proto::telemetry;
use hone_proto::time::Now;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Span;

use super::room::{Look, Room};
use super::turn::{Refused, Turn};
use super::watchers::Waker;
use super::{DriverError, FileId, Journal, Message, Sessions};
use crate::core::{AccessFacts, Effect, Fleet, Input, Reply, Ticket};
use crate::store::Store;

/// Inputs of one turn at most, so that nobody waits long for the write that covers them.
const TURN: usize = 256;

/// Bytes of records after which a turn ends, for the same reason.
const TURN_BYTES: usize = 4 * 1024 * 1024;

pub(super) struct Worker<S> {
    pub(super) fleet: Fleet,
    pub(super) store: S,
    pub(super) journal: Journal,
    pub(super) sessions: Sessions,
    pub(super) waiting: BTreeMap<Ticket, oneshot::Sender<Result<Reply, Refusal>>>,
    pub(super) tickets: u64,
    pub(super) turned: watch::Sender<u64>,
    pub(super) waker: Waker,
    pub(super) grant: watch::Sender<Arc<AccessFacts>>,
    pub(super) room: Room,
    /// Nodes whose reports were not taken for want of room.
    pub(super) unheard: BTreeSet<NodeId>,
    pub(super) care: Box<dyn FnMut(&S) + Send>,
}

impl<S: Store> Worker<S> {
    pub(super) fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        founding: Vec<Effect>,
    ) -> Result<(), DriverError> {
        let founding = Turn::of(founding).map_err(|refused| refused.why)?;
        self.perform(founding)?;
        while let Some(first) = inbox.blocking_recv() {
            if self.room.look() == Look::Cleared {
                self.hear_again();
            }
            let mut stop = false;
            let done = if self.room.is_full() {
                self.frugal(first, &mut stop)
            } else {
                self.turn(first, &mut inbox, &mut stop)
            };
            match done {
                Err(error) if error.is_full_disk() => self.fall_back()?,
                done => done?,
            }
            (self.care)(&self.store);
            if stop {
                break;
            }
        }
        self.sessions.close_all(&ending());
        Ok(())
    }

    /// What waits, in one durable write. `stop` is set when the last message was among it.
    fn turn(
        &mut self,
        first: Message,
        inbox: &mut mpsc::Receiver<Message>,
        stop: &mut bool,
    ) -> Result<(), DriverError> {
        let mut turn = Turn::default();
        *stop |= self.take(first, &mut turn)?;
        for _ in 1..TURN {
            if turn.size() > TURN_BYTES {
                break;
            }
            let Ok(next) = inbox.try_recv() else { break };
            *stop |= self.take(next, &mut turn)?;
        }
        self.perform(turn)
    }

    /// A number for a caller who waits.
    pub(super) fn ticket(&mut self, reply: oneshot::Sender<Result<Reply, Refusal>>) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.insert(ticket, reply);
        ticket
    }

    /// Takes one message. True when it is the last.
    pub(super) fn take(&mut self, message: Message, turn: &mut Turn) -> Result<bool, DriverError> {
        match message {
            Message::Input(input) => self.handle(*input, turn)?,
            Message::Call(make, reply) => {
                let input = make(self.ticket(reply));
                self.handle(input, turn)?;
            }
            Message::Read(look) => look(&self.fleet),
            Message::Open(node, sender, reply) => {
                let session = self.sessions.open(node, sender);
                let _ = reply.send(session);
            }
            Message::End(node, session, why) => self.sessions.close(&node, session, why),
            Message::Stop => return Ok(true),
        }
        Ok(false)
    }

    /// Runs the core on one input.
    fn handle(&mut self, input: Input, turn: &mut Turn) -> Result<(), DriverError> {
        match Turn::of(self.fleet.handle(Now::read(), input)) {
            Ok(more) => {
                if !turn.has_room_for(&more) {
                    self.perform(std::mem::take(turn))?;
                }
                turn.extend(more);
                Ok(())
            }
            Err(refused) => self.take_back(refused, std::mem::take(turn)),
        }
    }

    /// Undoes what an input did to the fleet in memory, after what went before it is durable.
    fn take_back(&mut self, refused: Refused, before: Turn) -> Result<(), DriverError> {
        let Refused { why, ticket } = refused;
        tracing::error!(
            error = &why as &dyn std::error::Error,
            "an input was refused as too large"
        );
        self.perform(before)?;
        self.reload()?;
        self.sessions.close_all(&ending());
        if let Some(reply) = ticket.and_then(|ticket| self.waiting.remove(&ticket)) {
            let refusal = Refusal::new(Reason::BadRequest, format!("this cannot be kept: {why}"));
            // A caller that went away learns it when it asks again.
            let _ = reply.send(Err(refusal));
        }
        Ok(())
    }

    /// The fleet as it is durable.
    pub(super) fn reload(&mut self) -> Result<(), DriverError> {
        let mut records = Vec::new();
        for (key, value) in self.store.scan(b"")? {
            records.push((String::from_utf8_lossy(&key).into_owned(), value));
        }
        self.fleet = Fleet::load(self.fleet.settings().clone(), records)?;
        Ok(())
    }

    /// Persist, then act.
    pub(super) fn perform(&mut self, turn: Turn) -> Result<(), DriverError> {
        if turn.is_empty() {
            return Ok(());
        }
        let Turn { mut batch, rest, .. } = turn;
        // Over when what was decided is durable.
        let placing = placements(&rest);
        let mut later = Vec::new();
        let mut changed = BTreeSet::new();
        for effect in rest {
            match effect {
                Effect::Append { job, stream, event } => {
                    self.journal.append(FileId::Job(job, stream), &event)?;
                    changed.insert(job);
                }
                Effect::AppendNode { node, event } => {
                    self.journal.append(FileId::Node(node), &event)?;
                }
                Effect::JobChanged(job) => drop(changed.insert(job)),
                other => later.push(other),
            }
        }
        for (file, length) in self.journal.sync()? {
            batch.put(file.key(), length.to_string());
        }
        if !batch.is_empty() {
            self.store.commit(&batch)?;
        }
        drop(placing);
        self.journal.publish();
        // Before anybody is answered: whoever was answered finds followers woken.
        self.waker.0.wake(changed);
        for effect in later {
            self.act(effect);
        }
        self.turned.send_modify(|turn| *turn += 1);
        Ok(())
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Send(node, session, message) => self.sessions.send(&node, session, message),
            Effect::Close(node, session, refusal) => self.sessions.close(&node, session, refusal),
            Effect::Reply(ticket, result) => {
                if let Some(reply) = self.waiting.remove(&ticket) {
                    // A caller that went away asks again with the same request id.
                    let _ = reply.send(result);
                }
            }
            Effect::AccessChanged => {
                self.grant.send_replace(Arc::new(self.fleet.access()));
            }
            Effect::JobChanged(_)
            | Effect::Placed { .. }
            | Effect::Put(..)
            | Effect::Delete(_)
            | Effect::Append { .. }
            | Effect::AppendNode { .. } => {}
        }
    }
}

fn ending() -> Refusal {
    Refusal::new(Reason::Unavailable, "the controller is shutting down")
}

/// A span for each attempt that was placed, in the trace of its submit.
fn placements(effects: &[Effect]) -> Vec<Span> {
    let span_of = |effect: &Effect| match effect {
        Effect::Placed { attempt, node, traceparent } => {
            let span = tracing::info_span!("place", %attempt, %node);
            telemetry::continue_trace(&span, traceparent);
            Some(span)
        }
        _ => None,
    };
    effects.iter().filter_map(span_of).collect()
}
