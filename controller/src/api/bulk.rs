//! The bulk service: `bulk.proto` over a chunk store and the fleet.
//!
//! ```text
//! Upload    frames ─► assemble (one chunk) ─► verify, sync ─► ack      bounded per stream, per peer and in all
//! Commit    manifest valid? of this scope? chunks all there, of the right sizes? ─► manifest stored
//!           ─► the fleet decides and makes it durable (fencing) ─► reply
//! Download  readable? named by the manifest? ─► read, verified ─► frames
//! ```
//!
//! Whether a caller may act for a scope, and which manifests it may read, is the fleet's to say. Within a scope a
//! digest is taken as proof enough to *store* a chunk or to build a manifest of it: nobody can guess the BLAKE3 of
//! content that he does not have. To *read*, a manifest that the caller may read must name the chunk.

mod commit;
mod limits;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use hone_proto::bulk::{DIGESTS, MESSAGE, Scope};
use hone_proto::convert;
use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{Digest, ProjectName, RequestId};
use hone_proto::identity::{Peer, PeerInfo};
use hone_proto::manifest::{Manifest, Sealed, decode_and_validate};
use hone_proto::wire::bulk_server::{Bulk, BulkServer};
use hone_proto::wire::{
    ChunkStored, CommitReply, CommitRequest, DownloadFrame, DownloadRequest, GetManifestReply,
    GetManifestRequest, MissingReply, MissingRequest, UploadFrame,
};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::chunks::{ChunkError, ChunkStore};
pub use limits::Limits;
use limits::{Slot, Slots};

/// Objects by project: chunks, and manifests as they are. Blocking; the service calls it off the runtime's threads.
/// [`ChunkStore`] says what each call promises.
pub trait Chunks: Send + Sync + 'static {
    /// Those of the digests that the project lacks.
    fn missing(&self, project: &ProjectName, digests: &[Digest])
    -> Result<Vec<Digest>, ChunkError>;

    /// Those of a manifest's chunks that the project lacks or has in another length.
    fn unfit(&self, project: &ProjectName, manifest: &Manifest) -> Result<Vec<Digest>, ChunkError>;

    /// Makes objects durable that are there already, whoever stored them.
    fn settle(&self, project: &ProjectName, digests: &[Digest]) -> Result<(), ChunkError>;

    /// Verifies an object against its digest and makes it durable.
    fn put(&self, project: &ProjectName, digest: Digest, bytes: &[u8]) -> Result<(), ChunkError>;

    /// An object, verified.
    fn get(&self, project: &ProjectName, digest: Digest) -> Result<Vec<u8>, ChunkError>;
}

impl Chunks for ChunkStore {
    fn missing(
        &self,
        project: &ProjectName,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, ChunkError> {
        Self::missing(self, project, digests)
    }

    fn unfit(&self, project: &ProjectName, manifest: &Manifest) -> Result<Vec<Digest>, ChunkError> {
        let mut seen = HashSet::new();
        let pieces = manifest.files.iter().flat_map(|file| file.pieces());
        Self::unfit(self, project, pieces.filter(|piece| seen.insert(piece.digest)))
    }

    fn settle(&self, project: &ProjectName, digests: &[Digest]) -> Result<(), ChunkError> {
        Self::settle(self, project, digests)
    }

    fn put(&self, project: &ProjectName, digest: Digest, bytes: &[u8]) -> Result<(), ChunkError> {
        Self::put(self, project, digest, bytes).map(|_| ())
    }

    fn get(&self, project: &ProjectName, digest: Digest) -> Result<Vec<u8>, ChunkError> {
        Self::get(self, project, digest)
    }
}

/// What a peer may know of a failure. Paths on the controller's disk are not among it.
fn refusal(error: &ChunkError) -> Refusal {
    let (reason, message) = match error {
        ChunkError::NotFound { digest } => (Reason::NotFound, not_stored(*digest)),
        ChunkError::WrongDigest { .. } | ChunkError::DiskFull { .. } => {
            let full = matches!(error, ChunkError::DiskFull { .. });
            let reason = if full { Reason::OutOfSpace } else { Reason::Corrupt };
            (reason, error.to_string())
        }
        ChunkError::Corrupt { digest, .. } => {
            (Reason::Corrupt, format!("object {digest} is damaged"))
        }
        ChunkError::TooLarge { .. } => (Reason::BadRequest, error.to_string()),
        _ => {
            tracing::error!(error = error as &dyn std::error::Error, "the chunk store failed");
            (Reason::Internal, "the chunk store failed".to_owned())
        }
    };
    Refusal::new(reason, message)
}

/// The same words whether it is absent, another project's, or not the caller's to read.
fn not_stored(digest: Digest) -> String {
    format!("{digest} is not stored")
}

/// A manifest whose chunks are all stored, and who wants it visible.
#[derive(Debug, Clone)]
pub struct CommitCall {
    /// Who.
    pub caller: Peer,
    /// On whose behalf.
    pub scope: Scope,
    /// The manifest, stored durably.
    pub manifest: Sealed,
    /// Client-made; a retry has one effect.
    pub request: RequestId,
}

/// What the service asks of the fleet.
pub trait Fleet: Send + Sync + 'static {
    /// The scope's project, if the caller may act for it now: a user with a role that may submit, or the node to which
    /// the attempt is assigned and current. What does not exist and what is somebody else's get the same refusal.
    /// Asked again while a stream lasts, so it also refuses whoever was revoked meanwhile.
    fn authorise_scope(
        &self,
        caller: &Peer,
        scope: &Scope,
    ) -> impl Future<Output = Result<ProjectName, Refusal>> + Send;

    /// The scope's project, if the caller may commit for it. Also for an attempt that is over: an answer that was lost is
    /// given again, and whatever is new is refused by [`Fleet::commit`].
    fn scope_of_commit(
        &self,
        caller: &Peer,
        scope: &Scope,
    ) -> impl Future<Output = Result<ProjectName, Refusal>> + Send {
        self.authorise_scope(caller, scope)
    }

    /// Decides about a commit and makes the decision durable. Repeated calls with the same manifest answer the same.
    fn commit(&self, call: CommitCall) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Whether the caller may read this committed manifest of the scope's project: for a node, one that the
    /// attempt's assignment names. [`Reason::NotFound`] where it may not, or where there is none.
    fn readable(
        &self,
        caller: &Peer,
        scope: &Scope,
        project: &ProjectName,
        manifest: Digest,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// The bulk service.
#[derive(Debug)]
pub struct Service<C, F> {
    chunks: Arc<C>,
    fleet: Arc<F>,
    limits: Limits,
    /// Uploads in progress, by peer.
    uploads: Slots,
    /// Downloads in progress, by peer.
    downloads: Slots,
    /// One permit for each chunk in memory.
    memory: Arc<Semaphore>,
}

/// What one call has established before anything else happens.
struct Admitted {
    caller: Peer,
    scope: Scope,
    project: ProjectName,
}

impl<C: Chunks, F: Fleet> Service<C, F> {
    /// The service.
    #[must_use]
    pub fn new(chunks: Arc<C>, fleet: Arc<F>, limits: Limits) -> Self {
        let memory = Arc::new(Semaphore::new(limits.chunks_in_memory));
        let uploads = Slots::new(limits.streams_per_peer);
        let downloads = Slots::new(limits.streams_per_peer);
        Self { chunks, fleet, limits, uploads, downloads, memory }
    }

    /// As a tonic server, with the bounds on messages set.
    #[must_use]
    pub fn into_server(self) -> BulkServer<Self> {
        BulkServer::new(self).max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE)
    }

    async fn admit(
        &self,
        caller: Peer,
        scope: Option<hone_proto::wire::Scope>,
    ) -> Result<Admitted, Refusal> {
        let scope = Scope::try_from(scope)?;
        let project = self.fleet.authorise_scope(&caller, &scope).await?;
        Ok(Admitted { caller, scope, project })
    }

    /// Runs work on the store where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&C) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let chunks = Arc::clone(&self.chunks);
        match tokio::task::spawn_blocking(move || work(&chunks)).await {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "work on the chunk store ended early");
                Err(Refusal::new(Reason::Internal, "the chunk store failed"))
            }
        }
    }

    /// A committed manifest that the caller may read.
    async fn read_manifest(&self, admitted: &Admitted, digest: Digest) -> Result<Sealed, Refusal> {
        let Admitted { caller, scope, project } = admitted;
        self.fleet.readable(caller, scope, project, digest).await?;
        let project = project.clone();
        let bytes = self
            .blocking(move |chunks| chunks.get(&project, digest).map_err(|e| refusal(&e)))
            .await?;
        decode_and_validate(bytes).map_err(|error| {
            tracing::error!(%digest, %error, "a committed manifest cannot be read");
            Refusal::new(Reason::Internal, "a committed manifest cannot be read")
        })
    }
}

/// Who is at the other end. The access layer has admitted the peer already; a call without one is refused here too.
fn peer(request: &Extensions) -> Result<Peer, Refusal> {
    let certificate = request.get::<PeerInfo>().and_then(|info| info.certificate.as_ref());
    certificate
        .map(|certificate| certificate.id.peer.clone())
        .ok_or_else(|| Refusal::new(Reason::Unauthenticated, "the call carries no certificate"))
}

fn parse_digests(digests: &[Vec<u8>]) -> Result<Vec<Digest>, Refusal> {
    if digests.len() > DIGESTS {
        let message = format!("{} digests: at most {DIGESTS} are allowed", digests.len());
        return Err(Refusal::new(Reason::BadRequest, message));
    }
    Ok(digests.iter().map(|bytes| convert::digest("digests", bytes)).collect::<Result<_, _>>()?)
}

#[tonic::async_trait]
impl<C: Chunks, F: Fleet> Bulk for Service<C, F> {
    async fn missing(
        &self,
        request: Request<MissingRequest>,
    ) -> Result<Response<MissingReply>, Status> {
        let caller = peer(request.extensions())?;
        let message = request.into_inner();
        let digests = parse_digests(&message.digests)?;
        let Admitted { project, .. } = self.admit(caller, message.scope).await?;
        let missing = self
            .blocking(move |chunks| {
                let missing = chunks.missing(&project, &digests).map_err(|e| refusal(&e))?;
                let missing: HashSet<_> = missing.into_iter().collect();
                let indexes = (0..).zip(digests).filter(|(_, digest)| missing.contains(digest));
                Ok(indexes.map(|(index, _)| index).collect())
            })
            .await?;
        Ok(Response::new(MissingReply { missing }))
    }

    type UploadStream = ReceiverStream<Result<ChunkStored, Status>>;

    async fn upload(
        &self,
        request: Request<Streaming<UploadFrame>>,
    ) -> Result<Response<Self::UploadStream>, Status> {
        let caller = peer(request.extensions())?;
        let slot = self.uploads.take(&caller)?;
        let acks = self.receive(caller, slot, request.into_inner()).await?;
        Ok(Response::new(ReceiverStream::new(acks)))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitReply>, Status> {
        let caller = peer(request.extensions())?;
        let digest = self.commit_manifest(caller, request.into_inner()).await?;
        Ok(Response::new(CommitReply { digest: digest.as_bytes().to_vec() }))
    }

    async fn get_manifest(
        &self,
        request: Request<GetManifestRequest>,
    ) -> Result<Response<GetManifestReply>, Status> {
        let caller = peer(request.extensions())?;
        let message = request.into_inner();
        let digest = convert::digest("digest", &message.digest).map_err(Refusal::from)?;
        let admitted = self.admit(caller, message.scope).await?;
        let manifest = self.read_manifest(&admitted, digest).await?.bytes().to_vec();
        Ok(Response::new(GetManifestReply { manifest }))
    }

    type DownloadStream = ReceiverStream<Result<DownloadFrame, Status>>;

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let caller = peer(request.extensions())?;
        let slot = self.downloads.take(&caller)?;
        let frames = self.send(caller, slot, request.into_inner()).await?;
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}
