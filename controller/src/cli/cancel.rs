//! `hone cancel`: ends a job.

use hone_proto::wire::CancelRequest;

use super::client::request_id;
use super::error::Exit;
use super::{Ctx, OutputArgs};

/// End a job: a queued one at once, a running one after it has saved
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number, or name (the newest job of that name)
    job: String,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) async fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let client = ctx.client().await?;
    let job = client.job_number(&args.job).await?;
    let request = CancelRequest { request_id: request_id(), job };
    let reply = client.call(request, |mut c, r| async move { c.cancel(r).await }).await?;
    ctx.printer.value(&reply.job, |view, _| match view {
        Some(view) => format!("job {} is {}", view.job, view.state),
        None => format!("job {job} is being cancelled"),
    })?;
    Ok(Exit::OK)
}
