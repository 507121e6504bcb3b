//! One table maps what can go wrong to gRPC codes, exit codes and hints.
//!
//! An error on the wire is a `google.rpc.ErrorInfo` whose reason is one of [`Reason`]; the message is for people. The
//! reason alone decides the gRPC code, the exit code of the command line, and the hint.

use std::fmt;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain that hone's `ErrorInfo` carries.
pub const DOMAIN: &str = "hone.v1";

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $code:ident, $exit:literal, $hint:expr;)*) => {
        /// Why a call was refused or failed. Stable: scripts may branch on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
            /// Its gRPC code.
            #[must_use]
            pub const fn code(self) -> Code {
                match self { $(Self::$name => Code::$code,)* }
            }
            /// The command line's exit code (`DESIGN` 10: 1 internal, 2 usage, 3 the answer is no, 4 bad spec,
            /// 5 controller unreachable, 6 not permitted, 7 not found, 8 conflict, 9 the followed job failed).
            #[must_use]
            pub const fn exit_code(self) -> u8 {
                match self { $(Self::$name => $exit,)* }
            }
            /// What to do about it, where nothing better is known.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$name => $hint,)* }
            }
        }
    };
}

reasons! {
    /// The spec cannot be read, or asks for something impossible.
    BadSpec = "BAD_SPEC", InvalidArgument, 4, "see docs/spec.md for every key";
    /// Some other argument is malformed.
    BadRequest = "BAD_REQUEST", InvalidArgument, 2,
        "`hone COMMAND --help` tells what the command takes";
    /// No node of this fleet could ever hold the job.
    FitsNowhere = "FITS_NOWHERE", FailedPrecondition, 3,
        "lower `resources`, or add a node: `hone node token` prints the command";
    /// There is no such job, node, operator or checkpoint.
    NotFound = "NOT_FOUND", NotFound, 7,
        "`hone ps --all` and `hone node list` show what there is";
    /// The caller's role does not allow the call.
    NotPermitted = "NOT_PERMITTED", PermissionDenied, 6,
        "ask an admin of the fleet for a role that may do this";
    /// The object belongs to somebody else.
    NotOwner = "NOT_OWNER", PermissionDenied, 6, "its owner or an operator may do this";
    /// No certificate, or not one of this fleet, or no longer valid.
    Unauthenticated = "UNAUTHENTICATED", Unauthenticated, 6,
        "ask for a new invitation: `hone operator invite NAME`, then run the printed `hone login`";
    /// The certificate's holder has been revoked.
    Revoked = "REVOKED", Unauthenticated, 6, "an admin revoked this certificate; enrol again";
    /// The enrolment token is unknown, spent, expired or of another kind.
    TokenRefused = "TOKEN_REFUSED", PermissionDenied, 6,
        "a token works once and for a short time; ask for a new one";
    /// A later attempt of the job exists: nothing of this one counts any more.
    StaleAttempt = "STALE_ATTEMPT", FailedPrecondition, 8,
        "a later attempt of the job counts; `hone show JOB` lists them";
    /// The state has changed, or the same request id came with another content.
    Conflict = "CONFLICT", Aborted, 8, "look at its state, and try again if the change still makes sense";
    /// Chunks that the manifest names are not stored.
    MissingChunks = "MISSING_CHUNKS", FailedPrecondition, 8, "upload the missing chunks and commit again";
    /// Stored or sent bytes do not match their digest.
    Corrupt = "CORRUPT", DataLoss, 1, "the copy is damaged; an older checkpoint may be whole";
    /// The controller's disk is full or a quota is used up.
    OutOfSpace = "OUT_OF_SPACE", ResourceExhausted, 1, "free disk space on the controller";
    /// Too much at once.
    Overloaded = "OVERLOADED", ResourceExhausted, 1, "try again in a moment";
    /// The two sides speak different protocol versions.
    Protocol = "PROTOCOL", FailedPrecondition, 1, "upgrade the older of the two";
    /// Out of reach, or shutting down.
    Unavailable = "UNAVAILABLE", Unavailable, 5, "is `hone serve` running, and its address reachable?";
    /// A fault of hone itself.
    Internal = "INTERNAL", Internal, 1, "this is a fault of hone; its log has more";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A refusal: a stable reason, and a message that says what was wrong and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// A refusal with this reason and message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let details = ErrorDetails::with_error_info(
            refusal.reason.as_str(),
            DOMAIN,
            std::collections::HashMap::new(),
        );
        Self::with_error_details(refusal.reason.code(), refusal.message, details)
    }
}

impl From<&Status> for Refusal {
    /// Reads the reason back; a status that carries none gets the nearest by its code.
    fn from(status: &Status) -> Self {
        let info = status.get_error_details().error_info().cloned();
        let named = info.filter(|info| info.domain == DOMAIN).and_then(|info| {
            Reason::ALL.iter().copied().find(|reason| reason.as_str() == info.reason)
        });
        let reason = named.unwrap_or_else(|| nearest(status.code()));
        Self { reason, message: status.message().to_owned() }
    }
}

/// The reason for a status that the transport made. A broken stream is `Unknown`, and so is the first call after a
/// handshake in which the peer refused our certificate.
const fn nearest(code: Code) -> Reason {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Reason::BadRequest,
        Code::NotFound => Reason::NotFound,
        Code::PermissionDenied => Reason::NotPermitted,
        Code::Unauthenticated => Reason::Unauthenticated,
        Code::Aborted | Code::AlreadyExists | Code::FailedPrecondition => Reason::Conflict,
        Code::ResourceExhausted => Reason::Overloaded,
        Code::DataLoss => Reason::Corrupt,
        Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled => {
            Reason::Unavailable
        }
        Code::Unimplemented => Reason::Protocol,
        Code::Internal | Code::Ok => Reason::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire_and_is_unique() {
        let mut words = std::collections::BTreeSet::new();
        for &reason in Reason::ALL {
            let refusal = Refusal::new(reason, format!("because of {reason}"));
            let status = Status::from(refusal.clone());
            assert_eq!(status.code(), reason.code());
            assert_eq!(Refusal::from(&status), refusal);
            assert!(words.insert(reason.as_str()), "{reason} stands twice");
            assert!((1..=9).contains(&reason.exit_code()));
            assert!(!reason.hint().is_empty(), "{reason} leaves its reader alone");
        }
    }

    #[test]
    fn a_status_without_details_still_has_a_reason() {
        assert_eq!(Refusal::from(&Status::unknown("transport error")).reason, Reason::Unavailable);
        assert_eq!(Refusal::from(&Status::not_found("x")).reason, Reason::NotFound);
    }
}
