//! Where things lie below the agent's state directory.
//!
//! | path | what |
//! |---|---|
//! | `identity/` | key and certificate, and the marker of a node that has run |
//! | `state` | what the reconciler keeps |
//! | `reserve` | room that is kept for state and spool when the disk is full |
//! | `spool/` | events that are not acknowledged |
//! | `cache/<project>/<manifest>` | staged inputs, shared by the attempts of one project |
//! | `former/` | what another node of this machine left, or what was given up as lost |
//! | `attempts/<job>-<generation>-<attempt>/` | one attempt: `spec.json`, `tool/`, `output/`, `metrics/`, `control/`, `cache/`, `resume/`, `kept/` |

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
    /// That this node has run, and with which spool. It shares the identity's fate: who loses both joins again.
    #[must_use]
    pub fn marker(&self) -> PathBuf {
        self.identity().join("instance.toml")
    }
    /// What is no longer this node's.
    #[must_use]
    pub fn former(&self) -> PathBuf {
        self.root.join("former")
    }
    /// What the reconciler keeps.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }
    /// Room for a disk that is full.
    #[must_use]
    pub fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
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
    /// Configuration that was made for the image's own tool.
    #[must_use]
    pub fn tool(&self) -> PathBuf {
        self.root.join("tool")
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
    /// All folders that the trainer may write to.
    #[must_use]
    pub fn writable(&self) -> [PathBuf; 4] {
        [self.output(), self.metrics(), self.control(), self.cache()]
    }
    /// There once the trainer was sent the signal to stop: a second one would mean "at once". Out of its reach.
    #[must_use]
    pub fn stop_sent(&self) -> PathBuf {
        self.root.join("stop-sent")
    }
    /// Checkpoints and the package of a foreign tool, taken away from it, with hone's manifests. Out of its reach; absent
    /// where hone's own trainer runs, whose output needs no copy.
    #[must_use]
    pub fn kept(&self) -> PathBuf {
        self.root.join("kept")
    }
    /// Where complete checkpoints and the package lie.
    #[must_use]
    pub fn saved(&self) -> PathBuf {
        let kept = self.kept();
        if kept.is_dir() { kept } else { self.output() }
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
