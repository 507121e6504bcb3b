//! `hone checkpoints`: what is committed of a job.

use super::error::Exit;
use super::render::job;
use super::{Ctx, OutputArgs, show};

/// List the committed checkpoints and packages of a job
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number, or name (the newest job of that name)
    job: String,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) async fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let client = ctx.client().await?;
    let number = client.job_number(&args.job).await?;
    let checkpoints = show::checkpoints(&client, number).await?;
    if checkpoints.is_empty() && !ctx.printer.json() {
        ctx.printer.talk(&format!("job {number} has no committed checkpoint yet"));
        return Ok(Exit::OK);
    }
    let now = ctx.now();
    ctx.printer.value(&checkpoints, |list, width| job::checkpoints(list, now, width))?;
    Ok(Exit::OK)
}
