//! Certificates renew by themselves at two thirds of their life. New connections show the new one; open ones stay.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::connect::ClientIdentity;
use super::files::IdentityDir;
use super::key::SecretKey;
use super::refused::chain;
use super::tls::Credentials;
use super::{CertificateFacts, IdentityError};
use crate::error::Refusal;
use crate::time::{Now, WallNanos};
use crate::wire;

/// When to renew: at two thirds of the life, later by up to a tenth of it, so that a fleet enrolled in one hour does
/// not renew in one minute. `jitter` lies between 0 and 1.
#[must_use]
pub fn renew_at(facts: &CertificateFacts, jitter: f64) -> WallNanos {
    let life = facts.not_after.since(facts.not_before);
    let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
    facts.not_before.plus(life * 2 / 3).plus(life.mul_f64(jitter / 10.0))
}

/// Pause after the `failures`-th failure in a row: doubles from a second to ten minutes, but there are always at least
/// three more tries before the certificate expires.
#[must_use]
pub fn retry_after(failures: u32, remaining: Duration) -> Duration {
    let pause = SHORTEST_RETRY.saturating_mul(2_u32.saturating_pow(failures.min(16)));
    let pause = pause.min(LONGEST_RETRY);
    if remaining.is_zero() { pause } else { pause.min(remaining / 3).max(SHORTEST_RETRY / 4) }
}

const SHORTEST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(600);

/// Wall clocks jump; a sleep longer than this is cut and the clock read again.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How a renewal is to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// The certificate is in force: `Link.Renew`, with a new key.
    InForce(wire::SigningRequest),
    /// It has expired: `Enrolment.RenewExpired`, with the key that it held, which is the whole proof.
    Expired(wire::SigningRequest),
}

/// A renewal that failed.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The controller refused it, or could not be reached.
    #[error("the controller did not renew the certificate: {0}")]
    Refused(#[from] Refusal),
    /// What came back is not what was asked for.
    #[error("the renewed certificate is not usable: {0}")]
    Unusable(&'static str),
    /// It could not be taken over or kept.
    #[error("the renewed certificate cannot be kept")]
    Identity(#[from] IdentityError),
}

/// Checks what the controller issued, and puts it together with the key that asked for it. `root` is the pinned one.
pub fn take_issued(
    issued: wire::IssuedCertificate,
    root: &CertificateDer<'static>,
    key: SecretKey,
) -> Result<Credentials, RenewalError> {
    if issued.root_der != root.as_ref() {
        return Err(RenewalError::Unusable("it is of another root"));
    }
    let chain = issued.chain_der.into_iter().map(CertificateDer::from).collect();
    let credentials = Credentials::new(root.clone(), chain, key)?;
    if credentials.certificate().id.fleet.as_str() != issued.fleet_id {
        return Err(RenewalError::Unusable("it is of another fleet"));
    }
    Ok(credentials)
}

/// Keeps one identity in force: on disk, and for every [`super::Connector`] that watches.
#[derive(Debug)]
pub struct Renewer {
    dir: IdentityDir,
    credentials: Credentials,
    current: watch::Sender<Arc<ClientIdentity>>,
}

impl Renewer {
    /// Takes over an identity that was loaded from `dir`. The receiver goes to the connectors.
    pub fn new(
        dir: IdentityDir,
        credentials: Credentials,
    ) -> Result<(Self, watch::Receiver<Arc<ClientIdentity>>), IdentityError> {
        let (current, newest) = watch::channel(Arc::new(ClientIdentity::new(&credentials)?));
        Ok((Self { dir, credentials, current }, newest))
    }

    /// The certificate in force.
    #[must_use]
    pub const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Renews once, now: asks, checks, writes to disk, and only then shows the new identity.
    pub async fn renew_once<F>(
        &mut self,
        now: WallNanos,
        ask: impl FnOnce(Renewal) -> F,
    ) -> Result<(), RenewalError>
    where
        F: Future<Output = Result<wire::IssuedCertificate, Refusal>>,
    {
        let old = self.credentials.certificate();
        let expired = now >= old.facts.not_after;
        let key = if expired { self.credentials.key().clone() } else { SecretKey::generate()? };
        let request = wire::SigningRequest { csr_der: key.signing_request()? };
        let renewal = if expired { Renewal::Expired(request) } else { Renewal::InForce(request) };
        let renewed = take_issued(ask(renewal).await?, self.credentials.root(), key)?;
        if renewed.certificate().id != old.id {
            return Err(RenewalError::Unusable("it names somebody else"));
        }
        let identity = Arc::new(ClientIdentity::new(&renewed)?);
        self.dir.renew(&renewed)?;
        self.credentials = renewed;
        self.current.send_replace(identity);
        Ok(())
    }

    /// Renews for ever: at two thirds of each life, and again after failures. Ends only by being dropped.
    pub async fn run<F>(mut self, mut ask: impl FnMut(Renewal) -> F)
    where
        F: Future<Output = Result<wire::IssuedCertificate, Refusal>>,
    {
        let mut failures = 0;
        let mut due = renew_at(&self.credentials.certificate().facts, rand::random());
        loop {
            sleep_until(due).await;
            let now = Now::read().wall;
            match self.renew_once(now, &mut ask).await {
                Ok(()) => {
                    failures = 0;
                    let facts = &self.credentials.certificate().facts;
                    tracing::info!(until = %facts.not_after, "certificate renewed");
                    due = renew_at(facts, rand::random());
                }
                Err(error) => {
                    let remaining = self.credentials.certificate().facts.not_after.since(now);
                    let pause = retry_after(failures, remaining);
                    failures = failures.saturating_add(1);
                    tracing::warn!(error = %chain(&error), ?remaining, retry_in = ?pause, "certificate not renewed");
                    due = now.plus(pause);
                }
            }
        }
    }
}

async fn sleep_until(due: WallNanos) {
    loop {
        let left = due.since(Now::read().wall);
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{KeyDigest, Serial};

    const DAY: u64 = 86_400 * 1_000_000_000;

    fn facts() -> CertificateFacts {
        CertificateFacts {
            serial: Serial::from_bytes(&[1]),
            not_before: WallNanos::new(10 * DAY),
            not_after: WallNanos::new(40 * DAY),
            key: KeyDigest::of(b""),
        }
    }

    #[test]
    fn renewal_is_due_in_the_last_third_but_not_late() {
        assert_eq!(renew_at(&facts(), 0.0), WallNanos::new(30 * DAY));
        let latest = renew_at(&facts(), 1.0);
        assert!(latest > WallNanos::new(32 * DAY) && latest <= WallNanos::new(33 * DAY));
        assert_eq!(renew_at(&facts(), f64::NAN), WallNanos::new(30 * DAY));
        assert_eq!(renew_at(&facts(), 7.0), latest);
    }

    #[test]
    fn retries_back_off_but_leave_tries_before_the_end() {
        let day = Duration::from_secs(86_400);
        assert_eq!(retry_after(0, day), Duration::from_secs(1));
        assert_eq!(retry_after(3, day), Duration::from_secs(8));
        assert_eq!(retry_after(u32::MAX, day), LONGEST_RETRY);
        assert_eq!(retry_after(20, Duration::from_secs(30)), Duration::from_secs(10));
        assert_eq!(retry_after(20, Duration::from_millis(3)), Duration::from_millis(250));
        assert_eq!(retry_after(20, Duration::ZERO), LONGEST_RETRY);
    }
}
