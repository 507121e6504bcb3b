//! The trainer image of a submit: named by digest and pulled by nodes, or taken from the local engine and uploaded.
//!
//! The only user of the engine in this crate. An engine's `save` is not the same bytes each time, so what was uploaded
//! is remembered by image id, and the controller is asked whether it still has it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as EngineError;
use futures_util::TryStreamExt as _;
use hone_proto::bulk;
use hone_proto::error::Reason;
use hone_proto::id::{Digest, ProjectName};
use hone_proto::identity::files::{make_private_dir, read_private, write_private};
use hone_proto::quantity::Bytes;
use tokio_util::io::StreamReader;

use super::error::Failure;
use super::output::Printer;
use super::progress::Bar;

/// An engine packs a large image for minutes before its first byte comes.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(600);
/// Labels that describe an image's stack begin so.
const LABELS: &str = "hone.";
/// Labels taken along, at most; more describe nothing.
const MAX_LABELS: usize = 64;
/// Uploads remembered, at most.
const MAX_REMEMBERED: usize = 200;
/// What was uploaded, below the configuration folder.
const REMEMBERED: &str = "images.json";

/// An image as a submit names it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Image {
    /// Image id or digest reference.
    pub(super) reference: String,
    /// The committed manifest of its save stream, when it does not come from a registry.
    pub(super) manifest: Option<Digest>,
    /// Labels that describe its stack.
    pub(super) labels: BTreeMap<String, String>,
    /// Its size on disk, where it is known.
    pub(super) bytes: Bytes,
}

/// True for `name@sha256:…`: every node can pull it, and gets the same bytes.
fn by_digest(reference: &str) -> bool {
    let digest = reference.split_once("@sha256:").map(|(_, digest)| digest);
    digest.is_some_and(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Where an image goes, and where it is remembered that it went there.
pub(super) struct Target<'a> {
    pub(super) bulk: bulk::Client,
    pub(super) project: &'a ProjectName,
    /// The controller, since another one has not got it.
    pub(super) address: String,
    pub(super) config_dir: &'a Path,
}

/// An image that was found, and the engine that has it where nodes cannot pull it.
pub(super) struct Found {
    image: Image,
    engine: Option<Docker>,
}

/// Finds the image that `reference` names: in a registry by its digest, or in the local engine. Brings it nowhere.
///
/// # Errors
/// When the local engine does not have it.
pub(super) async fn find(reference: &str) -> anyhow::Result<Found> {
    if by_digest(reference) {
        let image = Image { reference: reference.to_owned(), ..Image::default() };
        return Ok(Found { image, engine: None });
    }
    let engine = Docker::connect_with_defaults().map_err(|error| no_engine(reference, error))?;
    let engine = engine.with_timeout(ENGINE_TIMEOUT);
    let found = match engine.inspect_image(reference).await {
        Ok(found) => found,
        Err(error @ EngineError::DockerResponseServerError { status_code: 404, .. }) => {
            return Err(not_there(reference, error));
        }
        Err(error) => return Err(no_engine(reference, error)),
    };
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    let labels = labels.into_iter().filter(|(key, _)| key.starts_with(LABELS));
    let image = Image {
        reference: found.id.unwrap_or_default(),
        manifest: None,
        labels: labels.collect::<BTreeMap<_, _>>().into_iter().take(MAX_LABELS).collect(),
        bytes: Bytes::new(found.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)),
    };
    Ok(Found { image, engine: Some(engine) })
}

impl Found {
    /// What is known of it before it is brought anywhere.
    pub(super) const fn image(&self) -> &Image {
        &self.image
    }

    /// Brings it to the controller unless nodes can pull it.
    ///
    /// # Errors
    /// When the upload fails.
    pub(super) async fn bring(
        self,
        target: &Target<'_>,
        printer: &Printer,
    ) -> anyhow::Result<Image> {
        let Self { mut image, engine } = self;
        if let Some(engine) = engine {
            let bar = Bar::new(printer, "uploading the image").of(image.bytes);
            image.manifest = Some(upload(&engine, &image.reference, target, bar).await?);
        }
        Ok(image)
    }
}

async fn upload(
    engine: &Docker,
    id: &str,
    target: &Target<'_>,
    bar: Bar,
) -> anyhow::Result<Digest> {
    let mut remembered = Remembered::load(target.config_dir);
    let key = format!("{} {} {id}", target.address, target.project);
    if let Some(digest) = remembered.uploads.get(&key).and_then(|text| text.parse().ok()) {
        // Whatever the controller says about it but yes, the image is uploaded again; only chunks that are missing
        // travel.
        if target.bulk.manifest(digest).await.is_ok() {
            return Ok(digest);
        }
    }
    let saved = engine.export_image(id).map_err(io::Error::other);
    let stream = StreamReader::new(Box::pin(saved));
    let digest = target.bulk.upload_image(target.project.clone(), stream, &bar).await;
    let digest =
        digest.map_err(|error| anyhow::Error::new(error).context("cannot upload the image"))?;
    bar.done();
    remembered.add(key, digest);
    Ok(digest)
}

fn not_there(reference: &str, error: EngineError) -> anyhow::Error {
    let message = format!("the local engine has no image `{reference}`");
    Failure::new(Reason::BadSpec, message)
        .hint("build it with `deploy/trainer/build`, or name one in a registry: name@sha256:…")
        .because(error)
        .into()
}

fn no_engine(reference: &str, error: EngineError) -> anyhow::Error {
    let message = format!("`{reference}` is looked up in the local engine, which does not answer");
    Failure::new(Reason::BadSpec, message)
        .hint("start the engine (DOCKER_HOST names another one), or name an image in a registry: name@sha256:…")
        .because(error)
        .into()
}

/// Manifests by controller, project and image id. Losing it costs time, never correctness, so nothing here fails.
struct Remembered {
    path: PathBuf,
    uploads: BTreeMap<String, String>,
}

impl Remembered {
    fn load(dir: &Path) -> Self {
        let path = dir.join(REMEMBERED);
        let text = read_private(&path).ok();
        let uploads = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        Self { path, uploads }
    }

    fn add(&mut self, key: String, digest: Digest) {
        if self.uploads.len() >= MAX_REMEMBERED {
            self.uploads.clear();
        }
        self.uploads.insert(key, digest.to_string());
        let folder = self.path.parent().map_or(Ok(()), make_private_dir);
        let text = serde_json::to_string(&self.uploads).unwrap_or_default();
        if let Err(error) = folder.and_then(|()| write_private(&self.path, text.as_bytes())) {
            tracing::debug!(%error, "the upload is not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_digest_lets_nodes_pull() {
        let digest = "ab".repeat(32);
        assert!(by_digest(&format!("registry.example/hone@sha256:{digest}")));
        for other in ["hone-trainer:cpu", "x@sha256:abc", &format!("sha256:{digest}"), ""] {
            assert!(!by_digest(other), "{other}");
        }
    }

    #[test]
    fn uploads_are_remembered_and_a_damaged_memory_is_forgotten() {
        let scratch = tempfile::tempdir().expect("a folder");
        let dir = scratch.path().join("hone");
        let digest = Digest::of(b"manifest");
        Remembered::load(&dir).add("a b c".to_owned(), digest);
        let found = Remembered::load(&dir);
        assert_eq!(found.uploads.get("a b c"), Some(&digest.to_string()));
        std::fs::write(dir.join(REMEMBERED), "{").expect("it is damaged");
        assert!(Remembered::load(&dir).uploads.is_empty());
    }
}
