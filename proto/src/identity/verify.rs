//! The two verifiers: what a server demands of a client's certificate, and a client of the controller's.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use super::certificate::{Fingerprint, PeerCertificate};
use super::peer::Peer;
use super::tls::Admission;
use crate::id::FleetId;

/// The answer to a certificate that is sound but does not name who it must name.
const WRONG_NAME: Error =
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);

/// TLS 1.2 is not offered; a peer that signs for it misbehaves.
const NO_TLS12: Error = Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered);

/// Demands a certificate that chains to the root, names a node or a user of this fleet, and is not denied.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) chain: Arc<dyn ClientCertVerifier>,
    pub(super) fleet: FleetId,
    pub(super) admission: Admission,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.chain.verify_client_cert(leaf, intermediates, now)?;
        let peer = PeerCertificate::read(leaf).map_err(|_| WRONG_NAME)?;
        if peer.id.fleet != self.fleet || peer.id.peer == Peer::Controller {
            return Err(WRONG_NAME);
        }
        if self.admission.denies(&peer) {
            return Err(CertificateError::Revoked.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// What a client holds against the controller's chain.
#[derive(Debug)]
pub(super) enum Pin {
    /// The root, and the fleet that it belongs to.
    Root {
        /// Holds exactly one root.
        roots: RootCertStore,
        /// The name must be of this fleet.
        fleet: FleetId,
    },
    /// Before enrolment only the root's fingerprint is known: the chain ends with the root itself.
    Fingerprint {
        /// What was printed beside the token.
        fingerprint: Fingerprint,
        /// The root that matched, once the chain has been verified.
        seen: Arc<Mutex<Option<CertificateDer<'static>>>>,
    },
}

/// Demands that the server is the controller. Addresses of rented servers change, so the DNS name is not looked at:
/// the chain must lead to the pinned root, be in force, be made for servers, and name the controller.
#[derive(Debug)]
pub(super) struct ControllerVerifier {
    pub(super) pin: Pin,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ControllerVerifier {
    fn chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        roots: &RootCertStore,
        now: UnixTime,
    ) -> Result<PeerCertificate, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let server = PeerCertificate::read(leaf).map_err(|_| WRONG_NAME)?;
        if server.id.peer == Peer::Controller { Ok(server) } else { Err(WRONG_NAME) }
    }
}

impl ServerCertVerifier for ControllerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.pin {
            Pin::Root { roots, fleet } => {
                let server = self.chain(leaf, intermediates, roots, now)?;
                if server.id.fleet != *fleet {
                    return Err(WRONG_NAME);
                }
            }
            Pin::Fingerprint { fingerprint, seen } => {
                let (root, between) =
                    intermediates.split_last().ok_or(CertificateError::UnknownIssuer)?;
                if Fingerprint::of(root) != *fingerprint {
                    return Err(CertificateError::UnknownIssuer.into());
                }
                let mut roots = RootCertStore::empty();
                roots.add(root.clone().into_owned())?;
                self.chain(leaf, between, &roots, now)?;
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                *seen = Some(root.clone().into_owned());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
