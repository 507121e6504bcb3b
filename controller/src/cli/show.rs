//! `hone show`: everything about one job.

use hone_proto::wire::{CheckpointView, CheckpointsRequest, JobView, SeriesPoint, SeriesRequest};
use serde::Serialize;

use super::client::Client;
use super::error::{CallError, Exit};
use super::render::curve::curve;
use super::render::human::safe;
use super::render::job;
use super::watch::model::Progress;
use super::watch::view::SUMMARY_ROWS;
use super::{Ctx, OutputArgs};

/// Show one job: attempts, evaluation, loss curve, checkpoints, spec
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number, or name (the newest job of that name)
    job: String,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Serialize)]
struct Shown<'a> {
    job: JobView,
    checkpoints: Vec<CheckpointView>,
    series: Vec<&'a SeriesPoint>,
}

pub(super) async fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let client = ctx.client().await?;
    let job = client.job(&args.job).await?;
    let number = job.job;
    let checkpoints = checkpoints(&client, number).await?;
    let progress = history(&client, number).await?;
    let now = ctx.now();
    let shown = Shown { job, checkpoints, series: progress.all() };
    ctx.printer.value(&shown, |shown, width| {
        let mut parts = vec![job::details(&shown.job, now, width)];
        if !shown.job.attempts.is_empty() {
            parts.push(job::attempts(&shown.job, now, width));
        }
        let evaluations = job::evaluations(&shown.job, width);
        if !evaluations.is_empty() {
            parts.push(evaluations);
        }
        let loss = progress.metric("loss");
        if !loss.is_empty() {
            parts.push(format!("loss by step\n{}", curve(&loss, width, SUMMARY_ROWS).join("\n")));
        }
        if !shown.checkpoints.is_empty() {
            parts.push(job::checkpoints(&shown.checkpoints, now, width));
        }
        if !shown.job.spec_yaml.is_empty() {
            parts.push(format!("spec\n{}", indent(&safe(&shown.job.spec_yaml))));
        }
        parts.join("\n\n")
    })?;
    Ok(Exit::OK)
}

fn indent(text: &str) -> String {
    text.lines()
        .map(|line| format!("  {line}").trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The committed checkpoints and packages of a job.
pub(super) async fn checkpoints(client: &Client, job: u64) -> anyhow::Result<Vec<CheckpointView>> {
    let request = CheckpointsRequest { job };
    let reply = client.call(request, |mut c, r| async move { c.checkpoints(r).await }).await?;
    Ok(reply.checkpoints)
}

/// All that is known of a job's metrics now.
async fn history(client: &Client, job: u64) -> anyhow::Result<Progress> {
    let request = SeriesRequest { job, follow: false };
    let mut updates = client.stream(|mut c| async move { c.series(request).await }).await?;
    let mut progress = Progress::default();
    while let Some(update) = updates.message().await.map_err(CallError::from)? {
        if let Some(update) = update.update {
            progress.apply(update);
        }
    }
    Ok(progress)
}
