//! What the trainer saved: its own claim checked, then sent, then committed under the fencing token.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::digest;
use hone_proto::bulk::source::{Source, SourceError, Trust};
use hone_proto::bulk::{BulkError, Silent};
use hone_proto::error::Reason;
use hone_proto::id::{AttemptId, Digest, ProjectName};
use hone_proto::manifest::{Kind, Manifest, RelPath, Sealed};
use hone_proto::quantity::Bytes;

use super::{Performer, chain};
use crate::core::Input;
use crate::core::input::{Upload, UploadError};
use crate::trainer::{self, Dir, FileError, MANIFEST_NAME, NativeManifest};

/// Largest manifest of the trainer.
const MAX_CLAIM: Bytes = Bytes::mib(8);

/// What a commit says beside its files.
struct Origin {
    project: ProjectName,
    kind: Kind,
    spec: Option<Digest>,
    base_model: Option<Digest>,
}

impl Performer {
    pub(super) async fn upload(
        &self,
        attempt: AttemptId,
        upload: Upload,
        traceparent: &str,
    ) -> Input {
        let begun = Instant::now();
        let result = self.send(attempt, &upload, traceparent).await;
        match &result {
            Ok(()) => tracing::info!(%attempt, ?upload, took = ?begun.elapsed(), "committed"),
            Err(error) => tracing::warn!(%attempt, ?upload, ?error, "not committed"),
        }
        Input::Uploaded { attempt, upload, took: begun.elapsed(), result }
    }

    async fn send(
        &self,
        attempt: AttemptId,
        upload: &Upload,
        traceparent: &str,
    ) -> Result<(), UploadError> {
        let (found, kind) = match upload {
            Upload::Checkpoint(found) => (found, Kind::Checkpoint { attempt, step: found.step }),
            Upload::Package(found) => (found, Kind::Package { attempt, step: Some(found.step) }),
        };
        let origin = self.origin(attempt, kind)?;
        let output = self.layout.attempt(attempt).saved();
        let folder: RelPath =
            found.path.parse().map_err(|error| UploadError::Never(format!("{error}")))?;
        let surveyed = tokio::task::spawn_blocking(move || survey(&output, &folder, origin));
        let (source, sealed) =
            surveyed.await.map_err(|error| UploadError::Later(error.to_string()))??;
        let bulk = self.bulk(attempt, traceparent);
        let bulk = bulk.map_err(|error| UploadError::Later(error.message))?;
        bulk.upload(&sealed, &source, &Silent).await.map(|_| ()).map_err(|e| refused(&e))
    }

    /// The project and digests that the assignment names; read from the attempt's own spec file.
    fn origin(&self, attempt: AttemptId, kind: Kind) -> Result<Origin, UploadError> {
        let path = self.layout.attempt(attempt).spec();
        let unreadable = |why: String| UploadError::Later(format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(&path).map_err(|e| unreadable(e.to_string()))?;
        let spec: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| unreadable(e.to_string()))?;
        let project = spec.pointer("/job/project").and_then(|v| v.as_str()).unwrap_or("default");
        let digest = |at: &str| spec.pointer(at).and_then(|v| v.as_str())?.parse().ok();
        Ok(Origin {
            project: project.parse().map_err(|e| unreadable(format!("{e}")))?,
            kind,
            spec: digest("/spec_digest"),
            base_model: digest("/model/digest"),
        })
    }

    pub(super) async fn discard(&self, attempt: AttemptId, path: &str) {
        let Ok(folder) = path.parse::<RelPath>() else { return };
        let place = self.layout.attempt(attempt).saved().join(folder.as_str());
        // The container owns the folder above: a link in its place is removed, never followed.
        match tokio::fs::remove_dir_all(&place).await {
            Ok(()) => tracing::debug!(%attempt, path, "past retention; removed"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%attempt, path, "not removed: {error}"),
        }
    }
}

/// Checks the trainer's claim, hashes the folder beneath the output, and seals its manifest.
fn survey(
    output: &Path,
    folder: &RelPath,
    origin: Origin,
) -> Result<(Arc<Source>, Sealed), UploadError> {
    check_claim(output, folder.as_str())?;
    let source = Source::open(output, Trust::Container)
        .and_then(|output| output.beneath(folder))
        .map_err(|e| unreadable(&e))?;
    let files = source.survey(|_| true, |_| {}).map_err(|e| unreadable(&e))?;
    let manifest = Manifest {
        project: origin.project,
        kind: origin.kind,
        files,
        spec: origin.spec,
        base_model: origin.base_model,
    };
    let sealed = manifest.seal().map_err(|e| UploadError::Never(chain(&e)))?;
    Ok((Arc::new(source), sealed))
}

/// A disk that stumbles, or a trainer that still writes, says nothing about the checkpoint; another look may find it
/// whole.
fn unreadable(error: &SourceError) -> UploadError {
    match error {
        SourceError::Io { .. } | SourceError::Changed { .. } => UploadError::Later(chain(error)),
        _ => UploadError::Never(chain(error)),
    }
}

/// Every file that the trainer's manifest lists has the digest that it lists: a checkpoint that was damaged on this disk
/// must not be committed as the latest.
fn check_claim(output: &Path, folder: &str) -> Result<(), UploadError> {
    let never = |why: String| UploadError::Never(format!("{folder}: {why}"));
    let of_file = |error: FileError| match error {
        FileError::Io { .. } => UploadError::Later(chain(&error)),
        _ => UploadError::Never(chain(&error)),
    };
    let name = |text: &str| text.parse::<trainer::RelPath>().map_err(|e| never(e.to_string()));
    let dir = Dir::open(output).map_err(of_file)?.dir(&name(folder)?).map_err(of_file)?;
    let dir = dir.ok_or_else(|| never("it is gone".to_owned()))?;
    let manifest = dir.file(&name(MANIFEST_NAME)?).map_err(of_file)?;
    let manifest = manifest.ok_or_else(|| never("it has no manifest".to_owned()))?;
    let content = manifest.read_all(MAX_CLAIM).map_err(of_file)?;
    let claim = NativeManifest::parse(&content).map_err(|why| never(why.to_owned()))?;
    for listed in &claim.files {
        let file = dir.file(&listed.path).map_err(of_file)?;
        let file = file.ok_or_else(|| never(format!("{} is missing", listed.path)))?;
        let mut sha256 = digest::Context::new(&digest::SHA256);
        let hashed = file.pieces::<FileError>(|piece| {
            sha256.update(piece);
            Ok(())
        });
        hashed.map_err(of_file)?;
        if sha256.finish().as_ref() != listed.sha256.as_bytes() {
            return Err(never(format!("{} is not what the manifest lists", listed.path)));
        }
    }
    Ok(())
}

fn refused(error: &BulkError) -> UploadError {
    let text = chain(error);
    if error.is_retryable() {
        return UploadError::Later(text);
    }
    match error {
        BulkError::SourceChanged { .. } => return UploadError::Later(text),
        BulkError::Source(source) => return unreadable(source),
        _ => {}
    }
    match error.refusal().map(|refusal| refusal.reason) {
        Some(Reason::StaleAttempt | Reason::NotOwner | Reason::NotPermitted) => UploadError::Fenced,
        Some(Reason::Conflict) => UploadError::Overtaken,
        Some(
            Reason::OutOfSpace
            | Reason::Overloaded
            | Reason::Unavailable
            | Reason::MissingChunks
            | Reason::Internal
            | Reason::Unauthenticated
            | Reason::Revoked
            | Reason::Protocol,
        ) => UploadError::Later(text),
        _ => UploadError::Never(text),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn checkpoint(output: &Path, claimed: &[u8], written: &[u8]) {
        let folder = output.join("checkpoint-5");
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join("weights"), written).expect("written");
        let sha256 = digest::digest(&digest::SHA256, claimed);
        let sha256: String = sha256.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let manifest = serde_json::json!({
            "version": 1, "step": 5, "kind": "adapter",
            "files": [{"path": "weights", "size": claimed.len(), "sha256": sha256}],
        });
        fs::write(folder.join(MANIFEST_NAME), manifest.to_string()).expect("written");
    }

    #[test]
    fn a_checkpoint_is_sent_only_when_it_is_what_the_trainer_wrote() {
        let dir = tempfile::tempdir().expect("a folder");
        checkpoint(dir.path(), b"good", b"good");
        assert_eq!(check_claim(dir.path(), "checkpoint-5"), Ok(()));
        checkpoint(dir.path(), b"good", b"evil");
        let refused = check_claim(dir.path(), "checkpoint-5");
        assert!(
            matches!(&refused, Err(UploadError::Never(why)) if why.contains("weights")),
            "{refused:?}"
        );
        assert!(matches!(check_claim(dir.path(), "checkpoint-6"), Err(UploadError::Never(_))));
    }

    #[test]
    fn a_stale_token_fences_and_what_passes_by_itself_is_waited_for() {
        let of =
            |reason| refused(&BulkError::Refused(hone_proto::error::Refusal::new(reason, "x")));
        assert_eq!(of(Reason::StaleAttempt), UploadError::Fenced);
        assert_eq!(of(Reason::Conflict), UploadError::Overtaken);
        assert!(matches!(of(Reason::OutOfSpace), UploadError::Later(_)));
        let changed = BulkError::SourceChanged { path: "weights".to_owned() };
        assert!(matches!(refused(&changed), UploadError::Later(_)));
    }
}
