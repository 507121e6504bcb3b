//! Uploading files: what a manifest names, chunk by chunk, and then the manifest.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes as Buf;

use super::send::{ReadChunk, Told, Wanted};
use super::source::Source;
use super::{BulkError, Client, MANIFEST, Progress};
use crate::error::{Reason, Refusal};
use crate::id::{Digest, RequestId};
use crate::manifest::{Chunk, ManifestFile, RelPath, Sealed};
use crate::quantity::Bytes;

/// One piece of one file for each chunk of a manifest; the first of those that hold the same bytes.
struct Table {
    source: Arc<Source>,
    pieces: Vec<(RelPath, Chunk)>,
}

impl ReadChunk for Table {
    fn read(&self, index: usize) -> Result<Buf, BulkError> {
        let (path, piece) = &self.pieces[index];
        Ok(self.source.chunk(path, *piece)?.into())
    }
}

/// Each chunk once, with the bytes of all files that it stands for.
fn distinct(files: &[ManifestFile]) -> (Vec<(RelPath, Chunk)>, Vec<u64>) {
    let mut pieces: Vec<(RelPath, Chunk)> = Vec::new();
    let mut weights: Vec<u64> = Vec::new();
    let mut seen = HashMap::new();
    for file in files {
        for piece in file.pieces() {
            let index = *seen.entry(piece.digest).or_insert_with(|| {
                pieces.push((file.path.clone(), piece));
                weights.push(0);
                pieces.len() - 1
            });
            weights[index] += piece.len;
        }
    }
    (pieces, weights)
}

impl Client {
    /// Stores what the manifest names, read from the source that was surveyed for it, and commits it. Returns once it is durable and visible. Sends only what the
    /// project lacks, and goes on at the chunk after a break.
    pub async fn upload(
        &self,
        manifest: &Sealed,
        source: &Arc<Source>,
        progress: &dyn Progress,
    ) -> Result<Digest, BulkError> {
        if manifest.bytes().len() > MANIFEST {
            return Err(too_large(manifest.bytes().len()));
        }
        let files = &manifest.manifest().files;
        let (pieces, weights) = distinct(files);
        let wanted = pieces.iter().enumerate().map(|(index, (_, piece))| Wanted {
            digest: piece.digest,
            index,
            size: usize::try_from(piece.len).unwrap_or(usize::MAX),
        });
        let wanted: Vec<_> = wanted.collect();
        let reader: Arc<dyn ReadChunk> = Arc::new(Table { source: Arc::clone(source), pieces });
        let total = manifest.manifest().total_size();
        let request = new_request();
        let mut patience = self.patience();
        loop {
            let mut done = Bytes::ZERO;
            progress.report(done, Some(total));
            self.ensure_stored(&wanted, &reader, &mut |told| match told {
                Told::Lacking => progress.sends(),
                Told::Stored(wanted) => {
                    done = done.saturating_add(Bytes::new(weights[wanted.index]));
                    progress.report(done, Some(total));
                }
            })
            .await?;
            match self.commit_once(manifest.bytes(), &request).await {
                Ok(digest) => return Ok(digest),
                Err(error) => patience.after(error).await?,
            }
        }
    }
}

/// An id for one commit and its retries.
pub(super) fn new_request() -> RequestId {
    let text = uuid::Uuid::new_v4().to_string();
    text.parse().unwrap_or_else(|_| unreachable!("a UUID is a valid request id"))
}

pub(super) fn too_large(len: usize) -> BulkError {
    let message = format!("its manifest has {len} bytes, and {MANIFEST} are allowed");
    BulkError::Refused(Refusal::new(Reason::BadRequest, message))
}
