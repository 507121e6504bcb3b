//! Who speaks: certificates, mutual TLS, and the way from a connection to a [`Peer`].
//!
//! A fleet has one root. Its intermediate signs leaves whose single name says who the holder is:
//! `spiffe://<fleet id>/{controller, node/<id>, user/<name>}`. Both sides pin the root and nothing else: addresses of
//! rented servers change, so no DNS name is ever looked at. TLS 1.3 only, no resumption (a resumed session skips the
//! verifier), and a peer without a certificate ends in the handshake, except on the enrolment port.
//!
//! The acceptor ([`accept`]) is the only way into a server, the [`connect::Connector`] the only way out of a client.

pub mod accept;
pub mod certificate;
pub mod connect;
pub mod files;
mod gate;
pub mod key;
pub mod peer;
pub mod refused;
pub mod renew;
pub mod role;
pub mod server;
pub mod tls;
mod verify;

use std::path::PathBuf;

pub use accept::{AcceptLimits, Incoming, PeerInfo, PeerStream, incoming};
pub use certificate::{CertificateFacts, Fingerprint, KeyDigest, PeerCertificate, Serial};
pub use connect::{ClientIdentity, Connector, ControllerAddress};
pub use files::{IdentityDir, IdentityRecord};
pub use gate::{AcceptStats, source_of};
pub use key::SecretKey;
pub use peer::{Peer, SpiffeId};
pub use refused::{CertificateRefusal, certificate_refused};
pub use role::Role;
pub use server::{Plane, server_builder};
pub use tls::Credentials;

/// An identity that cannot be made, read or kept.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A certificate that is not one of ours.
    #[error("certificate is not usable: {0}")]
    Certificate(#[from] certificate::CertificateProblem),
    /// A private key that cannot be used.
    #[error("private key is not usable: {0}")]
    Key(&'static str),
    /// The key is not the certificate's.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The TLS library refused.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// A file of the identity is malformed.
    #[error("{path}: {why}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file cannot be read or written.
    #[error("{doing} {path}")]
    Io {
        /// Such as "cannot read".
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
