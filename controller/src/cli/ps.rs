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
    /// At most so many, 1000 at most
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only jobs of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) async fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let name = args.name.clone().unwrap_or_default();
    let request = ListJobsRequest { active_only: !args.all, limit: args.limit, name };
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
    if reply.jobs.len() >= usize::try_from(args.limit).unwrap_or(usize::MAX) {
        ctx.printer.talk("there may be older ones: --limit shows more, --name those of one name");
    }
    Ok(Exit::OK)
}
