//! Owns the core and the store. One thread: it drains a bounded inbox, runs the core, makes durable what the core says,
//! and only then sends, replies and publishes. One durable write covers everything that was drained in one turn.

mod journal;
mod session;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::NodeId;
use hone_proto::time::Now;
use hone_proto::wire;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::journal::{FileId, Journal, JournalError, Lengths};
pub use self::session::{SessionSender, Sessions, ToSession};
use crate::core::{AccessFacts, Effect, Fleet, Input, Reply, Session, Ticket};
use crate::store::{Batch, Store, StoreError};

/// Inputs that wait for a turn. 1024: a fleet that reconnects at once, several messages each; beyond it callers wait,
/// which slows them down instead of growing memory.
const INBOX: usize = 1024;

/// Inputs of one turn at most, so that nobody waits long for the write that covers them.
const TURN: usize = 256;

/// Something for the driver's thread.
enum Message {
    Input(Box<Input>),
    Call(Box<dyn FnOnce(Ticket) -> Input + Send>, oneshot::Sender<Result<Reply, Refusal>>),
    Read(Box<dyn FnOnce(&Fleet) + Send>),
    Open(NodeId, SessionSender, oneshot::Sender<Session>),
    Stop,
}

/// How everybody else talks to the fleet.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Message>,
    turns: watch::Receiver<u64>,
    access: watch::Receiver<Arc<AccessFacts>>,
    lengths: Arc<Mutex<Lengths>>,
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
    /// The thread panicked.
    #[error("the driver's thread panicked")]
    Panicked,
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
        let worker = Worker {
            fleet,
            store,
            journal,
            sessions: Sessions::default(),
            waiting: BTreeMap::new(),
            tickets: 0,
            turned,
            grant,
            care: Box::new(care),
        };
        let thread = std::thread::Builder::new()
            .name("fleet".to_owned())
            .spawn(move || worker.run(messages, founding))?;
        let handle = Handle { inbox: inbox.clone(), turns, access, lengths, samples };
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

    /// Changes with every turn: followers look again.
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

    /// A node's newest sample.
    #[must_use]
    pub fn sample(&self, node: &NodeId) -> Option<wire::NodeSample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }
}

struct Worker<S> {
    fleet: Fleet,
    store: S,
    journal: Journal,
    sessions: Sessions,
    waiting: BTreeMap<Ticket, oneshot::Sender<Result<Reply, Refusal>>>,
    tickets: u64,
    turned: watch::Sender<u64>,
    grant: watch::Sender<Arc<AccessFacts>>,
    care: Box<dyn FnMut(&S) + Send>,
}

impl<S: Store> Worker<S> {
    fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        founding: Vec<Effect>,
    ) -> Result<(), DriverError> {
        self.perform(founding)?;
        while let Some(first) = inbox.blocking_recv() {
            let mut effects = Vec::new();
            let mut stop = self.take(first, &mut effects);
            for _ in 1..TURN {
                let Ok(next) = inbox.try_recv() else { break };
                stop |= self.take(next, &mut effects);
            }
            self.perform(effects)?;
            (self.care)(&self.store);
            if stop {
                break;
            }
        }
        self.sessions.close_all();
        Ok(())
    }

    /// Runs the core on one message. True when it is the last.
    fn take(&mut self, message: Message, effects: &mut Vec<Effect>) -> bool {
        match message {
            Message::Input(input) => effects.extend(self.fleet.handle(Now::read(), *input)),
            Message::Call(make, reply) => {
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                self.waiting.insert(ticket, reply);
                effects.extend(self.fleet.handle(Now::read(), make(ticket)));
            }
            Message::Read(look) => look(&self.fleet),
            Message::Open(node, sender, reply) => {
                let session = self.sessions.open(node, sender);
                let _ = reply.send(session);
            }
            Message::Stop => return true,
        }
        false
    }

    /// Persist, then act.
    fn perform(&mut self, effects: Vec<Effect>) -> Result<(), DriverError> {
        if effects.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        let mut rest = Vec::new();
        for effect in effects {
            match effect {
                Effect::Put(key, value) => batch.put(key, value),
                Effect::Delete(key) => batch.delete(key),
                Effect::Append { job, stream, event } => {
                    self.journal.append(FileId::Job(job, stream), &event)?;
                }
                Effect::AppendNode { node, event } => {
                    self.journal.append(FileId::Node(node), &event)?;
                }
                other => rest.push(other),
            }
        }
        for (file, length) in self.journal.sync()? {
            batch.put(file.key(), length.to_string());
        }
        if !batch.is_empty() {
            self.store.commit(&batch)?;
        }
        self.journal.publish();
        for effect in rest {
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
            // Followers look at their job after every turn.
            Effect::JobChanged(_) => {}
            Effect::Put(..)
            | Effect::Delete(_)
            | Effect::Append { .. }
            | Effect::AppendNode { .. } => {}
        }
    }
}
