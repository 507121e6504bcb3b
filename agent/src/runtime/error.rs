//! What can go wrong with the engine, told apart by what the caller does about it.

use std::io;

use super::{ContainerId, ImageId, SpecError};

/// Why the engine refused: what a user can do about it differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A GPU was asked for and the engine has no NVIDIA runtime.
    NoGpuRuntime,
    /// The engine's disk is full.
    DiskFull,
    /// The image lacks the program that was to be run.
    NoSuchProgram,
    /// The container is running and the call needs it stopped.
    Running,
    /// The registry did not give the image: absent, private, or out of reach.
    Registry,
    /// Anything else; the engine's message says what.
    Other,
}

impl Refusal {
    /// What to do about it, for people.
    #[must_use]
    pub const fn hint(self) -> Option<&'static str> {
        match self {
            Self::NoGpuRuntime => Some(
                "the engine has no NVIDIA runtime: install nvidia-container-toolkit on the node, run `nvidia-ctk \
                 runtime configure`, and restart the engine",
            ),
            Self::DiskFull => Some("free disk space below the engine's root directory on the node"),
            Self::NoSuchProgram => {
                Some("check the command of the spec against what the image contains")
            }
            Self::Registry => {
                Some("check the digest, and that the node reaches the registry and may read it")
            }
            Self::Running | Self::Other => None,
        }
    }
}

/// A failed call to the engine.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The engine is down, hangs or broke off. Retry; the call may or may not have had its effect.
    #[error("the container engine is not available ({call}): {why}")]
    Unavailable {
        /// The call that was tried.
        call: &'static str,
        /// What was seen.
        why: String,
    },
    /// The engine answered no. Repeating the same call will not help.
    #[error("the container engine refused to {call}: {message}")]
    Refused {
        /// The call that was refused.
        call: &'static str,
        /// The engine's own words, cut and cleaned.
        message: String,
        /// What kind of refusal it is.
        refusal: Refusal,
    },
    /// The engine does not hold this image.
    #[error("the engine has no image {0}")]
    NoSuchImage(String),
    /// The container is gone.
    #[error("container {0} does not exist")]
    NoSuchContainer(ContainerId),
    /// Another container holds the name.
    #[error("another container is already named {name}")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// What was loaded or pulled is not what was asked for.
    #[error("the image that arrived is {found}, not {wanted}")]
    ImageMismatch {
        /// The image asked for.
        wanted: String,
        /// What came instead.
        found: String,
    },
    /// The bytes of the image could not be read at their source; the engine is not to blame.
    #[error("the image could not be read")]
    Source(#[source] io::Error),
    /// The container spec breaks a rule of this node.
    #[error("the container is not acceptable")]
    Spec(#[from] SpecError),
    /// A reference to an image that the call cannot use.
    #[error("image {image} cannot be used here: {why}")]
    BadReference {
        /// The reference.
        image: String,
        /// What is wrong.
        why: &'static str,
    },
}

impl RuntimeError {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Source(_))
    }

    /// What to do about it, for people.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused { refusal, .. } => refusal.hint(),
            Self::Unavailable { .. } => {
                Some("check the engine on the node: `systemctl status docker`")
            }
            _ => None,
        }
    }

    pub(super) fn mismatch(wanted: &ImageId, found: impl Into<String>) -> Self {
        Self::ImageMismatch { wanted: wanted.to_string(), found: found.into() }
    }
}
