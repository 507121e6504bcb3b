//! One download stream: chunks that a readable manifest names, verified as they are read.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use hone_proto::bulk::frames;
use hone_proto::convert;
use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{Digest, ProjectName};
use hone_proto::identity::Peer;
use hone_proto::wire::{DownloadFrame, DownloadRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tonic::Status;

use super::{Chunks, Fleet, Service, Slot, not_stored, parse_digests, refusal};

/// Chunks that are read ahead of the one being sent.
const READS_AHEAD: usize = 2;

/// Frames that wait for the connection: one chunk's worth.
const FRAME_QUEUE: usize = 4;

struct Sender<C> {
    chunks: Arc<C>,
    memory: Arc<Semaphore>,
    project: ProjectName,
    stall: Duration,
    queue: mpsc::Sender<Result<DownloadFrame, Status>>,
}

impl<C: Chunks, F: Fleet> Service<C, F> {
    /// Starts sending once the manifest is found readable and to name every digest.
    pub(super) async fn send(
        &self,
        caller: Peer,
        slot: Slot,
        message: DownloadRequest,
    ) -> Result<mpsc::Receiver<Result<DownloadFrame, Status>>, Status> {
        let digests = parse_digests(&message.digests)?;
        let manifest = convert::digest("manifest", &message.manifest).map_err(Refusal::from)?;
        let admitted = self.admit(caller, message.scope).await?;
        let manifest = self.read_manifest(&admitted, manifest).await?;
        let named: HashSet<Digest> = manifest.manifest().unique_chunks().into_iter().collect();
        if let Some(foreign) = digests.iter().find(|digest| !named.contains(digest)) {
            return Err(Refusal::new(Reason::NotFound, not_stored(*foreign)).into());
        }
        let (queue, frames) = mpsc::channel(FRAME_QUEUE);
        let sender = Sender {
            chunks: Arc::clone(&self.chunks),
            memory: Arc::clone(&self.memory),
            project: admitted.project,
            stall: self.limits.stall,
            queue,
        };
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(refusal) = sender.run(digests).await {
                let _ = timeout(sender.stall, sender.queue.send(Err(refusal.into()))).await;
            }
        });
        Ok(frames)
    }
}

impl<C: Chunks> Sender<C> {
    async fn run(&self, digests: Vec<Digest>) -> Result<(), Refusal> {
        let reads = digests.into_iter().map(|digest| self.read(digest));
        let mut reads = stream::iter(reads).buffered(READS_AHEAD);
        while let Some(read) = reads.next().await {
            let (digest, chunk, _permit) = read?;
            for frame in frames(digest, chunk) {
                match timeout(self.stall, self.queue.send(Ok(frame.into()))).await {
                    Ok(Ok(())) => {}
                    // Nobody listens any more.
                    Ok(Err(_)) => return Ok(()),
                    Err(_) => {
                        let message = "the download does not move";
                        return Err(Refusal::new(Reason::Unavailable, message));
                    }
                }
            }
        }
        Ok(())
    }

    async fn read(&self, digest: Digest) -> Result<(Digest, Bytes, OwnedSemaphorePermit), Refusal> {
        let acquired = Arc::clone(&self.memory).acquire_owned();
        let Ok(Ok(permit)) = timeout(self.stall, acquired).await else {
            return Err(Refusal::new(Reason::Overloaded, "too many chunks are on their way"));
        };
        let (chunks, project) = (Arc::clone(&self.chunks), self.project.clone());
        let read = tokio::task::spawn_blocking(move || chunks.get(&project, digest)).await;
        let chunk = read.map_err(|error| {
            tracing::error!(%error, "reading a chunk ended early");
            Refusal::new(Reason::Internal, "the chunk store failed")
        })?;
        let chunk = chunk.map_err(|error| refusal(&error))?;
        Ok((digest, chunk.into(), permit))
    }
}
