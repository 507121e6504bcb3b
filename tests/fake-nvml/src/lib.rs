//! A `libnvidia-ml.so` for machines without a GPU. It plays a [`Script`]: a JSON file that is read again on each call,
//! so that a test can change what "the driver" says while an agent runs.
//!
//! The script is the file that `$FAKE_NVML` names, or else the file beside the library with `.json` after its name.
//! [`FakeNvml`] puts a copy of the library and its script into a folder, so that tests in one process do not meet.

mod exports;
mod install;
mod script;

pub use install::FakeNvml;
pub use script::{ENV, FakeGpu, FakeMemory, FakePcie, FakeProcess, Script};
