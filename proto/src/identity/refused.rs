//! When the controller refuses a certificate, TLS 1.3 says so only after the client believes that all is well, and the
//! transport reports no more than "transport error". This finds the reason, so that people are told it.

use std::error::Error;
use std::fmt;
use std::io;

use rustls::AlertDescription;
use tonic::Status;

use super::connect::ConnectError;
use crate::error::{Reason, Refusal};

/// Why the other side does not take our certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateRefusal {
    /// Somebody revoked it.
    Revoked,
    /// It has expired, or is not valid yet: one of the clocks may be wrong.
    Expired,
    /// This fleet's authority did not issue it.
    UnknownRoot,
    /// We sent none.
    Required,
    /// It names nobody who may connect.
    WrongName,
    /// Something else is wrong with it.
    Unusable,
}

impl fmt::Display for CertificateRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Revoked => "the controller refused our certificate: it is revoked",
            Self::Expired => {
                "the controller refused our certificate: it is not valid at this time (expired, or a clock is wrong)"
            }
            Self::UnknownRoot => "the controller refused our certificate: this fleet's authority did not issue it",
            Self::Required => "the controller demands a certificate",
            Self::WrongName => "the controller refused our certificate: it names nobody who may connect here",
            Self::Unusable => "the controller refused our certificate",
        })
    }
}

impl CertificateRefusal {
    /// The stable reason for it.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Revoked => Reason::Revoked,
            _ => Reason::Unauthenticated,
        }
    }

    pub(super) const fn of(alert: AlertDescription) -> Option<Self> {
        match alert {
            AlertDescription::CertificateRevoked => Some(Self::Revoked),
            AlertDescription::CertificateExpired => Some(Self::Expired),
            // A signature that does not fit is what an authority of the same name leaves behind.
            AlertDescription::UnknownCA | AlertDescription::DecryptError => Some(Self::UnknownRoot),
            AlertDescription::CertificateRequired => Some(Self::Required),
            AlertDescription::AccessDenied => Some(Self::WrongName),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown => Some(Self::Unusable),
            _ => None,
        }
    }
}

/// The refusal of our certificate within an error's chain of sources, if that is what happened.
#[must_use]
pub fn certificate_refused(error: &(dyn Error + 'static)) -> Option<CertificateRefusal> {
    find(error, &|error| {
        if let Some(ConnectError::Refused(why)) = error.downcast_ref() {
            return Some(*why);
        }
        match error.downcast_ref()? {
            rustls::Error::AlertReceived(alert) => CertificateRefusal::of(*alert),
            _ => None,
        }
    })
}

/// What a failed call says to people and scripts: the controller's own reason; where the connection was not even made,
/// why not.
#[must_use]
pub fn refusal(status: &Status) -> Refusal {
    if let Some(why) = certificate_refused(status) {
        return Refusal::new(why.reason(), why.to_string());
    }
    let failed = find(status, &|error| {
        let error = error.downcast_ref::<ConnectError>()?;
        let reason = match error {
            ConnectError::NotTheController(_) => Reason::Unauthenticated,
            _ => Reason::Unavailable,
        };
        Some(Refusal::new(reason, chain(error)))
    });
    failed.unwrap_or_else(|| Refusal::from(status))
}

/// An error with its causes, for one line of a log.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// How deep chains are followed: deeper than any that a library makes, and an end if one ever loops.
const MAX_DEPTH: usize = 32;

/// The first answer along the chain. An I/O error hides what it wraps from `source`, so that is looked into as well.
fn find<T>(
    error: &(dyn Error + 'static),
    ask: &dyn Fn(&(dyn Error + 'static)) -> Option<T>,
) -> Option<T> {
    let mut next = Some(error);
    for _ in 0..MAX_DEPTH {
        let error = next?;
        if let Some(answer) = ask(error) {
            return Some(answer);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_found_through_layers_of_io_errors() {
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRevoked);
        let inner = io::Error::new(io::ErrorKind::InvalidData, alert);
        let outer = io::Error::other(inner);
        let status = Status::from_error(Box::new(outer));
        assert_eq!(certificate_refused(&status), Some(CertificateRefusal::Revoked));
        assert_eq!(refusal(&status).reason, Reason::Revoked);
    }

    #[test]
    fn other_errors_are_not_refusals() {
        let alert = rustls::Error::AlertReceived(AlertDescription::CloseNotify);
        assert_eq!(certificate_refused(&alert), None);
        assert_eq!(refusal(&Status::unknown("transport error")).reason, Reason::Unavailable);
    }
}
