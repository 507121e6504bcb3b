//! Manifests: what a checkpoint, a package, an input or an image consists of, named by the BLAKE3 of its bytes.
//!
//! `manifest.proto` is the specification. [`Sealed`] couples the decoded form with the very bytes it came from: the
//! bytes are what is stored, sent and hashed, and nothing re-encodes them. Both ways into it, [`Manifest::seal`] and
//! [`decode_and_validate`], apply the same rules, so past them no manifest can be malformed.

mod path;
mod rules;
#[cfg(test)]
mod tests;

use bytes::Bytes as Buf;
use prost::Message as _;

pub use self::path::{MAX_DEPTH, MAX_NAME, MAX_PATH, RelPath};
use crate::id::{Attempt, AttemptId, Digest, Generation, JobId, ProjectName, Step, Token};
use crate::quantity::Bytes;
use crate::wire;

/// Files are cut at every multiple of this.
pub const CHUNK_SIZE: u64 = 4 * 1024 * 1024;

/// Largest manifest, in bytes: half a million chunks, which is two terabytes.
pub const MAX_MANIFEST: usize = 16 * 1024 * 1024;

/// Most files of one manifest.
pub const MAX_FILES: usize = 10_000;

/// The version of what is written, and the newest that is read.
pub const VERSION: u32 = 1;

/// What a manifest describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The complete training state at one step of one attempt.
    Checkpoint {
        /// Who made it.
        attempt: AttemptId,
        /// When, in steps.
        step: Step,
    },
    /// What a finished job exports.
    Package {
        /// Who made it.
        attempt: AttemptId,
        /// The step it was exported at, where there is one.
        step: Option<Step>,
    },
    /// A model or a data set that a user uploaded.
    Input,
    /// An engine's `save` stream.
    Image,
}

impl Kind {
    /// The attempt that made it, for what an attempt makes.
    #[must_use]
    pub fn attempt(&self) -> Option<AttemptId> {
        match self {
            Self::Checkpoint { attempt, .. } | Self::Package { attempt, .. } => Some(*attempt),
            Self::Input | Self::Image => None,
        }
    }

    /// The step, where there is one.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        match self {
            Self::Checkpoint { step, .. } => Some(*step),
            Self::Package { step, .. } => *step,
            Self::Input | Self::Image => None,
        }
    }
}

/// One file of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Where it lies beneath the root.
    pub path: RelPath,
    /// Its size.
    pub size: Bytes,
    /// BLAKE3 of its content.
    pub digest: Digest,
    /// Whether it is executable.
    pub executable: bool,
    /// BLAKE3 of each chunk.
    pub chunks: Vec<Digest>,
}

/// One chunk of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its name.
    pub digest: Digest,
    /// Where it starts in the file.
    pub offset: u64,
    /// Its length; at most [`CHUNK_SIZE`].
    pub len: u64,
}

impl ManifestFile {
    /// Its chunks in order, with their places.
    pub fn pieces(&self) -> impl Iterator<Item = Chunk> + '_ {
        let size = self.size.get();
        self.chunks.iter().scan(0, move |next, digest| {
            let offset = *next;
            let len = CHUNK_SIZE.min(size.saturating_sub(offset));
            *next = offset.saturating_add(len);
            Some(Chunk { digest: *digest, offset, len })
        })
    }
}

/// How many chunks a file of this size has.
#[must_use]
pub const fn chunk_count(size: u64) -> u64 {
    size.div_ceil(CHUNK_SIZE)
}

/// What a manifest says. Not yet checked: see [`Manifest::seal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What it describes, and who made it.
    pub kind: Kind,
    /// Whose it is.
    pub project: ProjectName,
    /// BLAKE3 of the spec's text, where there is a spec.
    pub spec: Option<Digest>,
    /// BLAKE3 of the base model's manifest, where there is one.
    pub base_model: Option<Digest>,
    /// The files, strictly ascending by path.
    pub files: Vec<ManifestFile>,
}

/// Why a manifest is not acceptable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Over [`MAX_MANIFEST`].
    #[error("a manifest of {len} bytes is too large: at most {MAX_MANIFEST} are allowed")]
    TooLarge {
        /// Its length.
        len: usize,
    },
    /// Over [`MAX_FILES`].
    #[error("a manifest names at most {MAX_FILES} files, this one more")]
    TooManyFiles,
    /// Not the encoding of a manifest.
    #[error("a manifest cannot be decoded")]
    Undecodable(#[source] prost::DecodeError),
    /// Written by a newer release.
    #[error("a manifest has version {found}; this release knows up to {VERSION}")]
    TooNew {
        /// The version found.
        found: u32,
    },
    /// A path is not allowed.
    #[error("path \"{path}\" is not allowed in a manifest: {why}")]
    BadPath {
        /// The path, escaped and cut.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Two paths cannot both exist, or not on every filesystem.
    #[error("\"{path}\" and \"{other}\" cannot stand in one manifest: {why}")]
    Clash {
        /// One path.
        path: String,
        /// The other.
        other: String,
        /// Why not.
        why: &'static str,
    },
    /// A file's size, digest and chunks do not fit together.
    #[error("file \"{path}\" is not consistent: {why}")]
    BadFile {
        /// Its path.
        path: String,
        /// What does not fit.
        why: &'static str,
    },
    /// A field outside of the files is missing or wrong.
    #[error("a manifest's {field} is not valid: {why}")]
    BadField {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// A valid manifest with its bytes and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    manifest: Manifest,
    bytes: Buf,
    digest: Digest,
}

impl Sealed {
    /// What it says.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its bytes, as they were made or received.
    #[must_use]
    pub fn bytes(&self) -> &Buf {
        &self.bytes
    }

    /// Its name: BLAKE3 of its bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl Manifest {
    /// Checks and encodes it, once and for all.
    ///
    /// # Errors
    /// It breaks a rule of `manifest.proto`.
    pub fn seal(self) -> Result<Sealed, ManifestError> {
        rules::check(&self)?;
        let bytes = Buf::from(self.to_wire().encode_to_vec());
        if bytes.len() > MAX_MANIFEST {
            return Err(ManifestError::TooLarge { len: bytes.len() });
        }
        Ok(Sealed { digest: Digest::of(&bytes), bytes, manifest: self })
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn total_size(&self) -> Bytes {
        self.files.iter().map(|file| file.size).sum()
    }

    /// The digests of all chunks, each once, ascending.
    #[must_use]
    pub fn unique_chunks(&self) -> Vec<Digest> {
        let mut digests: Vec<_> = self.files.iter().flat_map(|f| &f.chunks).copied().collect();
        digests.sort_unstable();
        digests.dedup();
        digests
    }

    fn to_wire(&self) -> wire::Manifest {
        let attempt = self.kind.attempt();
        let bytes = |digest: Option<Digest>| digest.map_or(Vec::new(), |d| d.as_bytes().to_vec());
        let kind = match self.kind {
            Kind::Checkpoint { .. } => wire::ManifestKind::Checkpoint,
            Kind::Package { .. } => wire::ManifestKind::Package,
            Kind::Input => wire::ManifestKind::Input,
            Kind::Image => wire::ManifestKind::Image,
        };
        wire::Manifest {
            version: VERSION,
            kind: kind.into(),
            project: self.project.to_string(),
            job: attempt.map_or(0, |a| a.job.get()),
            generation: attempt.map_or(0, |a| a.token.generation.get()),
            attempt: attempt.map_or(0, |a| a.token.attempt.get()),
            step: self.kind.step().map(Step::get),
            spec: bytes(self.spec),
            base_model: bytes(self.base_model),
            files: self.files.iter().map(file_to_wire).collect(),
        }
    }
}

fn file_to_wire(file: &ManifestFile) -> wire::ManifestFile {
    wire::ManifestFile {
        path: file.path.to_string(),
        size: file.size.get(),
        digest: file.digest.as_bytes().to_vec(),
        executable: file.executable,
        chunks: file.chunks.iter().flat_map(|chunk| *chunk.as_bytes()).collect(),
    }
}

/// Reads a manifest from a peer or from disk. Any input yields a valid manifest or an error, in bounded memory.
///
/// # Errors
/// It is out of bounds, cannot be decoded, is newer than this release, or breaks a rule of `manifest.proto`.
pub fn decode_and_validate(bytes: impl Into<Buf>) -> Result<Sealed, ManifestError> {
    let bytes = bytes.into();
    if bytes.len() > MAX_MANIFEST {
        return Err(ManifestError::TooLarge { len: bytes.len() });
    }
    rules::count_files(&bytes)?;
    let wire = wire::Manifest::decode(bytes.as_ref()).map_err(ManifestError::Undecodable)?;
    let manifest = from_wire(&wire)?;
    rules::check(&manifest)?;
    Ok(Sealed { digest: Digest::of(&bytes), bytes, manifest })
}

fn from_wire(wire: &wire::Manifest) -> Result<Manifest, ManifestError> {
    if wire.version > VERSION {
        return Err(ManifestError::TooNew { found: wire.version });
    }
    if wire.version == 0 {
        return Err(bad_field("version", "it is missing"));
    }
    Ok(Manifest {
        kind: kind_of(wire)?,
        project: wire
            .project
            .parse()
            .map_err(|_| bad_field("project", "it is not a project's name"))?,
        spec: optional_digest("spec", &wire.spec)?,
        base_model: optional_digest("base_model", &wire.base_model)?,
        files: wire.files.iter().map(file_from_wire).collect::<Result<_, _>>()?,
    })
}

fn kind_of(wire: &wire::Manifest) -> Result<Kind, ManifestError> {
    let token =
        Token { generation: Generation::new(wire.generation), attempt: Attempt::new(wire.attempt) };
    let attempt = AttemptId { job: JobId::new(wire.job), token };
    let named = (wire.job, wire.generation, wire.attempt) != (0, 0, 0);
    let step = wire.step.map(Step::new);
    match wire.kind() {
        wire::ManifestKind::Checkpoint => {
            let step = step.ok_or_else(|| bad_field("step", "a checkpoint must name its step"))?;
            Ok(Kind::Checkpoint { attempt, step })
        }
        wire::ManifestKind::Package => Ok(Kind::Package { attempt, step }),
        wire::ManifestKind::Input | wire::ManifestKind::Image if named || step.is_some() => {
            Err(bad_field("attempt", "no attempt makes an input or an image"))
        }
        wire::ManifestKind::Input => Ok(Kind::Input),
        wire::ManifestKind::Image => Ok(Kind::Image),
        wire::ManifestKind::Unspecified => Err(bad_field("kind", "it is missing or not known")),
    }
}

fn file_from_wire(wire: &wire::ManifestFile) -> Result<ManifestFile, ManifestError> {
    let path: RelPath = wire.path.parse()?;
    let bad = |why| ManifestError::BadFile { path: path.to_string(), why };
    let digest = Digest::try_from(wire.digest.as_slice());
    let digest = digest.map_err(|_| bad("its digest must be 32 bytes"))?;
    let (chunks, rest) = wire.chunks.as_chunks::<{ Digest::LEN }>();
    if !rest.is_empty() {
        return Err(bad("its chunks must be 32 bytes each"));
    }
    let chunks = chunks.iter().copied().map(Digest::from_bytes).collect();
    let (size, executable) = (Bytes::new(wire.size), wire.executable);
    Ok(ManifestFile { path, size, digest, executable, chunks })
}

fn optional_digest(field: &'static str, bytes: &[u8]) -> Result<Option<Digest>, ManifestError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let digest = Digest::try_from(bytes);
    digest.map(Some).map_err(|_| bad_field(field, "it must be empty or 32 bytes"))
}

fn bad_field(field: &'static str, why: &'static str) -> ManifestError {
    ManifestError::BadField { field, why }
}
