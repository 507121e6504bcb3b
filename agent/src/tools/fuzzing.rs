//! Doors for the programs that fuzz the readers (`tests/fuzz`): bytes in memory where the agent reads files, and the
//! parts that no other crate sees. They hold no logic of their own.

use super::lines::{self, LinesBatch};
use super::point::{Gather, Point, Progress, Source};
use super::safetensors::Fault;
use super::tfevents::{self, EventsBatch};

/// A file of JSON lines, and how far it was read.
#[derive(Debug, Clone, Default)]
pub struct LinesFile(Option<lines::FileCursor>);

impl LinesFile {
    /// Reads what is new in it, when it holds `content` now.
    pub fn look(&mut self, content: &[u8]) -> LinesBatch {
        let (mut left, mut batch) = (lines::MAX_READ_LEN, LinesBatch::default());
        let at = lines::look(content, 1, self.0, &mut left, &mut batch);
        self.0 = Some(at.expect("memory can be read"));
        batch
    }

    /// As another life of the agent goes on with it: from what was kept of the cursor.
    #[must_use]
    pub fn restarted(&self) -> Self {
        Self(kept(&self.0))
    }
}

/// A TensorBoard file, and how far it was read.
#[derive(Debug, Clone, Default)]
pub struct EventsFile(tfevents::FileCursor);

impl EventsFile {
    /// Reads what is new in it, when it holds `content` now. `path` says what its folder is for.
    pub fn look(&mut self, path: &str, content: &[u8]) -> EventsBatch {
        let mut batch = EventsBatch::default();
        if self.0.ended {
            return batch;
        }
        tfevents::look(content, path, &mut self.0, tfevents::MAX_READ_LEN, &mut batch)
            .expect("memory can be read");
        batch
    }

    /// As another life of the agent goes on with it: from what was kept of the cursor.
    #[must_use]
    pub fn restarted(&self) -> Self {
        Self(kept(&self.0))
    }
}

fn kept<T: serde::Serialize + serde::de::DeserializeOwned>(cursor: &T) -> T {
    let text = serde_json::to_string(cursor).expect("a cursor can be kept");
    serde_json::from_str(&text).expect("what was kept can be read")
}

/// A record as it stands in a TensorBoard file, with its checksums.
#[must_use]
pub fn framed(payload: &[u8]) -> Vec<u8> {
    tfevents::framed(payload)
}

/// Whether the bytes are a whole safetensors file.
///
/// # Errors
/// Why they are not.
pub fn safetensors(bytes: &[u8]) -> Result<(), Fault> {
    super::safetensors::check(bytes).expect("memory can be read")
}

/// Whether the bytes end as a zip archive does.
#[must_use]
pub fn zip_end(bytes: &[u8]) -> bool {
    super::zip_end::check(bytes).expect("memory can be read")
}

/// Strict JSON that stands for Python's.
#[must_use]
pub fn strict(bytes: &[u8]) -> Vec<u8> {
    super::json::strict(bytes).into_owned()
}

/// The points that figures under a tool's names become, and the place that they say.
#[must_use]
pub fn gather(figures: &[(&str, f64)]) -> (Progress, Vec<Point>) {
    let mut gather = Gather::new(Source::Push);
    figures.iter().for_each(|(name, value)| gather.put(name, *value));
    (gather.progress, gather.finish().collect())
}
