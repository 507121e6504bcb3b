//! Bulk data: checkpoints, inputs, images and packages as content-addressed chunks.
//!
//! `proto/hone/v1/bulk.proto` is the specification. [`Client`] is the side that the agent and the command line share:
//!
//! ```text
//! upload         cut + hash ─► Missing? ─► send those, each re-hashed ─► acks ─► Commit
//!                                 ▲                                        │
//!                                 └──────── back off ◄── stream broke ─────┘   (resumes at the chunk)
//! download       manifest, verified ─► what dest.partial lacks ─► chunks, verified ─► files, verified, synced ─► rename
//! ```
//!
//! Dropping a future of the client cancels it, and what is stored or written stays for the next try.

mod client;
mod download;
mod error;
mod frame;
mod place;
mod retry;
mod scope;
mod send;
pub mod source;
mod stream;
mod upload;

use std::time::Duration;

pub use client::{Client, Decorate, Limits};
pub use error::BulkError;
pub use frame::{Assembler, ChunkFrame, ChunkHead, FrameError, frames};
pub use retry::Retry;
pub use scope::Scope;
pub use stream::IMAGE_FILE;

use crate::quantity::Bytes;

/// Files are cut at this size. Part of the format: digests of one file agree only when it is cut alike.
pub const CHUNK: usize = 4 << 20;

/// Most data in one frame; the wire allows no more than 1 MiB. Smaller frames cost throughput, larger ones memory, and
/// a peer notices a stall only between two frames.
pub const FRAME: usize = 1 << 20;

/// Most digests in one `Missing` or `Download` call: 16 GiB of data by 128 KiB of digests.
pub const DIGESTS: usize = 4096;

/// Largest manifest: about 100,000 chunks, 400 GiB.
pub const MANIFEST: usize = 4 << 20;

/// Largest message that either side decodes: a manifest, and room for the fields beside it.
pub const MESSAGE: usize = MANIFEST + (64 << 10);

/// Chunks that a sender leaves unacknowledged: enough to cover a synced write at the far end and one round trip.
pub const WINDOW: usize = 8;

/// Either side gives a stream up when nothing moved on it for so long. A frame takes half of that at 256 kbit/s.
pub const STALL: Duration = Duration::from_secs(60);

/// How an upload or a download gets on.
pub trait Progress: Send + Sync {
    /// So much of so much is done. The total of a stream is not known before its end. Called for each chunk.
    fn report(&self, done: Bytes, total: Option<Bytes>);

    /// Something that the other side lacks is about to be sent; never called when everything is there already. May be
    /// called again.
    fn sends(&self) {}
}

impl<F: Fn(Bytes, Option<Bytes>) + Send + Sync> Progress for F {
    fn report(&self, done: Bytes, total: Option<Bytes>) {
        self(done, total);
    }
}

/// For callers that show nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _done: Bytes, _total: Option<Bytes>) {}
}
