//! The files of what nodes report: appended within a turn, synced once, cut back at the start to what the store knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hone_proto::event::{Event, Payload, Stream};
use hone_proto::id::{JobId, NodeId};
use hone_proto::quantity::Bytes;
use hone_proto::wire;
use prost::Message as _;

use crate::series::{JobFiles, SegmentError, StreamFiles, StreamWriter};

/// Files that stay open between turns. 64: far above the jobs that run at once, far below the limit of descriptors.
const OPEN_FILES: usize = 64;

/// Hardware history that is kept of each node unless the settings say otherwise. 256 MiB: months of a small machine, some
/// weeks of one with eight GPUs.
pub const NODE_HISTORY: Bytes = Bytes::mib(256);

/// One file of events.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileId {
    /// `Series` or `Logs` of a job.
    Job(JobId, Stream),
    /// Hardware rollups of a node.
    Node(NodeId),
}

/// How much of each file is durable.
pub type Lengths = BTreeMap<FileId, u64>;

/// A file of events that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file itself.
    #[error("the events of {file}")]
    File {
        /// Which.
        file: String,
        /// Why.
        #[source]
        source: SegmentError,
    },
    /// A stored length that makes no sense.
    #[error("the stored length {key:?} is malformed")]
    Length {
        /// Under which key.
        key: String,
    },
}

impl FileId {
    /// The key under which its durable length is stored.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Job(job, stream) => format!("length/job/{job}/{}", stream.name()),
            Self::Node(node) => format!("length/node/{node}"),
        }
    }

    fn from_key(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix("length/")?.split('/');
        match (parts.next()?, parts.next()?, parts.next()) {
            ("job", job, Some(stream)) => {
                Some(Self::Job(job.parse().ok()?, Stream::from_name(stream)?))
            }
            ("node", node, None) => Some(Self::Node(node.parse().ok()?)),
            _ => None,
        }
    }

    fn files(&self, root: &Path) -> (PathBuf, StreamFiles) {
        match self {
            Self::Job(job, Stream::Logs) => {
                let dir = root.join("jobs").join(job.to_string());
                let files = JobFiles::logs_in(&dir);
                (dir, files)
            }
            Self::Job(job, _) => {
                let dir = root.join("jobs").join(job.to_string());
                let files = JobFiles::series_in(&dir);
                (dir, files)
            }
            Self::Node(node) => {
                let dir = root.join("nodes").join(node.as_str());
                let files = JobFiles::series_in(&dir);
                (dir, files)
            }
        }
    }
}

impl JournalError {
    /// Whether there was no room.
    pub(super) fn is_full_disk(&self) -> bool {
        matches!(
            self,
            Self::File { source: SegmentError::Io { source, .. }, .. }
                if crate::durable::is_full_disk(source)
        )
    }
}

/// All files of events.
pub struct Journal {
    root: PathBuf,
    /// Of each node.
    node_history: Bytes,
    open: BTreeMap<FileId, StreamWriter>,
    touched: BTreeSet<FileId>,
    written: Lengths,
    /// What of it others do not know yet.
    unpublished: Lengths,
    /// What others may read.
    published: Arc<Mutex<Lengths>>,
}

impl Journal {
    /// Goes on from the lengths that the store holds.
    pub fn open(
        root: &Path,
        stored: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> Result<Self, JournalError> {
        let mut written = Lengths::new();
        for (key, value) in stored {
            let file = FileId::from_key(&key);
            let length = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
            let (Some(file), Some(length)) = (file, length) else {
                return Err(JournalError::Length { key });
            };
            written.insert(file, length);
        }
        let published = Arc::new(Mutex::new(written.clone()));
        Ok(Self {
            root: root.to_owned(),
            node_history: NODE_HISTORY,
            open: BTreeMap::new(),
            touched: BTreeSet::new(),
            written,
            unpublished: Lengths::new(),
            published,
        })
    }

    /// Keeps so much of each node's hardware history, in whole segments.
    #[must_use]
    pub fn keeping_of_nodes(self, node_history: Bytes) -> Self {
        Self { node_history, ..self }
    }

    /// What others may read of each file; follows [`Journal::publish`].
    #[must_use]
    pub fn lengths(&self) -> Arc<Mutex<Lengths>> {
        Arc::clone(&self.published)
    }

    /// After a restore: the files of which less is there than the store knows, and how much. They go on from there.
    pub fn salvage(&mut self) -> Result<Vec<(FileId, u64)>, JournalError> {
        let mut shortened = Vec::new();
        for (file, length) in &mut self.written {
            let (_, files) = file.files(&self.root);
            let whole = files.whole_until(*length).map_err(failed(file))?;
            if whole < *length {
                *length = whole;
                shortened.push((file.clone(), whole));
            }
        }
        self.publish();
        Ok(shortened)
    }

    /// Appends an event. Durable after [`Journal::sync`], visible after [`Journal::publish`].
    pub fn append(&mut self, file: FileId, event: &Event) -> Result<(), JournalError> {
        let payload = wire::Event::from(event.clone()).encode_to_vec();
        let writer = self.writer(&file)?;
        match writer.append(&payload) {
            // Nothing was appended. Reports are cut to their bounds where they come in, so this is not met; should it be,
            // the event is acknowledged like every other, and its place says that it is missing.
            Err(SegmentError::TooLarge { len }) => {
                tracing::error!(%len, file = file.key(), "an event is too large to be kept");
                writer.append(&instead_of(event, len)).map_err(failed(&file))?
            }
            done => done.map_err(failed(&file))?,
        };
        self.touched.insert(file);
        Ok(())
    }

    fn writer(&mut self, file: &FileId) -> Result<&mut StreamWriter, JournalError> {
        if !self.open.contains_key(file) {
            if self.open.len() >= OPEN_FILES {
                // Whatever was touched in this turn still has to be synced.
                let idle = self.open.keys().find(|open| !self.touched.contains(*open)).cloned();
                if let Some(idle) = idle {
                    self.open.remove(&idle);
                }
            }
            let (dir, files) = file.files(&self.root);
            crate::durable::create_dirs(&dir)
                .map_err(|source| SegmentError::Io { verb: "create", path: dir, source })
                .map_err(failed(file))?;
            let length = self.written.get(file).copied().unwrap_or(0);
            let writer = StreamWriter::open(files, length).map_err(failed(file))?;
            let writer = match file {
                FileId::Node(_) => writer.keeping(self.node_history.get()),
                FileId::Job(..) => writer,
            };
            self.open.insert(file.clone(), writer);
        }
        match self.open.get_mut(file) {
            Some(writer) => Ok(writer),
            None => unreachable!("it was inserted above"),
        }
    }

    /// Makes everything appended durable, and names the new lengths for the batch.
    pub fn sync(&mut self) -> Result<Vec<(FileId, u64)>, JournalError> {
        let mut lengths = Vec::new();
        for file in std::mem::take(&mut self.touched) {
            if let Some(writer) = self.open.get_mut(&file) {
                writer.sync().map_err(failed(&file))?;
                self.written.insert(file.clone(), writer.len());
                self.unpublished.insert(file.clone(), writer.len());
                lengths.push((file, writer.len()));
            }
        }
        Ok(lengths)
    }

    /// Forgets what was appended since the last [`Journal::publish`]: the files are opened again, and cut back.
    pub(super) fn fall_back(&mut self) {
        self.open.clear();
        self.touched.clear();
        self.written.clone_from(&self.published.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Where the files lie.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Lets readers see what the store knows by now.
    pub fn publish(&mut self) {
        // Only what was touched: there are as many files as there ever were jobs.
        if !self.unpublished.is_empty() {
            let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
            published.append(&mut self.unpublished);
        }
    }

    /// Places of a file, below its durable length `end`, where reading may begin; ascending.
    pub fn starts(root: &Path, file: &FileId, end: u64) -> Result<Vec<u64>, JournalError> {
        let (_, files) = file.files(root);
        let mut starts = files.starts().map_err(failed(file))?;
        starts.retain(|start| *start < end);
        Ok(starts)
    }

    /// Records of a file from `from` to the durable length `end`, about `budget` bytes at a time; and where the next
    /// call goes on.
    pub fn read(
        root: &Path,
        file: &FileId,
        from: u64,
        end: u64,
        budget: u64,
    ) -> Result<(Vec<Vec<u8>>, u64), JournalError> {
        let (_, files) = file.files(root);
        let mut records = Vec::new();
        // A node's oldest history is removed; a job's never is, and would be missed here.
        let from = match file {
            FileId::Node(_) => from.max(files.first().map_err(failed(file))?),
            FileId::Job(..) => from,
        };
        let mut next = from;
        for entry in files.read(from, end).map_err(failed(file))? {
            let entry = entry.map_err(failed(file))?;
            next = entry.next;
            records.push(entry.payload);
            if next - from >= budget {
                return Ok((records, next));
            }
        }
        Ok((records, end.max(next)))
    }
}

/// Stands where an event of so many bytes cannot.
fn instead_of(event: &Event, len: usize) -> Vec<u8> {
    let gap = Payload::Gap {
        attempt: event.payload.attempt(),
        what: event.payload.stream().name().to_owned(),
        count: 1,
        reason: format!("a record of {len} bytes is too large to be kept"),
    };
    wire::Event::from(Event { payload: gap, ..event.clone() }).encode_to_vec()
}

fn failed(file: &FileId) -> impl FnOnce(SegmentError) -> JournalError {
    let file = file.key();
    move |source| JournalError::File { file, source }
}

#[cfg(test)]
mod tests;
