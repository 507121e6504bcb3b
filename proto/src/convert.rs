//! Wire to domain and back: the only place. A command is refused whole when any part of it is malformed; the error names
//! the field. A report is refused only where it names nothing that it could be about: words that this release does not
//! know and lengths beyond its bounds are tolerated.

mod allocatable;
mod assignment;
pub mod bounds;
pub mod event;
mod inventory;
mod sample;

use crate::error::{Reason, Refusal};
use crate::id::{Attempt, AttemptId, Digest, Generation, IdError, JobId, Token};
use crate::time::{BootNanos, Now, WallNanos};
use crate::wire;

/// A message that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct WireError {
    /// Which field, such as `assignment.promise`.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl WireError {
    pub(crate) fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into() }
    }
    pub(crate) fn missing(field: &'static str) -> Self {
        Self::new(field, "it is missing")
    }
    pub(crate) fn id(field: &'static str) -> impl Fn(IdError) -> Self {
        move |error| Self::new(field, error.to_string())
    }
}

/// A field that cannot be taken.
pub fn malformed(field: &'static str, why: impl ToString) -> WireError {
    WireError::new(field, why.to_string())
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Self::new(Reason::BadRequest, format!("malformed message: {error}"))
    }
}

impl From<AttemptId> for wire::AttemptRef {
    fn from(id: AttemptId) -> Self {
        Self {
            job: id.job.get(),
            generation: id.token.generation.get(),
            attempt: id.token.attempt.get(),
        }
    }
}

impl From<wire::AttemptRef> for AttemptId {
    fn from(wire: wire::AttemptRef) -> Self {
        Self {
            job: JobId::new(wire.job),
            token: Token {
                generation: Generation::new(wire.generation),
                attempt: Attempt::new(wire.attempt),
            },
        }
    }
}

impl From<Now> for wire::Times {
    fn from(now: Now) -> Self {
        Self { wall_ns: now.wall.get(), boot_ns: now.boot.get() }
    }
}

impl From<wire::Times> for Now {
    fn from(wire: wire::Times) -> Self {
        Self { wall: WallNanos::new(wire.wall_ns), boot: BootNanos::new(wire.boot_ns) }
    }
}

/// A digest that must be there.
pub fn digest(field: &'static str, bytes: &[u8]) -> Result<Digest, WireError> {
    Digest::try_from(bytes).map_err(WireError::id(field))
}

/// A digest that may be absent, which is written as no bytes.
pub fn optional_digest(field: &'static str, bytes: &[u8]) -> Result<Option<Digest>, WireError> {
    if bytes.is_empty() { Ok(None) } else { digest(field, bytes).map(Some) }
}

/// The wire form of an optional digest.
#[must_use]
pub fn digest_bytes(digest: Option<Digest>) -> Vec<u8> {
    digest.map(|d| d.as_bytes().to_vec()).unwrap_or_default()
}
