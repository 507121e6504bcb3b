//! What can go wrong with bulk data, told apart by what the caller can do about it.

use std::io;
use std::path::PathBuf;

use tonic::Status;

use super::source::SourceError;
use crate::error::{Reason, Refusal};
use crate::id::Digest;
use crate::manifest::ManifestError;

/// Why an upload or a download ended. Only [`Interrupted`](Self::Interrupted) is worth another try, and the client
/// has made those tries by the time a caller sees [`GaveUp`](Self::GaveUp).
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The controller said no, and will say no again.
    #[error("the controller refused")]
    Refused(#[source] Refusal),
    /// The link broke, or the controller has too much to do. Used inside the client; a caller sees `GaveUp`.
    #[error("the transfer was interrupted")]
    Interrupted(#[source] Refusal),
    /// Patience ran out.
    #[error("the transfer was interrupted {tries} times in a row")]
    GaveUp {
        /// Tries since anything got across.
        tries: u32,
        /// What ended the last.
        #[source]
        last: Refusal,
    },
    /// A file is not what it was when the manifest was made.
    #[error("{path} changed while it was being uploaded")]
    SourceChanged {
        /// Path in the manifest.
        path: String,
    },
    /// A file to upload cannot be read.
    #[error("the source cannot be read")]
    Source(#[source] SourceError),
    /// A stream to upload broke.
    #[error("cannot read the stream for {name}")]
    Stream {
        /// The file it was to become.
        name: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// What the controller sent does not match its digest.
    #[error("{what} does not match its digest {digest}")]
    Corrupt {
        /// Chunk, file or manifest.
        what: String,
        /// What it should have hashed to.
        digest: Digest,
    },
    /// The manifest is not acceptable.
    #[error("the manifest is not acceptable")]
    Manifest(#[source] ManifestError),
    /// The destination exists already.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written here.
    #[error("cannot write {}", .path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

impl BulkError {
    /// Nothing at this side is wrong: the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Interrupted(_) | Self::GaveUp { .. })
    }

    /// What the controller answered last, where it was the controller that ended it.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) | Self::Interrupted(refusal) => Some(refusal),
            Self::GaveUp { last, .. } => Some(last),
            _ => None,
        }
    }

    /// The other side does not keep to the protocol: another try may find a healthier one.
    pub(super) fn protocol(message: impl Into<String>) -> Self {
        Self::Interrupted(Refusal::new(Reason::Internal, message))
    }

    /// Nothing moved for too long.
    pub(super) fn stalled(what: &str) -> Self {
        Self::Interrupted(Refusal::new(Reason::Unavailable, format!("{what}: no progress")))
    }
}

impl From<SourceError> for BulkError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Changed { path } => Self::SourceChanged { path },
            other => Self::Source(other),
        }
    }
}

impl From<Refusal> for BulkError {
    fn from(refusal: Refusal) -> Self {
        match refusal.reason {
            Reason::Unavailable | Reason::Overloaded | Reason::Internal | Reason::MissingChunks => {
                Self::Interrupted(refusal)
            }
            Reason::BadSpec
            | Reason::BadRequest
            | Reason::FitsNowhere
            | Reason::NotFound
            | Reason::NotPermitted
            | Reason::NotOwner
            | Reason::Unauthenticated
            | Reason::Revoked
            | Reason::TokenRefused
            | Reason::StaleAttempt
            | Reason::Conflict
            | Reason::Corrupt
            | Reason::OutOfSpace
            | Reason::Protocol => Self::Refused(refusal),
        }
    }
}

impl From<&Status> for BulkError {
    fn from(status: &Status) -> Self {
        Refusal::from(status).into()
    }
}

impl From<Status> for BulkError {
    fn from(status: Status) -> Self {
        Self::from(&status)
    }
}
