//! `hone ps`: the jobs.

use hone_proto::wire::ListJobsRequest;

use super::error::Exit;
use super::render::job;
use super::{Ctx, OutputArgs};

/// List jobs, newest first
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also jobs that have ended
    #[arg(short, long)]
    all: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 200)]
    limit: u32,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) async fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let request = ListJobsRequest { active_only: !args.all, limit: args.limit };
    let reply =
        ctx.client().await?.call(request, |mut c, r| async move { c.list_jobs(r).await }).await?;
    if reply.jobs.is_empty() && !ctx.printer.json() {
        ctx.printer.talk(if args.all {
            "no jobs yet: `hone submit FILE` makes one"
        } else {
            "no jobs are queued or running: `hone ps --all` also lists those that have ended"
        });
        return Ok(Exit::OK);
    }
    let now = ctx.now();
    ctx.printer.value(&reply.jobs, |jobs, width| job::list(jobs, now, width))?;
    Ok(Exit::OK)
}
