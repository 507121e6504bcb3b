//! TLS configurations. They are made here and nowhere else, so that none can lack a line.

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::IdentityError;
use super::certificate::{CertificateProblem, Fingerprint, PeerCertificate};
use super::key::SecretKey;
use super::verify::{ClientVerifier, ControllerVerifier, Pin};

/// gRPC's protocol, the only one spoken.
const ALPN: &[u8] = b"h2";

/// The one crypto provider. Passed explicitly: with two linked, a default would panic.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// A key with its certificate chain, and the root that its holder pins.
#[derive(Clone)]
pub struct Credentials {
    certificate: PeerCertificate,
    chain: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    key: SecretKey,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Puts them together. The chain is the leaf, then what leads to the root, without the root.
    pub fn new(
        root: CertificateDer<'static>,
        chain: Vec<CertificateDer<'static>>,
        key: SecretKey,
    ) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or(CertificateProblem::Missing)?;
        let certificate = PeerCertificate::read(leaf)?;
        if certificate.facts.key != key.digest()? {
            return Err(IdentityError::KeyMismatch);
        }
        Ok(Self { certificate, chain, root, key })
    }

    /// Whom they are for, and until when.
    #[must_use]
    pub const fn certificate(&self) -> &PeerCertificate {
        &self.certificate
    }

    /// The leaf, then the intermediates.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The root that the holder pins.
    #[must_use]
    pub const fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The private key.
    #[must_use]
    pub const fn key(&self) -> &SecretKey {
        &self.key
    }

    fn resolver(&self, with_root: bool) -> Result<Arc<SingleCertAndKey>, IdentityError> {
        let mut chain = self.chain.clone();
        if with_root {
            chain.push(self.root.clone());
        }
        let certified = CertifiedKey::new(chain, self.key.signer()?);
        Ok(Arc::new(SingleCertAndKey::from(certified)))
    }

    fn roots(&self) -> Result<RootCertStore, IdentityError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).map_err(IdentityError::Tls)?;
        Ok(roots)
    }

    /// For the control and bulk ports: a client without a certificate of this fleet's root ends in the handshake.
    pub fn server_config(&self, admission: Admission) -> Result<Arc<ServerConfig>, IdentityError> {
        let chain =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider())
                .build()
                .map_err(|error| IdentityError::Tls(rustls::Error::General(error.to_string())))?;
        let verifier =
            ClientVerifier { chain, fleet: self.certificate.id.fleet.clone(), admission };
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(IdentityError::Tls)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.resolver(false)?);
        Ok(Arc::new(hardened(config)))
    }

    /// For the enrolment port: clients have no certificate yet. The chain ends with the root, so that they can hold it
    /// against the fingerprint that they were given.
    pub fn enrolment_config(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(IdentityError::Tls)?
            .with_no_client_auth()
            .with_cert_resolver(self.resolver(true)?);
        Ok(Arc::new(hardened(config)))
    }

    /// For a client of this fleet.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, IdentityError> {
        let pin = Pin::Root { roots: self.roots()?, fleet: self.certificate.id.fleet.clone() };
        let config = client(pin)?.with_client_cert_resolver(self.resolver(false)?);
        Ok(Arc::new(quiet(config)))
    }

    /// For a client whose certificate has expired: the enrolment port asks for none.
    pub fn renewal_config(&self) -> Result<Arc<ClientConfig>, IdentityError> {
        let pin = Pin::Root { roots: self.roots()?, fleet: self.certificate.id.fleet.clone() };
        Ok(Arc::new(quiet(client(pin)?.with_no_client_auth())))
    }
}

/// The root that an enrolling client has verified by its fingerprint.
pub type SeenRoot = Arc<Mutex<Option<CertificateDer<'static>>>>;

/// For a client that has nothing but the root's fingerprint. The root is kept in the second part once it was verified.
pub fn enrolling_config(
    fingerprint: Fingerprint,
) -> Result<(Arc<ClientConfig>, SeenRoot), IdentityError> {
    let seen = SeenRoot::default();
    let pin = Pin::Fingerprint { fingerprint, seen: Arc::clone(&seen) };
    Ok((Arc::new(quiet(client(pin)?.with_no_client_auth())), seen))
}

fn client(
    pin: Pin,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, IdentityError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(IdentityError::Tls)?;
    let verifier = Arc::new(ControllerVerifier { pin, algorithms });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

/// No resumption of any kind: a resumed session skips the verifier, so a revoked peer would be let in again.
fn hardened(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config
}

/// The client's half, and no server name: it would tell the network which fleet this is.
fn quiet(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config
}

/// The live deny set, asked in each handshake. (It is asked again on every call: a handshake is long ago.)
#[derive(Clone)]
pub struct Admission(Arc<dyn Fn(&PeerCertificate) -> bool + Send + Sync>);

impl Admission {
    /// Denies the certificates for which `denied` is true.
    pub fn denying(denied: impl Fn(&PeerCertificate) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(denied))
    }

    /// Leaves the decision to the check on each call.
    #[must_use]
    pub fn later() -> Self {
        Self::denying(|_| false)
    }

    pub(super) fn denies(&self, peer: &PeerCertificate) -> bool {
        (self.0)(peer)
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admission(..)")
    }
}
