//! `hone show`: everything about one job.

use hone_proto::id::{Attempt, AttemptId, Generation, JobId, Token};
use hone_proto::sample::rollup::NodeRollup;
use hone_proto::time::WallNanos;
use hone_proto::wire::hardware_update::Update;
use hone_proto::wire::{
    CheckpointView, CheckpointsRequest, HardwareRequest, JobView, SeriesPoint, SeriesRequest,
};
use serde::Serialize;

use super::bottleneck::{Bottleneck, RECORDS, Spent, Used, bottleneck, since};
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

/// The newest window of a node's hardware may have ended before the newest records began.
const LOOK_BACK_NS: u64 = 20_000_000_000;

#[derive(Serialize)]
struct Shown<'a> {
    job: JobView,
    checkpoints: Vec<CheckpointView>,
    series: Vec<&'a SeriesPoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bottleneck: Option<Bottleneck>,
}

pub(super) async fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let client = ctx.client().await?;
    let job = client.job(&args.job).await?;
    let number = job.job;
    let checkpoints = checkpoints(&client, number).await?;
    let progress = history(&client, number).await?;
    let now = ctx.now();
    let bottleneck = held_back(&client, &job, &progress).await;
    let shown = Shown { job, checkpoints, series: progress.all(), bottleneck };
    ctx.printer.value(&shown, |shown, width| {
        let held_back = shown.bottleneck.as_ref().map(Bottleneck::line);
        let mut parts = vec![job::details(&shown.job, held_back, now, width)];
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

/// What held the newest attempt back most. Its hardware is evidence beside its own records: a node that is gone, or that
/// tells nothing, leaves those.
async fn held_back(client: &Client, job: &JobView, progress: &Progress) -> Option<Bottleneck> {
    let attempt = job.attempts.last()?;
    let records = progress.newest(attempt.attempt, RECORDS);
    let (first, last) = (records.first()?.wall_ns, records.last()?.wall_ns);
    let id = AttemptId {
        job: JobId::new(job.job),
        token: Token {
            generation: Generation::new(attempt.generation),
            attempt: Attempt::new(attempt.attempt),
        },
    };
    let windows = windows(client, &attempt.node, first.saturating_sub(LOOK_BACK_NS), last)
        .await
        .unwrap_or_default();
    let used = Used::of(&since(windows, WallNanos::new(first)), id, job, attempt);
    let demand = job.demand.unwrap_or_default();
    bottleneck(Spent::of(records.iter().copied()), &used, &demand)
}

/// What was measured of a node between two times.
async fn windows(
    client: &Client,
    node: &str,
    from: u64,
    to: u64,
) -> anyhow::Result<Vec<NodeRollup>> {
    let request =
        HardwareRequest { node: node.to_owned(), follow: false, since_wall_ns: Some(from) };
    let mut updates = client.stream(|mut c| async move { c.hardware(request).await }).await?;
    let mut windows = Vec::new();
    while let Some(update) = updates.message().await.map_err(CallError::from)? {
        if let Some(Update::Rollup(rollup)) = update.update
            && rollup.from_wall_ns <= to
        {
            windows.extend(NodeRollup::try_from(rollup).ok());
        }
    }
    Ok(windows)
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
