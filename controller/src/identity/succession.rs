//! Which certificate followed which. A stream was opened under a certificate that has since been renewed: it may go on
//! until the newest of them ends, so that renewal drops no stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hone_proto::identity::{CertificateFacts, Serial};
use hone_proto::time::WallNanos;

/// Renewals that are remembered. 65,536: ten thousand peers renew for weeks before it is full; then their streams are
/// opened again at the certificate's end.
const MAX_KEPT: usize = 65_536;

/// Remembers renewals until they have ended. Cheap to clone; lost with the process, as the streams are.
#[derive(Debug, Clone, Default)]
pub struct Succession(Arc<Mutex<BTreeMap<Serial, CertificateFacts>>>);

impl Succession {
    /// The holder of `old` got `new`.
    pub fn record(&self, old: &Serial, new: CertificateFacts, now: WallNanos) {
        let mut followed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if followed.len() >= MAX_KEPT {
            followed.retain(|_, successor| successor.not_after > now);
        }
        if followed.len() < MAX_KEPT {
            followed.insert(old.clone(), new);
        }
    }

    /// Until when what was begun under this certificate may go on.
    #[must_use]
    pub fn in_force_until(&self, certificate: &CertificateFacts) -> WallNanos {
        let followed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut until = certificate.not_after;
        let mut serial = &certificate.serial;
        // Serial numbers are random and follow each other in time, so this ends; the bound is for the reader.
        for _ in 0..followed.len() {
            let Some(next) = followed.get(serial) else { break };
            until = until.max(next.not_after);
            serial = &next.serial;
        }
        until
    }
}

#[cfg(test)]
mod tests {
    use hone_proto::identity::KeyDigest;

    use super::*;

    fn facts(serial: u8, until: u64) -> CertificateFacts {
        CertificateFacts {
            serial: Serial::from_bytes(&[serial]),
            not_before: WallNanos::new(0),
            not_after: WallNanos::new(until),
            key: KeyDigest::of(&[serial]),
        }
    }

    #[test]
    fn a_certificate_is_in_force_until_its_last_successor_ends() {
        let succession = Succession::default();
        let now = WallNanos::new(5);
        let (first, second, third) = (facts(1, 10), facts(2, 20), facts(3, 30));
        assert_eq!(succession.in_force_until(&first), first.not_after);
        succession.record(&first.serial, second.clone(), now);
        assert_eq!(succession.in_force_until(&first), second.not_after);
        succession.record(&second.serial, third.clone(), now);
        assert_eq!(succession.in_force_until(&first), third.not_after);
        assert_eq!(succession.in_force_until(&second), third.not_after);
        assert_eq!(
            succession.in_force_until(&facts(9, 7)),
            WallNanos::new(7),
            "a stranger gains nothing"
        );
    }

    #[test]
    fn a_ring_of_certificates_is_no_endless_loop() {
        let succession = Succession::default();
        let (first, second) = (facts(1, 10), facts(2, 20));
        succession.record(&first.serial, second.clone(), WallNanos::new(0));
        succession.record(&second.serial, first.clone(), WallNanos::new(0));
        assert_eq!(succession.in_force_until(&first), second.not_after);
    }
}
