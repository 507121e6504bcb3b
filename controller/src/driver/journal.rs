//! The files of what nodes report: appended within a turn, synced once, cut back at the start to what the store knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hone_proto::event::{Event, Stream};
use hone_proto::id::{JobId, NodeId};
use hone_proto::wire;
use prost::Message as _;

use crate::series::{JobFiles, SegmentError, StreamFiles, StreamWriter};

/// Files that stay open between turns. 64: far above the jobs that run at once, far below the limit of descriptors.
const OPEN_FILES: usize = 64;

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

/// All files of events.
pub struct Journal {
    root: PathBuf,
    open: BTreeMap<FileId, StreamWriter>,
    touched: BTreeSet<FileId>,
    written: Lengths,
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
            open: BTreeMap::new(),
            touched: BTreeSet::new(),
            written,
            published,
        })
    }

    /// What others may read of each file; follows [`Journal::publish`].
    #[must_use]
    pub fn lengths(&self) -> Arc<Mutex<Lengths>> {
        Arc::clone(&self.published)
    }

    /// Appends an event. Durable after [`Journal::sync`], visible after [`Journal::publish`].
    pub fn append(&mut self, file: FileId, event: &Event) -> Result<(), JournalError> {
        let payload = wire::Event::from(event.clone()).encode_to_vec();
        let writer = self.writer(&file)?;
        writer.append(&payload).map_err(failed(&file))?;
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
                lengths.push((file, writer.len()));
            }
        }
        Ok(lengths)
    }

    /// Lets readers see what the store knows by now.
    pub fn publish(&self) {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        if *published != self.written {
            published.clone_from(&self.written);
        }
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

fn failed(file: &FileId) -> impl FnOnce(SegmentError) -> JournalError {
    let file = file.key();
    move |source| JournalError::File { file, source }
}
