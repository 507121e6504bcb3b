//! Inputs of a submit: hashed, and what the project lacks of them uploaded.

use std::path::Path;
use std::sync::Arc;

use hone_proto::bulk::source::{Source, SourceError, Trust};
use hone_proto::bulk::{self, Progress as _};
use hone_proto::error::Reason;
use hone_proto::id::ProjectName;
use hone_proto::manifest::{Kind, Manifest, Sealed};
use hone_proto::quantity::Bytes;
use hone_proto::wire::SubmittedInput;

use super::error::{Failure, INPUT_HINT};
use super::output::Printer;
use super::progress::Bar;

/// Hashes what lies at `path` and uploads it as the input `channel`.
///
/// # Errors
/// When it cannot be read, changes meanwhile, or cannot be uploaded.
pub(super) async fn upload(
    channel: &str,
    path: &Path,
    project: &ProjectName,
    bulk: &bulk::Client,
    printer: &Printer,
) -> anyhow::Result<SubmittedInput> {
    let bar = Bar::new(printer, format!("hashing {channel}"));
    let (opened, owner) = (path.to_owned(), project.clone());
    let hashed = tokio::task::spawn_blocking(move || hash(&opened, owner, &bar)).await?;
    let (sealed, source) = hashed.map_err(|failure| failure.of(channel, path))?;
    let size = sealed.manifest().total_size();
    let bar = Bar::new(printer, format!("uploading {channel}")).of(size);
    let digest = bulk.upload(&sealed, &source, &bar).await.map_err(|error| {
        anyhow::Error::new(error).context(format!("cannot upload {channel} ({})", path.display()))
    })?;
    bar.done();
    Ok(SubmittedInput {
        channel: channel.to_owned(),
        manifest: digest.as_bytes().to_vec(),
        bytes: size.get(),
    })
}

/// How much there is at `path`, by its files' metadata: read quickly, and only an expectation. What cannot be read counts
/// as nothing here, and is named when it is hashed.
pub(super) fn expected_size(path: &Path) -> Bytes {
    let Ok(facts) = path.metadata() else { return Bytes::ZERO };
    if !facts.is_dir() {
        return Bytes::new(facts.len());
    }
    let Ok(entries) = path.read_dir() else { return Bytes::ZERO };
    let inside = entries.flatten().map(|entry| match entry.file_type() {
        // A link is refused when the folder is hashed, and could lead in a circle here.
        Ok(kind) if kind.is_symlink() => Bytes::ZERO,
        _ => expected_size(&entry.path()),
    });
    inside.fold(Bytes::ZERO, Bytes::saturating_add)
}

/// Why an input cannot be hashed.
enum HashError {
    Source(SourceError),
    Manifest(hone_proto::manifest::ManifestError),
}

impl HashError {
    fn of(self, channel: &str, path: &Path) -> anyhow::Error {
        let message = format!("{channel} ({}) cannot be uploaded", path.display());
        let failure = Failure::new(Reason::BadSpec, message);
        let failure = match self {
            Self::Source(error) => failure.because(error),
            Self::Manifest(error) => failure.because(error),
        };
        failure.hint(INPUT_HINT).into()
    }
}

fn hash(path: &Path, project: ProjectName, bar: &Bar) -> Result<(Sealed, Arc<Source>), HashError> {
    let source = Source::open(path, Trust::Owner).map_err(HashError::Source)?;
    let mut done = Bytes::ZERO;
    let progress = |more| {
        done = done.saturating_add(Bytes::new(more));
        bar.report(done, None);
    };
    let files = source.survey(|_| true, progress).map_err(HashError::Source)?;
    let manifest = Manifest { kind: Kind::Input, project, spec: None, base_model: None, files };
    let sealed = manifest.seal().map_err(HashError::Manifest)?;
    Ok((sealed, Arc::new(source)))
}
