//! What the trainer leaves behind: metrics, checkpoints, its last word.
//!
//! Everything here is written by code that hone does not trust. Each file is opened beneath the attempt's directory
//! without following anything ([`beneath`]), read up to a bound, and parsed into plain values; what cannot be parsed is
//! counted, never fatal.

pub mod beneath;
mod checkpoint;
mod cut;
pub(crate) mod lines;
mod metrics;
pub(crate) mod record;
mod request;
mod result;

pub use beneath::{
    Dir, Entry, EntryKind, FileError, FileIdentity, PlainFile, RelPath, RelPathError, WalkBounds,
};
pub use checkpoint::{
    Completeness, CompletenessRule, FoundCheckpoint, MANIFEST_NAME, ManifestFile, NativeManifest,
    PACKAGE_NAME, Sha256, complete_checkpoints, find_checkpoints, find_package,
};
pub(crate) use checkpoint::{open as open_file, step_of};
pub use metrics::{METRICS_NAME, MetricsBatch, MetricsCursor, MetricsReader};
pub use record::{RecordBody, RecordError, TrainerRecord};
pub use request::leave_request;
pub use result::{RESULT_NAME, ResultStatus, TrainerFailure, TrainerResult, read_result};
