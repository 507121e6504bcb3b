//! Which folders in an output directory are finished checkpoints.
//!
//! At the native level the trainer writes aside, writes `hone_manifest.json` last and renames: a folder is complete when
//! it has its final name and its manifest agrees with its files. The manifest is a claim; whoever commits the checkpoint
//! verifies the content while reading it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use hone_proto::id::Step;
use hone_proto::quantity::Bytes;
use serde::Deserialize;

use super::beneath::{Dir, FileError, PlainFile, RelPath};

/// Name of the manifest in a native checkpoint.
pub const MANIFEST_NAME: &str = "hone_manifest.json";
/// The folder of a finished job's package in the output directory.
pub const PACKAGE_NAME: &str = "package";
/// Prefix of a checkpoint's folder; the step follows.
const FOLDER_PREFIX: &str = "checkpoint-";
/// Entries of an output directory that are looked at: thousands of checkpoints, and a bound on a hostile directory.
const MAX_ENTRIES: usize = 10_000;
/// Largest manifest; 10,000 files need about 2 MB.
const MAX_MANIFEST_SIZE: Bytes = Bytes::mib(8);
/// Most files in a checkpoint; the largest sharded model with its optimizer has some thousand.
const MAX_FILES: usize = 10_000;

/// A SHA-256 digest, as manifests of the trainer hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The raw digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A text that is no SHA-256 digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest is 64 hexadecimal digits")]
pub struct Sha256Error;

impl FromStr for Sha256 {
    type Err = Sha256Error;
    fn from_str(text: &str) -> Result<Self, Sha256Error> {
        let mut digest = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Sha256Error);
        }
        for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| Sha256Error)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| Sha256Error)?;
        }
        Ok(Self(digest))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// By what a folder is judged. The levels of the contract that do not write a manifest get rules of their own here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompletenessRule {
    /// The manifest is there and every file that it lists has the size that it lists.
    NativeManifest,
}

/// One file of a checkpoint, as its manifest claims it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Where, beneath the checkpoint's folder.
    pub path: RelPath,
    /// Its size.
    pub size: Bytes,
    /// Its digest.
    pub sha256: Sha256,
}

/// The trainer's claim about one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeManifest {
    /// The step whose state it is.
    pub step: Step,
    /// What it holds: `adapter`, `full`, `package` or another word of the trainer.
    pub kind: String,
    /// Its files, sorted by path; the manifest itself is not among them.
    pub files: Vec<ManifestFile>,
}

impl NativeManifest {
    /// Size of all files.
    #[must_use]
    pub fn size(&self) -> Bytes {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Reads a manifest. Paths that could leave the folder, and names that differ only in case, are refused.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(content: &[u8]) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(alias = "v")]
            version: u64,
            step: u64,
            #[serde(default)]
            kind: String,
            files: Vec<RawFile>,
        }
        #[derive(Deserialize)]
        struct RawFile {
            path: String,
            #[serde(alias = "bytes")]
            size: u64,
            sha256: String,
        }
        let raw: Raw = serde_json::from_slice(content)
            .map_err(|_| "the manifest is not valid JSON of its form")?;
        if raw.version != 1 {
            return Err("the manifest has a version that is not known");
        }
        if raw.files.is_empty() || raw.files.len() > MAX_FILES {
            return Err("the manifest lists no files, or too many");
        }
        let mut folded = BTreeSet::new();
        let mut files = Vec::with_capacity(raw.files.len());
        for file in raw.files {
            let path: RelPath =
                file.path.parse().map_err(|_| "the manifest lists a path that is not plain")?;
            if path.as_str() == MANIFEST_NAME || !folded.insert(path.as_str().to_lowercase()) {
                return Err("the manifest lists a file twice, or itself");
            }
            let sha256 = file
                .sha256
                .parse()
                .map_err(|_| "the manifest lists something that is no digest")?;
            files.push(ManifestFile { path, size: Bytes::new(file.size), sha256 });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { step: Step::new(raw.step), kind: crate::logs::clean_text(&raw.kind, 32), files })
    }
}

/// Whether a folder is a finished checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completeness {
    /// It is; this is what it claims to hold.
    Complete(NativeManifest),
    /// Not, or not yet.
    Incomplete {
        /// What is missing or wrong.
        why: String,
    },
}

/// A folder that is named like a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundCheckpoint {
    /// The step in its name.
    pub step: Step,
    /// Its folder, beneath the output directory.
    pub path: RelPath,
    /// Whether it is finished.
    pub completeness: Completeness,
}

impl FoundCheckpoint {
    /// The manifest, when it is complete.
    #[must_use]
    pub const fn manifest(&self) -> Option<&NativeManifest> {
        match &self.completeness {
            Completeness::Complete(manifest) => Some(manifest),
            Completeness::Incomplete { .. } => None,
        }
    }
}

/// The checkpoints in an output directory, earliest step first. Folders under other names, such as those still being
/// written, are not mentioned.
///
/// # Errors
/// When the directory itself cannot be read. A folder that cannot be is incomplete.
pub fn find_checkpoints(
    output: &Dir,
    rule: CompletenessRule,
) -> Result<Vec<FoundCheckpoint>, FileError> {
    let mut found: Vec<_> = output
        .subdirectories(MAX_ENTRIES)?
        .into_iter()
        .filter_map(|path| {
            let step = step_of(path.as_str())?;
            let completeness = match rule {
                CompletenessRule::NativeManifest => judge(output, &path, Some(step)),
            };
            Some(FoundCheckpoint { step, path, completeness })
        })
        .collect();
    found.sort_by_key(|checkpoint| checkpoint.step);
    Ok(found)
}

/// The package in an output directory, if there is one: written and judged as a checkpoint is.
///
/// # Errors
/// When what has its name is not a directory, or cannot be read.
pub fn find_package(
    output: &Dir,
    rule: CompletenessRule,
) -> Result<Option<Completeness>, FileError> {
    let path = RelPath::constant(PACKAGE_NAME);
    if output.dir(&path)?.is_none() {
        return Ok(None);
    }
    Ok(Some(match rule {
        CompletenessRule::NativeManifest => judge(output, &path, None),
    }))
}

/// The checkpoints in a folder that have all that their manifests list, earliest step first.
///
/// # Errors
/// When the folder cannot be read.
pub fn complete_checkpoints(folder: &Path) -> Result<Vec<(Step, RelPath)>, FileError> {
    let found = find_checkpoints(&Dir::open(folder)?, CompletenessRule::NativeManifest)?;
    let complete = found.into_iter().filter(|checkpoint| checkpoint.manifest().is_some());
    Ok(complete.map(|checkpoint| (checkpoint.step, checkpoint.path)).collect())
}

/// The step in a folder's name, written in the one way in which tools write it.
pub(crate) fn step_of(name: &str) -> Option<Step> {
    let digits = name.strip_prefix(FOLDER_PREFIX)?;
    let step: u64 = digits.parse().ok()?;
    (step.to_string() == digits).then(|| Step::new(step))
}

fn judge(output: &Dir, folder: &RelPath, step: Option<Step>) -> Completeness {
    match native_manifest(output, folder, step) {
        Ok(manifest) => Completeness::Complete(manifest),
        Err(why) => Completeness::Incomplete { why },
    }
}

fn native_manifest(
    output: &Dir,
    folder: &RelPath,
    step: Option<Step>,
) -> Result<NativeManifest, String> {
    let dir = output.dir(folder).map_err(|error| error.to_string())?.ok_or("it is gone")?;
    let manifest = open(&dir, &RelPath::constant(MANIFEST_NAME))?;
    let content = manifest.read_all(MAX_MANIFEST_SIZE).map_err(|error| error.to_string())?;
    let manifest = NativeManifest::parse(&content)?;
    if step.is_some_and(|step| step != manifest.step) {
        return Err(format!("its manifest is of step {}", manifest.step));
    }
    for claim in &manifest.files {
        let size = open(&dir, &claim.path)?.len();
        if size != claim.size.get() {
            return Err(format!("{} has {size} bytes instead of {}", claim.path, claim.size.get()));
        }
    }
    Ok(manifest)
}

/// A file that has to be there; what is wrong is for people.
pub(crate) fn open(dir: &Dir, path: &RelPath) -> Result<PlainFile, String> {
    dir.file(path).map_err(|error| error.to_string())?.ok_or_else(|| format!("{path} is missing"))
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
