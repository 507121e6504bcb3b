//! What hone reads from a certificate. Trust is decided by the TLS verifier; this says whom it names.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;

use super::peer::{NotAPeer, SpiffeId};
use crate::time::WallNanos;

/// A certificate that names no peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// Not X.509 DER, or bytes after it.
    #[error("it is not a DER certificate")]
    Encoding,
    /// Exactly one name, a URI, is allowed.
    #[error("it must carry exactly one name, a URI")]
    Names,
    /// The one name is no peer's.
    #[error(transparent)]
    Name(#[from] NotAPeer),
    /// A time before 1970.
    #[error("its validity is not a time that hone can hold")]
    Validity,
    /// The chain is empty.
    #[error("there is no certificate")]
    Missing,
}

macro_rules! sha256 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 32]);

        impl $name {
            /// The digest of `der`.
            #[must_use]
            pub fn of(der: &[u8]) -> Self {
                let mut bytes = [0; 32];
                bytes.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
                Self(bytes)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        impl FromStr for $name {
            type Err = NotADigest;
            fn from_str(text: &str) -> Result<Self, NotADigest> {
                sha256_from_hex(text).map(Self).ok_or(NotADigest { what: $what })
            }
        }
        impl TryFrom<String> for $name {
            type Error = NotADigest;
            fn try_from(text: String) -> Result<Self, NotADigest> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(digest: $name) -> Self {
                digest.to_string()
            }
        }
    };
}

/// A text that is no SHA-256 in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {what} is 64 hexadecimal digits")]
pub struct NotADigest {
    what: &'static str,
}

fn sha256_from_hex(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

sha256! {
    /// SHA-256 of a certificate: what a newcomer is told about the fleet's root.
    Fingerprint, "fingerprint"
}
sha256! {
    /// SHA-256 of a public key (SubjectPublicKeyInfo): names a key over all its certificates.
    KeyDigest, "key digest"
}

/// A certificate's serial number, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Serial(String);

impl Serial {
    /// From the bytes of the number, big end first.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What tells one certificate of a peer from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateFacts {
    /// Its serial number.
    pub serial: Serial,
    /// Valid from.
    pub not_before: WallNanos,
    /// Valid until.
    pub not_after: WallNanos,
    /// Its public key.
    pub key: KeyDigest,
}

/// A certificate that names a peer of some fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Whom it names.
    pub id: SpiffeId,
    /// The rest of what matters.
    pub facts: CertificateFacts,
}

impl PeerCertificate {
    /// Reads a leaf certificate. Says nothing about whether to trust it.
    pub fn read(der: &[u8]) -> Result<Self, CertificateProblem> {
        let (rest, certificate) =
            x509_parser::parse_x509_certificate(der).map_err(|_| CertificateProblem::Encoding)?;
        if !rest.is_empty() {
            return Err(CertificateProblem::Encoding);
        }
        let names =
            certificate.subject_alternative_name().map_err(|_| CertificateProblem::Names)?;
        let names = names.ok_or(CertificateProblem::Names)?;
        let [GeneralName::URI(name)] = names.value.general_names[..] else {
            return Err(CertificateProblem::Names);
        };
        let validity = certificate.validity();
        Ok(Self {
            id: name.parse()?,
            facts: CertificateFacts {
                serial: Serial::from_bytes(certificate.raw_serial()),
                not_before: wall(validity.not_before.timestamp())?,
                not_after: wall(validity.not_after.timestamp())?,
                key: KeyDigest::of(certificate.public_key().raw),
            },
        })
    }
}

fn wall(seconds: i64) -> Result<WallNanos, CertificateProblem> {
    let seconds = u64::try_from(seconds).map_err(|_| CertificateProblem::Validity)?;
    Ok(WallNanos::new(seconds.saturating_mul(1_000_000_000)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digests_survive_their_text_and_refuse_others() {
        let digest = Fingerprint::of(b"root");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Fingerprint::of(b"").to_string(), empty);
        for bad in ["", "ab", &"zz".repeat(32), &"+1".repeat(32), &"é".repeat(32)] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_fall(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            other in any::<u8>(),
        ) {
            let _ = PeerCertificate::read(&bytes);
            // A real certificate with one byte changed: an error, or a name that is exact.
            let key = rcgen::KeyPair::generate().expect("a key");
            let mut params = rcgen::CertificateParams::default();
            let name = "spiffe://f1/node/n1".try_into().expect("a URI");
            params.subject_alt_names = vec![rcgen::SanType::URI(name)];
            let mut der = params.self_signed(&key).expect("a certificate").der().to_vec();
            let at = at.index(der.len());
            der[at] = other;
            if let Ok(read) = PeerCertificate::read(&der) {
                prop_assert_eq!(read.id.to_string().parse(), Ok(read.id));
            }
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        assert_eq!(PeerCertificate::read(b""), Err(CertificateProblem::Encoding));
        assert_eq!(PeerCertificate::read(&[0x30; 40]), Err(CertificateProblem::Encoding));
    }
}
