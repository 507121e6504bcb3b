//! A bulk service and its clients in one process: real gRPC over pipes that can be cut, a real chunk store that counts,
//! a fleet that answers as told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use hone_proto::bulk::{Client, Retry, Scope};
use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{
    Attempt, AttemptId, Digest, Generation, JobId, ProjectName, RequestId, Token,
};
use hone_proto::identity::certificate::{CertificateFacts, KeyDigest, PeerCertificate, Serial};
use hone_proto::identity::{Peer, PeerInfo};
use hone_proto::manifest::Manifest;
use hone_proto::quantity::Bytes;
use hone_proto::time::WallNanos;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint, Server};

use crate::api::bulk::{Chunks, CommitCall, Fleet, Limits, Service};
use crate::chunks::{ChunkError, ChunkStore};

/// Who calls, as its test says.
pub(super) const PEER: &str = "x-test-peer";

/// In the place of TLS: the peer that the client says it is, such as `user/ada`.
fn peer_info(request: &Request<()>) -> Option<PeerInfo> {
    let name = request.metadata().get(PEER)?.to_str().ok()?;
    let facts = CertificateFacts {
        serial: Serial::from_bytes(&[1]),
        not_before: WallNanos::new(0),
        not_after: WallNanos::new(u64::MAX),
        key: KeyDigest::of(name.as_bytes()),
    };
    let id = format!("spiffe://fleet/{name}").parse().ok()?;
    let certificate = Some(Arc::new(PeerCertificate { id, facts }));
    Some(PeerInfo::new(certificate, ([127, 0, 0, 1], 1).into()))
}

/// A real store that counts, and fails when told to.
pub(super) struct Counting {
    store: ChunkStore,
    /// How often each object was sent.
    pub(super) puts: Mutex<BTreeMap<Digest, usize>>,
    pub(super) gets: AtomicUsize,
    /// What was made durable before a commit.
    pub(super) settled: Mutex<BTreeSet<Digest>>,
    /// The next calls of `put` fail.
    pub(super) full: AtomicUsize,
}

impl Counting {
    pub(super) fn sent(&self) -> usize {
        self.puts.lock().unwrap().values().sum()
    }
}

impl Chunks for Counting {
    fn missing(&self, project: &ProjectName, all: &[Digest]) -> Result<Vec<Digest>, ChunkError> {
        self.store.missing(project, all)
    }
    fn unfit(&self, project: &ProjectName, manifest: &Manifest) -> Result<Vec<Digest>, ChunkError> {
        Chunks::unfit(&self.store, project, manifest)
    }
    fn settle(&self, project: &ProjectName, digests: &[Digest]) -> Result<(), ChunkError> {
        self.settled.lock().unwrap().extend(digests);
        self.store.settle(project, digests)
    }
    fn put(&self, project: &ProjectName, digest: Digest, bytes: &[u8]) -> Result<(), ChunkError> {
        *self.puts.lock().unwrap().entry(digest).or_default() += 1;
        let fails =
            self.full.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if fails.is_ok() {
            return Err(ChunkError::DiskFull { free: Bytes::ZERO, keep: Bytes::gib(1) });
        }
        Chunks::put(&self.store, project, digest, bytes)
    }
    fn get(&self, project: &ProjectName, digest: Digest) -> Result<Vec<u8>, ChunkError> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.store.get(project, digest)
    }
}

/// What the fleet knows.
#[derive(Default)]
pub(super) struct Known {
    /// Whose attempt it is, and in which project.
    pub(super) attempts: BTreeMap<AttemptId, (Peer, ProjectName)>,
    /// Attempts that a later one has replaced.
    pub(super) stale: BTreeSet<AttemptId>,
    /// Attempts that are replaced just before they commit.
    pub(super) stale_at_commit: BTreeSet<AttemptId>,
    /// Who works in which project.
    pub(super) members: BTreeSet<(Peer, ProjectName)>,
    /// What is visible.
    pub(super) committed: BTreeSet<(ProjectName, Digest)>,
    /// What an attempt's assignment names.
    pub(super) assigned: BTreeSet<(AttemptId, Digest)>,
    /// Every commit that came, with its request.
    pub(super) commits: Vec<(RequestId, Digest)>,
    /// So many commits are done, and their answers lost.
    pub(super) lose_answers: usize,
}

/// A fleet that answers by what it knows.
#[derive(Default)]
pub(super) struct Told(pub(super) Mutex<Known>);

fn no(reason: Reason, message: &str) -> Refusal {
    Refusal::new(reason, message)
}

impl Fleet for Told {
    async fn authorise_scope(&self, who: &Peer, scope: &Scope) -> Result<ProjectName, Refusal> {
        let known = self.0.lock().unwrap();
        match scope {
            Scope::Attempt(attempt) if known.stale.contains(attempt) => {
                Err(no(Reason::StaleAttempt, "a later attempt exists"))
            }
            Scope::Attempt(attempt) => match known.attempts.get(attempt) {
                Some((node, project)) if node == who => Ok(project.clone()),
                _ => Err(no(Reason::NotFound, "no such attempt")),
            },
            Scope::Project(project) if known.members.contains(&(who.clone(), project.clone())) => {
                Ok(project.clone())
            }
            Scope::Project(_) => Err(no(Reason::NotFound, "no such project")),
        }
    }

    async fn commit(&self, call: CommitCall) -> Result<(), Refusal> {
        let mut known = self.0.lock().unwrap();
        if let Scope::Attempt(attempt) = call.scope
            && known.stale_at_commit.contains(&attempt)
        {
            return Err(no(Reason::StaleAttempt, "a later attempt exists"));
        }
        known.commits.push((call.request, call.manifest.digest()));
        let project = call.manifest.manifest().project.clone();
        known.committed.insert((project, call.manifest.digest()));
        if known.lose_answers > 0 {
            known.lose_answers -= 1;
            return Err(no(Reason::Unavailable, "shutting down"));
        }
        Ok(())
    }

    async fn readable(
        &self,
        _who: &Peer,
        scope: &Scope,
        project: &ProjectName,
        manifest: Digest,
    ) -> Result<(), Refusal> {
        let known = self.0.lock().unwrap();
        let there = known.committed.contains(&(project.clone(), manifest));
        let named = match scope {
            Scope::Attempt(attempt) => known.assigned.contains(&(*attempt, manifest)),
            Scope::Project(_) => true,
        };
        if there && named { Ok(()) } else { Err(no(Reason::NotFound, "no such manifest")) }
    }
}

/// A pipe that breaks when its budget of bytes is used up. A new connection gets a new budget.
struct Pipe {
    inner: DuplexStream,
    budget: Arc<AtomicI64>,
}

impl Pipe {
    fn spend(&self, bytes: usize) -> io::Result<()> {
        let bytes = i64::try_from(bytes).unwrap();
        if self.budget.fetch_sub(bytes, Ordering::SeqCst) <= 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        match polled {
            Poll::Ready(Ok(())) => Poll::Ready(self.spend(buffer.filled().len() - before)),
            other => other,
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.spend(bytes.len())?;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Everything that a test needs.
pub(super) struct World {
    pub(super) chunks: Arc<Counting>,
    pub(super) fleet: Arc<Told>,
    pub(super) dir: tempfile::TempDir,
    /// Connections made so far.
    pub(super) connections: Arc<AtomicUsize>,
    /// Budgets of the next connections, in bytes; those after them never break.
    pub(super) budgets: Arc<Mutex<Vec<i64>>>,
    dial: mpsc::Sender<io::Result<DuplexStream>>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub(super) fn with_limits(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ChunkStore::open(&dir.path().join("chunks"), Bytes::ZERO).unwrap();
        let chunks = Arc::new(Counting {
            store,
            puts: Mutex::default(),
            gets: AtomicUsize::new(0),
            settled: Mutex::default(),
            full: AtomicUsize::new(0),
        });
        let fleet = Arc::new(Told::default());
        let service = Service::new(Arc::clone(&chunks), Arc::clone(&fleet), limits);
        let named = |mut request: Request<()>| {
            if let Some(info) = peer_info(&request) {
                request.extensions_mut().insert(info);
            }
            Ok(request)
        };
        let service =
            tonic::service::interceptor::InterceptedService::new(service.into_server(), named);
        let (dial, accept) = mpsc::channel(8);
        let serving = Server::builder()
            .max_frame_size(256 << 10)
            .initial_stream_window_size(16 << 20)
            .initial_connection_window_size(32 << 20)
            .add_service(service)
            .serve_with_incoming(ReceiverStream::new(accept).map(|pipe| pipe));
        tokio::spawn(serving);
        let (connections, budgets) = (Arc::default(), Arc::default());
        Self { chunks, fleet, dir, connections, budgets, dial }
    }

    /// A channel that dials the service anew whenever its pipe has broken.
    pub(super) fn channel(&self) -> Channel {
        let dial = self.dial.clone();
        let (connections, budgets) = (Arc::clone(&self.connections), Arc::clone(&self.budgets));
        let connector = tower::service_fn(move |_| {
            let dial = dial.clone();
            connections.fetch_add(1, Ordering::SeqCst);
            let budget = budgets.lock().unwrap().pop().unwrap_or(i64::MAX);
            async move {
                let (near, far) = duplex(1 << 20);
                dial.send(Ok(far)).await.map_err(io::Error::other)?;
                let budget = Arc::new(AtomicI64::new(budget));
                Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(Pipe { inner: near, budget }))
            }
        });
        Endpoint::from_static("http://bulk.test").connect_with_connector_lazy(connector)
    }

    /// A client as this peer, impatient as tests are.
    pub(super) fn client(&self, peer: &str, scope: Scope) -> Client {
        let retry = Retry::tries(5).with_pauses(Duration::from_millis(1), Duration::from_millis(5));
        let peer = peer.parse::<tonic::metadata::AsciiMetadataValue>().unwrap();
        Client::new(self.channel(), scope, retry).with_metadata(Arc::new(move |metadata| {
            metadata.insert(PEER, peer.clone());
        }))
    }

    /// The user `ada` of project `a`.
    pub(super) fn ada(&self) -> Client {
        self.fleet.0.lock().unwrap().members.insert((user("ada"), project("a")));
        self.client("user/ada", Scope::Project(project("a")))
    }

    /// The node `n1` with attempt 1 of job 7 of project `a`.
    pub(super) fn node(&self) -> Client {
        let mut known = self.fleet.0.lock().unwrap();
        known.attempts.insert(attempt(), (node("n1"), project("a")));
        drop(known);
        self.client("node/n1", Scope::Attempt(attempt()))
    }

    pub(super) fn committed(&self) -> usize {
        self.fleet.0.lock().unwrap().committed.len()
    }
}

pub(super) fn project(name: &str) -> ProjectName {
    name.parse().unwrap()
}

pub(super) const fn attempt() -> AttemptId {
    let token = Token { generation: Generation::new(1), attempt: Attempt::new(1) };
    AttemptId { job: JobId::new(7), token }
}

pub(super) fn user(name: &str) -> Peer {
    Peer::User(name.parse().unwrap())
}

pub(super) fn node(name: &str) -> Peer {
    Peer::Node(name.parse().unwrap())
}
