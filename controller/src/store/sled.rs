//! The durable store: one tree of sled, one atomic batch per commit, synced before `commit` returns.
//!
//! At open everything is read once and must add up to what the last commit recorded: count and sum over all records.
//! The engine can lose keys without an error; this store cannot lose them without noticing. Nor can it fall back to an
//! older state that is whole in itself: the watermark beside the engine's files knows a commit that must be there.

use std::collections::BTreeMap;
use std::path::Path;

use tracing::{error, warn};

use super::engine::{Changes, Engine};
use super::generation::{Layout, Lock};
use super::record::{self, Flaw, Head, Meta};
use super::watermark::Watermark;
use super::{Batch, Record, Store, StoreError, Write, reserve, show_key};

/// Free room below which nothing is committed: an engine that hits the end of the disk in the middle of a commit
/// leaves a state that nobody knows. Four times the largest part of the log that one commit of usual size touches.
const FLOOR_BYTES: u64 = 8 * 1024 * 1024;

/// Log smaller than this is never worth compacting.
const COMPACT_ABOVE_BYTES: u64 = 64 * 1024 * 1024;

/// Log over this many times its live bytes is worth compacting; the engine settles at five to eight times.
const COMPACT_ABOVE_RATIO: u64 = 12;

/// Where the state of an opened store came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Made just now: there was no state, and no marker of any.
    Created,
    /// What the last run committed.
    Existing,
    /// An export was restored and nothing was committed since: the first batch must hold the raised generation. It
    /// also ends this condition, so a crash before it comes back here.
    Restored,
}

/// Figures of an open store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStats {
    /// Number of the last commit.
    pub seq: u64,
    /// Records.
    pub records: u64,
    /// Bytes of keys and values, as last counted by a full read.
    pub live_bytes: u64,
    /// Bytes of the engine's log.
    pub log_bytes: u64,
    /// Files that the engine wrote and never synced. Anything but 0 is an alarm: a power cut may cost the store.
    pub unsynced_files: usize,
}

/// The store on disk.
#[derive(Debug)]
pub struct SledStore {
    pub(super) engine: Engine,
    pub(super) layout: Layout,
    number: u64,
    pub(super) meta: Meta,
    live_bytes: u64,
    origin: Origin,
    watermark: Watermark,
    poisoned: bool,
    /// Whether room is kept aside.
    has_reserve: bool,
    /// Free bytes below which nothing is committed; a field so that tests can raise it.
    pub(super) floor: u64,
    _lock: Lock,
}

impl SledStore {
    /// Opens the store under `data`, and makes it if there is neither state nor a marker of any. Reads everything once
    /// to prove that it is whole.
    ///
    /// # Errors
    /// Another process has it, the state is missing or damaged, or a file operation fails.
    pub fn open(data: &Path) -> Result<Self, StoreError> {
        let layout = Layout::at(data)?;
        let lock = layout.lock()?;
        if reserve::free(&layout)? < FLOOR_BYTES {
            reserve::give_back(&layout)?;
        }
        let mut store = match (layout.current()?, layout.is_marked()?) {
            (Some(number), _) => {
                layout.remove_unfinished(number)?;
                Self::open_generation(layout, lock, number)?
            }
            (None, true) => return Err(StoreError::StateMissing { marker: layout.marker() }),
            (None, false) => Self::create(layout, lock)?,
        };
        // A full disk has no room for a mark that is there already.
        if !store.layout.is_marked()? {
            store.layout.mark()?;
        }
        if store.wants_compaction()
            && let Err(error) = store.compact()
        {
            warn!(%error, "the log could not be compacted: the present one stays in use");
        }
        store.has_reserve = reserve::keep(&store.layout);
        Ok(store)
    }

    fn create(layout: Layout, lock: Lock) -> Result<Self, StoreError> {
        layout.remove_unfinished(0)?;
        let engine = Engine::create(&layout.generation(1))?;
        let meta = fill(&engine, Meta::default(), std::iter::empty())?;
        let watermark = Watermark::create(engine.dir(), meta.seq)?;
        layout.switch_to(1)?;
        Ok(Self::assemble(layout, lock, 1, (engine, meta, watermark), Origin::Created))
    }

    fn open_generation(layout: Layout, lock: Lock, number: u64) -> Result<Self, StoreError> {
        let engine = Engine::open(&layout.generation(number))?;
        let (meta, live_bytes) = verify(&engine)?;
        let watermark = Watermark::open(engine.dir(), meta.seq)?;
        let origin = if meta.restored { Origin::Restored } else { Origin::Existing };
        let mut store = Self::assemble(layout, lock, number, (engine, meta, watermark), origin);
        store.live_bytes = live_bytes;
        Ok(store)
    }

    fn assemble(
        layout: Layout,
        lock: Lock,
        number: u64,
        (engine, meta, watermark): (Engine, Meta, Watermark),
        origin: Origin,
    ) -> Self {
        Self {
            engine,
            layout,
            number,
            meta,
            live_bytes: 0,
            origin,
            watermark,
            poisoned: false,
            has_reserve: false,
            floor: FLOOR_BYTES,
            _lock: lock,
        }
    }

    /// Where the state came from when this store was opened.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Present figures.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            seq: self.meta.seq,
            records: self.meta.count,
            live_bytes: self.live_bytes,
            log_bytes: self.engine.log_bytes(),
            unsynced_files: self.engine.unsynced_files(),
        }
    }

    fn wants_compaction(&self) -> bool {
        let log = self.engine.log_bytes();
        log > COMPACT_ABOVE_BYTES && log > self.live_bytes.saturating_mul(COMPACT_ABOVE_RATIO)
    }

    /// Writes all records into a new generation and goes on there. Done at open when the log has outgrown its records.
    ///
    /// # Errors
    /// The copy fails or does not add up; the present generation then stays in use.
    pub fn compact(&mut self) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        let next = self.layout.generations()?.last().map_or(1, |n| n + 1);
        let engine = Engine::create(&self.layout.generation(next))?;
        let meta = fill(&engine, self.meta, records(&self.engine, b""))?;
        let watermark = Watermark::create(engine.dir(), meta.seq)?;
        self.layout.switch_to(next)?;
        let old = self.number;
        (self.engine, self.watermark) = (engine, watermark);
        (self.meta, self.number) = (meta, next);
        self.layout.remove(old)
    }

    /// Refuses a commit that the disk may not hold, after giving back the reserve.
    fn make_room(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let size: usize = batch.writes().iter().map(Write::size).sum();
        let needed = self.floor.saturating_add(4 * size as u64);
        if reserve::free(&self.layout)? >= needed {
            // Somebody may have tidied the disk since it was given back.
            self.has_reserve = self.has_reserve || reserve::keep(&self.layout);
            return Ok(());
        }
        reserve::give_back(&self.layout)?;
        self.has_reserve = false;
        let free = reserve::free(&self.layout)?;
        if free >= needed {
            return Ok(());
        }
        Err(StoreError::DiskFull { path: self.layout.data().to_owned(), free })
    }

    /// The engine's changes for a batch, and what the store adds up to after them.
    fn plan(&self, batch: &Batch) -> Result<(Changes, Meta), StoreError> {
        let last: BTreeMap<&[u8], &Write> = batch.writes().iter().map(|w| (w.key(), w)).collect();
        let mut changes = Changes::default();
        let mut meta = Meta { seq: self.meta.seq.wrapping_add(1), restored: false, ..self.meta };
        for (key, write) in last {
            if let Some(stored) = self.engine.get(&record::head_key(key))? {
                let head = Head::parse(&stored).map_err(|flaw| self.flawed(key, flaw))?;
                meta.remove(head, key);
                changes.remove(record::head_key(key));
                for part in head.further_parts() {
                    changes.remove(record::part_key(key, part));
                }
            }
            if let Write::Put(_, value) = write {
                meta.add(put(&mut changes, key, value), key);
            }
        }
        changes.insert(record::META_KEY, meta.encode());
        Ok((changes, meta))
    }

    fn flawed(&self, key: &[u8], flaw: Flaw) -> StoreError {
        flawed(self.engine.dir(), key, flaw)
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        if let Err(error) = self.watermark.close(self.meta.seq) {
            warn!(%error, "the watermark could not be raised at the end");
        }
    }
}

impl Store for SledStore {
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        batch.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        self.make_room(batch)?;
        // Poisoned until proven otherwise: after a failed sync the kernel may have dropped the pages, and a second
        // sync that succeeds would prove nothing.
        self.poisoned = true;
        let (changes, meta) = self.plan(batch)?;
        self.engine.apply(changes)?;
        self.engine.sync()?;
        self.watermark.raise(meta.seq)?;
        self.meta = meta;
        self.poisoned = false;
        Ok(())
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Record>, StoreError> {
        records(&self.engine, prefix)
            .map(|found| found.map(|(_, key, value)| (key, value)))
            .collect()
    }
}

/// Adds a record to the changes. Within the engine's batch, a later change of a key replaces an earlier one.
fn put(changes: &mut Changes, key: &[u8], value: &[u8]) -> Head {
    let (head, parts) = record::encode(key, value);
    for (key, part) in parts {
        changes.insert(key, part);
    }
    head
}

/// A record with its head: head, key, value.
pub(super) type HeadedRecord = (Head, Vec<u8>, Vec<u8>);

/// A record read, or why not.
pub(super) type Found = Result<HeadedRecord, StoreError>;

/// The records under a prefix, put together and checked.
pub(super) fn records<'a>(
    engine: &'a Engine,
    prefix: &[u8],
) -> impl Iterator<Item = Found> + use<'a> {
    engine.scan(&record::head_key(prefix)).map(move |pair| {
        let (head_key, stored) = pair?;
        let key = head_key[1..].to_vec();
        let flawed = |flaw| flawed(engine.dir(), &key, flaw);
        let mut further = Vec::new();
        for part in Head::parse(&stored).map_err(flawed)?.further_parts() {
            let part = engine.get(&record::part_key(&key, part))?;
            further.push(part.ok_or_else(|| flawed(Flaw::Broken("a part of it is missing")))?);
        }
        let parts = further.iter().map(|part| &**part);
        let (head, value) = record::decode(&key, &stored, parts).map_err(flawed)?;
        Ok((head, key, value))
    })
}

fn flawed(dir: &Path, key: &[u8], flaw: Flaw) -> StoreError {
    match flaw {
        Flaw::Broken(why) => StoreError::Damaged {
            path: dir.to_owned(),
            why: format!("record {}: {why}", show_key(key)),
        },
        Flaw::TooNew(found) => StoreError::TooNew {
            what: format!("record {}", show_key(key)),
            found,
            known: record::SCHEMA,
        },
    }
}

/// Reads everything and compares it with what the last commit recorded. Returns that, and the live bytes.
fn verify(engine: &Engine) -> Result<(Meta, u64), StoreError> {
    let damaged = |why: String| StoreError::Damaged { path: engine.dir().to_owned(), why };
    let stored = engine.get(record::META_KEY)?;
    let stored = stored.ok_or_else(|| damaged("the store's own record is missing".to_owned()))?;
    let recorded =
        Meta::decode(&stored).map_err(|flaw| flawed(engine.dir(), record::META_KEY, flaw))?;
    let mut counted = Meta { count: 0, sum: 0, ..recorded };
    let mut live_bytes = 0;
    for found in records(engine, b"") {
        let (head, key, value) = found?;
        counted.add(head, &key);
        live_bytes += (key.len() + value.len()) as u64;
    }
    if counted != recorded {
        return Err(damaged(format!(
            "commit {} left {} records, and {} are here or some differ",
            recorded.seq, recorded.count, counted.count
        )));
    }
    if engine.unsynced_files() > 0 {
        error!(dir = %engine.dir().display(), "the engine keeps files that it never syncs");
    }
    Ok((recorded, live_bytes))
}

/// Records copied into a new generation per batch of the engine.
const FILL_RECORDS: usize = 256;

/// Copies records into an empty generation, which must then add up to `meta`. Durable on return.
pub(super) fn fill(
    engine: &Engine,
    meta: Meta,
    source: impl Iterator<Item = Found>,
) -> Result<Meta, StoreError> {
    let mut counted = Meta { count: 0, sum: 0, ..meta };
    let mut written = counted;
    let mut changes = Changes::default();
    for (index, found) in source.enumerate() {
        let (head, key, value) = found?;
        counted.add(head, &key);
        written.add(put(&mut changes, &key, &value), &key);
        if index % FILL_RECORDS == FILL_RECORDS - 1 {
            engine.apply(std::mem::take(&mut changes))?;
        }
    }
    if counted != meta {
        let why = "its records do not add up to what was recorded".to_owned();
        return Err(StoreError::Damaged { path: engine.dir().to_owned(), why });
    }
    // The heads of upgraded records differ from those read, so the new sum is of what was written.
    changes.insert(record::META_KEY, written.encode());
    engine.apply(changes)?;
    engine.sync()?;
    let (stored, _) = verify(engine)?;
    Ok(stored)
}
