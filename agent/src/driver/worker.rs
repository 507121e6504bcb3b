//! The thread that owns the reconciler, the spool and the state file: one turn after another.

use std::collections::BTreeSet;
use std::time::Instant;

use hone_proto::event::{Payload, Position, Stream};
use hone_proto::id::BootId;
use hone_proto::time::Now;
use hone_proto::wire;
use tokio::sync::{mpsc, watch};

use super::outbox::{Outbox, SessionSender};
use super::owed::Owed;
use super::room::Room;
use super::{DriverError, Message, Record, TICK, TURN, View, inputs, view};
use crate::core::state::Stage;
use crate::core::{Agent, Effect, Input};
use crate::layout;
use crate::spool::{Appended, Spool, SpoolError};
use crate::state::{StateError, StateFile};

/// The thread's state.
pub(super) struct Worker {
    agent: Agent,
    spool: Spool,
    file: StateFile,
    boot: BootId,
    effects: mpsc::Sender<Effect>,
    show: watch::Sender<View>,
    outbox: Outbox,
    synced: Instant,
    room: Room,
    owed: Owed,
    /// This life was told once which containers there are.
    listed: bool,
    /// A session that waits for room.
    joining: Option<(SessionSender, Vec<Position>)>,
}

/// What a worker begins with.
pub(super) struct Parts {
    pub(super) agent: Agent,
    pub(super) spool: Spool,
    pub(super) file: StateFile,
    pub(super) boot: BootId,
    pub(super) effects: mpsc::Sender<Effect>,
    pub(super) show: watch::Sender<View>,
    pub(super) room: Room,
}

impl Worker {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { agent, spool, file, boot, effects, show, room } = parts;
        let (outbox, owed) = (Outbox::default(), Owed::default());
        Self {
            agent,
            spool,
            file,
            boot,
            effects,
            show,
            outbox,
            synced: Instant::now(),
            room,
            owed,
            listed: false,
            joining: None,
        }
    }

    /// Until it is told to stop, or cannot go on.
    pub(super) fn run(mut self, mut inbox: mpsc::Receiver<Message>) -> Result<(), DriverError> {
        // Older segments still hold those of attempts that went before the last process ended.
        self.forget_readers();
        while let Some(first) = inbox.blocking_recv() {
            self.look();
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

    fn look(&mut self) {
        let Self { room, agent, .. } = self;
        room.look(|| inputs(agent));
    }

    /// Takes one message. True when it is the last.
    fn take(&mut self, message: Message, effects: &mut Vec<Effect>) -> Result<bool, DriverError> {
        match message {
            Message::Input(input) => {
                // What a container left counts as read only when what was read of it is durable.
                if matches!(*input, Input::Drained { .. }) {
                    self.sync_all()?;
                }
                self.listed |= matches!(*input, Input::Observed { .. });
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
                self.outbox.detach();
                self.joining = Some((sender, positions));
                self.join()?;
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

    /// All events of a record are of one stream. With a full disk what is in files waits there; only what an attempt that
    /// has ended left may use the last room, since its own files go no sooner.
    fn append(&mut self, record: Record) -> Result<Appended, SpoolError> {
        let stream = record.events.first().map_or(Stream::Series, |(_, event)| event.stream());
        if self.joining.is_some() || self.room.is_full() && !self.has_ended(&record) {
            if stream == Stream::Hardware {
                self.room.sample_not_kept();
            }
            return Ok(Appended::Full);
        }
        let Record { events, cursors } = record;
        let events = events.into_iter().map(|(at, payload)| self.event(at, payload));
        let events: Vec<_> = events.collect();
        if self.room.is_full() {
            let Self { room, spool, .. } = self;
            let write = || spool.append(stream, events.clone(), cursors.clone());
            let taken = room.squeeze(SpoolError::is_full_disk, write)?;
            return Ok(taken.unwrap_or(Appended::Full));
        }
        match self.spool.append(stream, events, cursors) {
            Err(error) if error.is_full_disk() => {
                self.room.fill();
                Ok(Appended::Full)
            }
            done => done,
        }
    }

    /// Whether what was read is of an attempt whose container has ended.
    fn has_ended(&self, record: &Record) -> bool {
        let whose = record.events.first().and_then(|(_, event)| event.attempt());
        let attempt = whose.and_then(|id| self.agent.state().attempts.get(&id));
        attempt.is_some_and(|attempt| attempt.stage == Stage::Draining)
    }

    /// Begins the session that waits, when there is one. False when there is no room for it: until then nothing new gets a
    /// number, since the controller may know it already.
    fn join(&mut self) -> Result<bool, SpoolError> {
        let Some((sender, positions)) = self.joining.take() else { return Ok(true) };
        for position in &positions {
            if position.spool == *self.spool.id() && !self.resume(position)? {
                self.joining = Some((sender, positions));
                return Ok(false);
            }
        }
        self.outbox.attach(sender, positions);
        Ok(true)
    }

    /// So much was durable elsewhere when a session began. False when there is no room to go on from there.
    fn resume(&mut self, position: &Position) -> Result<bool, SpoolError> {
        let Self { room, spool, .. } = self;
        let resumed =
            room.squeeze(SpoolError::is_full_disk, || spool.resume(position.stream, position.seq));
        Ok(resumed?.is_some())
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
        self.owe(effects);
        if self.room.is_full() {
            // Something did not fit in this turn: what nobody needs goes before anything is refused.
            self.look();
        }
        if self.room.is_full() {
            self.begin_nothing();
        }
        if self.make_durable()? {
            // Before anything is performed: whoever stages an attempt relies on being seen with it.
            self.show();
            let due = self.owed.due(self.listed || !self.room.is_full());
            self.send(due);
        } else {
            let urgent = self.owed.urgent();
            self.send(urgent);
            // The offer waits for nothing.
            let full = self.room.is_full();
            self.show.send_if_modified(|shown| std::mem::replace(&mut shown.full, full) != full);
            if self.owed.is_too_much() {
                return Err(DriverError::NoRoom);
            }
        }
        if self.synced.elapsed() >= TICK {
            self.sync_all()?;
        }
        self.outbox.push(&mut self.spool)?;
        Ok(())
    }

    fn owe(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Keep => self.owed.keep = true,
                Effect::Report(payload) => {
                    let stream = payload.stream();
                    let event = self.event(Now::read(), payload);
                    self.owed.reports.entry(stream).or_default().push(event);
                }
                other => self.owed.rest.push(other),
            }
        }
    }

    /// With a full disk no attempt is staged or launched: it is given back to the controller, which may have a better node.
    /// A launch may be one of the last life whose answer got lost: until this life has seen what runs, it waits, since what
    /// runs is adopted without it.
    fn begin_nothing(&mut self) {
        let listed = self.listed;
        let begins = |effect: &mut Effect| match effect {
            Effect::Launch(..) => listed,
            effect => matches!(effect, Effect::Stage(..)),
        };
        loop {
            let begun: Vec<_> = self.owed.rest.extract_if(.., begins).collect();
            if begun.is_empty() {
                return;
            }
            for effect in begun {
                let why = self.room.refusal();
                let input = match effect {
                    Effect::Stage(assignment, _) => {
                        Input::Staged { attempt: assignment.attempt, result: Err(why) }
                    }
                    Effect::Launch(assignment, _) => {
                        Input::Launched { attempt: assignment.attempt, result: Err(why) }
                    }
                    // Nothing else was taken out.
                    _ => continue,
                };
                let effects = self.agent.handle(Now::read(), input);
                self.owe(effects);
            }
        }
    }

    /// Pays what has to be on the disk. False when there is no room for it.
    fn make_durable(&mut self) -> Result<bool, DriverError> {
        if !self.join()? {
            return Ok(false);
        }
        let Self { room, spool, file, owed, agent, .. } = self;
        while let Some(entry) = owed.reports.first_entry() {
            let (stream, events) = (*entry.key(), entry.get());
            // Bounds are for readers; what the reconciler itself says is little and must not be lost.
            let write = || spool.report(stream, events.clone());
            if room.squeeze(SpoolError::is_full_disk, write)?.is_none() {
                return Ok(false);
            }
            spool.sync(stream)?;
            entry.remove();
        }
        if owed.keep {
            // What the state says was read must be as durable as the state: after a power cut nobody reads it again.
            sync_all(spool)?;
            let write = || file.save(agent.state());
            if room.squeeze(StateError::is_full_disk, write)?.is_none() {
                return Ok(false);
            }
            owed.keep = false;
            self.forget_readers();
        }
        Ok(true)
    }

    fn send(&self, effects: Vec<Effect>) {
        for effect in effects {
            if self.effects.blocking_send(effect).is_err() {
                // The process is ending; the effects are asked for again when it starts.
                break;
            }
        }
    }

    fn show(&self) {
        let seen = view(&self.agent, &self.spool, self.room.is_full());
        self.show.send_if_modified(|shown| {
            let changed = *shown != seen;
            *shown = seen;
            changed
        });
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
        sync_all(&mut self.spool)
    }
}

fn sync_all(spool: &mut Spool) -> Result<(), SpoolError> {
    Stream::ALL.into_iter().try_for_each(|stream| spool.sync(stream))
}
