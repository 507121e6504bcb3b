//! All records in one file: the backup, checked when it is written and again before it is restored.
//!
//! ```text
//! "HONEXPRT" | version u16 | seq u64 | count u64 | sum u128
//! count times: key length u16 | value length u32 | schema u16 | CRC32C of key and value u32 | key | value
//! BLAKE3 of everything before
//! ```
//! Integers are little-endian.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};

use super::engine::Engine;
use super::generation::Layout;
use super::record::{self, Fields, Flaw, Meta};
use super::sled::{Found, HeadedRecord, SledStore, fill, records};
use super::watermark::Watermark;
use super::{MAX_KEY, MAX_RECORD, Record, StoreError, io_at};
use crate::durable;

const MAGIC: [u8; 8] = *b"HONEXPRT";
const VERSION: u16 = 1;
const HEADER: usize = 8 + 2 + 8 + 8 + 16;
const RECORD_HEADER: usize = 2 + 4 + 2 + 4;

/// What an export holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportSummary {
    /// Number of the last commit in it.
    pub seq: u64,
    /// Records.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// What a restore does with state that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present {
    /// Refuses.
    Refuse,
    /// Leaves its files in place under their generation's name, no longer used, for a person to remove.
    SetAside,
}

impl SledStore {
    /// Writes all records to `path` and reads them back from there. An older export stays in place until then.
    ///
    /// # Errors
    /// A record is damaged, or the file cannot be written or does not read back.
    pub fn export(&self, path: &Path) -> Result<ExportSummary, StoreError> {
        let temp = path.with_extension("tmp");
        let written = self.write_export(&temp, path);
        if written.is_err() {
            // What it holds is of no use, and the room may be what was missing.
            let _ = fs::remove_file(&temp);
        }
        written
    }

    fn write_export(&self, temp: &Path, path: &Path) -> Result<ExportSummary, StoreError> {
        let file = File::create(temp).map_err(io_at("create", temp))?;
        let mut out = Hashed { inner: BufWriter::new(file), hasher: blake3::Hasher::new() };
        write_records(&mut out, self.meta, records(&self.engine, b""), temp)?;
        let digest = *out.hasher.finalize().as_bytes();
        out.inner.write_all(&digest).map_err(io_at("write", temp))?;
        let file = out.inner.into_inner().map_err(|e| io_at("write", temp)(e.into_error()))?;
        file.sync_all().map_err(io_at("sync", temp))?;
        let summary = verify_export(temp)?;
        fs::rename(temp, path).map_err(io_at("rename", path))?;
        durable::sync_parent(path).map_err(io_at("sync", path))?;
        Ok(summary)
    }

    /// Fills a store under `data` from an export. The next open has the origin [`super::Origin::Restored`].
    ///
    /// # Errors
    /// The export does not verify, there is state and `present` says to refuse, or the disk fails. State that is there
    /// stays in use until all is written and verified.
    pub fn import(data: &Path, from: &Path, present: Present) -> Result<ExportSummary, StoreError> {
        let summary = verify_export(from)?;
        let layout = Layout::at(data)?;
        let _lock = layout.lock()?;
        if present == Present::Refuse && layout.current()?.is_some() {
            return Err(StoreError::AlreadyExists { path: data.to_owned() });
        }
        let number = layout.generations()?.last().map_or(1, |n| n + 1);
        if let Err(error) = fill_generation(&layout.generation(number), from) {
            // The next start would remove it as well; but the room may be what was missing.
            let _ = layout.remove(number);
            return Err(error);
        }
        layout.switch_to(number)?;
        layout.mark()?;
        Ok(summary)
    }

    /// Where the state in use lies, if there is any. Touches nothing of it.
    ///
    /// # Errors
    /// Another process has it, or the disk does not answer.
    pub fn present(data: &Path) -> Result<Option<PathBuf>, StoreError> {
        let layout = Layout::at(data)?;
        let _lock = layout.lock()?;
        Ok(layout.current()?.map(|number| layout.generation(number)))
    }
}

/// Makes a generation of an export, not yet in use. Durable on return.
fn fill_generation(dir: &Path, from: &Path) -> Result<(), StoreError> {
    let engine = Engine::create(dir)?;
    let mut export = Reading::open(from)?;
    let meta = Meta { restored: true, ..export.meta };
    let meta = fill(&engine, meta, std::iter::from_fn(|| export.next_record().transpose()))?;
    Watermark::create(engine.dir(), meta.seq).map(drop)
}

/// The records of an export, in the order of their keys, every byte of it checked.
///
/// # Errors
/// The file cannot be read or is not a whole export.
pub fn read_export(path: &Path) -> Result<Vec<Record>, StoreError> {
    verify_export(path)?;
    let mut export = Reading::open(path)?;
    let mut records = Vec::new();
    while let Some((_, key, value)) = export.next_record()? {
        records.push((key, value));
    }
    Ok(records)
}

/// Reads an export to its end and checks every byte of it.
///
/// # Errors
/// The file cannot be read or is not a whole export.
pub fn verify_export(path: &Path) -> Result<ExportSummary, StoreError> {
    let mut export = Reading::open(path)?;
    let meta = export.meta;
    let mut counted = Meta { count: 0, sum: 0, ..meta };
    while let Some((head, key, _)) = export.next_record()? {
        counted.add(head, &key);
    }
    if counted != meta {
        return Err(export.damaged("its records do not add up to its header"));
    }
    let bytes = fs::metadata(path).map_err(io_at("read", path))?.len();
    Ok(ExportSummary { seq: meta.seq, records: meta.count, bytes })
}

/// A reader or writer that hashes what passes.
struct Hashed<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T: io::Write> Hashed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<T: Read> Hashed<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(bytes)?;
        self.hasher.update(bytes);
        Ok(())
    }
}

fn write_records(
    out: &mut Hashed<BufWriter<File>>,
    meta: Meta,
    source: impl Iterator<Item = Found>,
    path: &Path,
) -> Result<(), StoreError> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&meta.seq.to_le_bytes());
    header.extend_from_slice(&meta.count.to_le_bytes());
    header.extend_from_slice(&meta.sum.to_le_bytes());
    out.write(&header).map_err(io_at("write", path))?;
    for found in source {
        let (_, key, value) = found?;
        let lengths = (u16::try_from(key.len()), u32::try_from(value.len()));
        let (Ok(key_len), Ok(value_len)) = lengths else {
            return Err(StoreError::RecordTooLarge {
                key: super::show_key(&key),
                len: value.len(),
            });
        };
        let mut record = Vec::with_capacity(RECORD_HEADER + key.len() + value.len());
        record.extend_from_slice(&key_len.to_le_bytes());
        record.extend_from_slice(&value_len.to_le_bytes());
        record.extend_from_slice(&record::SCHEMA.to_le_bytes());
        record.extend_from_slice(&record::checksum(&key, &value).to_le_bytes());
        record.extend_from_slice(&key);
        record.extend_from_slice(&value);
        out.write(&record).map_err(io_at("write", path))?;
    }
    Ok(())
}

/// An export being read.
struct Reading<'a> {
    input: Hashed<BufReader<File>>,
    path: &'a Path,
    meta: Meta,
    left: u64,
}

impl<'a> Reading<'a> {
    fn open(path: &'a Path) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(io_at("open", path))?;
        let input = Hashed { inner: BufReader::new(file), hasher: blake3::Hasher::new() };
        let mut reading = Self { input, path, meta: Meta::default(), left: 0 };
        let header: [u8; HEADER] = reading.take()?;
        reading.meta = reading.header(&header)?;
        reading.left = reading.meta.count;
        Ok(reading)
    }

    fn header(&self, bytes: &[u8]) -> Result<Meta, StoreError> {
        let flawed = |_| self.damaged("its header is cut short");
        let mut at = Fields(bytes);
        if at.take::<8>().map_err(flawed)? != MAGIC {
            return Err(self.damaged("it is not an export of hone's state"));
        }
        let found = u16::from_le_bytes(at.take().map_err(flawed)?);
        if found > VERSION {
            let what = self.path.display().to_string();
            return Err(StoreError::TooNew { what, found, known: VERSION });
        }
        Ok(Meta {
            seq: u64::from_le_bytes(at.take().map_err(flawed)?),
            count: u64::from_le_bytes(at.take().map_err(flawed)?),
            sum: u128::from_le_bytes(at.take().map_err(flawed)?),
            restored: false,
        })
    }

    /// The next record; at the end the digest is checked.
    fn next_record(&mut self) -> Result<Option<HeadedRecord>, StoreError> {
        if self.left == 0 {
            self.check_end()?;
            return Ok(None);
        }
        self.left -= 1;
        let header: [u8; RECORD_HEADER] = self.take()?;
        let flawed = |flaw| self.flawed(flaw);
        let mut at = Fields(&header);
        let key_len = usize::from(u16::from_le_bytes(at.take().map_err(flawed)?));
        let value_len = u32::from_le_bytes(at.take().map_err(flawed)?) as usize;
        let schema = u16::from_le_bytes(at.take().map_err(flawed)?);
        let crc = u32::from_le_bytes(at.take().map_err(flawed)?);
        if schema > record::SCHEMA {
            return Err(self.flawed(Flaw::TooNew(schema)));
        }
        if key_len == 0 || key_len > MAX_KEY || value_len > MAX_RECORD {
            return Err(self.damaged("a record is out of bounds"));
        }
        let mut key = vec![0; key_len];
        let mut value = vec![0; value_len];
        self.read(&mut key)?;
        self.read(&mut value)?;
        if record::checksum(&key, &value) != crc {
            return Err(self.damaged("a record's checksum does not match"));
        }
        let (head, _) = record::encode(&key, &value);
        Ok(Some((head, key, value)))
    }

    fn check_end(&mut self) -> Result<(), StoreError> {
        let expected = *self.input.hasher.finalize().as_bytes();
        let mut rest = Vec::new();
        let end = (&mut self.input.inner).take(64).read_to_end(&mut rest);
        end.map_err(io_at("read", self.path))?;
        if rest != expected {
            return Err(self.damaged("its digest does not match"));
        }
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), StoreError> {
        match self.input.read(bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it is cut short"))
            }
            other => other.map_err(io_at("read", self.path)),
        }
    }

    fn flawed(&self, flaw: Flaw) -> StoreError {
        match flaw {
            Flaw::Broken(why) => self.damaged(why),
            Flaw::TooNew(found) => StoreError::TooNew {
                what: self.path.display().to_string(),
                found,
                known: record::SCHEMA,
            },
        }
    }

    fn damaged(&self, why: &str) -> StoreError {
        StoreError::Damaged { path: self.path.to_owned(), why: why.to_owned() }
    }
}
