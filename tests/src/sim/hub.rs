//! The controller's process: the production core under the production driver's rule. A turn takes several inputs; what
//! they put, delete and append becomes durable at once; then the rest happens. It can die before, between and after.

mod answers;

use std::collections::{BTreeMap, VecDeque};

use hone_controller::core::{Command, Effect, Fleet, Input, Session, Settings, Ticket};
use hone_proto::event::Event;
use hone_proto::id::NodeId;
use hone_proto::time::{BootNanos, Now, WallNanos};

use super::Sabotage;
use super::check::Durable;
use super::link::nanos;
use super::world::{Happening, Step, World};

/// Somebody waits for an answer.
#[derive(Debug, Clone)]
pub(super) enum Waits {
    /// A person with this wish.
    Person(u64),
    /// An agent in this life, with this call.
    Agent { node: usize, life: u64, call: u64 },
    /// Nobody: a message that was said again.
    Nobody,
}

/// An event that became durable, and in which input it came.
#[derive(Debug, Clone)]
pub(super) struct Journalled {
    pub(super) node: NodeId,
    pub(super) spool: hone_proto::id::SpoolId,
    pub(super) event: Event,
}

/// The controller.
pub(super) struct Hub {
    pub(super) fleet: Option<Fleet>,
    pub(super) life: u64,
    pub(super) store: BTreeMap<String, Vec<u8>>,
    pub(super) inbox: VecDeque<(Input, Waits)>,
    /// The driver's sessions.
    pub(super) open: BTreeMap<NodeId, (Session, u64)>,
    pub(super) last_session: u64,
    pub(super) waiting: BTreeMap<Ticket, Waits>,
    pub(super) tickets: u64,
    pub(super) turning: bool,
    pub(super) full_until: u64,
    pub(super) booted: u64,
    pub(super) wall: i64,
    pub(super) turns: u64,
    /// The next start is one from an export.
    pub(super) restored: bool,
}

pub(super) fn settings() -> Settings {
    Settings {
        auto_wait: std::time::Duration::from_secs(240),
        mass_loss_hold: std::time::Duration::from_secs(600),
        keep_history: 120,
        keep_attempts: 4,
        keep_saved: 5,
        most_requests: 60,
        ..Settings::default()
    }
}

impl World {
    pub(super) fn hub_now(&self) -> Now {
        Now {
            wall: WallNanos::new((self.now + WALL).saturating_add_signed(self.hub.wall)),
            boot: BootNanos::new(self.now - self.hub.booted),
        }
    }

    pub(super) fn hub_start(&mut self) -> Step {
        if self.hub.fleet.is_some() {
            return Ok(());
        }
        let fleet = Fleet::load(settings(), self.hub.store.clone());
        let mut fleet = fleet.map_err(|error| format!("the store does not load: {error}"))?;
        fleet.check_invariants().map_err(|why| format!("after a start: {why}"))?;
        self.checker.loaded(&fleet)?;
        self.count("controller started");
        self.hub.turning = false;
        let effects = if std::mem::take(&mut self.hub.restored) {
            fleet.begin_generation(self.hub_now())
        } else {
            Vec::new()
        };
        self.hub.fleet = Some(fleet);
        self.hub_perform(effects, Vec::new())?;
        self.after(1, Happening::HubTick(self.hub.life));
        Ok(())
    }

    /// The process dies. What was not durable has not happened.
    pub(super) fn hub_stop(&mut self, back_in: u64) {
        if self.hub.fleet.take().is_none() {
            return;
        }
        self.count("controller died");
        self.hub.life += 1;
        self.hub.open.clear();
        self.hub.last_session = 0;
        self.hub.turning = false;
        let asked: Vec<_> =
            std::mem::take(&mut self.hub.inbox).into_iter().map(|(_, w)| w).collect();
        let waiting = std::mem::take(&mut self.hub.waiting);
        for waits in asked.into_iter().chain(waiting.into_values()) {
            self.answer_lost(waits);
        }
        let links: Vec<_> = self.links.keys().copied().collect();
        for link in links {
            self.break_link(link);
            if let Some(open) = self.links.get_mut(&link) {
                open.open_at_hub = false;
            }
        }
        self.after(back_in, Happening::HubStart);
    }

    pub(super) fn hub_tell(&mut self, input: Input, waits: Waits) {
        if self.hub.fleet.is_none() {
            self.answer_lost(waits);
            return;
        }
        self.hub.inbox.push_back((input, waits));
        if !self.hub.turning {
            self.hub.turning = true;
            let delay = nanos(self.chance.span(0, 20));
            self.after(delay, Happening::HubTurn(self.hub.life));
        }
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.hub.tickets += 1;
        Ticket(self.hub.tickets)
    }

    pub(super) fn hub_turn(&mut self) -> Step {
        self.hub.turning = false;
        let most = self.chance.between(1, 12);
        let mut effects = Vec::new();
        let mut journal = Vec::new();
        for _ in 0..most {
            let Some((input, waits)) = self.hub.inbox.pop_front() else { break };
            let now = self.hub_now();
            self.checker.hears(&input);
            if let Input::Request { ticket, .. }
            | Input::Commit { ticket, .. }
            | Input::Spend { ticket, .. } = &input
            {
                self.hub.waiting.insert(*ticket, waits);
            }
            let from = match &input {
                Input::Events { node, spool, .. } => Some((node.clone(), spool.clone())),
                _ => None,
            };
            self.trace(|_| format!("controller < {}", brief(&input)));
            let input = self.spoil_input(input);
            let checked = input.clone();
            let Some(fleet) = self.hub.fleet.as_mut() else { return Ok(()) };
            let mut out = fleet.handle(now, input);
            fleet.check_invariants()?;
            self.spoil_effects(&mut out);
            let Some(fleet) = &self.hub.fleet else { return Ok(()) };
            self.checker.handled(&checked, &out, fleet, &self.machines)?;
            for effect in &out {
                if let Effect::Append { event, .. } | Effect::AppendNode { event, .. } = effect
                    && let Some((node, spool)) = from.clone()
                {
                    journal.push(Journalled { node, spool, event: event.as_ref().clone() });
                }
            }
            effects.extend(out);
        }
        self.hub_perform(effects, journal)?;
        if !self.hub.inbox.is_empty() && self.hub.fleet.is_some() && !self.hub.turning {
            self.hub.turning = true;
            self.after(1_000_000, Happening::HubTurn(self.hub.life));
        }
        Ok(())
    }

    /// Persist, then act.
    fn hub_perform(&mut self, effects: Vec<Effect>, journal: Vec<Journalled>) -> Step {
        self.hub.turns += 1;
        let dies = (!self.calm && self.chance.one_in(400)).then(|| self.chance.between(0, 9));
        let (writes, rest): (Vec<_>, Vec<_>) = effects.into_iter().partition(|effect| {
            matches!(
                effect,
                Effect::Put(..)
                    | Effect::Delete(_)
                    | Effect::Append { .. }
                    | Effect::AppendNode { .. }
            )
        });
        let early = self.is_broken(Sabotage::AnswerBeforeCommit);
        if early {
            self.act_all(rest.clone(), None)?;
        }
        let refused = self.hub.full_until > self.now && !writes.is_empty();
        if refused || dies == Some(0) {
            self.count(if refused {
                "controller died of a full disk"
            } else {
                "controller died before its turn was durable"
            });
            if self.is_broken(Sabotage::TornTurns) {
                self.tear(writes);
            }
            let back = nanos(self.chance.span(1_000, 20_000));
            self.hub_stop(back);
            return Ok(());
        }
        if !writes.is_empty() {
            self.hub_commit(writes, journal)?;
        }
        let most = dies.map(|point| usize::try_from(point).unwrap_or(0) - 1);
        if !early {
            self.act_all(rest, most)?;
        }
        if most.is_some() {
            self.count("controller died between two effects");
            let back = nanos(self.chance.span(1_000, 60_000));
            self.hub_stop(back);
        }
        Ok(())
    }

    /// A crash that leaves the first half of a turn.
    fn tear(&mut self, writes: Vec<Effect>) {
        let half = writes.len() / 2;
        for write in writes.into_iter().take(half) {
            match write {
                Effect::Put(key, value) => drop(self.hub.store.insert(key, value)),
                Effect::Delete(key) => drop(self.hub.store.remove(&key)),
                _ => {}
            }
        }
    }

    fn hub_commit(&mut self, writes: Vec<Effect>, journal: Vec<Journalled>) -> Step {
        let mut keys = Vec::new();
        let mut bytes = 0;
        for write in writes {
            match write {
                Effect::Put(key, value) => {
                    if value.len() > hone_controller::store::MAX_RECORD
                        || key.len() > hone_controller::store::MAX_KEY
                    {
                        return Err(format!("{key}: {} bytes, which no store takes", value.len()));
                    }
                    bytes += key.len() + value.len();
                    self.hash(&key);
                    self.hash(&value);
                    if let Some(sabotage) = &self.config.sabotage
                        && sabotage.forgets(&key, &value, self.hub.turns)
                    {
                        continue;
                    }
                    self.hub.store.insert(key.clone(), value);
                    keys.push(key);
                }
                Effect::Delete(key) => {
                    self.hash(&key);
                    self.hub.store.remove(&key);
                    keys.push(key);
                }
                _ => {}
            }
        }
        if bytes > hone_controller::store::MAX_BATCH {
            return Err(format!("a turn of {bytes} bytes, which no store takes"));
        }
        self.count("commits");
        let Some(fleet) = &self.hub.fleet else { return Ok(()) };
        let durable = Durable { keys: &keys, journal: &journal, machines: &self.machines };
        self.checker.durable(fleet, durable)?;
        if self.hub.turns.is_multiple_of(self.config.replay_every) {
            self.replay()?;
        }
        Ok(())
    }

    /// What is stored is what is in memory, without what is never stored.
    pub(super) fn replay(&mut self) -> Step {
        self.count("replays");
        let Some(fleet) = &self.hub.fleet else { return Ok(()) };
        let again = Fleet::load(settings(), self.hub.store.clone())
            .map_err(|error| format!("the store does not load: {error}"))?;
        again.check_invariants().map_err(|why| format!("replayed: {why}"))?;
        let same = again.meta() == fleet.meta()
            && again.jobs() == fleet.jobs()
            && again.users() == fleet.users()
            && again.tokens() == fleet.tokens()
            && again.objects() == fleet.objects()
            && again.history() == fleet.history()
            && again.requests() == fleet.requests()
            && again.nodes().len() == fleet.nodes().len()
            && again.nodes().values().zip(fleet.nodes().values()).all(|(a, b)| {
                (&a.record, &a.inventory, &a.positions) == (&b.record, &b.inventory, &b.positions)
            });
        if same { Ok(()) } else { Err("what is stored is not what is in memory".to_owned()) }
    }
}

/// Wall time of the start of every run.
pub(super) const WALL: u64 = 1_700_000_000_000_000_000;

fn brief(input: &Input) -> String {
    match input {
        Input::Hello(h) => format!("hello {} {:?} holds {:?}", h.node, h.session, h.attempts),
        Input::Events { node, stream, events, .. } => {
            let first = events.first().map(|e| e.seq.get());
            format!(
                "{} events of {node} {} from {first:?}: {:?}",
                events.len(),
                stream.name(),
                events
                    .iter()
                    .filter(|_| stream.name() == "state")
                    .map(|e| &e.payload)
                    .collect::<Vec<_>>()
            )
        }
        Input::Request { command, request, .. } => match command.as_ref() {
            Command::Submit { wish, .. } => format!("{request} submit {:?}", wish.demand),
            other => format!("{request} {other:?}"),
        },
        other => format!("{other:?}"),
    }
}
