//! Turns while the disk is full. What needs no write goes on: reads, heartbeats, answers that are known. What stops work or
//! keeps somebody out may use the last room. All else is refused and changes nothing, since it is tried on a copy of the
//! fleet; what a node reported stays in its spool.

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::NodeId;
use hone_proto::time::Now;

use super::turn::Turn;
use super::worker::Worker;
use super::{DriverError, Message};
use crate::core::{Input, Session, Ticket};
use crate::store::Store;

/// Who has to be told that their message was not taken.
enum Whose {
    /// Somebody waits.
    Caller(Ticket),
    /// A node introduced itself.
    Newcomer(NodeId, Session),
    /// A node reported.
    Reporter(NodeId),
    /// It comes again by itself.
    Nobody,
}

impl Whose {
    fn of(input: &Input) -> Self {
        match input {
            Input::Request { ticket, .. }
            | Input::Commit { ticket, .. }
            | Input::CommitObject { ticket, .. }
            | Input::Spend { ticket, .. }
            | Input::Issued { ticket, .. } => Self::Caller(*ticket),
            Input::Hello(hello) => Self::Newcomer(hello.node.clone(), hello.session),
            Input::Events { node, .. } => Self::Reporter(node.clone()),
            Input::Tick | Input::Heartbeat(_) | Input::Closed { .. } => Self::Nobody,
        }
    }
}

impl<S: Store> Worker<S> {
    /// One message. `stop` is set when it is the last.
    pub(super) fn frugal(&mut self, message: Message, stop: &mut bool) -> Result<(), DriverError> {
        let input = match message {
            Message::Input(input) => *input,
            Message::Call(make, reply) => make(self.ticket(reply)),
            other => {
                *stop = self.take(other, &mut Turn::default())?;
                return Ok(());
            }
        };
        let whose = Whose::of(&input);
        let may_write = input.may_use_the_last_room();
        let mut next = self.fleet.clone();
        let effects = next.handle(Now::read(), input);
        let turn = match Turn::of(effects) {
            Ok(turn) if may_write || !turn.writes() => turn,
            Ok(_) | Err(_) => {
                self.turn_away(whose);
                return Ok(());
            }
        };
        let before = std::mem::replace(&mut self.fleet, next);
        match self.perform(turn) {
            Err(error) if error.is_full_disk() => {
                self.fleet = before;
                self.journal.fall_back();
                self.turn_away(whose);
                Ok(())
            }
            done => done,
        }
    }

    fn turn_away(&mut self, whose: Whose) {
        let refusal = self.room.refusal();
        match whose {
            Whose::Caller(ticket) => {
                if let Some(reply) = self.waiting.remove(&ticket) {
                    // A caller that went away does not mind.
                    let _ = reply.send(Err(refusal));
                }
            }
            Whose::Newcomer(node, session) => self.sessions.close(&node, session, refusal),
            Whose::Reporter(node) => {
                self.unheard.insert(node);
            }
            Whose::Nobody => {}
        }
    }

    /// There is room again: nodes whose reports were not taken say hello again, and send what is in their spools.
    pub(super) fn hear_again(&mut self) {
        for node in std::mem::take(&mut self.unheard) {
            let text = "the controller's disk has room again: report again";
            self.sessions.end(&node, Refusal::new(Reason::Unavailable, text));
        }
    }

    /// A turn did not fit although there had been room: the fleet goes back to what is durable. Everybody who waits is
    /// refused, and nodes say hello again.
    pub(super) fn fall_back(&mut self) -> Result<(), DriverError> {
        self.room.look();
        self.room.fill();
        self.journal.fall_back();
        self.reload()?;
        for (_, reply) in std::mem::take(&mut self.waiting) {
            // A caller that went away does not mind.
            let _ = reply.send(Err(self.room.refusal()));
        }
        self.sessions.close_all(&self.room.refusal());
        self.grant.send_replace(std::sync::Arc::new(self.fleet.access()));
        self.turned.send_modify(|turn| *turn += 1);
        Ok(())
    }
}
