//! Sending: ask what is missing, send that, count acknowledgements; on any break go on at the chunk.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::{BulkError, CHUNK, Client, DIGESTS, WINDOW, frames};
use crate::id::Digest;
use crate::wire::UploadFrame;

/// Frames between the reader and the connection: one chunk's worth, so that reading and sending overlap.
const FRAMES_AHEAD: usize = 4;

/// Chunks that are read and hashed ahead of the one being sent.
const READS_AHEAD: usize = 2;

/// The window is counted in units of this size, one at least per chunk: 64 small chunks fill it, or 8 full ones.
/// Small files would otherwise pay a round trip for every eight.
const WINDOW_UNIT: usize = CHUNK / 8;

/// Something that chunks are read from, again after each break. Blocking.
pub(super) trait ReadChunk: Send + Sync + 'static {
    /// The chunk at `index`, verified against its digest: what changed meanwhile is an error.
    fn read(&self, index: usize) -> Result<Bytes, BulkError>;
}

/// A chunk that shall be stored. Among those given at once, each digest stands once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) digest: Digest,
    /// Where its reader finds it.
    pub(super) index: usize,
    pub(super) size: usize,
}

/// What whoever stores chunks is told.
#[derive(Debug)]
pub(super) enum Told<'a> {
    /// Some are missing, and are about to be sent.
    Lacking,
    /// This one is stored.
    Stored(&'a Wanted),
}

impl Wanted {
    fn units(&self) -> u32 {
        u32::try_from(self.size.div_ceil(WINDOW_UNIT).max(1)).unwrap_or(u32::MAX)
    }
}

impl Client {
    /// Sees to it that every chunk is stored, and tells of each one that is. Sends only what is missing, and after a
    /// break only what is still missing.
    pub(super) async fn ensure_stored(
        &self,
        wanted: &[Wanted],
        reader: &Arc<dyn ReadChunk>,
        told: &mut (dyn FnMut(Told<'_>) + Send),
    ) -> Result<(), BulkError> {
        for batch in wanted.chunks(DIGESTS) {
            let mut left = batch.to_vec();
            let mut patience = self.patience();
            loop {
                let before = left.len();
                let Err(error) = self.send_missing(&mut left, reader, told).await else { break };
                if left.len() < before {
                    patience.reset();
                }
                patience.after(error).await?;
            }
        }
        Ok(())
    }

    async fn send_missing(
        &self,
        left: &mut Vec<Wanted>,
        reader: &Arc<dyn ReadChunk>,
        told: &mut (dyn FnMut(Told<'_>) + Send),
    ) -> Result<(), BulkError> {
        let digests: Vec<_> = left.iter().map(|wanted| wanted.digest).collect();
        let mut lacks = self.missing(&digests).await?.into_iter();
        left.retain(|wanted| {
            let lacking = lacks.next().unwrap_or(true);
            if !lacking {
                told(Told::Stored(wanted));
            }
            lacking
        });
        if left.is_empty() {
            return Ok(());
        }
        told(Told::Lacking);
        let mut acked = 0;
        let mut count = |wanted: &Wanted| {
            acked += 1;
            told(Told::Stored(wanted));
        };
        let outcome = self.send(left, reader, &mut count).await;
        left.drain(..acked);
        outcome
    }

    /// One stream. Acknowledgements come in the order sent.
    async fn send(
        &self,
        wanted: &[Wanted],
        reader: &Arc<dyn ReadChunk>,
        acked: &mut (dyn FnMut(&Wanted) + Send),
    ) -> Result<(), BulkError> {
        let (frames, body) = mpsc::channel(FRAMES_AHEAD);
        let window = Semaphore::new(WINDOW * (CHUNK / WINDOW_UNIT));
        let sending = self.produce(wanted, reader, frames, &window);
        let hearing = async {
            let mut rpc = self.rpc();
            let call = rpc.upload(self.request(ReceiverStream::new(body)));
            let wait = self.limits.ack;
            let stalled = |_| BulkError::stalled("upload");
            let mut acks = timeout(wait, call).await.map_err(stalled)??.into_inner();
            for wanted in wanted {
                let ack = timeout(wait, acks.message()).await.map_err(stalled)??;
                let ack = ack.ok_or_else(|| BulkError::protocol("the stream ended early"))?;
                if ack.digest != wanted.digest.as_bytes() {
                    return Err(BulkError::protocol("another chunk was acknowledged"));
                }
                window.add_permits(usize::try_from(wanted.units()).unwrap_or_default());
                acked(wanted);
            }
            // All is stored: how the stream ends does not matter any more, only that it ends by itself.
            let _ = timeout(self.limits.call, acks.message()).await;
            Ok(())
        };
        tokio::try_join!(sending, hearing).map(|((), ())| ())
    }

    /// Reads, verifies and queues chunks as far as the window allows. That the other side has gone is for the
    /// listening half to tell.
    async fn produce(
        &self,
        wanted: &[Wanted],
        reader: &Arc<dyn ReadChunk>,
        queue: mpsc::Sender<UploadFrame>,
        window: &Semaphore,
    ) -> Result<(), BulkError> {
        let mut scope = self.wire_scope();
        let reads = wanted.iter().map(|wanted| {
            let (reader, index) = (Arc::clone(reader), wanted.index);
            joined(spawn_blocking(move || reader.read(index)))
        });
        let mut reads = stream::iter(reads).buffered(READS_AHEAD).zip(stream::iter(wanted));
        while let Some((chunk, wanted)) = reads.next().await {
            let chunk = chunk?;
            if let Ok(units) = window.acquire_many(wanted.units()).await {
                units.forget();
            }
            for frame in frames(wanted.digest, chunk) {
                let frame = UploadFrame { scope: scope.take(), ..frame.into() };
                if queue.send(frame).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Awaits blocking work; its panic is a fault of this program and goes on as one.
pub(super) async fn joined<T>(work: JoinHandle<Result<T, BulkError>>) -> Result<T, BulkError> {
    match work.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(BulkError::stalled("shutting down")),
        },
    }
}
