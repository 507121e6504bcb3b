//! Private keys. A key never leaves the machine that made it, cannot be printed, and is wiped from memory when dropped.

use std::fmt;

use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::IdentityError;
use super::certificate::KeyDigest;

/// A private key, PKCS#8.
#[derive(Clone)]
pub struct SecretKey {
    pkcs8: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// The label of a PKCS#8 key in PEM.
const PEM_LABEL: &str = "PRIVATE KEY";

impl SecretKey {
    /// A new ECDSA P-256 key: what every TLS stack speaks.
    pub fn generate() -> Result<Self, IdentityError> {
        let pair = KeyPair::generate().map_err(|_| IdentityError::Key("none could be made"))?;
        let pair = Zeroizing::new(pair);
        Ok(Self { pkcs8: Zeroizing::new(pair.serialize_der()) })
    }

    /// From PKCS#8 DER.
    pub fn from_pkcs8(der: Vec<u8>) -> Result<Self, IdentityError> {
        let key = Self { pkcs8: Zeroizing::new(der) };
        key.pair()?;
        Ok(key)
    }

    /// The first PKCS#8 key of a PEM text.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let sections =
            pem::parse_many(text).map_err(|_| IdentityError::Key("it is not a PEM text"))?;
        let mut found = Err(IdentityError::Key("there is no PKCS#8 key in it"));
        for section in sections {
            let is_key = section.tag() == PEM_LABEL;
            let bytes = Zeroizing::new(section.into_contents());
            if is_key && found.is_err() {
                found = Self::from_pkcs8(bytes.to_vec());
            }
        }
        found
    }

    /// As PEM, for a file that only its owner can read.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let section = pem::Pem::new(PEM_LABEL, self.pkcs8.as_slice());
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        let text = Zeroizing::new(pem::encode_config(&section, config));
        drop(Zeroizing::new(section.into_contents()));
        text
    }

    /// For signing certificates and requests.
    pub fn pair(&self) -> Result<Zeroizing<KeyPair>, IdentityError> {
        let der = PrivatePkcs8KeyDer::from(self.pkcs8.as_slice());
        let pair = KeyPair::try_from(&der).map_err(|_| IdentityError::Key("it is not PKCS#8"))?;
        Ok(Zeroizing::new(pair))
    }

    /// The digest of its public key.
    pub fn digest(&self) -> Result<KeyDigest, IdentityError> {
        Ok(KeyDigest::of(&self.pair()?.subject_public_key_info()))
    }

    /// A certificate signing request, DER. It carries no names: the controller chooses them.
    pub fn signing_request(&self) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params
            .serialize_request(&*self.pair()?)
            .map_err(|_| IdentityError::Key("it cannot sign a request"))?;
        Ok(request.der().to_vec())
    }

    /// For TLS handshakes.
    pub(super) fn signer(
        &self,
    ) -> Result<std::sync::Arc<dyn rustls::sign::SigningKey>, IdentityError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.as_slice()));
        rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(IdentityError::Tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_pem_and_is_never_printed() {
        let key = SecretKey::generate().expect("a key");
        let text = key.to_pem();
        let read = SecretKey::from_pem(&text).expect("the same key");
        assert_eq!(read.digest().expect("a digest"), key.digest().expect("a digest"));
        assert_eq!(format!("{key:?}"), "SecretKey(..)");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(SecretKey::from_pem("").is_err());
        assert!(
            SecretKey::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
                .is_err()
        );
        assert!(SecretKey::from_pkcs8(vec![0; 64]).is_err());
    }
}
