//! The client's side of enrolment: from a token and the root's fingerprint to an identity on disk.
//!
//! The controller is verified by the fingerprint in the TLS handshake, before anything is sent. The key is made here
//! and never leaves; the token is spent for a certificate over its public half.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use crate::error::{Reason, Refusal};
use crate::identity::connect::ConnectError;
use crate::identity::refused::refusal;
use crate::identity::renew::{Renewal, RenewalError, take_issued};
use crate::identity::tls::enrolling_config;
use crate::identity::{
    ClientIdentity, Connector, ControllerAddress, Credentials, Fingerprint, IdentityDir,
    IdentityError, IdentityRecord, Peer, Plane, SecretKey,
};
use crate::time::Now;
use crate::wire;

/// For one call of enrolment or renewal, the connection included. The controller makes one durable write for it.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest token that is sent: a printed one has 81 characters.
const MAX_TOKEN: usize = 256;

/// What `hone-agent join` and `hone login` have been told.
#[derive(Debug)]
pub struct Invitation {
    /// Where the controller listens.
    pub controller: ControllerAddress,
    /// SHA-256 of the fleet's root, printed beside the token.
    pub root: Fingerprint,
    /// The single-use token: from a file or standard input, never from arguments.
    pub token: SecretString,
    /// What the token is for.
    pub kind: wire::EnrolKind,
    /// How a node would like to be listed; empty for a person.
    pub display_name: String,
}

/// An enrolment that failed.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The token cannot be one.
    #[error("the token is empty or too long")]
    Token,
    /// The controller cannot be reached or is another one; it was sent nothing.
    #[error("cannot reach the controller")]
    Connect(#[from] ConnectError),
    /// The controller refused, or what answers is not the controller: the reason says which.
    #[error("{0}")]
    Refused(Refusal),
    /// What came back is not what was asked for.
    #[error("the controller's answer is not usable")]
    Answer(#[source] RenewalError),
    /// The answer names another kind of peer than was asked for.
    #[error("the controller's certificate names {0}")]
    WrongKind(Peer),
    /// The identity cannot be made or kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl EnrolError {
    /// The stable reason for it, which decides exit code and hint.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Refused(Refusal { reason, .. }) => *reason,
            Self::Connect(_) => Reason::Unavailable,
            Self::Token => Reason::TokenRefused,
            Self::Answer(_) | Self::WrongKind(_) => Reason::Protocol,
            Self::Identity(_) => Reason::Internal,
        }
    }
}

/// Whether an identity is of no use any more, so that another one may take its place: it has expired, or the controller
/// refuses it.
///
/// # Errors
/// When it is valid by its date, and its controller cannot be asked.
pub async fn is_spent(
    credentials: &Credentials,
    controller: &ControllerAddress,
) -> Result<bool, ConnectError> {
    if Now::read().wall >= credentials.certificate().facts.not_after {
        return Ok(true);
    }
    // What cannot be shown cannot be used either.
    let Ok(identity) = ClientIdentity::new(credentials) else { return Ok(true) };
    match Connector::fixed(identity).try_out(controller, Plane::Control).await {
        Ok(()) => Ok(false),
        Err(ConnectError::Refused(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Enrols and keeps the identity in `dir`. The folder is tried first, so that no token is spent in vain.
pub async fn join(
    dir: &IdentityDir,
    invitation: Invitation,
) -> Result<(Credentials, IdentityRecord), EnrolError> {
    dir.prepare()?;
    let controller = invitation.controller.clone();
    let credentials = enrol(invitation).await.inspect_err(|_| dir.leave())?;
    let record = dir.create(&credentials, controller)?;
    Ok((credentials, record))
}

/// Spends a token for credentials; keeps nothing.
pub async fn enrol(invitation: Invitation) -> Result<Credentials, EnrolError> {
    let token = invitation.token.expose_secret().trim();
    if token.is_empty() || token.len() > MAX_TOKEN {
        return Err(EnrolError::Token);
    }
    let (config, seen) = enrolling_config(invitation.root)?;
    let connector = Connector::fixed(ClientIdentity::of_config(config));
    let channel = connector.channel(&invitation.controller, Plane::Enrolment)?;
    let key = SecretKey::generate()?;
    let request = wire::EnrolRequest {
        token: token.to_owned(),
        signing_request: Some(wire::SigningRequest { csr_der: key.signing_request()? }),
        kind: invitation.kind.into(),
        display_name: invitation.display_name,
    };
    let mut client = wire::enrolment_client::EnrolmentClient::new(channel);
    let issued = in_time(client.enrol(request)).await.map_err(EnrolError::Refused)?;
    let root = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    let root = root.ok_or(EnrolError::Answer(RenewalError::Unusable("no root was verified")))?;
    let credentials = take_issued(issued, &root, key).map_err(EnrolError::Answer)?;
    match (invitation.kind, &credentials.certificate().id.peer) {
        (wire::EnrolKind::Node, Peer::Node(_)) | (wire::EnrolKind::User, Peer::User(_)) => {
            Ok(credentials)
        }
        (_, other) => Err(EnrolError::WrongKind(other.clone())),
    }
}

/// Asks the controller for a renewal by the way that fits: see [`Renewal`]. What [`crate::identity::renew::Renewer`]
/// wants as its `ask`.
pub async fn ask_renewal(
    connector: Connector,
    nameless: Arc<ClientIdentity>,
    controller: ControllerAddress,
    renewal: Renewal,
) -> Result<wire::IssuedCertificate, Refusal> {
    let unreachable = |error: ConnectError| Refusal::new(Reason::Unavailable, error.to_string());
    match renewal {
        Renewal::InForce(request) => {
            let channel = connector.channel(&controller, Plane::Control).map_err(unreachable)?;
            in_time(wire::link_client::LinkClient::new(channel).renew(request)).await
        }
        Renewal::Expired(request) => {
            let connector = Connector::fixed(ClientIdentity::clone(&nameless));
            let channel = connector.channel(&controller, Plane::Enrolment).map_err(unreachable)?;
            let mut client = wire::enrolment_client::EnrolmentClient::new(channel);
            in_time(client.renew_expired(request)).await
        }
    }
}

async fn in_time<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Refusal> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refusal(&status)),
        Err(_) => Err(Refusal::new(Reason::Unavailable, "the controller does not answer")),
    }
}
