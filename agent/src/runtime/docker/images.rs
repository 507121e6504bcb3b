//! Images: asked for, loaded from a stream, pulled by digest. Every way ends with proof that the right one is there.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::ImageInspect;
use bollard::query_parameters::{
    CreateImageOptions, ImportImageOptions, ListImagesOptions, RemoveImageOptions,
};
use futures_util::{Stream, StreamExt};
use hone_proto::quantity::Bytes;
use tokio::sync::watch;

use crate::runtime::{ImageId, ImageName, ImageStream, RuntimeError, Transfer};

use super::{Docker, fault, late};

/// Layers of one image whose progress is followed; the distribution format allows 127.
const MAX_LAYERS: usize = 512;
/// Names that one loaded stream may carry and that are cleaned up after it.
const MAX_LOADED: usize = 64;

/// Counts what the engine took from a stream, and keeps the stream's own failure apart from the engine's.
#[derive(Clone, Default)]
struct Intake {
    taken: Arc<AtomicU64>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Intake {
    fn watch(&self, tar: ImageStream) -> ImageStream {
        let intake = self.clone();
        tar.map(move |chunk| match chunk {
            Ok(bytes) => {
                intake.taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(bytes)
            }
            Err(error) => {
                let kind = error.kind();
                *intake.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(io::Error::new(kind, "the image's source failed"))
            }
        })
        .boxed()
    }

    fn failure(&self) -> Option<RuntimeError> {
        let mut slot = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        slot.take().map(RuntimeError::Source)
    }
}

/// The next message, or an error when the engine was silent and took nothing for the whole of `stall`.
async fn next_message<T>(
    call: &'static str,
    messages: &mut (impl Stream<Item = Result<T, Error>> + Unpin),
    taken: &AtomicU64,
    stall: Duration,
) -> Result<Option<T>, RuntimeError> {
    loop {
        let before = taken.load(Ordering::Relaxed);
        match tokio::time::timeout(stall, messages.next()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(message))) => return Ok(Some(message)),
            Ok(Some(Err(error))) => return Err(fault::classify(call, &error)),
            Err(_) if taken.load(Ordering::Relaxed) == before => return Err(late(call, stall)),
            Err(_) => {}
        }
    }
}

impl Docker {
    async fn inspect_image(&self, name: &str) -> Result<Option<ImageInspect>, RuntimeError> {
        const CALL: &str = "inspect an image";
        let name = name.to_owned();
        let inspected =
            self.ask(CALL, |client| async move { client.inspect_image(&name).await }).await?;
        match inspected {
            Ok(image) => Ok(Some(image)),
            Err(error) if fault::status(&error) == Some(404) => Ok(None),
            Err(error) => Err(fault::classify(CALL, &error)),
        }
    }

    pub(super) async fn image_id(&self, name: &str) -> Result<Option<ImageId>, RuntimeError> {
        let image = self.inspect_image(name).await?;
        Ok(image.and_then(|image| image.id).and_then(|id| id.parse().ok()))
    }

    /// The volumes that an image declares.
    pub(super) async fn image_volumes(
        &self,
        image: &ImageName,
    ) -> Result<Vec<String>, RuntimeError> {
        let name = image.to_string();
        let inspected = self.inspect_image(&name).await?;
        let inspected = inspected.ok_or(RuntimeError::NoSuchImage(name))?;
        Ok(inspected.config.and_then(|config| config.volumes).unwrap_or_default())
    }

    /// Streams a saved image into the engine and checks that it is the wanted one.
    pub(super) async fn load(
        &self,
        wanted: &ImageId,
        tar: ImageStream,
    ) -> Result<(), RuntimeError> {
        const CALL: &str = "load an image";
        let before = self.image_ids().await?;
        let client = self.client(CALL).await?.with_timeout(TRANSFER_LIMIT);
        let intake = Intake::default();
        let options = ImportImageOptions { quiet: false, platform: None };
        let stream = client.import_image_stream(options, intake.watch(tar), None);
        let mut messages = std::pin::pin!(stream);
        let mut loaded = Vec::new();
        let outcome = loop {
            let stall = self.shared.deadlines.stall;
            match next_message(CALL, &mut messages, &intake.taken, stall).await {
                Ok(Some(message)) => {
                    let names = message.stream.as_deref().and_then(loaded_name).map(str::to_owned);
                    loaded.extend(names.filter(|_| loaded.len() < MAX_LOADED));
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(intake.failure().unwrap_or(error)),
            }
        };
        let arrived = match &outcome {
            Ok(()) => self.image_id(wanted.as_str()).await?.as_ref() == Some(wanted),
            Err(_) => true,
        };
        self.remove_strangers(wanted, &before, &loaded).await;
        outcome?;
        if arrived {
            return Ok(());
        }
        let found = if loaded.is_empty() { "nothing".to_owned() } else { loaded.join(", ") };
        Err(RuntimeError::mismatch(wanted, fault::clean(&found)))
    }

    /// Removes what a stream brought besides the wanted image. Best effort: it costs disk, not correctness.
    async fn remove_strangers(
        &self,
        wanted: &ImageId,
        before: &HashSet<String>,
        loaded: &[String],
    ) {
        for name in loaded {
            let Ok(Some(id)) = self.image_id(name).await else { continue };
            if id == *wanted || before.contains(id.as_str()) {
                continue;
            }
            let target = name.clone();
            let removed = self
                .act("remove an image", |client| async move {
                    let options =
                        RemoveImageOptions { force: false, noprune: false, platforms: None };
                    client.remove_image(&target, Some(options), None).await
                })
                .await;
            if !matches!(removed, Ok(Ok(_))) {
                tracing::warn!(image = %fault::clean(name), "an image that nobody asked for could not be removed");
            }
        }
    }

    async fn image_ids(&self) -> Result<HashSet<String>, RuntimeError> {
        const CALL: &str = "list images";
        let images = self
            .ask(CALL, |client| async move {
                client
                    .list_images(Some(ListImagesOptions { all: true, ..Default::default() }))
                    .await
            })
            .await?
            .map_err(|error| fault::classify(CALL, &error))?;
        Ok(images.into_iter().map(|image| image.id).collect())
    }

    /// Pulls by digest. The engine verifies content against the digest; that it is there afterwards is our check.
    pub(super) async fn pull_digest(
        &self,
        image: &ImageName,
        progress: &watch::Sender<Transfer>,
    ) -> Result<ImageId, RuntimeError> {
        const CALL: &str = "pull an image";
        let name = image.to_string();
        if matches!(image, ImageName::Id(_)) {
            let why = "an image id cannot be pulled, only a repository digest can";
            return Err(RuntimeError::BadReference { image: name, why });
        }
        let client = self.client(CALL).await?.with_timeout(TRANSFER_LIMIT);
        let options = CreateImageOptions { from_image: Some(name.clone()), ..Default::default() };
        let mut messages = std::pin::pin!(client.create_image(Some(options), None, None));
        let mut layers = Layers::default();
        let nothing_sent = AtomicU64::new(0);
        while let Some(message) =
            next_message(CALL, &mut messages, &nothing_sent, self.shared.deadlines.stall).await?
        {
            let detail = message.progress_detail.unwrap_or_default();
            if let Some(layer) = message.id {
                layers.note(layer, message.status.as_deref(), detail.current, detail.total);
                progress.send_replace(layers.sum());
            }
        }
        self.image_id(&name).await?.ok_or_else(|| RuntimeError::ImageMismatch {
            wanted: name,
            found: "nothing".to_owned(),
        })
    }
}

/// Longest whole transfer. The stall deadline ends a dead one long before; this only bounds what the library waits for
/// the first word of the answer, which an engine may hold back until the last byte is in.
const TRANSFER_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// The image that a message of the engine says was loaded.
fn loaded_name(message: &str) -> Option<&str> {
    let message = message.trim();
    message
        .strip_prefix("Loaded image ID: ")
        .or_else(|| message.strip_prefix("Loaded image: "))
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// Progress of the layers of one pull.
#[derive(Default)]
struct Layers(HashMap<String, Transfer>);

impl Layers {
    fn note(
        &mut self,
        layer: String,
        status: Option<&str>,
        current: Option<i64>,
        total: Option<i64>,
    ) {
        if self.0.len() >= MAX_LAYERS && !self.0.contains_key(&layer) {
            return;
        }
        let size =
            |value: Option<i64>| Bytes::new(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(0));
        let entry = self.0.entry(layer).or_default();
        match status {
            Some("Downloading") => *entry = Transfer { done: size(current), total: size(total) },
            // Unpacking counts its bytes anew; what arrived has arrived.
            Some("Download complete" | "Extracting" | "Pull complete") => entry.done = entry.total,
            _ => {}
        }
    }

    fn sum(&self) -> Transfer {
        Transfer {
            done: self.0.values().map(|layer| layer.done).sum(),
            total: self.0.values().map(|layer| layer.total).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_never_counts_a_layer_twice() {
        let mut layers = Layers::default();
        layers.note("a".to_owned(), Some("Downloading"), Some(10), Some(100));
        layers.note("b".to_owned(), Some("Downloading"), Some(5), Some(50));
        assert_eq!(layers.sum(), Transfer { done: Bytes::new(15), total: Bytes::new(150) });
        layers.note("a".to_owned(), Some("Extracting"), Some(1), Some(100));
        assert_eq!(layers.sum(), Transfer { done: Bytes::new(105), total: Bytes::new(150) });
        layers.note("c".to_owned(), Some("Downloading"), Some(-1), None);
        assert_eq!(layers.sum().total, Bytes::new(150));
    }

    #[test]
    fn the_engine_names_what_it_loaded() {
        assert_eq!(loaded_name("Loaded image ID: sha256:ab\n"), Some("sha256:ab"));
        assert_eq!(loaded_name("Loaded image: team/x:1\n"), Some("team/x:1"));
        assert_eq!(loaded_name("Loading layer"), None);
        assert_eq!(loaded_name("Loaded image: "), None);
    }
}
