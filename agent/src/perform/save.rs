//! What the trainer saved: its own claim checked, then sent, then committed under the fencing token.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use hone_proto::bulk::source::{Source, Trust};
use hone_proto::bulk::{BulkError, Silent};
use hone_proto::error::Reason;
use hone_proto::id::{AttemptId, Digest, ProjectName};
use hone_proto::manifest::{Kind, Manifest, RelPath, Sealed};

use super::{Performer, chain};
use crate::core::Input;
use crate::core::input::{Upload, UploadError};

/// What a commit says beside its files.
struct Origin {
    project: ProjectName,
    kind: Kind,
    spec: Option<Digest>,
    base_model: Option<Digest>,
}

impl Performer {
    pub(super) async fn upload(&self, attempt: AttemptId, upload: Upload) -> Input {
        let begun = Instant::now();
        let result = self.send(attempt, &upload).await;
        match &result {
            Ok(()) => tracing::info!(%attempt, ?upload, took = ?begun.elapsed(), "committed"),
            Err(error) => tracing::warn!(%attempt, ?upload, ?error, "not committed"),
        }
        Input::Uploaded { attempt, upload, took: begun.elapsed(), result }
    }

    async fn send(&self, attempt: AttemptId, upload: &Upload) -> Result<(), UploadError> {
        let (found, kind) = match upload {
            Upload::Checkpoint(found) => (found, Kind::Checkpoint { attempt, step: found.step }),
            Upload::Package(found) => (found, Kind::Package { attempt, step: Some(found.step) }),
        };
        let origin = self.origin(attempt, kind)?;
        let output = self.layout.attempt(attempt).output();
        let folder: RelPath =
            found.path.parse().map_err(|error| UploadError::Never(format!("{error}")))?;
        let surveyed = tokio::task::spawn_blocking(move || survey(&output, &folder, origin));
        let (source, sealed) =
            surveyed.await.map_err(|error| UploadError::Later(error.to_string()))??;
        let bulk = self.bulk(attempt).map_err(|error| UploadError::Later(error.message))?;
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
        let place = self.layout.attempt(attempt).output().join(folder.as_str());
        // The container owns the folder above: a link in its place is removed, never followed.
        match tokio::fs::remove_dir_all(&place).await {
            Ok(()) => tracing::debug!(%attempt, path, "past retention; removed"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%attempt, path, "not removed: {error}"),
        }
    }
}

/// Hashes the folder beneath the output and seals its manifest.
fn survey(
    output: &Path,
    folder: &RelPath,
    origin: Origin,
) -> Result<(Arc<Source>, Sealed), UploadError> {
    let gone = |error: &dyn std::error::Error| UploadError::Never(chain(error));
    let source = Source::open(output, Trust::Container)
        .and_then(|output| output.beneath(folder))
        .map_err(|e| gone(&e))?;
    let files = source.survey(|_| true, |_| {}).map_err(|e| gone(&e))?;
    let manifest = Manifest {
        project: origin.project,
        kind: origin.kind,
        files,
        spec: origin.spec,
        base_model: origin.base_model,
    };
    let sealed = manifest.seal().map_err(|e| gone(&e))?;
    Ok((Arc::new(source), sealed))
}

fn refused(error: &BulkError) -> UploadError {
    let text = chain(error);
    if error.is_retryable() {
        return UploadError::Later(text);
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
