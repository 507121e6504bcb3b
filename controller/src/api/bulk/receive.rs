//! One upload stream: frames in, verified and synced chunks, acknowledgements out, in the order sent.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use hone_proto::bulk::{Assembler, ChunkFrame, FrameError, Scope};
use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{Digest, ProjectName};
use hone_proto::identity::Peer;
use hone_proto::wire::{ChunkStored, UploadFrame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Status, Streaming};

use super::{Admitted, Chunks, Fleet, Limits, Service, Slot, refusal};

/// Acknowledgements that wait for the connection. A client leaves no more than 64 chunks unacknowledged.
const ACK_QUEUE: usize = 64;

type Acks = mpsc::Sender<Result<ChunkStored, Status>>;

/// A chunk on its way to the disk.
type Put = JoinHandle<Result<Digest, Refusal>>;

struct Receiver<C, F> {
    chunks: Arc<C>,
    fleet: Arc<F>,
    memory: Arc<Semaphore>,
    limits: Limits,
    caller: Peer,
    scope: Scope,
    project: ProjectName,
    acks: Acks,
    assembler: Assembler,
    /// Held while a chunk is assembled, and goes with it to the disk.
    permit: Option<OwnedSemaphorePermit>,
    puts: FuturesOrdered<Put>,
    /// Something moved.
    moved: Instant,
    /// The chunk that is being assembled must be whole by then.
    due: Option<Instant>,
    rechecked: Instant,
}

impl<C: Chunks, F: Fleet> Service<C, F> {
    /// Starts receiving once the first frame has come and its scope is the caller's.
    pub(super) async fn receive(
        &self,
        caller: Peer,
        slot: Slot,
        mut frames: Streaming<UploadFrame>,
    ) -> Result<mpsc::Receiver<Result<ChunkStored, Status>>, Status> {
        let first = timeout(self.limits.stall, frames.message()).await;
        let first = first.map_err(|_| stalled())??;
        let mut first =
            first.ok_or_else(|| Refusal::new(Reason::BadRequest, "an upload without frames"))?;
        let Admitted { caller, scope, project } = self.admit(caller, first.scope.take()).await?;
        let (acks, receiver) = mpsc::channel(ACK_QUEUE);
        let receiving = Receiver {
            chunks: Arc::clone(&self.chunks),
            fleet: Arc::clone(&self.fleet),
            memory: Arc::clone(&self.memory),
            limits: self.limits,
            caller,
            scope,
            project,
            acks: acks.clone(),
            assembler: Assembler::default(),
            permit: None,
            puts: FuturesOrdered::new(),
            moved: Instant::now(),
            due: None,
            rechecked: Instant::now(),
        };
        tokio::spawn(async move {
            let _slot = slot;
            let outcome = tokio::select! {
                outcome = receiving.run(first, frames) => outcome,
                () = acks.closed() => Ok(()),
            };
            if let Err(status) = outcome {
                let _ = acks.send(Err(status)).await;
            }
        });
        Ok(receiver)
    }
}

impl<C: Chunks, F: Fleet> Receiver<C, F> {
    async fn run(
        mut self,
        first: UploadFrame,
        mut frames: Streaming<UploadFrame>,
    ) -> Result<(), Status> {
        self.take(first).await?;
        loop {
            let deadline = self.deadline();
            tokio::select! {
                Some(put) = self.puts.next() => self.acknowledge(put).await?,
                frame = timeout_at(deadline, frames.message()) => {
                    match frame.map_err(|_| stalled())?? {
                        Some(frame) => self.take(frame).await?,
                        None => break,
                    }
                }
            }
        }
        if !self.assembler.is_idle() {
            return Err(Refusal::new(Reason::BadRequest, "the stream ends in a chunk").into());
        }
        while let Some(put) = self.puts.next().await {
            self.acknowledge(put).await?;
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let stall = self.moved + self.limits.stall;
        self.due.map_or(stall, |due| due.min(stall))
    }

    /// Takes a frame; a chunk that it completes goes to the disk.
    async fn take(&mut self, frame: UploadFrame) -> Result<(), Refusal> {
        self.moved = Instant::now();
        self.recheck().await?;
        if frame.scope.is_some() {
            return Err(Refusal::new(Reason::BadRequest, "the scope stands in the first frame"));
        }
        let frame = ChunkFrame::try_from(frame).map_err(malformed)?;
        if self.permit.is_none() {
            self.permit = Some(self.reserve().await?);
            self.due = Some(Instant::now() + self.limits.chunk);
        }
        if let Some((digest, chunk)) = self.assembler.push(frame).map_err(malformed)? {
            self.due = None;
            while self.puts.len() >= self.limits.puts_per_stream {
                if let Some(put) = self.puts.next().await {
                    self.acknowledge(put).await?;
                }
            }
            let permit = self.permit.take();
            self.puts.push_back(self.put(digest, chunk, permit));
        }
        Ok(())
    }

    /// Memory for one chunk.
    async fn reserve(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let acquired = Arc::clone(&self.memory).acquire_owned();
        match timeout(self.limits.stall, acquired).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => {
                Err(Refusal::new(Reason::Overloaded, "too many chunks are on their way"))
            }
        }
    }

    fn put(&self, digest: Digest, chunk: Bytes, permit: Option<OwnedSemaphorePermit>) -> Put {
        let (chunks, project) = (Arc::clone(&self.chunks), self.project.clone());
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            chunks.put(&project, digest, &chunk).map_err(|error| refusal(&error))?;
            Ok(digest)
        })
    }

    async fn acknowledge(
        &mut self,
        put: Result<Result<Digest, Refusal>, JoinError>,
    ) -> Result<(), Refusal> {
        let digest = put.map_err(|error| {
            tracing::error!(%error, "storing a chunk ended early");
            Refusal::new(Reason::Internal, "the chunk store failed")
        })??;
        let ack = ChunkStored { digest: digest.as_bytes().to_vec() };
        let sent = timeout(self.limits.stall, self.acks.send(Ok(ack))).await;
        self.moved = Instant::now();
        // That nobody listens any more ends the stream from outside.
        sent.map(drop).map_err(|_| stalled())
    }

    /// A node whose attempt was taken from it, or a peer that was revoked, goes no further.
    async fn recheck(&mut self) -> Result<(), Refusal> {
        if self.rechecked.elapsed() < self.limits.recheck {
            return Ok(());
        }
        self.rechecked = Instant::now();
        let project = self.fleet.authorise_scope(&self.caller, &self.scope).await?;
        if project == self.project {
            return Ok(());
        }
        Err(Refusal::new(Reason::Conflict, "the scope is another project's now"))
    }
}

fn stalled() -> Refusal {
    Refusal::new(Reason::Unavailable, "the upload does not move")
}

fn malformed(error: FrameError) -> Refusal {
    let reason = match error {
        FrameError::Corrupt(_) => Reason::Corrupt,
        _ => Reason::BadRequest,
    };
    Refusal::new(reason, error.to_string())
}
