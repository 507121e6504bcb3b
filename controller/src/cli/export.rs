//! `hone export`: a verified copy of the controller's state, on the caller's machine.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hone_proto::error::Reason;
use hone_proto::wire::export_frame::Frame;
use hone_proto::wire::{ExportFrame, ExportStateRequest, ExportSummary};
use serde::Serialize;
use tonic::Streaming;

use super::error::{CallError, Exit, Failure};
use super::{Ctx, OutputArgs};
use crate::durable;
use crate::store::{StoreError, verify_export};

/// Save a verified copy of the controller's state: jobs, nodes, people, what is committed
///
/// `hone restore` goes back to it. It holds neither keys (back up `authority/` and `address.toml` of the controller's
/// folder once) nor bulk data (`chunks/`) nor metrics and logs (`series/`).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File to write; an older export there is replaced once the new one is whole
    file: PathBuf,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Serialize)]
struct Saved {
    file: PathBuf,
    commit: u64,
    records: u64,
    bytes: u64,
}

pub(super) async fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    replaceable(&args.file)?;
    let client = ctx.client().await?;
    let frames =
        client.stream(|mut c| async move { c.export_state(ExportStateRequest {}).await }).await?;
    let temp = args.file.with_extension("partial");
    let saved = save(frames, &temp, &args.file).await;
    if saved.is_err() {
        // What came is of no use.
        let _ = std::fs::remove_file(&temp);
    }
    let summary = saved.with_context(|| format!("cannot save {}", args.file.display()))?;
    let saved = Saved {
        file: args.file.clone(),
        commit: summary.seq,
        records: summary.records,
        bytes: summary.bytes,
    };
    if !ctx.printer.json() {
        ctx.printer.talk(&format!(
            "state of commit {}, {} records, {} bytes, every byte checked",
            saved.commit, saved.records, saved.bytes
        ));
    }
    ctx.printer.value(&saved, |saved, _| saved.file.display().to_string())?;
    Ok(Exit::OK)
}

/// Only an export is replaced by an export.
fn replaceable(path: &Path) -> Result<(), Failure> {
    match verify_export(path) {
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(_) => {
            let message = format!("{} exists and is no export", path.display());
            Err(Failure::new(Reason::Conflict, message).hint("name another file"))
        }
    }
}

/// Receives into `temp`, checks it, and only then gives it its name.
async fn save(
    mut frames: Streaming<ExportFrame>,
    temp: &Path,
    path: &Path,
) -> anyhow::Result<ExportSummary> {
    // It tells who may do what, and holds what people wrote into their specs.
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temp)?;
    let mut summary = None;
    while let Some(frame) = frames.message().await.map_err(CallError::from)? {
        match frame.frame {
            Some(Frame::Summary(told)) => summary = Some(told),
            Some(Frame::Data(data)) => file.write_all(&data)?,
            None => {}
        }
    }
    file.sync_all()?;
    let cut = || Failure::new(Reason::Corrupt, "what arrived is not what the controller sent");
    let told = summary.ok_or_else(cut)?;
    let found = verify_export(temp)?;
    if (found.seq, found.records, found.bytes) != (told.seq, told.records, told.bytes) {
        return Err(cut().into());
    }
    std::fs::rename(temp, path)?;
    durable::sync_parent(path)?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    #[tokio::test]
    async fn what_is_no_whole_export_is_not_kept() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("state.export");
        let fake = Fake::default();
        let frame = |frame| ExportFrame { frame: Some(frame) };
        let summary = ExportSummary { seq: 1, records: 1, bytes: 4 };
        let whole = [frame(Frame::Summary(summary)), frame(Frame::Data(b"HONE".to_vec()))];
        for sent in [&whole[..], &whole[..1], &whole[1..], &[]] {
            fake.world().export = sent.to_vec();
            let ran = fake.hone(&["export", path.to_str().expect("UTF-8")]).await;
            assert_ne!(ran.exit, 0, "{}", ran.out);
            let left = std::fs::read_dir(scratch.path()).expect("the folder").count();
            assert_eq!(left, 0, "something is left: {}", ran.err);
        }
    }
}
