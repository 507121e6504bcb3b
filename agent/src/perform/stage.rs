//! Fetches what an attempt needs: its image, its inputs, and the checkpoint to continue from.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use hone_proto::assignment::{Assignment, ImageRef};
use hone_proto::bulk::{BulkError, Client};
use hone_proto::error::Reason;
use hone_proto::quantity::Bytes;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;

use super::cache::{InUse, is_full_disk};
use super::{Performer, chain, image_name, later, never, not_here, of_file, of_runtime};
use crate::core::input::StepError;
use crate::runtime::{ImageId, ImageName, Refusal, Runtime as _, RuntimeError, Transfer};
use crate::watch::outstanding;

impl Performer {
    pub(super) async fn stage(&self, assignment: &Assignment) -> Result<(), StepError> {
        self.admit(assignment)?;
        let dirs = self.layout.attempt(assignment.attempt);
        tokio::fs::create_dir_all(dirs.root()).await.map_err(of_file(dirs.root()))?;
        let bulk = self.bulk(assignment.attempt, &assignment.traceparent)?;
        let in_use = self.inputs_in_use(None);
        self.fetch_image(&bulk, &assignment.image, &in_use).await?;
        for input in &assignment.inputs {
            self.cache.fetch(&bulk, &assignment.project, input.manifest, &in_use).await?;
        }
        let place = dirs.resume();
        // A folder with this name is complete.
        if let Some(manifest) = assignment.resume
            && !tokio::fs::try_exists(&place).await.map_err(of_file(&place))?
        {
            tracing::info!(manifest = %manifest.short(), to = %place.display(), "fetching");
            self.cache.download(&bulk, manifest, &place, &in_use).await?;
        }
        self.keep_promises(&in_use).await;
        Ok(())
    }

    /// The machine owner's word counts at each step: the controller may have said something else of the attempt since.
    pub(super) fn admit(&self, assignment: &Assignment) -> Result<(), StepError> {
        self.policy
            .admit(&assignment.image.reference, &assignment.relaxations)
            .map_err(|why| not_here("policy_refused", why))
    }

    /// What nobody uses was offered as room: it makes room for what attempts may still write, this one among them.
    async fn keep_promises(&self, in_use: &InUse) {
        let (layout, promised) =
            (self.layout.clone(), self.driver.view().borrow().promised.clone());
        let counted = tokio::task::spawn_blocking(move || outstanding(&layout, &promised));
        // Whoever counts has ended with the agent.
        let need = counted.await.unwrap_or_default();
        self.cache.make_room(need, in_use).await;
    }

    /// Held already, or carried as chunks, or pulled by its digest.
    async fn fetch_image(
        &self,
        bulk: &Client,
        image: &ImageRef,
        in_use: &InUse,
    ) -> Result<(), StepError> {
        let name: ImageName = image_name(&image.reference)?;
        if self.runtime.has_image(&name).await.map_err(|e| of_runtime(&e))?.is_some() {
            return Ok(());
        }
        let Some(manifest) = image.manifest else {
            let (progress, _) = watch::channel(Transfer::default());
            return match self.runtime.pull(&name, &progress).await {
                Ok(_) => Ok(()),
                Err(error) => Err(self.after_no_room(error, in_use).await),
            };
        };
        let wanted: ImageId = image_name(&image.reference)?;
        let sealed = bulk.manifest(manifest).await.map_err(|e| of_bulk(&e))?;
        let stream = bulk.download_stream(&sealed).map_err(|e| of_bulk(&e))?;
        let stream = stream.map(|part| part.map_err(io::Error::other));
        if self.engine_shares_the_disk().await {
            self.cache.make_room(sealed.manifest().total_size(), in_use).await;
        }
        tracing::info!(image = %image.reference, "loading the image from its chunks");
        match self.runtime.load_image(&wanted, Box::pin(stream)).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.after_no_room(error, in_use).await),
        }
    }

    /// How large a pulled image is nobody tells before: when the engine had no room for one, and inputs that nobody uses
    /// gave some, it is tried again.
    async fn after_no_room(&self, error: RuntimeError, in_use: &InUse) -> StepError {
        let full = matches!(error, RuntimeError::Refused { refusal: Refusal::DiskFull, .. });
        if !full {
            return of_runtime(&error);
        }
        if self.engine_shares_the_disk().await {
            let freed = self.cache.make_room(Bytes::new(u64::MAX), in_use).await;
            if freed > Bytes::ZERO {
                return later("disk_full", &error);
            }
        }
        not_here("disk_full", chain(&error))
    }

    /// Whether images lie on the disk of the inputs.
    async fn engine_shares_the_disk(&self) -> bool {
        let Ok(facts) = self.runtime.facts().await else { return false };
        let device = |path: &Path| std::fs::metadata(path).map(|facts| facts.dev()).ok();
        let ours = device(self.layout.root());
        ours.is_some() && device(&facts.root_dir) == ours
    }
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
        None if is_full_disk(error) => not_here("disk_full", chain(error)),
        None => not_here("staging_failed", chain(error)),
    }
}
