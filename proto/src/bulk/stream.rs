//! Uploading a stream whose length nobody knows and that cannot be read twice, such as an engine's `save`: one pass,
//! one window in memory.

use std::io;
use std::sync::Arc;

use bytes::{Bytes as Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::send::{ReadChunk, Told, Wanted};
use super::upload::{new_request, too_large};
use super::{BulkError, CHUNK, Client, MANIFEST, Progress, WINDOW};
use crate::error::Reason;
use crate::id::Digest;
use crate::manifest::{Kind, Manifest, ManifestFile, RelPath};
use crate::quantity::Bytes;

/// What was read and is not stored yet. Kept until it is: the stream cannot be read again.
struct Held {
    chunks: Vec<Buf>,
    digests: Vec<Digest>,
    /// The stream ended behind them.
    last: bool,
}

impl ReadChunk for Vec<Buf> {
    fn read(&self, index: usize) -> Result<Buf, BulkError> {
        Ok(self[index].clone())
    }
}

impl Client {
    /// Stores a stream as the one file of a manifest and commits it. `manifest` says the rest: its files are replaced.
    ///
    /// Holds two windows of chunks: one is read while the other is sent. Where the commit finds chunks missing that
    /// were stored before, there is nothing left to send them from, and the caller starts anew.
    pub async fn upload_stream(
        &self,
        manifest: Manifest,
        name: RelPath,
        mut stream: impl AsyncRead + Send + Unpin,
        progress: &dyn Progress,
    ) -> Result<Digest, BulkError> {
        let mut whole = blake3::Hasher::new();
        let mut chunks = Vec::new();
        let mut size = 0;
        let mut next = read_window(&mut stream, &mut whole, &name).await?;
        loop {
            let held = next;
            chunks.extend_from_slice(&held.digests);
            let before = size;
            size += held.chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
            if held.last {
                self.store_window(held, before, progress).await?;
                break;
            }
            let reading = read_window(&mut stream, &mut whole, &name);
            let storing = self.store_window(held, before, progress);
            (next, ()) = tokio::try_join!(reading, storing)?;
        }
        let file = ManifestFile {
            path: name,
            size: Bytes::new(size),
            digest: whole.finalize().into(),
            executable: false,
            chunks,
        };
        self.commit(Manifest { files: vec![file], ..manifest }).await
    }

    /// Sends what one window lacks.
    async fn store_window(
        &self,
        held: Held,
        before: u64,
        progress: &dyn Progress,
    ) -> Result<(), BulkError> {
        let mut wanted: Vec<Wanted> = Vec::with_capacity(held.chunks.len());
        for (index, (digest, chunk)) in held.digests.iter().zip(&held.chunks).enumerate() {
            if wanted.iter().all(|other| other.digest != *digest) {
                wanted.push(Wanted { digest: *digest, index, size: chunk.len() });
            }
        }
        let repeats = held.chunks.iter().map(Buf::len).sum::<usize>()
            - wanted.iter().map(|wanted| wanted.size).sum::<usize>();
        let mut done = before + repeats as u64;
        let reader: Arc<dyn ReadChunk> = Arc::new(held.chunks);
        self.ensure_stored(&wanted, &reader, &mut |told| match told {
            Told::Lacking => progress.sends(),
            Told::Stored(wanted) => {
                done += wanted.size as u64;
                progress.report(Bytes::new(done), None);
            }
        })
        .await
    }

    /// Commits a manifest whose chunks are stored.
    async fn commit(&self, manifest: Manifest) -> Result<Digest, BulkError> {
        let sealed = manifest.seal().map_err(BulkError::Manifest)?;
        if sealed.bytes().len() > MANIFEST {
            return Err(too_large(sealed.bytes().len()));
        }
        let request = new_request();
        let mut patience = self.patience();
        loop {
            match self.commit_once(sealed.bytes(), &request).await {
                Ok(digest) => return Ok(digest),
                Err(BulkError::Interrupted(last)) if last.reason == Reason::MissingChunks => {
                    return Err(BulkError::GaveUp { tries: 1, last });
                }
                Err(error) => patience.after(error).await?,
            }
        }
    }

    /// An image's `save` stream as a committed manifest.
    pub async fn upload_image(
        &self,
        project: crate::id::ProjectName,
        stream: impl AsyncRead + Send + Unpin,
        progress: &dyn Progress,
    ) -> Result<Digest, BulkError> {
        let name = IMAGE_FILE.parse().map_err(BulkError::Manifest)?;
        let manifest = Manifest {
            kind: Kind::Image,
            project,
            spec: None,
            base_model: None,
            files: Vec::new(),
        };
        self.upload_stream(manifest, name, stream, progress).await
    }
}

/// The one file of an image's manifest.
pub const IMAGE_FILE: &str = "image.tar";

/// Reads and hashes up to a window of chunks.
async fn read_window(
    stream: &mut (impl AsyncRead + Send + Unpin),
    whole: &mut blake3::Hasher,
    name: &RelPath,
) -> Result<Held, BulkError> {
    let mut held = Held { chunks: Vec::new(), digests: Vec::new(), last: false };
    while held.chunks.len() < WINDOW && !held.last {
        let read = read_chunk(stream).await;
        let chunk = read.map_err(|error| BulkError::Stream { name: name.to_string(), error })?;
        held.last = chunk.len() < CHUNK;
        if chunk.is_empty() {
            break;
        }
        whole.update(&chunk);
        held.digests.push(Digest::of(&chunk));
        held.chunks.push(chunk);
    }
    Ok(held)
}

/// A whole chunk, or what the stream still has.
async fn read_chunk(stream: &mut (impl AsyncRead + Send + Unpin)) -> io::Result<Buf> {
    let mut chunk = BytesMut::with_capacity(CHUNK);
    let mut limited = stream.take(CHUNK as u64);
    while chunk.len() < CHUNK && limited.read_buf(&mut chunk).await? > 0 {}
    Ok(chunk.freeze())
}
