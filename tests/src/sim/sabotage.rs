//! Guards to break. Each is a wrapper around what goes into or comes out of a core; production code knows nothing of
//! it. A checker that does not notice them would be worth nothing.

use hone_controller::core::Input;

use super::world::World;

/// A guard that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The controller answers and acknowledges before anything is durable.
    AnswerBeforeCommit,
    /// The fencing token of a commit is not looked at: every commit comes in the name of the current attempt.
    NoFencing,
    /// Events are taken again although they are known: each batch is renumbered to what is expected next.
    NoDedupe,
    /// An agent keeps its state before its reports are in the spool.
    StateBeforeReports,
    /// An agent sends what a power cut can still take back.
    SendBeforeSync,
    /// Containers that nobody knows are left alone.
    NeverSweep,
    /// Nodes seem to offer twice of what they have.
    DoubleOffers,
    /// Now and then the store forgets a record of a turn.
    ForgetfulStore,
    /// A retried request is taken for a new one.
    ForgetfulRequests,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::AnswerBeforeCommit,
        Self::NoFencing,
        Self::NoDedupe,
        Self::StateBeforeReports,
        Self::SendBeforeSync,
        Self::NeverSweep,
        Self::DoubleOffers,
        Self::ForgetfulStore,
        Self::ForgetfulRequests,
    ];

    pub(super) fn forgets(self, key: &str, turn: u64) -> bool {
        self == Self::ForgetfulStore && turn.is_multiple_of(50) && key.starts_with("job/")
    }
}

impl World {
    pub(super) fn spoil_input(&mut self, input: Input) -> Input {
        match (self.config.sabotage, input) {
            (Some(Sabotage::NoFencing), Input::Commit { ticket, mut node, mut commit }) => {
                let jobs = self.hub.fleet.as_ref().map(|fleet| fleet.jobs());
                let job = jobs.and_then(|jobs| jobs.get(&commit.attempt.job));
                if let Some(attempt) = job.and_then(|job| job.record.current()) {
                    commit.attempt.token = attempt.token;
                    node = attempt.node.clone();
                }
                Input::Commit { ticket, node, commit }
            }
            (Some(Sabotage::NoDedupe), Input::Events { node, spool, stream, mut events }) => {
                let fleet = self.hub.fleet.as_ref();
                let known = fleet.and_then(|fleet| fleet.nodes().get(&node)?.positions.clone());
                let mut next = known.and_then(|k| k.seqs.get(&stream).copied()).unwrap_or_default();
                for event in &mut events {
                    next = next.next();
                    event.seq = next;
                }
                Input::Events { node, spool, stream, events }
            }
            (Some(Sabotage::DoubleOffers), Input::Hello(mut hello)) => {
                let offer = &mut hello.capacity;
                offer.ram = offer.ram.saturating_add(offer.ram);
                offer.cpu = offer.cpu.saturating_add(offer.cpu);
                Input::Hello(hello)
            }
            (Some(Sabotage::ForgetfulRequests), Input::Request { ticket, caller, command, .. }) => {
                let request = format!("fresh-{}", ticket.0).parse().expect("an id");
                Input::Request { ticket, caller, request, command }
            }
            (_, input) => input,
        }
    }
}
