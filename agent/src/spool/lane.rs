//! One stream of the spool.
//!
//! A sequence of [`segment`]s: written at the newest, read from any place, given up from the oldest on.

mod segment;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use hone_proto::event::Stream;
use hone_proto::quantity::Bytes;
use hone_proto::wire;
use hone_proto::wire::event::Payload;
use prost::Message;

use super::{SpoolError, io_at};

use segment::{Frame, HEADER, Segment, list, next_frame, scan, segment_path, sync_dir};

/// Where the last read ended, so that the next one need not look for it.
#[derive(Debug, Clone, Copy, Default)]
struct Bookmark {
    segment: u64,
    after: u64,
    offset: u64,
}

/// One stream.
pub(super) struct Lane {
    dir: PathBuf,
    segments: VecDeque<Segment>,
    active: File,
    segment_bytes: u64,
    cursors: BTreeMap<String, Vec<u8>>,
    bookmark: Bookmark,
    dirty: bool,
    /// The last event that a power cut leaves: no later one is read out, since whoever receives an event may rely on it.
    synced: u64,
}

impl Lane {
    pub(super) fn open(dir: &Path, segment_bytes: Bytes) -> Result<Self, SpoolError> {
        fs::create_dir_all(dir).map_err(io_at("create", dir))?;
        let mut segments = VecDeque::new();
        let mut cursors = BTreeMap::new();
        let mut starts = list(dir)?;
        starts.sort_unstable();
        for (nth, first) in starts.iter().enumerate() {
            let path = segment_path(dir, *first);
            let is_last = nth + 1 == starts.len();
            let segment = scan(path, *first, is_last, &mut cursors)?;
            segments.push_back(segment);
        }
        if segments.is_empty() {
            let path = segment_path(dir, 1);
            File::create_new(&path)
                .and_then(|file| file.sync_all())
                .map_err(io_at("create", &path))?;
            sync_dir(dir)?;
            segments.push_back(Segment { path, first: 1, last: 0, bytes: 0 });
        }
        let newest = match segments.back() {
            Some(newest) => newest.path.clone(),
            None => unreachable!("there is at least one"),
        };
        let active =
            OpenOptions::new().append(true).open(&newest).map_err(io_at("open", &newest))?;
        // What the last process wrote may not have been synced by it.
        active.sync_data().map_err(io_at("sync", &newest))?;
        let synced = segments.back().map_or(0, |segment| segment.last);
        Ok(Self {
            dir: dir.to_owned(),
            segments,
            active,
            segment_bytes: segment_bytes.get(),
            cursors,
            bookmark: Bookmark::default(),
            dirty: false,
            synced,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    pub(super) fn last(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.last)
    }

    pub(super) const fn synced(&self) -> u64 {
        self.synced
    }

    pub(super) fn cursor(&self, key: &str) -> Option<&[u8]> {
        self.cursors.get(key).map(Vec::as_slice)
    }

    pub(super) fn retain_cursors(&mut self, wanted: impl Fn(&str) -> bool) {
        self.cursors.retain(|key, _| wanted(key));
    }

    pub(super) fn append(
        &mut self,
        events: Vec<wire::Event>,
        cursors: BTreeMap<String, Vec<u8>>,
    ) -> Result<(), SpoolError> {
        if self.segments.back().is_some_and(|active| active.bytes >= self.segment_bytes) {
            self.roll()?;
        }
        let first_seq = self.last() + 1;
        let events: Vec<_> = events
            .into_iter()
            .zip(first_seq..)
            .map(|(mut event, seq)| {
                event.seq = seq;
                event.encode_to_vec()
            })
            .collect();
        let count = u64::try_from(events.len()).unwrap_or(u64::MAX);
        let frame = Frame { first_seq, events, cursors };
        self.write(&frame)?;
        // Only now: a position that is kept before its events would lose them in a crash, and a new segment begins with
        // all positions.
        self.cursors.extend(frame.cursors);
        if let Some(active) = self.segments.back_mut() {
            active.last = first_seq + count - 1;
        }
        Ok(())
    }

    /// The other side knows more than is here: this disk was rolled back, or lost what it had not synced. Numbers go on
    /// after what it knows, or new events would be taken for old ones.
    pub(super) fn skip_to(&mut self, seq: u64) -> Result<(), SpoolError> {
        if seq <= self.last() {
            return Ok(());
        }
        self.roll_to(seq + 1)?;
        self.ack(seq)
    }

    /// Closes the active segment and begins the next with a frame of all live positions.
    fn roll(&mut self) -> Result<(), SpoolError> {
        self.roll_to(self.last() + 1)
    }

    fn roll_to(&mut self, first: u64) -> Result<(), SpoolError> {
        self.sync()?;
        let path = segment_path(&self.dir, first);
        // A crash may have left one without events.
        let new = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(io_at("create", &path))?;
        new.set_len(0).map_err(io_at("truncate", &path))?;
        let old = std::mem::replace(&mut self.active, new);
        self.segments.push_back(Segment { path: path.clone(), first, last: first - 1, bytes: 0 });
        let snapshot =
            Frame { first_seq: first, events: Vec::new(), cursors: self.cursors.clone() };
        let begun =
            self.write(&snapshot).and_then(|()| self.sync()).and_then(|()| sync_dir(&self.dir));
        if begun.is_err() {
            // A segment without its positions must not be used: the older ones could go, and with them the positions.
            self.segments.pop_back();
            self.active = old;
            self.dirty = false;
            // An empty leftover is harmless: it is written over.
            let _ = fs::remove_file(&path);
        }
        begun
    }

    fn write(&mut self, frame: &Frame) -> Result<(), SpoolError> {
        let payload = frame.encode_to_vec();
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
        bytes.extend_from_slice(&payload);
        let Some(active) = self.segments.back_mut() else { return Ok(()) };
        if let Err(error) = self.active.write_all(&bytes) {
            // Half a frame must not be followed by a whole one.
            self.active.set_len(active.bytes).map_err(io_at("truncate", &active.path))?;
            return Err(SpoolError::Io {
                verb: "append to",
                path: active.path.clone(),
                source: error,
            });
        }
        active.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        self.dirty = true;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), SpoolError> {
        if self.dirty {
            self.active.sync_data().map_err(io_at("sync", &self.dir))?;
            self.dirty = false;
        }
        self.synced = self.last();
        Ok(())
    }

    /// Deletes whole segments from the oldest on until the lane is well below `bound`.
    pub(super) fn drop_oldest(&mut self, bound: u64) -> Result<(), SpoolError> {
        let target = bound - bound / 8;
        while self.bytes() >= target && self.segments.len() > 1 {
            self.remove_front()?;
        }
        Ok(())
    }

    /// Deletes segments from the oldest on, the active one with them, until so many bytes are free. The count of events
    /// that are gone: a hole in the numbers, which is sent as a gap record.
    pub(super) fn free(&mut self, bytes: u64) -> Result<u64, SpoolError> {
        let (before, mut dropped) = (self.bytes(), 0);
        while before.saturating_sub(self.bytes()) < bytes {
            match self.segments.front() {
                Some(only) if self.segments.len() == 1 && only.last < only.first => break,
                Some(_) if self.segments.len() == 1 => self.roll()?,
                Some(oldest) => {
                    dropped += (oldest.last + 1).saturating_sub(oldest.first);
                    self.remove_front()?;
                }
                None => break,
            }
        }
        Ok(dropped)
    }

    /// Gives up everything but the newest segment: the disk is full.
    pub(super) fn shed(&mut self) -> Result<(), SpoolError> {
        while self.segments.len() > 1 {
            self.remove_front()?;
        }
        Ok(())
    }

    pub(super) fn ack(&mut self, seq: u64) -> Result<(), SpoolError> {
        while self.segments.len() > 1
            && self.segments.front().is_some_and(|segment| segment.last <= seq)
        {
            self.remove_front()?;
        }
        // A quiet lane would keep its last segment for ever; its size is bounded, so it may.
        Ok(())
    }

    fn remove_front(&mut self) -> Result<(), SpoolError> {
        let Some(segment) = self.segments.pop_front() else { return Ok(()) };
        match fs::remove_file(&segment.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SpoolError::Io { verb: "remove", path: segment.path, source: error })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn read(
        &mut self,
        stream: Stream,
        after: u64,
        budget: usize,
    ) -> Result<Vec<wire::Event>, SpoolError> {
        let mut events = Vec::new();
        let mut last = after;
        let mut used = 0;
        let mut bookmark = self.bookmark;
        for segment in self.segments.iter().filter(|segment| segment.last > after) {
            let at = bookmark.segment == segment.first && bookmark.after <= last;
            let mut offset = if at { bookmark.offset } else { 0 };
            let file = File::open(&segment.path).map_err(io_at("open", &segment.path))?;
            while used < budget
                && let Some((frame, next)) = next_frame(&file, offset, segment.bytes)
                    .map_err(io_at("read", &segment.path))?
            {
                bookmark = Bookmark { segment: segment.first, after: last, offset };
                offset = next;
                for (encoded, seq) in frame.events.iter().zip(frame.first_seq..) {
                    if seq <= last || seq > self.synced {
                        continue;
                    }
                    let Ok(event) = wire::Event::decode(encoded.as_slice()) else { continue };
                    if seq > last + 1 {
                        events.push(gap(stream, last, seq - 1, &event));
                    }
                    used += encoded.len();
                    events.push(event);
                    last = seq;
                }
            }
            if used >= budget {
                break;
            }
        }
        self.bookmark = bookmark;
        Ok(events)
    }
}

/// A record that stands for the lost events after `last` up to `until`.
fn gap(stream: Stream, last: u64, until: u64, next: &wire::Event) -> wire::Event {
    wire::Event {
        seq: until,
        at: next.at,
        boot_id: next.boot_id.clone(),
        payload: Some(Payload::Gap(wire::Gap {
            attempt: None,
            what: stream.name().to_owned(),
            count: until - last,
            reason: "the agent's spool was full or damaged".to_owned(),
        })),
    }
}

/// Whether there is a lane in `dir`: once opened, it always has a segment.
pub(super) fn is_there(dir: &Path) -> Result<bool, SpoolError> {
    match list(dir) {
        Ok(segments) => Ok(!segments.is_empty()),
        Err(SpoolError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
