//! Bytes that are read here and there: a plain file, or a slice in a test.

use crate::trainer::{FileError, PlainFile};

/// Something with a size whose bytes can be read at any place.
pub(super) trait ReadAt {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Reads at most `buffer.len()` bytes from `offset`; fewer only at the end.
    ///
    /// # Errors
    /// When the system refuses.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, FileError>;

    /// The `len` bytes at `offset`; nothing when some of them do not exist.
    ///
    /// # Errors
    /// When the system refuses.
    fn exactly(&self, offset: u64, len: usize) -> Result<Option<Vec<u8>>, FileError> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.size()) {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        let read = self.read_at(&mut bytes, offset)?;
        Ok((read == len).then_some(bytes))
    }
}

impl ReadAt for PlainFile {
    fn size(&self) -> u64 {
        self.len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, FileError> {
        Self::read_at(self, buffer, offset)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl ReadAt for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, FileError> {
        let rest = usize::try_from(offset).ok().and_then(|from| self.get(from..)).unwrap_or(&[]);
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}
