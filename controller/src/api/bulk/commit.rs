//! Committing: everything that can be said about a manifest without the fleet's state is checked here, and the manifest
//! is durable, before the fleet decides.

use bytes::Bytes;
use hone_proto::bulk::{MANIFEST, Scope};
use hone_proto::convert::WireError;
use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{Digest, ProjectName, RequestId};
use hone_proto::identity::Peer;
use hone_proto::manifest::{Kind, Manifest, Sealed, decode_and_validate};
use hone_proto::wire::CommitRequest;

use super::{Chunks, CommitCall, Fleet, Service, refusal};

impl<C: Chunks, F: Fleet> Service<C, F> {
    pub(super) async fn commit_manifest(
        &self,
        caller: Peer,
        message: CommitRequest,
    ) -> Result<Digest, Refusal> {
        let request: RequestId = message
            .request_id
            .parse()
            .map_err(|error| WireError { field: "request_id", why: format!("{error}") })?;
        let scope = Scope::try_from(message.scope)?;
        let project = self.fleet.scope_of_commit(&caller, &scope).await?;
        let bytes = Bytes::from(message.manifest);
        let manifest = {
            let (scope, project) = (scope.clone(), project.clone());
            self.blocking(move |chunks| accept(chunks, bytes, &scope, &project)).await?
        };
        let digest = manifest.digest();
        self.fleet.commit(CommitCall { caller, scope, manifest, request }).await?;
        Ok(digest)
    }
}

/// Checks a manifest and makes it durable.
fn accept(
    chunks: &impl Chunks,
    bytes: Bytes,
    scope: &Scope,
    project: &ProjectName,
) -> Result<Sealed, Refusal> {
    if bytes.len() > MANIFEST {
        let message = format!("a manifest of {} bytes: at most {MANIFEST} are taken", bytes.len());
        return Err(Refusal::new(Reason::BadRequest, message));
    }
    let sealed = decode_and_validate(bytes)
        .map_err(|error| Refusal::new(Reason::BadRequest, error.to_string()))?;
    check_scope(sealed.manifest(), scope, project)?;
    check_chunks(chunks, sealed.manifest(), project)?;
    let stored = chunks.put(project, sealed.digest(), sealed.bytes());
    stored.map_err(|error| refusal(&error))?;
    Ok(sealed)
}

/// The manifest claims to be what the caller may commit: an attempt its own checkpoints and packages, a user inputs and
/// images.
fn check_scope(manifest: &Manifest, scope: &Scope, project: &ProjectName) -> Result<(), Refusal> {
    let bad = |message: String| Err(Refusal::new(Reason::BadRequest, message));
    if manifest.project != *project {
        return bad(format!("the manifest is of another project than {scope}"));
    }
    match (manifest.kind, scope) {
        (Kind::Checkpoint { attempt, .. } | Kind::Package { attempt, .. }, Scope::Attempt(own))
            if attempt == *own =>
        {
            Ok(())
        }
        (Kind::Checkpoint { .. } | Kind::Package { .. }, _) => {
            bad(format!("the manifest is of another attempt than {scope}"))
        }
        (Kind::Input | Kind::Image, Scope::Project(_)) => Ok(()),
        (Kind::Input | Kind::Image, Scope::Attempt(_)) => {
            bad("an attempt commits checkpoints and packages only".to_owned())
        }
    }
}

/// Every chunk is stored durably, and is as long as the file sizes say.
fn check_chunks(
    chunks: &impl Chunks,
    manifest: &Manifest,
    project: &ProjectName,
) -> Result<(), Refusal> {
    let unfit = chunks.unfit(project, manifest).map_err(|error| refusal(&error))?;
    let missing = chunks.missing(project, &unfit).map_err(|error| refusal(&error))?;
    if !missing.is_empty() {
        let message = format!("{} chunks are not stored", missing.len());
        return Err(Refusal::new(Reason::MissingChunks, message));
    }
    if let Some(digest) = unfit.first() {
        let message = format!("chunk {} has another length than its file says", digest.short());
        return Err(Refusal::new(Reason::BadRequest, message));
    }
    // Some may have been stored by another call, whose sync is not over yet or never came.
    let settled = chunks.settle(project, &manifest.unique_chunks());
    settled.map_err(|error| refusal(&error))
}
