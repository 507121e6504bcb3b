//! One append-only file of checksummed records.
//!
//! ```text
//! "HONESEG" | version u8                          eight bytes
//! length u32 | CRC32C of the payload u32 | payload, again and again
//! ```
//! Integers are little-endian. Places in a segment count from after the header. What lies beyond the length that the
//! store recorded was never acknowledged and is cut off when the segment is opened for writing; damage before it is an
//! error that names the place, and nothing is repaired silently.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::durable;

/// Largest payload of one record: a node's sample with hundreds of cores and processes has room, a runaway has not.
pub const MAX_PAYLOAD: usize = 256 * 1024;

/// Appended bytes held back for one larger write.
const BUFFER: usize = 256 * 1024;

const MAGIC: [u8; 8] = *b"HONESEG\x01";
const HEADER: u64 = MAGIC.len() as u64;
const FRAME: u64 = 8;

/// Why a segment cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// Over [`MAX_PAYLOAD`]. Nothing was appended.
    #[error("a record of {len} bytes is too large: at most {MAX_PAYLOAD} are allowed")]
    TooLarge {
        /// Its length.
        len: usize,
    },
    /// What was acknowledged is not there, or not as it was.
    #[error("{} is damaged at {offset}: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, counted from after the header.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A write or sync failed earlier: open again from the recorded length.
    #[error("{} failed earlier and must be opened again", path.display())]
    Poisoned {
        /// The file.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

pub(super) fn io_at<'a>(
    verb: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> SegmentError + 'a {
    move |source| SegmentError::Io { verb, path: path.to_owned(), source }
}

fn damaged(path: &Path, offset: u64, why: &'static str) -> SegmentError {
    SegmentError::Damaged { path: path.to_owned(), offset, why }
}

/// Appends to one segment.
#[derive(Debug)]
pub struct SegmentWriter {
    file: File,
    path: PathBuf,
    len: u64,
    buffer: Vec<u8>,
    unsynced: bool,
    poisoned: bool,
}

impl SegmentWriter {
    /// Makes an empty segment, over whatever was there. The name is durable on return.
    ///
    /// # Errors
    /// The file cannot be made or synced.
    pub fn create(path: &Path) -> Result<Self, SegmentError> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(io_at("create", path))?;
        file.write_all(&MAGIC).map_err(io_at("write", path))?;
        file.sync_all().map_err(io_at("sync", path))?;
        durable::sync_parent(path).map_err(io_at("sync", path))?;
        Ok(Self::at(file, path, 0))
    }

    /// Opens a segment whose first `committed_len` bytes were acknowledged, checks these, and cuts off the rest.
    ///
    /// # Errors
    /// The acknowledged part is short or damaged, or the file cannot be read or cut.
    pub fn open(path: &Path, committed_len: u64) -> Result<Self, SegmentError> {
        if committed_len == 0 {
            return Self::create(path);
        }
        for record in SegmentReader::open(path, 0, committed_len)? {
            record?;
        }
        let mut file = OpenOptions::new().write(true).open(path).map_err(io_at("open", path))?;
        let end = HEADER + committed_len;
        file.set_len(end).map_err(io_at("cut", path))?;
        file.sync_all().map_err(io_at("sync", path))?;
        file.seek(SeekFrom::Start(end)).map_err(io_at("seek in", path))?;
        Ok(Self::at(file, path, committed_len))
    }

    fn at(file: File, path: &Path, len: u64) -> Self {
        let (buffer, path) = (Vec::new(), path.to_owned());
        Self { file, path, len, buffer, unsynced: false, poisoned: false }
    }

    /// Appends a record and returns the segment's new length. Durable only after [`SegmentWriter::sync`].
    ///
    /// # Errors
    /// The payload is too large, which changes nothing; or a write fails, which poisons the writer.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, SegmentError> {
        self.check_usable()?;
        if payload.len() > MAX_PAYLOAD {
            return Err(SegmentError::TooLarge { len: payload.len() });
        }
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.buffer.extend_from_slice(&len.to_le_bytes());
        self.buffer.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        self.buffer.extend_from_slice(payload);
        self.len += FRAME + payload.len() as u64;
        self.unsynced = true;
        if self.buffer.len() >= BUFFER {
            self.write_out()?;
        }
        Ok(self.len)
    }

    /// Makes everything appended durable. Does nothing when nothing was appended.
    ///
    /// # Errors
    /// A write or the sync fails, which poisons the writer: what reached the disk is not known.
    pub fn sync(&mut self) -> Result<(), SegmentError> {
        self.check_usable()?;
        if !self.unsynced {
            return Ok(());
        }
        self.write_out()?;
        self.poisoned = true;
        self.file.sync_data().map_err(io_at("sync", &self.path))?;
        (self.poisoned, self.unsynced) = (false, false);
        Ok(())
    }

    /// The length with everything appended.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was ever appended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn write_out(&mut self) -> Result<(), SegmentError> {
        self.poisoned = true;
        self.file.write_all(&self.buffer).map_err(io_at("write", &self.path))?;
        self.buffer.clear();
        self.poisoned = false;
        Ok(())
    }

    fn check_usable(&self) -> Result<(), SegmentError> {
        if self.poisoned {
            return Err(SegmentError::Poisoned { path: self.path.clone() });
        }
        Ok(())
    }
}

/// A record with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it starts.
    pub at: u64,
    /// Where the next one starts: where to go on reading.
    pub next: u64,
    /// What was appended.
    pub payload: Vec<u8>,
}

/// Reads the records of one segment between two places; ends after the first error.
#[derive(Debug)]
pub struct SegmentReader {
    input: BufReader<File>,
    path: PathBuf,
    at: u64,
    end: u64,
}

impl SegmentReader {
    /// Reads from `from`, which is 0 or an [`Entry::next`], to `end`, which is where a record ends.
    ///
    /// # Errors
    /// The file cannot be read or is no segment.
    pub fn open(path: &Path, from: u64, end: u64) -> Result<Self, SegmentError> {
        let mut file = File::open(path).map_err(io_at("open", path))?;
        let mut magic = [0; MAGIC.len()];
        read_whole(&mut file, &mut magic, path, 0, "its header is cut short")?;
        if magic != MAGIC {
            return Err(damaged(path, 0, "it is not a segment of this version"));
        }
        file.seek(SeekFrom::Start(HEADER + from)).map_err(io_at("seek in", path))?;
        Ok(Self { input: BufReader::new(file), path: path.to_owned(), at: from, end })
    }

    fn read(&mut self) -> Result<Entry, SegmentError> {
        let (path, at) = (&self.path, self.at);
        if self.end - at < FRAME {
            return Err(damaged(path, at, "the recorded length ends within a record"));
        }
        let (mut len, mut crc) = ([0; 4], [0; 4]);
        let short = "it is shorter than what was acknowledged";
        read_whole(&mut self.input, &mut len, path, at, short)?;
        read_whole(&mut self.input, &mut crc, path, at, short)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_PAYLOAD {
            return Err(damaged(path, at, "a record's length is out of bounds"));
        }
        let next = at + FRAME + len as u64;
        if next > self.end {
            return Err(damaged(path, at, "the recorded length ends within a record"));
        }
        let mut payload = vec![0; len];
        read_whole(&mut self.input, &mut payload, path, at, short)?;
        if crc32c::crc32c(&payload) != u32::from_le_bytes(crc) {
            return Err(damaged(path, at, "a record's checksum does not match"));
        }
        self.at = next;
        Ok(Entry { at, next, payload })
    }
}

impl Iterator for SegmentReader {
    type Item = Result<Entry, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let result = self.read();
        if result.is_err() {
            self.at = self.end;
        }
        Some(result)
    }
}

/// The length of all that a finished segment holds.
pub(super) fn stored_len(path: &Path) -> Result<u64, SegmentError> {
    let len = std::fs::metadata(path).map_err(io_at("look at", path))?.len();
    len.checked_sub(HEADER).ok_or_else(|| damaged(path, 0, "its header is cut short"))
}

fn read_whole(
    input: &mut impl io::Read,
    bytes: &mut [u8],
    path: &Path,
    at: u64,
    short: &'static str,
) -> Result<(), SegmentError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(path, at, short),
        _ => io_at("read", path)(error),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn read(path: &Path, end: u64) -> Result<Vec<Vec<u8>>, SegmentError> {
        SegmentReader::open(path, 0, end)?.map(|entry| entry.map(|e| e.payload)).collect()
    }

    /// Three records, synced; and their ends.
    fn three(path: &Path) -> Vec<u64> {
        let mut writer = SegmentWriter::create(path).unwrap();
        let ends = [&b"one"[..], b"", &[9; 300_000 - 50_000]].map(|p| writer.append(p).unwrap());
        writer.sync().unwrap();
        ends.to_vec()
    }

    #[test]
    fn records_come_back_from_any_place_that_was_returned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let ends = three(&path);
        let all: Vec<Entry> =
            SegmentReader::open(&path, 0, ends[2]).unwrap().map(Result::unwrap).collect();
        assert_eq!(all.iter().map(|e| e.next).collect::<Vec<_>>(), ends);
        let tail: Vec<Entry> =
            SegmentReader::open(&path, ends[0], ends[1]).unwrap().map(Result::unwrap).collect();
        assert_eq!(tail, all[1..2]);
    }

    #[test]
    fn what_was_not_acknowledged_is_cut_off_and_writing_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let ends = three(&path);
        let mut torn = fs::read(&path).unwrap();
        torn.truncate(torn.len() - 5);
        torn.extend_from_slice(b"garbage");
        fs::write(&path, torn).unwrap();
        let mut writer = SegmentWriter::open(&path, ends[1]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), HEADER + ends[1]);
        let end = writer.append(b"new").unwrap();
        writer.sync().unwrap();
        assert_eq!(read(&path, end).unwrap(), [&b"one"[..], b"", b"new"]);
        assert!(SegmentWriter::open(&path, 0).unwrap().is_empty());
        assert_eq!(fs::metadata(&path).unwrap().len(), HEADER);
    }

    #[test]
    fn damage_of_what_was_acknowledged_is_an_error_that_names_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let ends = three(&path);
        let whole = fs::read(&path).unwrap();
        let place = |bytes: &[u8], committed| {
            fs::write(&path, bytes).unwrap();
            match SegmentWriter::open(&path, committed) {
                Err(SegmentError::Damaged { offset, .. }) => offset,
                other => panic!("not noticed: {other:?}"),
            }
        };
        for (at, expected) in [(8, 0), (13, 0), (17, 0), (19, ends[0]), (60_000, ends[1])] {
            let mut bent = whole.clone();
            bent[at] ^= 0x80;
            assert_eq!(place(&bent, ends[2]), expected, "byte {at}");
        }
        assert_eq!(place(&whole[..60_000], ends[2]), ends[1]);
        assert_eq!(place(&whole, ends[1] + 3), ends[1]);
        assert_eq!(place(&whole, ends[1] + 12), ends[1]);
        assert_eq!(place(&whole, ends[2] + 100), ends[2]);
        assert_eq!(place(b"HONESEG\x02", ends[0]), 0);
    }

    #[test]
    fn too_large_a_record_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SegmentWriter::create(&dir.path().join("s")).unwrap();
        let refused = writer.append(&vec![0; MAX_PAYLOAD + 1]);
        assert!(matches!(refused, Err(SegmentError::TooLarge { .. })));
        assert_eq!(writer.len(), 0);
        writer.append(&vec![0; MAX_PAYLOAD]).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_read_without_a_panic_and_yield_only_whole_records(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            end in 0_u64..300,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("s");
            fs::write(&path, [&MAGIC, bytes.as_slice()].concat()).unwrap();
            let mut at = 0;
            for entry in SegmentReader::open(&path, 0, end).unwrap().map_while(Result::ok) {
                prop_assert_eq!(entry.at, at);
                let start = usize::try_from(at).unwrap();
                let crc = u32::from_le_bytes(bytes[start + 4..start + 8].try_into().unwrap());
                prop_assert_eq!(crc, crc32c::crc32c(&entry.payload));
                at = entry.next;
            }
            prop_assert!(at <= end);
        }
    }
}
