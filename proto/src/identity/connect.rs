//! The way out of a client: lazily connected channels over mutual TLS, each new connection with the newest identity.
//!
//! After the handshake the connector waits for the server's first bytes (HTTP/2 settings, which a server sends at once).
//! Only then does a TLS 1.3 client know that its certificate was taken; a refusal is thus an error of *connecting*, with
//! its reason, instead of a broken first call.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::IdentityError;
use super::certificate::PeerCertificate;
use super::refused::{CertificateRefusal, certificate_refused};
use super::server::{Plane, client_limits};
use super::tls::Credentials;

/// Where a controller listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerAddress {
    /// A host name or an address, without brackets.
    pub host: String,
    /// Link and operators.
    pub control_port: u16,
    /// Bulk data.
    pub bulk_port: u16,
    /// Enrolment.
    pub enrolment_port: u16,
}

impl ControllerAddress {
    /// The three ports follow each other, as they do unless somebody set them apart.
    #[must_use]
    pub fn consecutive(host: impl Into<String>, control_port: u16) -> Self {
        Self {
            host: host.into(),
            control_port,
            bulk_port: control_port.saturating_add(1),
            enrolment_port: control_port.saturating_add(2),
        }
    }

    /// The port of a plane.
    #[must_use]
    pub const fn port(&self, plane: Plane) -> u16 {
        match plane {
            Plane::Control => self.control_port,
            Plane::Bulk => self.bulk_port,
            Plane::Enrolment => self.enrolment_port,
        }
    }

    fn endpoint(&self, plane: Plane) -> Result<Endpoint, ConnectError> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        // `http`: TLS is the connector's business, not the transport's.
        let uri = format!("http://{bracketed}:{}", self.port(plane));
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|_| ConnectError::Address { host: self.host.clone() })?;
        Ok(client_limits(endpoint, plane))
    }
}

/// What a client shows when it connects. Held behind a `watch`: renewal sends a new one, and open connections stay.
#[derive(Clone)]
pub struct ClientIdentity {
    certificate: Option<PeerCertificate>,
    config: Arc<ClientConfig>,
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl ClientIdentity {
    /// An identity with these credentials.
    pub fn new(credentials: &Credentials) -> Result<Self, IdentityError> {
        Ok(Self {
            certificate: Some(credentials.certificate().clone()),
            config: credentials.client_config()?,
        })
    }

    /// No certificate, but the pinned root: for renewal of an expired certificate on the enrolment port.
    pub fn nameless(credentials: &Credentials) -> Result<Self, IdentityError> {
        Ok(Self { certificate: None, config: credentials.renewal_config()? })
    }

    pub(crate) const fn of_config(config: Arc<ClientConfig>) -> Self {
        Self { certificate: None, config }
    }

    /// Whom it names; absent for the nameless.
    #[must_use]
    pub const fn certificate(&self) -> Option<&PeerCertificate> {
        self.certificate.as_ref()
    }
}

/// Makes mutual TLS connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connector {
    identity: watch::Receiver<Arc<ClientIdentity>>,
}

impl Connector {
    /// Each new connection shows the newest identity of the watch.
    #[must_use]
    pub const fn new(identity: watch::Receiver<Arc<ClientIdentity>>) -> Self {
        Self { identity }
    }

    /// Always this identity.
    #[must_use]
    pub fn fixed(identity: ClientIdentity) -> Self {
        Self { identity: watch::channel(Arc::new(identity)).1 }
    }

    /// A channel that connects at the first call, and again after each break.
    pub fn channel(
        &self,
        address: &ControllerAddress,
        plane: Plane,
    ) -> Result<Channel, ConnectError> {
        Ok(address.endpoint(plane)?.connect_with_connector_lazy(self.clone()))
    }

    /// The same for somebody who waits at a keyboard: a connection is made within `patience` or not at all.
    pub fn channel_within(
        &self,
        address: &ControllerAddress,
        plane: Plane,
        patience: Duration,
    ) -> Result<Channel, ConnectError> {
        let endpoint = address.endpoint(plane)?.connect_timeout(patience);
        Ok(endpoint.connect_with_connector_lazy(self.clone()))
    }

    /// Makes one connection and lets it go: whether the controller takes this identity.
    pub async fn try_out(
        &self,
        address: &ControllerAddress,
        plane: Plane,
    ) -> Result<(), ConnectError> {
        let identity = Arc::clone(&self.identity.borrow());
        connect(address.endpoint(plane)?.uri().clone(), identity).await.map(drop)
    }
}

/// A connection that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address cannot be used.
    #[error("{host:?} is not a host name or an address")]
    Address {
        /// As it was given.
        host: String,
    },
    /// Nothing answers there.
    #[error("cannot connect to {to}")]
    Tcp {
        /// Where to.
        to: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The other side refused our certificate.
    #[error("{0}")]
    Refused(CertificateRefusal),
    /// What answers is not the fleet's controller, or its certificate is not in force.
    #[error("what answers there is not this fleet's controller")]
    NotTheController(#[source] rustls::Error),
    /// Something answers, but the handshake failed.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The connection was closed before the server said anything.
    #[error("the controller closed the connection at once: it may be overloaded")]
    Closed,
    /// Nothing came after the handshake.
    #[error("the controller does not speak")]
    Silent,
}

impl ConnectError {
    fn from_tls(error: io::Error) -> Self {
        if let Some(why) = certificate_refused(&error) {
            return Self::Refused(why);
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner @ rustls::Error::InvalidCertificate(_)) => {
                Self::NotTheController(inner.clone())
            }
            _ => Self::Handshake(error),
        }
    }
}

/// How long the handshake and the server's first bytes may each take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A server's first bytes are its settings, some 50 bytes; whatever has come by then is taken along.
const FIRST_READ: usize = 1024;

async fn connect(to: Uri, identity: Arc<ClientIdentity>) -> Result<ClientStream, ConnectError> {
    let host = to.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = to.port_u16().unwrap_or_default();
    let tcp = TcpStream::connect((host, port)).await.and_then(|tcp| {
        tcp.set_nodelay(true)?;
        Ok(tcp)
    });
    let tcp = tcp.map_err(|source| ConnectError::Tcp { to: format!("{host}:{port}"), source })?;
    // The verifier looks at no DNS name, and none is sent; the library wants one all the same.
    let name = ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]));
    let handshake = TlsConnector::from(Arc::clone(&identity.config)).connect(name, tcp);
    let mut tls = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_| ConnectError::Silent)?
        .map_err(ConnectError::from_tls)?;
    let mut first = Vec::with_capacity(FIRST_READ);
    let read = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.read_buf(&mut first)).await;
    match read.map_err(|_| ConnectError::Silent)? {
        Ok(0) => Err(ConnectError::Closed),
        Ok(_) => Ok(ClientStream { first, taken: 0, tls }),
        Err(error) => Err(ConnectError::from_tls(error)),
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<ClientStream>;
    type Error = ConnectError;
    type Future =
        Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send + 'static>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let identity = Arc::clone(&self.identity.borrow());
        Box::pin(async move { connect(to, identity).await.map(TokioIo::new) })
    }
}

/// One connection of a client; begins with the bytes that were read while connecting.
#[derive(Debug)]
pub struct ClientStream {
    first: Vec<u8>,
    taken: usize,
    tls: TlsStream<TcpStream>,
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.first.get(self.taken..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut self.tls).poll_read(cx, buf);
        }
        let (now, _) = left.split_at(left.len().min(buf.remaining()));
        buf.put_slice(now);
        self.taken += now.len();
        if self.taken == self.first.len() {
            self.first = Vec::new();
            self.taken = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
