//! Chunks as runs of frames, and back. Pure: the same rules on both sides and in both directions.
//!
//! ```text
//! idle ──head(digest, size) + data──► filling ──data… up to size──► whole: a chunk comes out, idle again
//! ```

use bytes::{Bytes, BytesMut};

use super::{CHUNK, FRAME};
use crate::id::Digest;
use crate::wire;

/// A run of frames that does not add up to chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Data came where a digest was due.
    #[error("a chunk begins without its digest")]
    NoHead,
    /// A digest came inside a chunk.
    #[error("a chunk begins before the last one is complete")]
    Early,
    /// The digest is not 32 bytes.
    #[error("a digest must be 32 bytes")]
    Digest,
    /// No chunk is of this size.
    #[error("a chunk of {0} bytes")]
    Size(u32),
    /// A frame without data brings nothing and costs something.
    #[error("a frame without data")]
    Empty,
    /// The frame is longer than allowed, or than what the chunk still lacks.
    #[error("a frame that is too long")]
    Long,
    /// The bytes are not those that the digest names.
    #[error("chunk {0} does not match its digest")]
    Corrupt(Digest),
}

/// What the first frame of a chunk says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHead {
    /// Its name.
    pub digest: Digest,
    /// Its length.
    pub size: u32,
}

/// One frame, whichever way it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkFrame {
    /// In the first frame of a chunk.
    pub head: Option<ChunkHead>,
    /// A part of its bytes.
    pub data: Bytes,
}

impl ChunkFrame {
    fn parse(digest: &[u8], size: u32, data: Bytes) -> Result<Self, FrameError> {
        if data.is_empty() {
            return Err(FrameError::Empty);
        }
        if data.len() > 1 << 20 {
            return Err(FrameError::Long);
        }
        if digest.is_empty() && size == 0 {
            return Ok(Self { head: None, data });
        }
        let digest = Digest::try_from(digest).map_err(|_| FrameError::Digest)?;
        if size == 0 || usize::try_from(size).is_ok_and(|size| size > CHUNK) {
            return Err(FrameError::Size(size));
        }
        Ok(Self { head: Some(ChunkHead { digest, size }), data })
    }

    fn head_fields(&self) -> (Vec<u8>, u32) {
        self.head.map_or((Vec::new(), 0), |head| (head.digest.as_bytes().to_vec(), head.size))
    }
}

impl TryFrom<wire::UploadFrame> for ChunkFrame {
    type Error = FrameError;
    fn try_from(frame: wire::UploadFrame) -> Result<Self, FrameError> {
        Self::parse(&frame.digest, frame.chunk_size, frame.data)
    }
}

impl TryFrom<wire::DownloadFrame> for ChunkFrame {
    type Error = FrameError;
    fn try_from(frame: wire::DownloadFrame) -> Result<Self, FrameError> {
        Self::parse(&frame.digest, frame.chunk_size, frame.data)
    }
}

impl From<ChunkFrame> for wire::UploadFrame {
    fn from(frame: ChunkFrame) -> Self {
        let (digest, chunk_size) = frame.head_fields();
        Self { scope: None, digest, chunk_size, data: frame.data }
    }
}

impl From<ChunkFrame> for wire::DownloadFrame {
    fn from(frame: ChunkFrame) -> Self {
        let (digest, chunk_size) = frame.head_fields();
        Self { digest, chunk_size, data: frame.data }
    }
}

/// The frames of one chunk, which share its memory. A chunk is 1 byte to 4 MiB long: of anything else, no frames.
pub fn frames(digest: Digest, mut chunk: Bytes) -> impl Iterator<Item = ChunkFrame> {
    let size = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
    let mut head = Some(ChunkHead { digest, size });
    std::iter::from_fn(move || {
        (!chunk.is_empty())
            .then(|| ChunkFrame { head: head.take(), data: chunk.split_to(chunk.len().min(FRAME)) })
    })
}

/// Puts chunks together again. Never holds more than one.
#[derive(Debug, Default)]
pub struct Assembler {
    filling: Option<(ChunkHead, BytesMut)>,
}

impl Assembler {
    /// Takes the next frame; gives the chunk that it completes, not yet verified.
    pub fn push(&mut self, frame: ChunkFrame) -> Result<Option<(Digest, Bytes)>, FrameError> {
        let (head, mut bytes) = match (self.filling.take(), frame.head) {
            (Some(_), Some(_)) => return Err(FrameError::Early),
            (None, None) => return Err(FrameError::NoHead),
            (Some(filling), None) => filling,
            (None, Some(head)) => (head, BytesMut::new()),
        };
        let size = usize::try_from(head.size).map_err(|_| FrameError::Size(head.size))?;
        if frame.data.len() > size - bytes.len() {
            return Err(FrameError::Long);
        }
        if bytes.is_empty() && frame.data.len() == size {
            return Ok(Some((head.digest, frame.data)));
        }
        bytes.reserve(size - bytes.len());
        bytes.extend_from_slice(&frame.data);
        if bytes.len() < size {
            self.filling = Some((head, bytes));
            return Ok(None);
        }
        Ok(Some((head.digest, bytes.freeze())))
    }

    /// No chunk is half done: the stream may end here.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.filling.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(frames: impl IntoIterator<Item = ChunkFrame>) -> Result<Vec<Bytes>, FrameError> {
        let mut assembler = Assembler::default();
        let mut chunks = Vec::new();
        for frame in frames {
            chunks.extend(assembler.push(frame)?.map(|(_, chunk)| chunk));
        }
        Ok(chunks)
    }

    #[test]
    fn a_chunk_survives_its_frames() {
        for size in [1, FRAME - 1, FRAME, FRAME + 1, CHUNK] {
            let chunk = Bytes::from(vec![7; size]);
            let digest = Digest::of(&chunk);
            let wired = frames(digest, chunk.clone()).map(wire::UploadFrame::from);
            let back = wired.map(|frame| ChunkFrame::try_from(frame).expect("a good frame"));
            assert_eq!(all(back), Ok(vec![chunk]), "{size} bytes");
        }
        assert_eq!(frames(Digest::of(b""), Bytes::new()).count(), 0);
    }

    #[test]
    fn frames_out_of_order_are_refused() {
        let chunk = Bytes::from(vec![7; FRAME + 1]);
        let run: Vec<_> = frames(Digest::of(&chunk), chunk).collect();
        assert_eq!(all([run[0].clone(), run[0].clone()]), Err(FrameError::Early));
        assert_eq!(all([run[1].clone()]), Err(FrameError::NoHead));
        let long = ChunkFrame { head: None, data: Bytes::from_static(b"xx") };
        assert_eq!(all([run[0].clone(), long]), Err(FrameError::Long));
    }

    #[test]
    fn malformed_frames_are_refused() {
        let frame = |digest: &[u8], chunk_size, len| {
            let data = Bytes::from(vec![0; len]);
            let digest = digest.to_vec();
            ChunkFrame::try_from(wire::UploadFrame { scope: None, digest, chunk_size, data })
        };
        assert_eq!(frame(&[0; 31], 4, 1), Err(FrameError::Digest));
        assert_eq!(frame(&[], 4, 1), Err(FrameError::Digest));
        assert_eq!(frame(&[0; 32], 0, 1), Err(FrameError::Size(0)));
        assert_eq!(frame(&[0; 32], (4 << 20) + 1, 1), Err(FrameError::Size((4 << 20) + 1)));
        assert_eq!(frame(&[0; 32], 4, 0), Err(FrameError::Empty));
        assert_eq!(frame(&[0; 32], 4 << 20, (1 << 20) + 1), Err(FrameError::Long));
    }

    proptest! {
        /// Whatever arrives, no more than one chunk is ever held, and what comes out is of the size that was announced.
        #[test]
        fn hostile_frames_never_hold_more_than_a_chunk(
            script in proptest::collection::vec((any::<bool>(), 1_u32..5_000_000, 1_usize..2000), 1..40)
        ) {
            let mut assembler = Assembler::default();
            let mut announced = 0;
            for (headed, size, len) in script {
                let head = ChunkHead { digest: Digest::of(b"x"), size };
                let idle = assembler.is_idle();
                let head = headed.then_some(head);
                let out = assembler.push(ChunkFrame { head, data: Bytes::from(vec![0; len]) });
                if headed && idle { announced = size; }
                if let Some((_, chunk)) = out.unwrap_or_default() {
                    prop_assert_eq!(chunk.len(), announced as usize);
                }
                if let Some((_, bytes)) = &assembler.filling {
                    prop_assert!(bytes.len() < announced as usize);
                }
            }
        }
    }
}
