//! Downloading: a committed manifest as files, or the one file of an image as a stream. Nothing that does not verify
//! is handed on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes as Buf;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::Instrument as _;

use super::place::Place;
use super::send::joined;
use super::{Assembler, BulkError, ChunkFrame, Client, DIGESTS, Progress};
use crate::id::Digest;
use crate::manifest::{ManifestError, ManifestFile, RelPath, Sealed};
use crate::quantity::Bytes;
use crate::wire::{DownloadFrame, DownloadRequest};

/// Chunks between the connection and whoever reads a stream.
const CHUNKS_AHEAD: usize = 2;

/// Chunks as they come in, in the order asked for; not yet verified.
struct Incoming<'a> {
    client: &'a Client,
    frames: Streaming<DownloadFrame>,
    assembler: Assembler,
}

impl Incoming<'_> {
    async fn next(&mut self, expected: Digest) -> Result<Buf, BulkError> {
        loop {
            let frame = timeout(self.client.limits.stall, self.frames.message()).await;
            let frame = frame.map_err(|_| BulkError::stalled("download"))??;
            let frame = frame.ok_or_else(|| BulkError::protocol("the stream ended early"))?;
            let frame = ChunkFrame::try_from(frame);
            let whole = frame.and_then(|frame| self.assembler.push(frame));
            match whole.map_err(|error| BulkError::protocol(error.to_string()))? {
                None => {}
                Some((digest, chunk)) if digest == expected => return Ok(chunk),
                Some(_) => return Err(BulkError::protocol("another chunk than asked for came")),
            }
        }
    }
}

fn verify(digest: Digest, chunk: &[u8]) -> Result<(), BulkError> {
    if Digest::of(chunk) == digest {
        return Ok(());
    }
    Err(BulkError::Corrupt { what: format!("chunk {}", digest.short()), digest })
}

/// Every place that one chunk goes to.
type Targets = HashMap<Digest, Vec<(RelPath, u64)>>;

/// What a partial download still lacks, in the order of its files.
fn lacking(
    place: &Place,
    files: &[ManifestFile],
) -> Result<(Vec<Digest>, Targets, u64), BulkError> {
    let mut order = Vec::new();
    let mut targets = Targets::new();
    let mut present = 0;
    for file in files {
        for (piece, here) in file.pieces().zip(place.prepare(file)?) {
            if here {
                present += piece.len;
                continue;
            }
            let places = targets.entry(piece.digest).or_default();
            if places.is_empty() {
                order.push(piece.digest);
            }
            places.push((file.path.clone(), piece.offset));
        }
    }
    Ok((order, targets, present))
}

impl Client {
    async fn open_download(
        &self,
        manifest: Digest,
        digests: &[Digest],
    ) -> Result<Incoming<'_>, BulkError> {
        let message = DownloadRequest {
            scope: self.wire_scope(),
            digests: digests.iter().map(|digest| digest.as_bytes().to_vec()).collect(),
            manifest: manifest.as_bytes().to_vec(),
        };
        let mut rpc = self.rpc();
        let reply = self.answer("download", rpc.download(self.request(message))).await?;
        Ok(Incoming { client: self, frames: reply.into_inner(), assembler: Assembler::default() })
    }

    /// Brings a committed manifest to `dest`, which must not exist yet. Each chunk and each file is verified, synced,
    /// and then all of it is renamed into place; an interrupted download goes on from `<dest>.partial`. Blocks of
    /// equal content travel once.
    pub async fn download(
        &self,
        manifest: Digest,
        dest: &Path,
        progress: &dyn Progress,
    ) -> Result<Sealed, BulkError> {
        let sealed = Arc::new(self.manifest(manifest).await?);
        let total = sealed.manifest().total_size();
        let (dest, source) = (dest.to_owned(), Arc::clone(&sealed));
        let opened = spawn_blocking(move || {
            let place = Place::open(&dest, manifest)?;
            let lacking = lacking(&place, &source.manifest().files)?;
            Ok((place, lacking))
        });
        let (place, (order, targets, present)) = joined(opened).await?;
        let (place, targets) = (Arc::new(place), Arc::new(targets));
        let mut done = Bytes::new(present);
        progress.report(done, Some(total));
        let mut stored = |written: u64| {
            done = done.saturating_add(Bytes::new(written));
            progress.report(done, Some(total));
        };
        for batch in order.chunks(DIGESTS) {
            let mut left = batch;
            let mut patience = self.patience();
            loop {
                let before = left.len();
                let fetched = self.fetch(manifest, &mut left, &place, &targets, &mut stored).await;
                let Err(error) = fetched else { break };
                if left.len() < before {
                    patience.reset();
                }
                patience.after(error).await?;
            }
        }
        let source = Arc::clone(&sealed);
        let finished = spawn_blocking(move || {
            let files = &source.manifest().files;
            files.iter().try_for_each(|file| place.finish(file))?;
            place.publish(files)
        });
        joined(finished).await?;
        Ok(Arc::unwrap_or_clone(sealed))
    }

    /// One stream. `left` shrinks by what is written.
    async fn fetch(
        &self,
        manifest: Digest,
        left: &mut &[Digest],
        place: &Arc<Place>,
        targets: &Arc<Targets>,
        stored: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), BulkError> {
        let asked = *left;
        let mut incoming = self.open_download(manifest, asked).await?;
        let mut writing: Option<JoinHandle<Result<u64, BulkError>>> = None;
        let mut outcome = Ok(());
        for &digest in asked {
            let chunk = incoming.next(digest).await;
            if let Some(writing) = writing.take() {
                stored(joined(writing).await?);
                *left = &left[1..];
            }
            match chunk {
                Ok(chunk) => writing = Some(write(digest, chunk, place, targets)),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        if let Some(writing) = writing {
            stored(joined(writing).await?);
            *left = &left[1..];
        }
        outcome
    }

    /// The content of a manifest of one file, such as an image, each chunk verified before it is handed on. An error
    /// is the last item, and one may come behind the last byte: without one, the whole file has verified.
    pub fn download_stream(
        &self,
        manifest: &Sealed,
    ) -> Result<impl Stream<Item = Result<Buf, BulkError>> + Send + Unpin + use<>, BulkError> {
        let [file] = manifest.manifest().files.as_slice() else {
            let why = "only one file can be read as a stream";
            return Err(BulkError::Manifest(ManifestError::BadField { field: "files", why }));
        };
        let (client, digest, file) = (self.clone(), manifest.digest(), file.clone());
        let (queue, stream) = mpsc::channel(CHUNKS_AHEAD);
        let pouring = async move {
            let outcome = tokio::select! {
                outcome = client.pour(digest, &file, &queue) => outcome,
                () = queue.closed() => Ok(()),
            };
            if let Err(error) = outcome {
                let _ = queue.send(Err(error)).await;
            }
        };
        tokio::spawn(pouring.in_current_span());
        Ok(ReceiverStream::new(stream))
    }

    async fn pour(
        &self,
        manifest: Digest,
        file: &ManifestFile,
        queue: &mpsc::Sender<Result<Buf, BulkError>>,
    ) -> Result<(), BulkError> {
        let mut whole = blake3::Hasher::new();
        for batch in file.chunks.chunks(DIGESTS) {
            let mut left = batch;
            let mut patience = self.patience();
            loop {
                let before = left.len();
                let poured = self.pour_batch(manifest, &mut left, &mut whole, queue).await;
                let Err(error) = poured else { break };
                if left.len() < before {
                    patience.reset();
                }
                patience.after(error).await?;
            }
        }
        if Digest::from(whole.finalize()) == file.digest {
            return Ok(());
        }
        Err(BulkError::Corrupt { what: file.path.to_string(), digest: file.digest })
    }

    async fn pour_batch(
        &self,
        manifest: Digest,
        left: &mut &[Digest],
        whole: &mut blake3::Hasher,
        queue: &mpsc::Sender<Result<Buf, BulkError>>,
    ) -> Result<(), BulkError> {
        let mut incoming = self.open_download(manifest, left).await?;
        while let Some((&digest, rest)) = left.split_first() {
            let chunk = incoming.next(digest).await?;
            let checked = chunk.clone();
            let mut hasher = whole.clone();
            let hashed = spawn_blocking(move || {
                verify(digest, &checked)?;
                hasher.update(&checked);
                Ok(hasher)
            });
            *whole = joined(hashed).await?;
            let _ = queue.send(Ok(chunk)).await;
            *left = rest;
        }
        Ok(())
    }
}

/// Verifies a chunk and writes it to all its places; tells how many bytes that were.
fn write(
    digest: Digest,
    chunk: Buf,
    place: &Arc<Place>,
    targets: &Arc<Targets>,
) -> JoinHandle<Result<u64, BulkError>> {
    let (place, targets) = (Arc::clone(place), Arc::clone(targets));
    spawn_blocking(move || {
        verify(digest, &chunk)?;
        let places = targets.get(&digest).map(Vec::as_slice).unwrap_or_default();
        places.iter().try_for_each(|(path, offset)| place.write(path, *offset, &chunk))?;
        Ok(chunk.len() as u64 * places.len() as u64)
    })
}
