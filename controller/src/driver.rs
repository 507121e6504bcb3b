//! Owns the core and the store. One thread: it drains a bounded inbox, runs the core, makes durable what the core says,
//! and only then sends, replies and publishes. One durable write covers everything that was drained in one turn. While
//! the disk is full it takes one message at a time, and only what needs no room (`frugal`).

mod frugal;
#[cfg(test)]
mod full_disk_tests;
mod journal;
mod room;
mod session;
#[cfg(test)]
mod tests;
mod turn;
mod watchers;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{JobId, NodeId};
use hone_proto::wire;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::journal::{FileId, Journal, JournalError, Lengths, NODE_HISTORY};
use self::room::Room;
pub use self::session::{SessionSender, Sessions, ToSession};
use self::watchers::{Waker, Watchers};
use self::worker::Worker;
use crate::core::keys::RecordError;
use crate::core::{AccessFacts, Effect, Fleet, Input, Reply, Session, Ticket};
use crate::store::{Store, StoreError};

/// Inputs that wait for a turn. 1024: a fleet that reconnects at once, several messages each; beyond it callers wait,
/// which slows them down instead of growing memory.
const INBOX: usize = 1024;

/// Something for the driver's thread.
enum Message {
    Input(Box<Input>),
    Call(Box<dyn FnOnce(Ticket) -> Input + Send>, oneshot::Sender<Result<Reply, Refusal>>),
    Read(Box<dyn FnOnce(&Fleet) + Send>),
    Open(NodeId, SessionSender, oneshot::Sender<Session>),
    End(NodeId, Session, Refusal),
    Stop,
}

/// How everybody else talks to the fleet.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Message>,
    turns: watch::Receiver<u64>,
    access: watch::Receiver<Arc<AccessFacts>>,
    lengths: Arc<Mutex<Lengths>>,
    watchers: Watchers,
    samples: Arc<Mutex<BTreeMap<NodeId, wire::NodeSample>>>,
}

/// The thread that owns the fleet.
pub struct Driver {
    thread: JoinHandle<Result<(), DriverError>>,
    inbox: mpsc::Sender<Message>,
}

/// The driver ended because nothing can be made durable any more. What was acknowledged is safe; the process must end,
/// since its memory is ahead of its disk.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The store refused.
    #[error("the fleet's state cannot be stored")]
    Store(#[from] StoreError),
    /// A file of events refused.
    #[error("what nodes report cannot be stored")]
    Journal(#[from] JournalError),
    /// What was stored cannot be read back.
    #[error("the fleet's state cannot be read back")]
    Reload(#[from] RecordError),
    /// The thread panicked.
    #[error("the driver's thread panicked")]
    Panicked,
}

impl DriverError {
    /// Whether there was no room, and nothing of the turn is durable.
    fn is_full_disk(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::DiskFull { .. }),
            Self::Journal(error) => error.is_full_disk(),
            Self::Reload(_) | Self::Panicked => false,
        }
    }
}

impl Driver {
    /// Starts the thread. `founding` are effects that a fresh or restored fleet starts with; `care` looks after the
    /// store between turns.
    pub fn start<S: Store + 'static>(
        fleet: Fleet,
        founding: Vec<Effect>,
        store: S,
        journal: Journal,
        care: impl FnMut(&S) + Send + 'static,
    ) -> std::io::Result<(Self, Handle)> {
        let (inbox, messages) = mpsc::channel(INBOX);
        let (turned, turns) = watch::channel(0);
        let (grant, access) = watch::channel(Arc::new(fleet.access()));
        let lengths = journal.lengths();
        let samples = Arc::new(Mutex::new(BTreeMap::new()));
        let watchers = Watchers::default();
        let worker = Worker {
            room: Room::on(journal.root()),
            unheard: BTreeSet::new(),
            fleet,
            store,
            journal,
            sessions: Sessions::default(),
            waiting: BTreeMap::new(),
            tickets: 0,
            turned,
            waker: Waker(watchers.clone()),
            grant,
            care: Box::new(care),
        };
        let thread = std::thread::Builder::new()
            .name("fleet".to_owned())
            .spawn(move || worker.run(messages, founding))?;
        let handle = Handle { inbox: inbox.clone(), turns, access, lengths, watchers, samples };
        Ok((Self { thread, inbox }, handle))
    }

    /// Ends the thread after what it has been told so far.
    pub async fn stop(self) -> Result<(), DriverError> {
        // A full inbox or an ended thread both mean that there is nothing to wait for but the thread.
        let _ = self.inbox.send(Message::Stop).await;
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        match joined {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(DriverError::Panicked),
        }
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }
}

fn gone() -> Refusal {
    Refusal::new(Reason::Unavailable, "the controller is shutting down")
}

impl Handle {
    /// Tells the core something that nobody waits for.
    pub async fn tell(&self, input: Input) -> Result<(), Refusal> {
        self.inbox.send(Message::Input(Box::new(input))).await.map_err(|_| gone())
    }

    /// Tells the core something and waits for its answer, which is durable when it comes.
    pub async fn call(
        &self,
        make: impl FnOnce(Ticket) -> Input + Send + 'static,
    ) -> Result<Reply, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Message::Call(Box::new(make), reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Looks at the fleet. `look` must be quick: everybody waits for it.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Fleet) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let read = Box::new(move |fleet: &Fleet| {
            // A caller that went away does not mind.
            let _ = reply.send(look(fleet));
        });
        self.inbox.send(Message::Read(read)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Opens a session of a node: what the core says to it goes to `sender`.
    pub async fn open_session(
        &self,
        node: NodeId,
        sender: SessionSender,
    ) -> Result<Session, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Message::Open(node, sender, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Changes whenever this job does, or its files: its followers look again.
    #[must_use]
    pub fn changes_of(&self, job: JobId) -> watch::Receiver<u64> {
        self.watchers.of(job)
    }

    /// Ends a session of a node with this refusal; the core is told by [`Input::Closed`].
    pub async fn end_session(
        &self,
        node: NodeId,
        session: Session,
        why: Refusal,
    ) -> Result<(), Refusal> {
        self.inbox.send(Message::End(node, session, why)).await.map_err(|_| gone())
    }

    /// Changes with every turn: for what concerns the whole fleet.
    #[must_use]
    pub fn turns(&self) -> watch::Receiver<u64> {
        self.turns.clone()
    }

    /// Who may speak, always current.
    #[must_use]
    pub fn access(&self) -> watch::Receiver<Arc<AccessFacts>> {
        self.access.clone()
    }

    /// How much of a file is durable.
    #[must_use]
    pub fn length(&self, file: &FileId) -> u64 {
        let lengths = self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        lengths.get(file).copied().unwrap_or(0)
    }

    /// Keeps a node's newest sample.
    pub fn keep_sample(&self, node: NodeId, sample: wire::NodeSample) {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).insert(node, sample);
    }

    /// A node's newest sample, where it is another one than that of this time.
    #[must_use]
    pub fn sample_since(&self, node: &NodeId, known: u64) -> Option<wire::NodeSample> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.get(node).filter(|sample| sample.wall_ns != known).cloned()
    }

    /// A node's newest sample.
    #[must_use]
    pub fn sample(&self, node: &NodeId) -> Option<wire::NodeSample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }
}
