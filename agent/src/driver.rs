//! Owns the reconciler, the spool and the state file. One thread: it drains a bounded inbox, runs the core, puts what
//! the core reports into the spool, keeps the state, makes both durable, and only then hands the rest out.
//!
//! Reports go before the state: a crash between the two repeats a report, which the controller tolerates; the other way
//! round would lose it.
//!
//! With a full disk it goes on ([`Room`]): it reports, stops jobs, and takes nothing new. What cannot be made durable is
//! owed until it can.

mod outbox;
mod owed;
mod room;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;
use std::time::Duration;

use hone_proto::event::{Payload, Position, Stream};
use hone_proto::id::{AttemptId, BootId, Generation, Revision, SpoolId};
use hone_proto::quantity::Bytes;
use hone_proto::time::Now;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::outbox::SessionSender;
pub use self::room::{Evict, Marks, Needed, Room};
use self::worker::{Parts, Worker};
use crate::core::state::{AttemptRecord, Stage};
use crate::core::{Agent, Effect, Input};
use crate::spool::{Appended, Spool, SpoolError};
use crate::state::{StateError, StateFile};

/// Inputs that wait for a turn.
const INBOX: usize = 1024;

/// Inputs of one turn at most.
const TURN: usize = 256;

/// How often time passes, and lanes that may wait are synced: what a power cut may cost.
const TICK: Duration = Duration::from_secs(1);

/// Effects that wait to be started.
const EFFECTS: usize = 4096;

/// Something for the driver's thread.
enum Message {
    Input(Box<Input>),
    Record(Record, oneshot::Sender<Appended>),
    Cursors(Vec<(Stream, String)>, oneshot::Sender<Vec<Option<Vec<u8>>>>),
    Session(SessionSender, Vec<Position>),
    Acked(Position),
    Stop,
}

/// Events of a reader, with the positions that it read them up to.
#[derive(Debug, Default)]
pub struct Record {
    /// What was read.
    pub events: Vec<(Now, Payload)>,
    /// Positions by reader.
    pub cursors: BTreeMap<String, Vec<u8>>,
}

/// What everybody else sees of the reconciler.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The spool.
    pub spool: SpoolId,
    /// Highest generation seen.
    pub generation: Generation,
    /// Desired set that is worked on.
    pub revision: Revision,
    /// Attempts held.
    pub held: Vec<AttemptId>,
    /// Of these, those that the controller still names and that have not ended.
    pub wanted: BTreeSet<AttemptId>,
    /// Inputs that the attempts held need.
    pub inputs: Needed,
    /// What those that may still write were promised of the disk.
    pub promised: Vec<(AttemptId, Bytes)>,
    /// Attempts whose container runs, with its id.
    pub running: Vec<(AttemptId, String)>,
    /// Whether any container runs or may be about to.
    pub at_work: bool,
    /// The disk is full: nothing new is taken.
    pub full: bool,
}

/// How everybody else talks to the driver.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Message>,
    view: watch::Receiver<View>,
}

/// Why the driver ended.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The spool.
    #[error("the spool cannot be used")]
    Spool(#[from] SpoolError),
    /// The state file.
    #[error("the state cannot be kept")]
    State(#[from] StateError),
    /// The disk is full, and too much waits for it.
    #[error("the disk is full, and has been for too long")]
    NoRoom,
    /// The thread panicked.
    #[error("the driver's thread panicked")]
    Panicked,
}

impl DriverError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let full = match self {
            Self::Spool(error) => error.is_full_disk(),
            Self::State(error) => error.is_full_disk(),
            Self::NoRoom => true,
            Self::Panicked => false,
        };
        full.then(|| "free disk space below the agent's state directory".to_owned())
    }
}

/// The thread.
pub struct Driver {
    thread: JoinHandle<Result<(), DriverError>>,
    inbox: mpsc::Sender<Message>,
}

impl Driver {
    /// Starts the thread. Effects to perform come out of the returned receiver.
    pub fn start(
        agent: Agent,
        spool: Spool,
        file: StateFile,
        boot: BootId,
        room: Room,
    ) -> std::io::Result<(Self, Handle, mpsc::Receiver<Effect>)> {
        let (inbox, messages) = mpsc::channel(INBOX);
        let (effects, perform) = mpsc::channel(EFFECTS);
        let (show, view) = watch::channel(view(&agent, &spool, room.is_full()));
        let worker = Worker::new(Parts { agent, spool, file, boot, effects, show, room });
        let thread = std::thread::Builder::new()
            .name("reconciler".to_owned())
            .spawn(move || worker.run(messages))?;
        Ok((Self { thread, inbox: inbox.clone() }, Handle { inbox, view }, perform))
    }

    /// Ends the thread after what it has been told so far.
    pub async fn stop(self) -> Result<(), DriverError> {
        // A full inbox or an ended thread both mean that there is nothing to wait for but the thread.
        let _ = self.inbox.send(Message::Stop).await;
        match tokio::task::spawn_blocking(move || self.thread.join()).await {
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

/// The driver has ended; so does everybody who needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is shutting down")]
pub struct Gone;

impl Handle {
    /// Tells the reconciler something.
    pub async fn tell(&self, input: Input) -> Result<(), Gone> {
        self.inbox.send(Message::Input(Box::new(input))).await.map_err(|_| Gone)
    }

    /// The same from a thread without a runtime.
    pub fn tell_blocking(&self, input: Input) -> Result<(), Gone> {
        self.inbox.blocking_send(Message::Input(Box::new(input))).map_err(|_| Gone)
    }

    /// Puts what a reader read into the spool; from a thread without a runtime.
    pub fn record_blocking(&self, record: Record) -> Result<Appended, Gone> {
        let (reply, answer) = oneshot::channel();
        self.inbox.blocking_send(Message::Record(record, reply)).map_err(|_| Gone)?;
        answer.blocking_recv().map_err(|_| Gone)
    }

    /// Where readers stand, by stream and key; from a thread without a runtime.
    pub fn cursors_blocking(
        &self,
        wanted: Vec<(Stream, String)>,
    ) -> Result<Vec<Option<Vec<u8>>>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.inbox.blocking_send(Message::Cursors(wanted, reply)).map_err(|_| Gone)?;
        answer.blocking_recv().map_err(|_| Gone)
    }

    /// Sends what is in the spool to the controller, from these positions on, until the sender is dropped.
    pub async fn attach(
        &self,
        sender: SessionSender,
        positions: Vec<Position>,
    ) -> Result<(), Gone> {
        self.inbox.send(Message::Session(sender, positions)).await.map_err(|_| Gone)
    }

    /// The controller has made this much durable.
    pub async fn acked(&self, position: Position) -> Result<(), Gone> {
        self.inbox.send(Message::Acked(position)).await.map_err(|_| Gone)
    }

    /// What everybody sees, always current.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }
}

/// Inputs that the attempts held need.
fn inputs(agent: &Agent) -> Needed {
    let inputs = |(id, record): (&AttemptId, &AttemptRecord)| {
        let (id, project) = (*id, record.assignment.project.clone());
        let inputs = record.assignment.inputs.iter().map(|input| input.manifest);
        inputs.map(|manifest| (id, project.clone(), manifest)).collect::<Vec<_>>()
    };
    agent.state().attempts.iter().flat_map(inputs).collect()
}

fn view(agent: &Agent, spool: &Spool, full: bool) -> View {
    let running = |(id, record): (&AttemptId, &AttemptRecord)| {
        // What is being removed is read no more: its files go.
        let runs = record.stage == Stage::Running && record.wanted && !record.fenced;
        record.container.clone().filter(|_| runs).map(|container| (*id, container))
    };
    let wanted = |(id, record): (&AttemptId, &AttemptRecord)| {
        let wanted = record.wanted && !record.fenced && record.stage != Stage::Ended;
        wanted.then_some(*id)
    };
    let promised = |(id, record): (&AttemptId, &AttemptRecord)| {
        let writes = matches!(record.stage, Stage::Staging | Stage::Staged | Stage::Running);
        writes.then_some((*id, record.assignment.promise.disk))
    };
    let at_work = |record: &AttemptRecord| matches!(record.stage, Stage::Staged | Stage::Running);
    View {
        at_work: agent.state().attempts.values().any(at_work),
        full,
        inputs: inputs(agent),
        promised: agent.state().attempts.iter().filter_map(promised).collect(),
        wanted: agent.state().attempts.iter().filter_map(wanted).collect(),
        spool: spool.id().clone(),
        generation: agent.generation(),
        revision: agent.state().revision,
        held: agent.held(),
        running: agent.state().attempts.iter().filter_map(running).collect(),
    }
}

/// Lets time pass.
pub async fn tick(handle: Handle) {
    let mut clock = tokio::time::interval(TICK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        if handle.tell(Input::Tick).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
