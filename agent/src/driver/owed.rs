//! What the reconciler has decided and that is not durable yet, or durable and not performed. Usually nothing between two
//! turns; with a full disk, until there is room.

use std::collections::BTreeMap;

use hone_proto::event::Stream;
use hone_proto::wire;

use crate::core::Effect;

/// Events and effects that may be owed. Far above what attempts of one node say while somebody tidies its disk.
const MAX_OWED: usize = 16_384;

/// What is owed, in the order in which it must be done.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// Reports for the spool.
    pub(super) reports: BTreeMap<Stream, Vec<wire::Event>>,
    /// The state has changed.
    pub(super) keep: bool,
    /// What is performed once all of that is durable.
    pub(super) rest: Vec<Effect>,
}

impl Owed {
    /// More than will ever be paid: the memory of an agent is bounded too.
    pub(super) fn is_too_much(&self) -> bool {
        let reports: usize = self.reports.values().map(Vec::len).sum();
        reports + self.rest.len() > MAX_OWED
    }

    /// What can be performed once all is durable. Launches may have to wait.
    pub(super) fn due(&mut self, launches: bool) -> Vec<Effect> {
        let due = |effect: &mut Effect| launches || !matches!(effect, Effect::Launch(..));
        self.rest.extract_if(.., due).collect()
    }

    /// What cannot wait for room: it stops or removes what runs, and a life that knows nothing of it would find out, from
    /// the engine and from the controller, and do it again.
    pub(super) fn urgent(&mut self) -> Vec<Effect> {
        let is_urgent = |effect: &mut Effect| match effect {
            Effect::AskToStop { .. }
            | Effect::Kill { .. }
            | Effect::Remove { .. }
            | Effect::Sweep { .. } => true,
            Effect::Keep
            | Effect::Report(_)
            | Effect::Stage(..)
            | Effect::Launch(..)
            | Effect::AskToSave { .. }
            | Effect::Drain(_)
            | Effect::Upload { .. }
            | Effect::Discard { .. } => false,
        };
        self.rest.extract_if(.., is_urgent).collect()
    }
}
