//! Events that the controller has not acknowledged, on disk and bounded.
//!
//! One lane for each stream: a folder of append-only segment files. The positions of the readers that made the events
//! (how far a metrics file or a log was read) travel in the same frame as the events, so that after a crash nothing is
//! read twice and nothing is skipped. What is lost all the same (a full lane that may drop, a damaged file) becomes a
//! hole in the numbers, and a hole is sent as a gap record that says how many are missing.

mod lane;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use hone_proto::event::Stream;
use hone_proto::id::{Seq, SpoolId};
use hone_proto::quantity::Bytes;
use hone_proto::wire;

use self::lane::Lane;

/// Bounds of the spool.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// All of it on disk, whatever the lanes may hold by themselves. When it is reached, whole segments of hardware
    /// samples are dropped, then of logs; when states and metrics alone fill it, nothing more is read from trainers.
    pub total: Bytes,
    /// Training metrics; never dropped. 256 MiB: weeks of a run that reports each second. When it is full the
    /// trainer's own files are the buffer.
    pub series: Bytes,
    /// Log records; the oldest are dropped. 256 MiB: a chatty trainer for a day without a link.
    pub logs: Bytes,
    /// Hardware rollups; the oldest are dropped first. 32 MiB: days.
    pub hardware: Bytes,
    /// A segment that has reached this size is closed: what is acknowledged or dropped goes in whole segments.
    pub segment: Bytes,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            total: crate::config::SPOOL,
            series: Bytes::mib(256),
            logs: Bytes::mib(256),
            hardware: Bytes::mib(32),
            segment: Bytes::mib(1),
        }
    }
}

impl Bounds {
    const fn of(&self, stream: Stream) -> (Bytes, bool) {
        match stream {
            // What the reconciler says is little, and must not be lost.
            Stream::State => (Bytes::new(u64::MAX), false),
            Stream::Series => (self.series, false),
            Stream::Logs => (self.logs, true),
            Stream::Hardware => (self.hardware, true),
        }
    }
}

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
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
    /// The id of the spool is damaged.
    #[error("{} is damaged", .0.display())]
    Id(PathBuf),
}

impl SpoolError {
    /// Whether it failed for want of room.
    #[must_use]
    pub fn is_full_disk(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        crate::state::is_full_disk(source)
    }
}

fn io_at<'a>(verb: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SpoolError + 'a {
    move |source| SpoolError::Io { verb, path: path.to_owned(), source }
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The events are in the spool.
    Accepted,
    /// There is no room, and nothing that may be dropped: read no more for now. Nothing was taken.
    Full,
}

/// The spool.
pub struct Spool {
    id: SpoolId,
    lanes: BTreeMap<Stream, Lane>,
    bounds: Bounds,
}

impl Spool {
    /// Opens the spool in `dir`, and makes it if it is missing.
    pub fn open(dir: &Path, bounds: Bounds) -> Result<Self, SpoolError> {
        std::fs::create_dir_all(dir).map_err(io_at("create", dir))?;
        let id = spool_id(dir)?;
        let lanes = Stream::ALL
            .into_iter()
            .map(|stream| Ok((stream, Lane::open(&dir.join(stream.name()), bounds.segment)?)))
            .collect::<Result<_, SpoolError>>()?;
        Ok(Self { id, lanes, bounds })
    }

    /// The id of the spool in `dir`; nothing when there is none, or when a part of it is missing.
    pub fn kept(dir: &Path) -> Result<Option<SpoolId>, SpoolError> {
        for stream in Stream::ALL {
            if !lane::is_there(&dir.join(stream.name()))? {
                return Ok(None);
            }
        }
        read_id(&dir.join("id"))
    }

    /// The id by which the controller knows this spool.
    #[must_use]
    pub const fn id(&self) -> &SpoolId {
        &self.id
    }

    fn lane(&mut self, stream: Stream) -> &mut Lane {
        match self.lanes.get_mut(&stream) {
            Some(lane) => lane,
            None => unreachable!("every stream has a lane"),
        }
    }

    /// Appends events with the reader positions that they came with, all or nothing. Their numbers are given here.
    /// States are always taken. A disk without room is an error for every stream: whoever owns it knows what may wait.
    pub fn append(
        &mut self,
        stream: Stream,
        events: Vec<wire::Event>,
        cursors: BTreeMap<String, Vec<u8>>,
    ) -> Result<Appended, SpoolError> {
        let (bound, may_drop) = self.bounds.of(stream);
        let lane = self.lane(stream);
        if lane.bytes() >= bound.get() {
            if !may_drop {
                return Ok(Appended::Full);
            }
            lane.drop_oldest(bound.get())?;
        }
        let room = self.make_room()?;
        // Samples come from no file that could keep them: the lane was emptied, and the newest one stands for the rest.
        if !room && matches!(stream, Stream::Series | Stream::Logs) {
            return Ok(Appended::Full);
        }
        self.put(stream, events, cursors)?;
        Ok(Appended::Accepted)
    }

    /// Appends what the agent itself has to say, whatever the bounds: it is little, and it is in no file.
    pub fn report(&mut self, stream: Stream, events: Vec<wire::Event>) -> Result<(), SpoolError> {
        self.make_room()?;
        self.put(stream, events, BTreeMap::new())
    }

    fn put(
        &mut self,
        stream: Stream,
        events: Vec<wire::Event>,
        cursors: BTreeMap<String, Vec<u8>>,
    ) -> Result<(), SpoolError> {
        let again = (events.clone(), cursors.clone());
        match self.lane(stream).append(events, cursors) {
            Err(error) if error.is_full_disk() => self.append_on_full_disk(stream, again),
            done => done,
        }
    }

    /// Keeps the whole below its bound: hardware samples go first, then logs, in whole segments and a little more than
    /// needed. False when what must not be dropped fills it alone.
    fn make_room(&mut self) -> Result<bool, SpoolError> {
        let bound = self.bounds.total.get();
        for stream in [Stream::Hardware, Stream::Logs] {
            let used = self.bytes();
            if used < bound {
                break;
            }
            let freed = self.lane(stream).free(used - bound + bound / 8)?;
            if freed > 0 {
                let stream = stream.name();
                tracing::warn!(stream, events = freed, "the spool is full: the oldest are dropped");
            }
        }
        Ok(self.bytes() < bound)
    }

    /// What it takes on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lanes.values().map(Lane::bytes).sum()
    }

    /// Logs and hardware make room for whatever comes.
    fn append_on_full_disk(
        &mut self,
        stream: Stream,
        (events, cursors): (Vec<wire::Event>, BTreeMap<String, Vec<u8>>),
    ) -> Result<(), SpoolError> {
        tracing::warn!(
            stream = stream.name(),
            "the disk is full: spooled logs and hardware samples are given up"
        );
        for given_up in [Stream::Hardware, Stream::Logs] {
            self.lane(given_up).shed()?;
        }
        self.lane(stream).append(events, cursors)
    }

    /// The position that a reader had when its last events were appended.
    #[must_use]
    pub fn cursor(&self, stream: Stream, key: &str) -> Option<&[u8]> {
        self.lanes.get(&stream)?.cursor(key)
    }

    /// Forgets the positions of all readers but those whose key is wanted.
    pub fn retain_cursors(&mut self, wanted: impl Fn(&str) -> bool) {
        for lane in self.lanes.values_mut() {
            lane.retain_cursors(&wanted);
        }
    }

    /// Synced events after `after`, at most about `bytes` of them. A hole comes as a gap record.
    pub fn read(
        &mut self,
        stream: Stream,
        after: Seq,
        bytes: usize,
    ) -> Result<Vec<wire::Event>, SpoolError> {
        self.lane(stream).read(stream, after.get(), bytes)
    }

    /// The newest number that was given.
    #[must_use]
    pub fn last(&self, stream: Stream) -> Seq {
        Seq::new(self.lanes.get(&stream).map_or(0, Lane::last))
    }

    /// The newest number that a power cut leaves.
    #[must_use]
    pub fn synced(&self, stream: Stream) -> Seq {
        Seq::new(self.lanes.get(&stream).map_or(0, Lane::synced))
    }

    /// Everything up to `seq` is durable elsewhere.
    pub fn ack(&mut self, stream: Stream, seq: Seq) -> Result<(), SpoolError> {
        self.lane(stream).ack(seq.get())
    }

    /// So much was durable elsewhere when a session began: never again is one of these numbers given.
    pub fn resume(&mut self, stream: Stream, seq: Seq) -> Result<(), SpoolError> {
        let last = self.last(stream);
        if seq > last {
            tracing::warn!(
                stream = stream.name(),
                %last,
                at_controller = %seq,
                "the controller holds events that this disk does not: was it rolled back?"
            );
            return self.lane(stream).skip_to(seq.get());
        }
        self.ack(stream, seq)
    }

    /// Makes what was appended to a lane durable.
    pub fn sync(&mut self, stream: Stream) -> Result<(), SpoolError> {
        self.lane(stream).sync()
    }
}

/// The id, made at random with the spool: a wiped disk is a new stream.
fn spool_id(dir: &Path) -> Result<SpoolId, SpoolError> {
    let path = dir.join("id");
    if let Some(id) = read_id(&path)? {
        return Ok(id);
    }
    let random = uuid::Uuid::new_v4().simple().to_string();
    let id = format!("s-{}", &random[..24]).parse().map_err(|_| SpoolError::Id(path.clone()))?;
    crate::state::write_durably(&path, format!("{id}\n").as_bytes())
        .map_err(io_at("write", &path))?;
    Ok(id)
}

fn read_id(path: &Path) -> Result<Option<SpoolId>, SpoolError> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| SpoolError::Id(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SpoolError::Io { verb: "read", path: path.to_owned(), source }),
    }
}
