//! Copies what a tool wrote under a name of its own: hashed on the way, hone's manifest last, then renamed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use hone_proto::id::Step;
use hone_proto::quantity::Bytes;
use serde_json::{Value, json};

use crate::tools::state::{MAX_STATE_SIZE, STATE_NAME};
use crate::trainer::{FileError, MANIFEST_NAME, NativeManifest, PlainFile, RelPath};

/// Largest description of an adapter.
const MAX_CONFIG: Bytes = Bytes::mib(1);

/// Why something could not be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error("{path}: {why}")]
    File { path: PathBuf, why: io::Error },
    #[error(transparent)]
    Read(#[from] FileError),
    #[error("{0} is gone")]
    Gone(RelPath),
    #[error("{0} changed while it was taken")]
    Changed(String),
    #[error("it cannot be copied")]
    Thread(#[source] io::Error),
    #[error("it would not count: {0}")]
    Manifest(&'static str),
}

/// Files to copy under one name.
pub(super) struct Take {
    pub(super) name: String,
    pub(super) step: Step,
    pub(super) kind: &'static str,
    pub(super) files: Vec<(String, PlainFile)>,
    /// What an adapter says its base is called.
    pub(super) base: Option<String>,
}

/// Copies aside, writes the manifest last, and gives the final name. Nothing is left of a copy that fails: it would hold
/// the space that may be all that is missing.
pub(super) fn copy(kept: &Path, take: &Take) -> Result<(), KeepError> {
    let aside = kept.join(format!("{}.tmp", take.name));
    let done = copy_aside(kept, &aside, take);
    if done.is_err() {
        let _ = fs::remove_dir_all(&aside);
    }
    done
}

fn copy_aside(kept: &Path, aside: &Path, take: &Take) -> Result<(), KeepError> {
    let of = |path: &Path| {
        let path = path.to_owned();
        move |why| KeepError::File { path, why }
    };
    let _ = fs::remove_dir_all(aside);
    fs::create_dir_all(aside).map_err(of(aside))?;
    let mut listed = Vec::new();
    for (name, file) in &take.files {
        let place = aside.join(name);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder).map_err(of(folder))?;
        }
        let (size, sha256) = match rewritten(name, file, take)? {
            Some(content) => {
                write_synced(&place, &content).map_err(of(&place))?;
                (content.len() as u64, digest::digest(&digest::SHA256, &content))
            }
            None => copy_file(file, &place)?,
        };
        listed.push(json!({"path": name, "bytes": size, "sha256": hex(&sha256)}));
    }
    let manifest =
        json!({"v": 1, "step": take.step.get(), "kind": take.kind, "files": listed}).to_string();
    // What nobody would accept later, such as names that differ in case alone, is told now.
    NativeManifest::parse(manifest.as_bytes()).map_err(KeepError::Manifest)?;
    let place = aside.join(MANIFEST_NAME);
    write_synced(&place, manifest.as_bytes()).map_err(of(&place))?;
    let named = kept.join(&take.name);
    let _ = fs::remove_dir_all(&named);
    fs::rename(aside, &named).map_err(of(&named))?;
    File::open(kept).and_then(|folder| folder.sync_all()).map_err(of(kept))
}

/// Small files that must not be kept as they are: a path of this attempt's folder crashes older versions elsewhere, and
/// an adapter's base is known by its public name.
fn rewritten(name: &str, file: &PlainFile, take: &Take) -> Result<Option<Vec<u8>>, KeepError> {
    if name == STATE_NAME {
        let content = file.read_all(MAX_STATE_SIZE)?;
        return Ok(Some(without_best_path(&content)));
    }
    if name == "adapter_config.json"
        && let Some(base) = &take.base
    {
        let content = file.read_all(MAX_CONFIG)?;
        if let Ok(Value::Object(mut config)) = serde_json::from_slice(&content) {
            config.insert("base_model_name_or_path".to_owned(), Value::String(base.clone()));
            return Ok(Some(Value::Object(config).to_string().into_bytes()));
        }
    }
    Ok(None)
}

/// The state file with no path of the best checkpoint; everything else to the byte, NaN included.
fn without_best_path(content: &[u8]) -> Vec<u8> {
    const KEY: &str = "\"best_model_checkpoint\":";
    let Ok(text) = std::str::from_utf8(content) else { return content.to_vec() };
    let Some(at) = text.find(KEY).map(|at| at + KEY.len()) else { return content.to_vec() };
    let rest = text[at..].trim_start();
    let Some(value) = rest.strip_prefix('"') else { return content.to_vec() };
    let Some(end) = value.find('"') else { return content.to_vec() };
    format!("{} null{}", &text[..at], &value[end + 1..]).into_bytes()
}

fn write_synced(place: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(place)?;
    file.write_all(content)?;
    file.sync_all()
}

fn copy_file(from: &PlainFile, place: &Path) -> Result<(u64, digest::Digest), KeepError> {
    let of = |why| KeepError::File { path: place.to_owned(), why };
    let mut to = File::create(place).map_err(of)?;
    let mut sha256 = digest::Context::new(&digest::SHA256);
    let size = from.pieces(|piece| {
        sha256.update(piece);
        to.write_all(piece).map_err(of)
    })?;
    to.sync_all().map_err(of)?;
    if from.identity_now()? != from.identity() {
        return Err(KeepError::Changed(place.display().to_string()));
    }
    Ok((size, sha256.finish()))
}

fn hex(digest: &digest::Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_best_checkpoint_is_not_carried_elsewhere() {
        let state = br#"{"best_model_checkpoint": "/hone/output/checkpoint-20", "loss": NaN}"#;
        let text = String::from_utf8(without_best_path(state)).expect("text");
        assert_eq!(text, r#"{"best_model_checkpoint": null, "loss": NaN}"#);
        let none = br#"{"best_model_checkpoint": null}"#;
        assert_eq!(without_best_path(none), none);
    }
}
