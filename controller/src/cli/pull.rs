//! `hone pull`: a committed checkpoint or package to a folder, verified.

use std::path::PathBuf;
use std::sync::Arc;

use hone_proto::bulk::{self, BulkError, Retry, Scope};
use hone_proto::error::Reason;
use hone_proto::id::{Digest, ProjectName};
use hone_proto::wire::{CheckpointView, JobView};
use serde::Serialize;

use super::client::Client;
use super::error::{Exit, Failure};
use super::progress::Bar;
use super::{Ctx, show};

/// Tries in a row that bring nothing before a transfer is given up; with pauses of up to 5 s that is about a minute.
pub(super) const TRIES: u32 = 15;

/// Download a job's package, or its newest checkpoint, verified file by file
///
/// Without --step and --package: the package if there is one, else the newest checkpoint.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number, or name (the newest job of that name)
    job: String,
    /// Folder to make; it must not exist yet
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// The checkpoint of this step
    #[arg(long, value_name = "N", conflicts_with = "package")]
    step: Option<u64>,
    /// The package, and nothing else
    #[arg(long)]
    package: bool,
}

#[derive(Serialize)]
struct Pulled {
    job: u64,
    kind: String,
    step: u64,
    manifest: String,
    directory: PathBuf,
    files: usize,
    bytes: u64,
}

pub(super) async fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let client = ctx.client().await?;
    let job = client.job(&args.job).await?;
    let committed = show::checkpoints(&client, job.job).await?;
    let wanted = choose(args, &job, &committed)?;
    let digest = Digest::try_from(wanted.manifest.as_slice())?;
    let bulk = bulk_client(&client, &job.project).await?;
    let bar = Bar::new(&ctx.printer, format!("pulling {} of step {}", wanted.kind, wanted.step));
    let sealed = bulk.download(digest, &args.output, &bar).await.map_err(explain)?;
    drop(bar);
    let manifest = sealed.manifest();
    let pulled = Pulled {
        job: job.job,
        kind: wanted.kind.clone(),
        step: wanted.step,
        manifest: digest.to_string(),
        directory: args.output.clone(),
        files: manifest.files.len(),
        bytes: manifest.total_size().get(),
    };
    if !ctx.printer.json() {
        ctx.printer.talk(&format!(
            "{} of job {} at step {}: {} files, {}; every chunk and file verified",
            pulled.kind,
            pulled.job,
            pulled.step,
            pulled.files,
            manifest.total_size(),
        ));
    }
    ctx.printer.value(&pulled, |pulled, _| pulled.directory.display().to_string())?;
    Ok(Exit::OK)
}

/// A client for the bulk data of one project.
pub(super) async fn bulk_client(client: &Client, project: &str) -> anyhow::Result<bulk::Client> {
    let project: ProjectName = project.parse()?;
    let bulk =
        bulk::Client::new(client.bulk().await?, Scope::Project(project), Retry::tries(TRIES));
    Ok(bulk.with_metadata(Arc::new(hone_proto::telemetry::inject)))
}

/// Which of the committed ones is meant.
fn choose<'a>(
    args: &Args,
    job: &JobView,
    committed: &'a [CheckpointView],
) -> Result<&'a CheckpointView, Failure> {
    let newest = |kind: &str| committed.iter().filter(|c| c.kind == kind).max_by_key(|c| c.step);
    let missing = |what: String| {
        let hint = format!("`hone checkpoints {}` lists what is committed", job.job);
        Failure::new(Reason::NotFound, format!("job {} has no {what}", job.job)).hint(hint)
    };
    if let Some(step) = args.step {
        let found = committed.iter().rev().find(|c| c.kind == "checkpoint" && c.step == step);
        return found.ok_or_else(|| missing(format!("checkpoint of step {step}")));
    }
    if args.package {
        return newest("package").ok_or_else(|| missing(format!("package (it is {})", job.state)));
    }
    newest("package")
        .or_else(|| newest("checkpoint"))
        .ok_or_else(|| missing("package and no checkpoint yet".to_owned()))
}

/// Gives what is the user's to mend its exit code and hint; the others carry their reason.
fn explain(error: BulkError) -> anyhow::Error {
    match error {
        BulkError::Exists(path) => {
            let message = format!("{} exists already, and nothing is overwritten", path.display());
            Failure::new(Reason::Conflict, message).hint("name another folder").into()
        }
        BulkError::Corrupt { .. } => {
            Failure::new(Reason::Corrupt, "what arrived is damaged").because(error).into()
        }
        other => anyhow::Error::new(other).context("cannot pull"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(step: Option<u64>, package: bool) -> Args {
        Args { job: "1".to_owned(), output: PathBuf::from("x"), step, package }
    }

    fn committed(kind: &str, step: u64, attempt: u32) -> CheckpointView {
        CheckpointView { kind: kind.to_owned(), step, attempt, ..Default::default() }
    }

    #[test]
    fn the_package_comes_first_and_then_the_newest_checkpoint() {
        let job = JobView { job: 1, ..Default::default() };
        let mut list = vec![committed("checkpoint", 10, 1), committed("checkpoint", 20, 1)];
        let step = |args: &Args, list: &[CheckpointView]| {
            choose(args, &job, list).map(|c| (c.kind.clone(), c.step)).map_err(|e| e.to_string())
        };
        assert_eq!(step(&args(None, false), &list), Ok(("checkpoint".to_owned(), 20)));
        assert_eq!(step(&args(Some(10), false), &list), Ok(("checkpoint".to_owned(), 10)));
        assert!(step(&args(Some(11), false), &list).is_err());
        assert!(step(&args(None, true), &list).is_err());
        list.push(committed("package", 20, 1));
        assert_eq!(step(&args(None, false), &list), Ok(("package".to_owned(), 20)));
        assert!(step(&args(None, false), &[]).is_err());
    }
}
