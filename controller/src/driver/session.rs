//! The open streams of nodes. A stream that does not drain is ended: the agent connects again and asks for the rest.

use std::collections::BTreeMap;

use hone_proto::error::Refusal;
use hone_proto::id::NodeId;
use tokio::sync::mpsc;

use crate::core::{Session, ToAgent};

/// What goes to a node's stream.
#[derive(Debug)]
pub enum ToSession {
    /// A message.
    Say(ToAgent),
    /// The end, and why.
    End(Refusal),
}

/// Into a node's stream. Its bound is what a node may be behind.
pub type SessionSender = mpsc::Sender<ToSession>;

/// The open streams.
#[derive(Debug, Default)]
pub struct Sessions {
    open: BTreeMap<NodeId, (Session, SessionSender)>,
    /// Streams that were replaced and still have to be told.
    replaced: BTreeMap<(NodeId, Session), SessionSender>,
    last: u64,
}

impl Sessions {
    /// Opens a stream. The one before it is ended by the core, which is told of both.
    pub fn open(&mut self, node: NodeId, sender: SessionSender) -> Session {
        self.last += 1;
        let session = Session(self.last);
        if let Some((old, sender)) = self.open.insert(node.clone(), (session, sender)) {
            self.replaced.retain(|_, sender| !sender.is_closed());
            self.replaced.insert((node, old), sender);
        }
        session
    }

    /// Says something, if the stream lasts.
    pub fn send(&mut self, node: &NodeId, session: Session, message: ToAgent) {
        let Some((open, sender)) = self.open.get(node) else { return };
        if *open != session {
            return;
        }
        match sender.try_send(ToSession::Say(message)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                // Dropping the sender ends the stream.
                tracing::warn!(%node, "the node does not read what it is told; its stream is ended");
                self.open.remove(node);
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.open.remove(node);
            }
        }
    }

    /// Ends a stream.
    pub fn close(&mut self, node: &NodeId, session: Session, refusal: Refusal) {
        let sender = match self.open.get(node) {
            Some((open, _)) if *open == session => self.open.remove(node).map(|(_, s)| s),
            Some(_) | None => self.replaced.remove(&(node.clone(), session)),
        };
        if let Some(sender) = sender
            && sender.try_send(ToSession::End(refusal)).is_err()
        {
            tracing::debug!(%node, "the stream was full or gone when it was ended");
        }
    }

    /// Ends the stream of a node, whichever it is.
    pub fn end(&mut self, node: &NodeId, refusal: Refusal) {
        if let Some((_, sender)) = self.open.remove(node) {
            // Dropping the sender ends the stream as well.
            let _ = sender.try_send(ToSession::End(refusal));
        }
    }

    /// Ends every stream.
    pub fn close_all(&mut self, refusal: &Refusal) {
        for (_, (_, sender)) in std::mem::take(&mut self.open) {
            let _ = sender.try_send(ToSession::End(refusal.clone()));
        }
    }
}
