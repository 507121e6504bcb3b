//! Owns the reconciler, the spool and the state file. One thread: it drains a bounded inbox, runs the core, puts what
//! the core reports into the spool, keeps the state, makes both durable, and only then hands the rest out.
//!
//! Reports go before the state: a crash between the two repeats a report, which the controller tolerates; the other way
//! round would lose it.

mod outbox;

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hone_proto::event::{Payload, Position, Stream};
use hone_proto::id::{AttemptId, BootId, Digest, Generation, ProjectName, Revision, SpoolId};
use hone_proto::time::Now;
use hone_proto::wire;
use tokio::sync::{mpsc, oneshot, watch};

use self::outbox::Outbox;
pub use self::outbox::SessionSender;
use crate::core::state::{AttemptRecord, Stage};
use crate::core::{Agent, Effect, Input};
use crate::layout;
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
    pub inputs: Vec<(AttemptId, ProjectName, Digest)>,
    /// Attempts whose container runs, with its id.
    pub running: Vec<(AttemptId, String)>,
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
    /// The thread panicked.
    #[error("the driver's thread panicked")]
    Panicked,
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
    ) -> std::io::Result<(Self, Handle, mpsc::Receiver<Effect>)> {
        let (inbox, messages) = mpsc::channel(INBOX);
        let (effects, perform) = mpsc::channel(EFFECTS);
        let (show, view) = watch::channel(view(&agent, &spool));
        let worker = Worker {
            agent,
            spool,
            file,
            boot,
            effects,
            show,
            outbox: Outbox::default(),
            synced: Instant::now(),
        };
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

fn view(agent: &Agent, spool: &Spool) -> View {
    let running = |(id, record): (&AttemptId, &AttemptRecord)| {
        // What is being removed is read no more: its files go.
        let runs = record.stage == Stage::Running && record.wanted && !record.fenced;
        record.container.clone().filter(|_| runs).map(|container| (*id, container))
    };
    let wanted = |(id, record): (&AttemptId, &AttemptRecord)| {
        let wanted = record.wanted && !record.fenced && record.stage != Stage::Ended;
        wanted.then_some(*id)
    };
    let inputs = |(id, record): (&AttemptId, &AttemptRecord)| {
        let (id, project) = (*id, record.assignment.project.clone());
        let inputs = record.assignment.inputs.iter().map(|input| input.manifest);
        inputs.map(|manifest| (id, project.clone(), manifest)).collect::<Vec<_>>()
    };
    View {
        inputs: agent.state().attempts.iter().flat_map(inputs).collect(),
        wanted: agent.state().attempts.iter().filter_map(wanted).collect(),
        spool: spool.id().clone(),
        generation: agent.generation(),
        revision: agent.state().revision,
        held: agent.held(),
        running: agent.state().attempts.iter().filter_map(running).collect(),
    }
}

struct Worker {
    agent: Agent,
    spool: Spool,
    file: StateFile,
    boot: BootId,
    effects: mpsc::Sender<Effect>,
    show: watch::Sender<View>,
    outbox: Outbox,
    synced: Instant,
}

impl Worker {
    fn run(mut self, mut inbox: mpsc::Receiver<Message>) -> Result<(), DriverError> {
        // Older segments still hold those of attempts that went before the last process ended.
        self.forget_readers();
        while let Some(first) = inbox.blocking_recv() {
            let mut effects = Vec::new();
            let mut stop = self.take(first, &mut effects)?;
            for _ in 1..TURN {
                let Ok(next) = inbox.try_recv() else { break };
                stop |= self.take(next, &mut effects)?;
            }
            self.perform(effects)?;
            if stop {
                self.sync_all()?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes one message. True when it is the last.
    fn take(&mut self, message: Message, effects: &mut Vec<Effect>) -> Result<bool, DriverError> {
        match message {
            Message::Input(input) => {
                // What a container left counts as read only when what was read of it is durable.
                if matches!(*input, Input::Drained { .. }) {
                    self.sync_all()?;
                }
                effects.extend(self.agent.handle(Now::read(), *input));
            }
            Message::Record(record, reply) => {
                let appended = self.append(record)?;
                // A reader that went away reads again from the position that the spool holds.
                let _ = reply.send(appended);
            }
            Message::Cursors(wanted, reply) => {
                let found = wanted
                    .iter()
                    .map(|(stream, key)| self.spool.cursor(*stream, key).map(<[u8]>::to_vec));
                let _ = reply.send(found.collect());
            }
            Message::Session(sender, positions) => {
                for position in &positions {
                    if position.spool == *self.spool.id() {
                        self.spool.resume(position.stream, position.seq)?;
                    }
                }
                self.outbox.attach(sender, positions);
            }
            Message::Acked(position) => {
                if position.spool == *self.spool.id() {
                    self.spool.ack(position.stream, position.seq)?;
                    self.outbox.acked(&position);
                }
            }
            Message::Stop => return Ok(true),
        }
        Ok(false)
    }

    /// All events of a record are of one stream.
    fn append(&mut self, record: Record) -> Result<Appended, SpoolError> {
        let stream = record.events.first().map_or(Stream::Series, |(_, event)| event.stream());
        let events = record.events.into_iter().map(|(at, payload)| self.event(at, payload));
        let events = events.collect();
        self.spool.append(stream, events, record.cursors)
    }

    fn event(&self, at: Now, payload: Payload) -> wire::Event {
        wire::Event {
            seq: 0,
            at: Some(at.into()),
            boot_id: self.boot.to_string(),
            payload: Some(payload.into()),
        }
    }

    /// Reports, state, and then the rest.
    fn perform(&mut self, effects: Vec<Effect>) -> Result<(), DriverError> {
        let mut keep = false;
        let mut rest = Vec::new();
        let mut by_stream: BTreeMap<Stream, Vec<wire::Event>> = BTreeMap::new();
        for effect in effects {
            match effect {
                Effect::Keep => keep = true,
                Effect::Report(payload) => {
                    let stream = payload.stream();
                    let event = self.event(Now::read(), payload);
                    by_stream.entry(stream).or_default().push(event);
                }
                other => rest.push(other),
            }
        }
        for (stream, events) in by_stream {
            // Bounds are for readers; what the reconciler itself says is little and must not be lost.
            self.spool.append(stream, events, BTreeMap::new())?;
            self.spool.sync(stream)?;
        }
        if keep {
            self.file.save(self.agent.state())?;
            self.forget_readers();
        }
        for effect in rest {
            if self.effects.blocking_send(effect).is_err() {
                // The process is ending; the effects are asked for again when it starts.
                break;
            }
        }
        if self.synced.elapsed() >= TICK {
            self.sync_all()?;
        }
        self.outbox.push(&mut self.spool)?;
        let seen = view(&self.agent, &self.spool);
        self.show.send_if_modified(|shown| {
            let changed = *shown != seen;
            *shown = seen;
            changed
        });
        Ok(())
    }

    /// Positions of attempts that are gone. Not before: a reader without its position would begin anew.
    fn forget_readers(&mut self) {
        let held: BTreeSet<_> = self.agent.held().into_iter().map(layout::name).collect();
        self.spool.retain_cursors(|key| {
            key.split_once('/').is_some_and(|(attempt, _)| held.contains(attempt))
        });
    }

    fn sync_all(&mut self) -> Result<(), SpoolError> {
        self.synced = Instant::now();
        for stream in Stream::ALL {
            self.spool.sync(stream)?;
        }
        Ok(())
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
