//! Issuing leaves. The controller chooses every name; of a signing request only the public key is used, once it is
//! proved that the requester holds its private half.

use std::time::Duration;

use hone_proto::identity::{
    CertificateFacts, Credentials, IdentityError, KeyDigest, Peer, PeerCertificate, SecretKey,
    SpiffeId,
};
use hone_proto::time::WallNanos;
use hone_proto::wire;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::authority::{Authority, AuthorityError, set_validity};
use crate::core::input::Subject;
use crate::core::record::CertificateRecord;

/// How long certificates live.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// A node's: 7 days.
    pub node: Duration,
    /// A person's: 30 days.
    pub user: Duration,
    /// The controller's own: 7 days; its key is made anew each time and never written down.
    pub controller: Duration,
    /// How long after its end a certificate still speaks for its renewal: 90 days.
    pub expired_renewal: Duration,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for Lifetimes {
    fn default() -> Self {
        Self { node: DAY * 7, user: DAY * 30, controller: DAY * 7, expired_renewal: DAY * 90 }
    }
}

impl Lifetimes {
    /// The life of this subject's certificates.
    #[must_use]
    pub const fn of(&self, subject: &Subject) -> Duration {
        match subject {
            Subject::Node(_) => self.node,
            Subject::User(_) => self.user,
        }
    }
}

/// A certificate that was issued: the answer, and what the fleet keeps of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Issued {
    /// What the peer is sent.
    pub answer: wire::IssuedCertificate,
    /// What tells it from others.
    pub facts: CertificateFacts,
}

impl Issued {
    /// What the fleet keeps of it.
    #[must_use]
    pub fn record(&self) -> CertificateRecord {
        CertificateRecord {
            key: self.facts.key.to_string(),
            not_after: self.facts.not_after,
            follows: None,
        }
    }
}

/// The authority with the lives that it grants.
#[derive(Debug)]
pub struct Issuer {
    /// Signs.
    pub authority: Authority,
    /// For how long.
    pub lifetimes: Lifetimes,
}

impl Issuer {
    /// A certificate over the request's key, in this subject's name.
    pub fn issue(
        &self,
        csr_der: &[u8],
        subject: &Subject,
        now: WallNanos,
    ) -> Result<Issued, AuthorityError> {
        self.authority.issue(csr_der, subject, self.lifetimes.of(subject), now)
    }
}

/// The longest signing request that is looked at. One over an EC key has some 300 bytes.
const MAX_REQUEST: usize = 8 << 10;

/// A signing request whose proof of possession holds.
pub struct Request {
    parsed: CertificateSigningRequestParams,
    key: KeyDigest,
}

impl Request {
    /// Parses a request and verifies that its key signed it.
    pub fn read(der: &[u8]) -> Result<Self, AuthorityError> {
        if der.len() > MAX_REQUEST {
            return Err(AuthorityError::Request("it is too long"));
        }
        let sent_key = sent_key(der)?;
        let der = CertificateSigningRequestDer::from(der);
        let parsed =
            CertificateSigningRequestParams::from_der(&der).map_err(|error| match error {
                rcgen::Error::InvalidCertificationRequestSignature => {
                    AuthorityError::Request("its signature does not prove that its key is held")
                }
                _ => AuthorityError::Request("it is malformed"),
            })?;
        let allowed =
            [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
        if !allowed.into_iter().any(|known| parsed.public_key.algorithm() == known) {
            return Err(AuthorityError::Request("its key is of a kind that is not taken"));
        }
        let key = KeyDigest::of(&parsed.public_key.subject_public_key_info());
        // The library infers the key's kind from the signature's; a request where the two differ is nobody's.
        if key != sent_key {
            return Err(AuthorityError::Request("its key does not fit its signature"));
        }
        Ok(Self { parsed, key })
    }

    /// Names the key.
    #[must_use]
    pub const fn key(&self) -> KeyDigest {
        self.key
    }
}

fn sent_key(der: &[u8]) -> Result<KeyDigest, AuthorityError> {
    match X509CertificationRequest::from_der(der) {
        Ok(([], request)) => Ok(KeyDigest::of(request.certification_request_info.subject_pki.raw)),
        _ => Err(AuthorityError::Request("it is malformed")),
    }
}

impl Authority {
    /// Issues a certificate over the request's key in this subject's name, backdated a little for clocks that lag.
    pub fn issue(
        &self,
        csr_der: &[u8],
        subject: &Subject,
        life: Duration,
        now: WallNanos,
    ) -> Result<Issued, AuthorityError> {
        let request = Request::read(csr_der)?;
        let (peer, name) = match subject {
            Subject::Node(id) => (Peer::Node(id.clone()), id.to_string()),
            Subject::User(user) => (Peer::User(user.clone()), user.to_string()),
        };
        let leaf = self.leaf(&request.parsed.public_key, peer, life, now)?;
        let facts = PeerCertificate::read(&leaf).map_err(IdentityError::from)?.facts;
        let answer = wire::IssuedCertificate {
            chain_der: vec![leaf.to_vec(), self.issuing.to_vec()],
            root_der: self.root.to_vec(),
            fleet_id: self.fleet.to_string(),
            subject: name,
            not_after_wall_ns: facts.not_after.get(),
        };
        Ok(Issued { answer, facts })
    }

    /// Credentials for a subject on this very machine: the first operator's, at `hone init`.
    pub fn local_credentials(
        &self,
        subject: &Subject,
        life: Duration,
        now: WallNanos,
    ) -> Result<Credentials, AuthorityError> {
        let key = SecretKey::generate()?;
        let issued = self.issue(&key.signing_request()?, subject, life, now)?;
        let chain = issued.answer.chain_der.into_iter().map(CertificateDer::from).collect();
        Ok(Credentials::new(self.root.clone(), chain, key)?)
    }

    /// The controller's own, with a new key that lives in memory only.
    pub fn controller_credentials(
        &self,
        life: Duration,
        now: WallNanos,
    ) -> Result<Credentials, AuthorityError> {
        let key = SecretKey::generate()?;
        let leaf = self.leaf(&*key.pair()?, Peer::Controller, life, now)?;
        Ok(Credentials::new(self.root.clone(), vec![leaf, self.issuing.clone()], key)?)
    }

    fn leaf(
        &self,
        key: &impl PublicKeyData,
        peer: Peer,
        life: Duration,
        now: WallNanos,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let (kind, purpose) = match peer {
            Peer::Controller => ("hone controller", ExtendedKeyUsagePurpose::ServerAuth),
            Peer::Node(_) => ("hone node", ExtendedKeyUsagePurpose::ClientAuth),
            Peer::User(_) => ("hone user", ExtendedKeyUsagePurpose::ClientAuth),
        };
        let unusable = |_| AuthorityError::Unusable("the certificate cannot be signed");
        let name = SpiffeId { fleet: self.fleet.clone(), peer }.to_string();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, kind);
        params.subject_alt_names = vec![SanType::URI(name.try_into().map_err(unusable)?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, life, now, self.issuing_until()?);
        let pair = self.key.pair()?;
        let issuer = rcgen::Issuer::from_ca_cert_der(&self.issuing, &*pair).map_err(unusable)?;
        let signed = params.signed_by(key, &issuer).map_err(unusable)?;
        Ok(signed.der().clone())
    }
}
