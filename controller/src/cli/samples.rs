//! `hone node samples`: what a node's hardware did, and does.

use hone_proto::wire::hardware_update::Update;
use hone_proto::wire::{HardwareRequest, HardwareUpdate};

use super::error::Exit;
use super::follow::{Until, follow};
use super::render::samples::{Shown, line};
use super::since::Since;
use super::{Ctx, OutputArgs};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Id, or host name
    pub(super) node: String,
    /// Go on with each live sample, about one a second
    #[arg(short, long)]
    follow: bool,
    /// Begin at this time: 10m, 2h, 1d, or 2026-11-24T14:00:00Z
    #[arg(long, value_name = "TIME", default_value = "10m")]
    since: Since,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) async fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let client = ctx.client().await?;
    let request = HardwareRequest {
        node: args.node.clone(),
        follow: args.follow,
        since_wall_ns: Some(args.since.before(ctx.now()).get()),
    };
    let talker = ctx.printer.talker();
    let printer = &mut ctx.printer;
    let mut newest = None;
    let open = || {
        let request = request.clone();
        client.stream(|mut c| async move { c.hardware(request).await })
    };
    let take = |update: HardwareUpdate| {
        let Some(update) = update.update else { return Ok(()) };
        if let Update::Rollup(rollup) = &update {
            // A stream that was opened again starts where the first one did.
            if newest.is_some_and(|newest| rollup.to_wall_ns <= newest) {
                return Ok(());
            }
            newest = Some(rollup.to_wall_ns);
        }
        printer.record(&Shown::from(&update), |_| line(&update))
    };
    let until = if args.follow { Until::Forever } else { Until::Now };
    follow(&client, &talker, until, open, take).await?;
    Ok(Exit::OK)
}
