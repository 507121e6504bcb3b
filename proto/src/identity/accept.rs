//! The way into a server: TCP, an accept gate, a TLS handshake with a deadline, and the peer's certificate on every
//! request.
//!
//! The transport library bounds none of this by itself: no handshake deadline, no cap on handshakes in progress, and
//! at the end of the file descriptors its accept loop spins.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::certificate::PeerCertificate;
use super::gate::{AcceptStats, Count, Gate, Place};

/// Bounds of one port.
#[derive(Debug, Clone, Copy)]
pub struct AcceptLimits {
    /// Handshakes in progress. 128: a fleet that reconnects at once after a restart fits, a flood does not.
    pub pending: usize,
    /// Handshakes in progress from one source. 16: several agents behind one NAT reconnect together.
    pub pending_per_source: usize,
    /// Connections in all. 1024: below the usual soft limit of file descriptors times two ports.
    pub connections: usize,
    /// Connections from one source. 256: a room full of machines behind one NAT, a few connections each.
    pub connections_per_source: usize,
    /// For the whole handshake. 10 s: a lossy link with several retransmissions still gets through.
    pub handshake: Duration,
    /// From the handshake to the first byte of HTTP/2. 10 s, like the handshake.
    pub first_bytes: Duration,
    /// A connection is cut after this, whatever it does. None by default: links stay up for weeks.
    pub lifetime: Option<Duration>,
}

impl Default for AcceptLimits {
    fn default() -> Self {
        Self {
            pending: 128,
            pending_per_source: 16,
            connections: 1024,
            connections_per_source: 256,
            handshake: Duration::from_secs(10),
            first_bytes: Duration::from_secs(10),
            lifetime: None,
        }
    }
}

impl AcceptLimits {
    /// For the enrolment port, where anybody may connect: one call, then the connection goes.
    #[must_use]
    pub fn enrolment() -> Self {
        Self {
            connections: 128,
            connections_per_source: 32,
            lifetime: Some(Duration::from_secs(60)),
            ..Self::default()
        }
    }
}

/// Finished handshakes that wait for the server to take them.
const READY_QUEUE: usize = 32;

/// Pause after `accept` failed: doubles from the first to the last while it keeps failing.
const ACCEPT_PAUSE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(20)..=Duration::from_secs(1);

/// From the refusal of a call to the end of its connection.
const HANG_UP_DELAY: Duration = Duration::from_millis(300);

/// Who is at the other end of the connection that a request came on. In each request's extensions.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// The verified certificate; absent on the enrolment port only.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// Where the connection came from.
    pub remote: SocketAddr,
    hang_up: CancellationToken,
}

impl PeerInfo {
    /// As the acceptor makes it; tests make it by themselves.
    #[must_use]
    pub fn new(certificate: Option<Arc<PeerCertificate>>, remote: SocketAddr) -> Self {
        Self { certificate, remote, hang_up: CancellationToken::new() }
    }

    /// Ends the connection, shortly after, so that an answer under way still arrives. A peer whose certificate is no
    /// longer in force must come again: HTTP/2 would keep its connection for ever.
    pub fn hang_up(&self) {
        if !self.hang_up.is_cancelled() {
            let hang_up = self.hang_up.clone();
            tokio::spawn(async move {
                tokio::time::sleep(HANG_UP_DELAY).await;
                hang_up.cancel();
            });
        }
    }
}

/// Serves TLS connections that come to `listener`. Each handshake takes the newest configuration of `tls`, so that a
/// renewed certificate needs no new listener. Goes on until the stream is dropped; never yields an error.
#[must_use]
pub fn incoming(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    limits: AcceptLimits,
) -> Incoming {
    let gate = Gate::new(limits);
    let (ready, connections) = mpsc::channel(READY_QUEUE);
    tokio::spawn(accept_loop(listener, tls, limits, Arc::clone(&gate), ready));
    Incoming { connections, gate }
}

/// The connections of one port: hand it to `serve_with_incoming`.
#[derive(Debug)]
pub struct Incoming {
    connections: mpsc::Receiver<PeerStream>,
    gate: Arc<Gate>,
}

impl Incoming {
    /// A function that reads the port's counts, also after the stream was handed over.
    pub fn stats(&self) -> impl Fn() -> AcceptStats + Send + Sync + 'static {
        let gate = Arc::clone(&self.gate);
        move || gate.stats()
    }
}

impl tokio_stream::Stream for Incoming {
    type Item = io::Result<PeerStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx).map(|next| next.map(Ok))
    }
}

async fn accept_loop(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    limits: AcceptLimits,
    gate: Arc<Gate>,
    ready: mpsc::Sender<PeerStream>,
) {
    let mut handshakes = JoinSet::new();
    let mut pause = *ACCEPT_PAUSE.start();
    loop {
        let accepted = tokio::select! {
            () = ready.closed() => return,
            Some(_) = handshakes.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, remote)) => {
                pause = *ACCEPT_PAUSE.start();
                let Some(place) = gate.enter(remote.ip()) else {
                    tracing::debug!(%remote, "connection turned away: too many");
                    continue;
                };
                let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
                let (gate, ready) = (Arc::clone(&gate), ready.clone());
                handshakes.spawn(async move {
                    let handshake = handshake(acceptor, tcp, remote, place, limits);
                    match tokio::time::timeout(limits.handshake, handshake).await {
                        Ok(Ok(stream)) => {
                            // Fails when the server has stopped; the connection is then closed.
                            let _ = ready.send(stream).await;
                        }
                        Ok(Err(error)) => {
                            gate.count(Count::FailedHandshake);
                            tracing::debug!(%remote, %error, "handshake failed");
                        }
                        Err(_) => {
                            gate.count(Count::LateHandshake);
                            tracing::debug!(%remote, "handshake took too long");
                        }
                    }
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                gate.count(Count::AcceptError);
                tracing::warn!(%error, ?pause, "cannot accept connections");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(*ACCEPT_PAUSE.end());
            }
        }
    }
}

/// Errors of a connection that was gone before it was accepted: the listener itself is well.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

async fn handshake(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    remote: SocketAddr,
    mut place: Place,
    limits: AcceptLimits,
) -> io::Result<PeerStream> {
    tcp.set_nodelay(true)?;
    let tls = acceptor.accept(tcp).await?;
    let leaf = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = leaf.map(|leaf| PeerCertificate::read(leaf)).transpose();
    let certificate = certificate.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
    place.established();
    let deadline = Some(Box::pin(tokio::time::sleep(limits.first_bytes)));
    let info = PeerInfo::new(certificate.map(Arc::new), remote);
    let hung_up = Box::pin(info.hang_up.clone().cancelled_owned());
    Ok(PeerStream {
        tls,
        info,
        hung_up,
        deadline,
        lifetime: limits.lifetime,
        spoke: false,
        _place: place,
    })
}

/// One accepted TLS connection.
#[derive(Debug)]
pub struct PeerStream {
    tls: TlsStream<TcpStream>,
    info: PeerInfo,
    hung_up: Pin<Box<WaitForCancellationFutureOwned>>,
    /// First for the first byte, then for the connection's life.
    deadline: Option<Pin<Box<Sleep>>>,
    lifetime: Option<Duration>,
    spoke: bool,
    _place: Place,
}

impl Connected for PeerStream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if self.hung_up.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tls).poll_read(cx, buf))?;
        if !self.spoke && buf.filled().len() > before {
            self.spoke = true;
            let until = self.lifetime.map(|lifetime| Instant::now() + lifetime);
            self.deadline = until.map(|until| Box::pin(tokio::time::sleep_until(until)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PeerStream {
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
