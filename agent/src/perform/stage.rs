//! Fetches what an attempt needs: its image, its inputs, and the checkpoint to continue from.

use std::io;
use std::path::Path;

use hone_proto::assignment::{Assignment, ImageRef};
use hone_proto::bulk::{BulkError, Client, Silent};
use hone_proto::error::Reason;
use hone_proto::id::Digest;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;

use super::{Performer, chain, later, never, not_here, of_file, of_runtime};
use crate::core::input::StepError;
use crate::runtime::{ImageId, ImageName, Runtime as _, Transfer};

impl Performer {
    pub(super) async fn stage(&self, assignment: &Assignment) -> Result<(), StepError> {
        self.policy
            .admit(&assignment.image.reference, &assignment.relaxations)
            .map_err(|why| not_here("policy_refused", why))?;
        let dirs = self.layout.attempt(assignment.attempt);
        tokio::fs::create_dir_all(dirs.root()).await.map_err(of_file(dirs.root()))?;
        let bulk = self.bulk(assignment.attempt)?;
        self.fetch_image(&bulk, &assignment.image).await?;
        for input in &assignment.inputs {
            self.cache.fetch(&bulk, &assignment.project, input.manifest).await?;
        }
        if let Some(manifest) = assignment.resume {
            fetch(&bulk, manifest, &dirs.resume()).await?;
        }
        Ok(())
    }

    /// Held already, or carried as chunks, or pulled by its digest.
    async fn fetch_image(&self, bulk: &Client, image: &ImageRef) -> Result<(), StepError> {
        let name: ImageName = image
            .reference
            .parse()
            .map_err(|error| never("bad_image", format!("{}: {error}", image.reference)))?;
        if self.runtime.has_image(&name).await.map_err(|e| of_runtime(&e))?.is_some() {
            return Ok(());
        }
        let Some(manifest) = image.manifest else {
            let (progress, _) = watch::channel(Transfer::default());
            return match self.runtime.pull(&name, &progress).await {
                Ok(_) => Ok(()),
                Err(error) => Err(of_runtime(&error)),
            };
        };
        let wanted: ImageId = image
            .reference
            .parse()
            .map_err(|error| never("bad_image", format!("{}: {error}", image.reference)))?;
        let sealed = bulk.manifest(manifest).await.map_err(|e| of_bulk(&e))?;
        let stream = bulk.download_stream(&sealed).map_err(|e| of_bulk(&e))?;
        let stream = stream.map(|part| part.map_err(io::Error::other));
        tracing::info!(image = %image.reference, "loading the image from its chunks");
        self.runtime.load_image(&wanted, Box::pin(stream)).await.map_err(|e| of_runtime(&e))
    }
}

/// Downloads a manifest's files to `place`, unless they are there: a folder with this name is complete.
async fn fetch(bulk: &Client, manifest: Digest, place: &Path) -> Result<(), StepError> {
    if tokio::fs::try_exists(place).await.map_err(of_file(place))? {
        return Ok(());
    }
    if let Some(above) = place.parent() {
        tokio::fs::create_dir_all(above).await.map_err(of_file(above))?;
    }
    tracing::info!(manifest = %manifest.short(), to = %place.display(), "fetching");
    bulk.download(manifest, place, &Silent).await.map_err(|e| of_bulk(&e))?;
    Ok(())
}

pub(super) fn of_bulk(error: &BulkError) -> StepError {
    if error.is_retryable() {
        return later("controller_unreachable", error);
    }
    match error.refusal().map(|refusal| refusal.reason) {
        Some(Reason::StaleAttempt | Reason::NotOwner) => not_here("fenced", chain(error)),
        // A certificate may be about to be renewed.
        Some(Reason::Unauthenticated | Reason::Overloaded) => {
            later("controller_unreachable", error)
        }
        Some(Reason::OutOfSpace) => not_here("disk_full", chain(error)),
        Some(_) => never("input_unavailable", chain(error)),
        // Damaged on the way or on a disk: what does not verify is fetched again.
        None if matches!(error, BulkError::Corrupt { .. }) => later("input_corrupt", error),
        None => not_here("staging_failed", chain(error)),
    }
}
