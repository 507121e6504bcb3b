//! Bulk data of the made-up controller: chunks and manifests in memory, verified as the real one does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, stream};
use hone_proto::bulk::{Assembler, ChunkFrame, frames};
use hone_proto::error::{Reason, Refusal};
use hone_proto::id::Digest;
use hone_proto::manifest::decode_and_validate;
use hone_proto::wire::bulk_server::Bulk;
use hone_proto::wire::*;
use tonic::{Request, Response, Status, Streaming};

/// What is stored.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) chunks: HashMap<Digest, Bytes>,
    pub(super) manifests: HashMap<Digest, Vec<u8>>,
    /// Chunks that came over the wire, to see that nothing is sent twice.
    pub(super) uploads: usize,
}

/// The service over it.
#[derive(Clone, Default)]
pub(super) struct FakeBulk(Arc<Mutex<Stored>>);

impl FakeBulk {
    pub(super) fn stored(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn manifest(&self, digest: &[u8]) -> Result<Vec<u8>, Status> {
        let found =
            Digest::try_from(digest).ok().and_then(|d| self.stored().manifests.get(&d).cloned());
        found.ok_or_else(|| Refusal::new(Reason::NotFound, "no such manifest").into())
    }
}

fn bad(error: impl std::fmt::Display) -> Status {
    Refusal::new(Reason::BadRequest, error.to_string()).into()
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Bulk for FakeBulk {
    async fn missing(&self, request: Request<MissingRequest>) -> Reply<MissingReply> {
        let digests = request.into_inner().digests;
        let stored = self.stored();
        let lacks = |d: &[u8]| !Digest::try_from(d).is_ok_and(|d| stored.chunks.contains_key(&d));
        let missing = (0_u32..).zip(&digests).filter(|(_, d)| lacks(d)).map(|(n, _)| n).collect();
        Ok(Response::new(MissingReply { missing }))
    }

    type UploadStream = BoxStream<'static, Result<ChunkStored, Status>>;
    async fn upload(&self, r: Request<Streaming<UploadFrame>>) -> Reply<Self::UploadStream> {
        let (fake, frames) = (self.clone(), r.into_inner());
        let acks = stream::unfold(
            (fake, frames, Assembler::default()),
            |(fake, mut frames, mut whole)| async {
                loop {
                    let frame = frames.message().await.ok()??;
                    let pushed = ChunkFrame::try_from(frame).and_then(|frame| whole.push(frame));
                    let ack = match pushed {
                        Ok(None) => continue,
                        Ok(Some((digest, chunk))) if Digest::of(&chunk) == digest => {
                            let mut stored = fake.stored();
                            stored.uploads += 1;
                            stored.chunks.insert(digest, chunk);
                            Ok(ChunkStored { digest: digest.as_bytes().to_vec() })
                        }
                        Ok(Some(_)) => Err(bad("a chunk is not what its name says")),
                        Err(error) => Err(bad(error)),
                    };
                    return Some((ack, (fake, frames, whole)));
                }
            },
        );
        Ok(Response::new(acks.boxed()))
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Reply<CommitReply> {
        let bytes = request.into_inner().manifest;
        let sealed = decode_and_validate(bytes.clone()).map_err(bad)?;
        let mut stored = self.stored();
        if sealed.manifest().unique_chunks().iter().any(|c| !stored.chunks.contains_key(c)) {
            return Err(Refusal::new(Reason::MissingChunks, "chunks are missing").into());
        }
        stored.manifests.insert(sealed.digest(), bytes);
        Ok(Response::new(CommitReply { digest: sealed.digest().as_bytes().to_vec() }))
    }

    async fn get_manifest(&self, r: Request<GetManifestRequest>) -> Reply<GetManifestReply> {
        let manifest = self.manifest(&r.into_inner().digest)?;
        Ok(Response::new(GetManifestReply { manifest }))
    }

    type DownloadStream = BoxStream<'static, Result<DownloadFrame, Status>>;
    async fn download(&self, request: Request<DownloadRequest>) -> Reply<Self::DownloadStream> {
        let request = request.into_inner();
        self.manifest(&request.manifest)?;
        let stored = self.stored();
        let mut answer = Vec::new();
        for digest in &request.digests {
            let digest = Digest::try_from(digest.as_slice()).map_err(bad)?;
            let chunk = stored.chunks.get(&digest).cloned().unwrap_or_default();
            answer.extend(frames(digest, chunk).map(|frame| Ok(frame.into())));
        }
        Ok(Response::new(stream::iter(answer).boxed()))
    }
}
