//! Guards to break. Each is a wrapper around what goes into or comes out of a core or its driver; production code knows
//! nothing of it. A checker that does not notice them would be worth nothing. The numbers are those of the invariants
//! in the design's list.

use hone_controller::core::{Effect, Input};
use hone_proto::event::Payload;
use hone_proto::id::{AttemptId, Step};

use super::world::World;

/// A guard that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// (2) The fencing token of a commit is not looked at: every commit comes in the name of the current attempt.
    NoFencing,
    /// (2) The fencing token of an outcome is not looked at.
    NoFencingOfOutcomes,
    /// (3) A checkpoint that is not past the latest is taken, under a step that is.
    NoOrderOfSteps,
    /// (4) A retried request is taken for a new one.
    ForgetfulRequests,
    /// (4) The store forgets that jobs ended.
    ForgetfulEnds,
    /// (5) Nodes seem to offer twice of what they have.
    DoubleOffers,
    /// (5) What a node still holds of given-up attempts is not counted.
    ForgottenGhosts,
    /// (6) Events are taken again although they are known: each batch is renumbered to what is expected next.
    NoDedupe,
    /// (6) The controller answers and acknowledges before anything is durable.
    AnswerBeforeCommit,
    /// (7) An agent keeps its state before its reports are in the spool.
    StateBeforeReports,
    /// (7) An agent sends what a power cut can still take back.
    SendBeforeSync,
    /// (7) A full spool drops training metrics.
    DropsMetrics,
    /// (8) Containers that nobody knows are left alone.
    NeverSweep,
    /// (8) A container that has ended is started again under the same token.
    StartsAgain,
    /// (10) What is refused leaves a record behind.
    LeakyRefusals,
    /// (12) Now and then the store forgets a record of a turn.
    ForgetfulStore,
    /// (12) A crash leaves a part of a turn.
    TornTurns,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::NoFencing,
        Self::NoFencingOfOutcomes,
        Self::NoOrderOfSteps,
        Self::ForgetfulRequests,
        Self::ForgetfulEnds,
        Self::DoubleOffers,
        Self::ForgottenGhosts,
        Self::NoDedupe,
        Self::AnswerBeforeCommit,
        Self::StateBeforeReports,
        Self::SendBeforeSync,
        Self::DropsMetrics,
        Self::NeverSweep,
        Self::StartsAgain,
        Self::LeakyRefusals,
        Self::ForgetfulStore,
        Self::TornTurns,
    ];

    /// The invariant of the design's list that is broken.
    #[must_use]
    pub const fn invariant(self) -> u8 {
        match self {
            Self::NoFencing | Self::NoFencingOfOutcomes => 2,
            Self::NoOrderOfSteps => 3,
            Self::ForgetfulRequests | Self::ForgetfulEnds => 4,
            Self::DoubleOffers | Self::ForgottenGhosts => 5,
            Self::NoDedupe | Self::AnswerBeforeCommit => 6,
            Self::StateBeforeReports | Self::SendBeforeSync | Self::DropsMetrics => 7,
            Self::NeverSweep | Self::StartsAgain => 8,
            Self::LeakyRefusals => 10,
            Self::ForgetfulStore | Self::TornTurns => 12,
        }
    }

    pub(super) fn forgets(self, key: &str, value: &[u8], turn: u64) -> bool {
        let job = key.starts_with("job/");
        match self {
            Self::ForgetfulStore => turn.is_multiple_of(50) && (job || key.starts_with("attempt/")),
            Self::ForgetfulEnds => job && value.windows(7).any(|part| part == b"\"ended\""),
            _ => false,
        }
    }
}

impl World {
    pub(super) fn is_broken(&self, guard: Sabotage) -> bool {
        self.config.sabotage == Some(guard)
    }

    pub(super) fn spoil_input(&mut self, input: Input) -> Input {
        let Some(sabotage) = self.config.sabotage else { return input };
        match (sabotage, input) {
            (Sabotage::NoFencing, input @ Input::Commit { .. }) => {
                self.in_the_name_of_another(input)
            }
            (Sabotage::NoOrderOfSteps, input @ Input::Commit { .. }) => self.renumber_step(input),
            (Sabotage::NoFencingOfOutcomes, input @ Input::Events { .. }) => {
                self.outcomes_of_another(input)
            }
            (Sabotage::NoDedupe, input @ Input::Events { .. }) => self.renumber_events(input),
            (Sabotage::DoubleOffers, Input::Hello(mut hello)) => {
                let offer = &mut hello.capacity;
                offer.ram = offer.ram.saturating_add(offer.ram);
                offer.cpu = offer.cpu.saturating_add(offer.cpu);
                Input::Hello(hello)
            }
            (Sabotage::ForgottenGhosts, Input::Heartbeat(mut beat)) => {
                self.only_open(&mut beat.attempts);
                Input::Heartbeat(beat)
            }
            (Sabotage::ForgottenGhosts, Input::Hello(mut hello)) => {
                self.only_open(&mut hello.attempts);
                Input::Hello(hello)
            }
            (Sabotage::ForgetfulRequests, Input::Request { ticket, caller, command, .. }) => {
                let request = format!("fresh-{}", ticket.0).parse().expect("an id");
                Input::Request { ticket, caller, request, command }
            }
            (_, input) => input,
        }
    }

    fn only_open(&self, held: &mut Vec<AttemptId>) {
        let jobs = self.hub.fleet.as_ref().map(|fleet| fleet.jobs());
        held.retain(|id| {
            let job = jobs.and_then(|jobs| jobs.get(&id.job));
            job.and_then(|job| job.attempts.get(id.token)).is_some_and(|attempt| attempt.is_open())
        });
    }

    fn in_the_name_of_another(&self, input: Input) -> Input {
        let Input::Commit { ticket, mut node, mut commit } = input else { return input };
        let job = self.hub.fleet.as_ref().and_then(|fleet| fleet.jobs().get(&commit.attempt.job));
        if let Some(attempt) = job.and_then(|job| job.current()) {
            commit.attempt.token = attempt.token;
            node = attempt.node.clone();
        }
        Input::Commit { ticket, node, commit }
    }

    fn renumber_step(&self, input: Input) -> Input {
        let Input::Commit { ticket, node, mut commit } = input else { return input };
        let job = self.hub.fleet.as_ref().and_then(|fleet| fleet.jobs().get(&commit.attempt.job));
        let latest = job.and_then(|job| job.record.latest.as_ref());
        let known =
            job.is_some_and(|job| job.saved.values().any(|s| s.manifest == commit.manifest));
        if let Some(latest) = latest.filter(|latest| !known && commit.step <= latest.step) {
            commit.step = Step::new(latest.step.get() + 1);
        }
        Input::Commit { ticket, node, commit }
    }

    fn outcomes_of_another(&self, input: Input) -> Input {
        let Input::Events { node, spool, stream, mut events } = input else { return input };
        let jobs = self.hub.fleet.as_ref().map(|fleet| fleet.jobs());
        for event in &mut events {
            if let Payload::Outcome(outcome) = &mut event.payload
                && let Some(job) = jobs.and_then(|jobs| jobs.get(&outcome.attempt.job))
                && let Some(current) = job.current().filter(|current| current.node == node)
            {
                outcome.attempt.token = current.token;
            }
        }
        Input::Events { node, spool, stream, events }
    }

    fn renumber_events(&self, input: Input) -> Input {
        let Input::Events { node, spool, stream, mut events } = input else { return input };
        let fleet = self.hub.fleet.as_ref();
        let known = fleet.and_then(|fleet| fleet.nodes().get(&node)?.positions.clone());
        let mut next = known.and_then(|k| k.seqs.get(&stream).copied()).unwrap_or_default();
        for event in &mut events {
            next = next.next();
            event.seq = next;
        }
        Input::Events { node, spool, stream, events }
    }

    pub(super) fn spoil_effects(&self, effects: &mut Vec<Effect>) {
        let refused = effects.iter().any(|effect| matches!(effect, Effect::Reply(_, Err(_))));
        if self.is_broken(Sabotage::LeakyRefusals) && refused {
            effects.push(Effect::Put("token/half".to_owned(), b"{}".to_vec()));
        }
    }
}
