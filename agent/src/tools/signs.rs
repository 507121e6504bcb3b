//! What a tool's last lines tell of a failure. Launchers flatten every exit code to 1; the words stay.

use crate::logs::clean_text;

/// How much of a line is looked at, in bytes.
const MAX_LINE_LEN: usize = 4096;
/// How much of it is kept.
const MAX_KEPT_LEN: usize = 400;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The GPU's memory is full.
    GpuMemory,
    /// The disk is full.
    DiskFull,
    /// Shared memory is full.
    SharedMemory,
    /// The host's memory is full.
    HostMemory,
    /// The GPU reports an error of its own.
    GpuFault,
    /// The processes could not talk to each other.
    Communication,
    /// A kernel was given an index that does not exist.
    DeviceAssert,
    /// The image has no code for this GPU.
    NoKernel,
    /// Something was to be downloaded.
    Offline,
    /// The library is too old for the model.
    UnknownModel,
    /// A kernel package is not in the image.
    NoFlashAttention,
    /// The tool does not know an option that it was given.
    UnknownOption,
    /// PyTorch is too old to read what was saved.
    OldTorch,
    /// The checkpoint to resume from lacks a file.
    BrokenCheckpoint,
    /// The rows do not have the expected form.
    DataShape,
    /// The other processes had to end because one failed: says nothing about why.
    Launcher,
}

/// One row: any of the groups of words, all of a group in one line.
type Row = (Cause, &'static [&'static [&'static str]]);

/// The words by cause; the first cause that is found explains those below it.
const WORDS: [Row; 16] = [
    (
        Cause::GpuMemory,
        &[
            &["CUDA out of memory"],
            &["OutOfMemoryError"],
            &["CUDA error: out of memory"],
            &["CUBLAS_STATUS_ALLOC_FAILED"],
            &["HIP out of memory"],
            &["ResourceExhaustedError", "OOM when allocating"],
        ],
    ),
    (
        Cause::DiskFull,
        &[
            &["No space left on device"],
            &["Disk quota exceeded"],
            &["file write failed", "enforce fail"],
        ],
    ),
    (
        Cause::SharedMemory,
        &[
            &["Bus error"],
            &["insufficient shared memory"],
            &["unable to write to file </torch_"],
            &["unable to allocate shared memory"],
        ],
    ),
    (
        Cause::HostMemory,
        &[
            &["can't allocate memory"],
            &["Cannot allocate memory"],
            &["MemoryError"],
            &["DataLoader worker", "killed by signal: Killed"],
        ],
    ),
    (
        Cause::GpuFault,
        &[
            &["illegal memory access"],
            &["uncorrectable ECC"],
            &["unspecified launch failure"],
            &["GPU has fallen off the bus"],
            &["CUDA error: an illegal instruction"],
            // As the kernel's driver writes it, and those who quote it: not every word that begins so.
            &["NVRM: Xid"],
            &["Xid (PCI:"],
        ],
    ),
    (Cause::DeviceAssert, &[&["device-side assert"]]),
    (Cause::NoKernel, &[&["no kernel image is available"]]),
    (
        Cause::Communication,
        &[
            &["NCCL", "timeout"],
            &["NCCL", "timed out"],
            &["NCCL", "unhandled system error"],
            &["NCCL", "unhandled cuda error"],
            &["NCCL", "remote process exited"],
            &["Watchdog caught collective operation timeout"],
        ],
    ),
    (
        Cause::Offline,
        &[
            &["OfflineModeIsEnabled"],
            &["LocalEntryNotFoundError"],
            &["couldn't connect to 'https://huggingface.co'"],
            &["Couldn't reach", "on the Hub"],
        ],
    ),
    (Cause::UnknownModel, &[&["does not recognize this architecture"]]),
    (
        Cause::NoFlashAttention,
        // That it is not installed is also what tools say that go on without it.
        &[
            &["ImportError", "FlashAttention"],
            &["FlashAttention", "cannot be used"],
            &["flash_attn", "No module named"],
        ],
    ),
    (
        Cause::UnknownOption,
        &[
            &["unrecognized arguments"],
            &["Some keys are not used by the HfArgumentParser"],
            &["got an unexpected keyword argument"],
            &["Some specified arguments are not used by the HfArgumentParser"],
        ],
    ),
    (Cause::OldTorch, &[&["torch.load", "at least v2.6"]]),
    (
        Cause::BrokenCheckpoint,
        &[
            &["FileNotFoundError", "trainer_state.json"],
            &["FileNotFoundError", "checkpoint-"],
            &["PytorchStreamReader failed"],
            &["SafetensorError"],
        ],
    ),
    (
        Cause::DataShape,
        &[
            &["not a valid JSON"],
            &["KeyError", "'messages'"],
            &["KeyError", "'text'"],
            &["KeyError", "'prompt'"],
            &["KeyError", "'conversations'"],
            &["JSONDecodeError"],
            &["DatasetGenerationError"],
        ],
    ),
    (Cause::Launcher, &[&["ChildFailedError"], &["CalledProcessError"]]),
];

impl Cause {
    /// The contract's exit code for it.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::GpuMemory => 80,
            Self::DiskFull => 73,
            Self::SharedMemory | Self::HostMemory => 81,
            Self::GpuFault | Self::Communication => 83,
            Self::Offline => 66,
            Self::DataShape => 65,
            Self::NoKernel
            | Self::UnknownModel
            | Self::NoFlashAttention
            | Self::UnknownOption
            | Self::OldTorch => 78,
            Self::DeviceAssert | Self::BrokenCheckpoint | Self::Launcher => 70,
        }
    }

    /// What it is, for people.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::GpuMemory => "the GPU's memory was full",
            Self::DiskFull => "the disk was full",
            Self::SharedMemory => "the shared memory was full",
            Self::HostMemory => "the memory was full",
            Self::GpuFault => "the GPU failed",
            Self::Communication => "the processes lost each other (NCCL)",
            Self::DeviceAssert => "a kernel was given an index out of range",
            Self::NoKernel => "the image has no code for this GPU",
            Self::Offline => "a file was to be downloaded, and jobs run offline",
            Self::UnknownModel => "the image's transformers does not know the model",
            Self::NoFlashAttention => "the image has no FlashAttention",
            Self::UnknownOption => "the tool does not know an option that it was given",
            Self::OldTorch => "the image's PyTorch refuses to read saved state",
            Self::BrokenCheckpoint => "the checkpoint to resume from cannot be read",
            Self::DataShape => "the data does not have the form that the tool expects",
            Self::Launcher => "one of the processes failed",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::GpuMemory => {
                "use smaller micro-batches with more accumulation, shorter sequences, or gradient checkpointing"
            }
            Self::DiskFull => "free space, or raise resources.disk",
            Self::SharedMemory => "raise resources.shm",
            Self::HostMemory => "raise resources.memory, or use fewer data workers",
            Self::GpuFault => {
                "run it on another GPU, and look at this one's errors (nvidia-smi -q)"
            }
            Self::Communication => {
                "the first rank that failed tells why; if none did, look at the links between the GPUs"
            }
            Self::DeviceAssert => {
                "usually a token or label beyond the model's vocabulary; CUDA_LAUNCH_BLOCKING=1 shows the place"
            }
            Self::NoKernel => "use an image whose PyTorch was built for this GPU's generation",
            Self::Offline => {
                "name local files in the tool's configuration; the model and the data lie below /hone/input"
            }
            Self::UnknownModel => "use an image with a newer transformers",
            Self::NoFlashAttention => {
                "set the attention implementation to sdpa, or use an image that has flash-attn"
            }
            Self::UnknownOption => {
                "the option does not fit the tool's version in this image: change the configuration or the image"
            }
            Self::OldTorch => "use an image with PyTorch 2.6 or newer",
            Self::BrokenCheckpoint => "it lacks a file or was cut: resume from an earlier one",
            Self::DataShape => {
                "look at the rows' keys and at the format in the tool's configuration"
            }
            Self::Launcher => "look further up for the first traceback",
        }
    }
}

/// A failure that a line tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// What went wrong.
    pub cause: Cause,
    /// The line, cleaned and cut.
    pub line: String,
}

/// The sign in one line, if it has one.
#[must_use]
pub fn sign(line: &str) -> Option<Sign> {
    let head = head(line);
    let says = |groups: &[&[&str]]| groups.iter().any(|all| all.iter().all(|word| has(head, word)));
    let (cause, _) = WORDS.iter().find(|(_, groups)| says(groups))?;
    Some(Sign { cause: *cause, line: clean_text(line.trim(), MAX_KEPT_LEN) })
}

/// The sign that explains the others: the one whose cause stands first in the table, of several lines the first.
#[must_use]
pub fn explain<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<Sign> {
    let rank = |cause: Cause| WORDS.iter().position(|(other, _)| *other == cause);
    lines.into_iter().filter_map(sign).min_by_key(|sign| rank(sign.cause))
}

/// Whether `text` has `word`, at the beginning of a word if it is one: `OutOfMemoryError` is not a `MemoryError`.
fn has(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric())
            || !word.starts_with(|c: char| c.is_ascii_alphanumeric())
    })
}

fn head(line: &str) -> &str {
    let end = line.len().min(MAX_LINE_LEN);
    let end = (0..=end).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    &line[..end]
}

#[cfg(test)]
#[path = "signs_tests.rs"]
mod tests;
