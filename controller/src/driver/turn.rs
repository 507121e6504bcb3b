//! What one turn writes and does, and whether the store could ever take it.

use crate::core::{Effect, Ticket};
use crate::store::{Batch, MAX_BATCH, StoreError, Write};

/// Kept free in a batch for the lengths of the files that a turn touches.
const LENGTHS: usize = 1024 * 1024;

/// Effects with their writes apart: records first, all of them in one batch, then the rest in order.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) batch: Batch,
    pub(super) rest: Vec<Effect>,
    bytes: usize,
}

impl Turn {
    /// What these effects are, or why no store would take them.
    pub(super) fn of(effects: Vec<Effect>) -> Result<Self, Refused> {
        let mut turn = Self::default();
        for effect in effects {
            match effect {
                Effect::Put(key, value) => turn.batch.put(key, value),
                Effect::Delete(key) => turn.batch.delete(key),
                other => turn.rest.push(other),
            }
        }
        turn.bytes = turn.batch.size();
        let fits = turn.batch.check().and_then(|()| match turn.bytes {
            len if len > MAX_BATCH - LENGTHS => Err(StoreError::BatchTooLarge { len }),
            _ => Ok(()),
        });
        match fits {
            Ok(()) => Ok(turn),
            Err(why) => Err(Refused { why, ticket: turn.ticket() }),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.rest.is_empty()
    }

    /// Whether something of it has to be made durable.
    pub(super) fn writes(&self) -> bool {
        !self.batch.is_empty() || self.rest.iter().any(Effect::is_write)
    }

    /// Bytes of its records.
    pub(super) const fn size(&self) -> usize {
        self.bytes
    }

    /// Whether what `other` writes fits into the same commit.
    pub(super) const fn has_room_for(&self, other: &Self) -> bool {
        self.size() + other.size() <= MAX_BATCH - LENGTHS
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.batch.extend(Vec::<Write>::from(other.batch));
        self.rest.extend(other.rest);
        self.bytes += other.bytes;
    }

    fn ticket(&self) -> Option<Ticket> {
        self.rest.iter().find_map(|effect| match effect {
            Effect::Reply(ticket, _) => Some(*ticket),
            _ => None,
        })
    }
}

/// An input whose records no store would take.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) why: StoreError,
    /// Who waits for its answer.
    pub(super) ticket: Option<Ticket>,
}
