//! Where things lie below the agent's state directory.
//!
//! | path | what |
//! |---|---|
//! | `identity/` | key and certificate |
//! | `state` | what the reconciler keeps |
//! | `spool/` | events that are not acknowledged |
//! | `cache/<project>/<manifest>` | staged inputs, shared by the attempts of one project |
//! | `attempts/<job>-<generation>-<attempt>/` | one attempt: `spec.json`, `output/`, `metrics/`, `control/`, `cache/`, `resume/` |

use std::path::{Path, PathBuf};

use hone_proto::id::{AttemptId, Digest, ProjectName};

/// The folders of one agent.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

/// The folders of one attempt.
#[derive(Debug, Clone)]
pub struct AttemptDirs {
    root: PathBuf,
}

impl Layout {
    /// Below this folder.
    #[must_use]
    pub const fn new(root: PathBuf) -> Self {
        Self { root }
    }
    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// Key and certificate.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }
    /// What the reconciler keeps.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }
    /// Held by the one agent that runs here.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }
    /// Events that are not acknowledged.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }
    /// All staged inputs.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }
    /// A staged input of a project.
    #[must_use]
    pub fn cached(&self, project: &ProjectName, manifest: Digest) -> PathBuf {
        self.cache().join(project.as_str()).join(manifest.to_string())
    }
    /// All attempts.
    #[must_use]
    pub fn attempts(&self) -> PathBuf {
        self.root.join("attempts")
    }
    /// One attempt.
    #[must_use]
    pub fn attempt(&self, id: AttemptId) -> AttemptDirs {
        AttemptDirs { root: self.attempts().join(name(id)) }
    }
}

/// The name of an attempt in paths, container names and reader positions.
#[must_use]
pub fn name(id: AttemptId) -> String {
    format!("{}-{}-{}", id.job, id.token.generation, id.token.attempt)
}

impl AttemptDirs {
    /// The folder of all of it.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// The resolved spec.
    #[must_use]
    pub fn spec(&self) -> PathBuf {
        self.root.join("spec.json")
    }
    /// Where the trainer writes checkpoints and its package.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.root.join("output")
    }
    /// Where the trainer writes metrics and its last word.
    #[must_use]
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics")
    }
    /// There once the trainer was sent the signal to stop: a second one would mean "at once". Out of its reach.
    #[must_use]
    pub fn stop_sent(&self) -> PathBuf {
        self.root.join("stop-sent")
    }
    /// Where the agent asks for a save or a stop.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.root.join("control")
    }
    /// Scratch of the trainer.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }
    /// The checkpoint to continue from.
    #[must_use]
    pub fn resume(&self) -> PathBuf {
        self.root.join("resume")
    }
}
