//! What the trainer leaves behind: metrics, checkpoints, its last word.
//!
//! Everything here is written by code that hone does not trust. Each file is opened beneath the attempt's directory
//! without following anything ([`beneath`]), read up to a bound, and parsed into plain values; what cannot be parsed is
//! counted, never fatal.

pub mod beneath;
mod checkpoint;
mod metrics;
mod record;
mod result;

pub use beneath::{Dir, FileError, FileIdentity, PlainFile, RelPath, RelPathError};
pub use checkpoint::{
    Completeness, CompletenessRule, FoundCheckpoint, MANIFEST_NAME, ManifestFile, NativeManifest,
    PACKAGE_NAME, Sha256, find_checkpoints, find_package,
};
pub use metrics::{METRICS_NAME, MetricsBatch, MetricsCursor, MetricsReader};
pub use record::{RecordBody, RecordError, TrainerRecord};
pub use result::{RESULT_NAME, ResultStatus, TrainerFailure, TrainerResult, read_result};
