//! Certificates on request: issue, record, and only then send.

use std::sync::Arc;

use hone_proto::error::{Reason, Refusal};
use hone_proto::identity::KeyDigest;
use hone_proto::time::Now;

use crate::core::{Input, Subject};
use crate::driver::Handle;
use crate::identity::{AuthorityError, Issued, Issuer};

/// Issues certificates in the name of the fleet.
#[derive(Clone)]
pub struct Renewals {
    issuer: Arc<Issuer>,
    fleet: Handle,
}

impl Renewals {
    /// With this authority, for the fleet behind this handle.
    #[must_use]
    pub const fn new(issuer: Arc<Issuer>, fleet: Handle) -> Self {
        Self { issuer, fleet }
    }

    /// A certificate for this subject and the key in this signing request. The fleet knows its key before the holder
    /// has it, so that an expired one can be recognised. `with` is the key that the holder had so far.
    pub async fn issue(
        &self,
        subject: Subject,
        csr_der: &[u8],
        with: Option<KeyDigest>,
    ) -> Result<Issued, Refusal> {
        let issued = self
            .issuer
            .issue(csr_der, &subject, Now::read().wall)
            .map_err(|error| refusal(&error))?;
        let certificate = issued.record();
        let with = with.map(|key| key.to_string());
        self.fleet.call(move |ticket| Input::Issued { ticket, subject, certificate, with }).await?;
        Ok(issued)
    }

    /// How long after its end a certificate may still be renewed.
    #[must_use]
    pub fn grace(&self) -> std::time::Duration {
        self.issuer.lifetimes.expired_renewal
    }
}

/// A request that cannot be granted is the caller's fault; everything else is ours.
pub fn refusal(error: &AuthorityError) -> Refusal {
    match error {
        AuthorityError::Request(_) => Refusal::new(Reason::BadRequest, error.to_string()),
        _ => {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "no certificate can be issued"
            );
            Refusal::new(Reason::Internal, error.to_string())
        }
    }
}
