//! `hone events`: what happened in the fleet, and who did it.

use hone_proto::time::WallNanos;
use hone_proto::wire::{EventView, EventsRequest};

use super::error::Exit;
use super::follow::{Until, follow};
use super::render::human::{one_line, place, time};
use super::{Ctx, OutputArgs};

/// Show what happened in the fleet, and who did it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Go on as things happen
    #[arg(short, long)]
    follow: bool,
    /// Only about this job (number or name)
    #[arg(long)]
    job: Option<String>,
    /// Only about this node (id or host name)
    #[arg(long)]
    node: Option<String>,
    /// Only the last so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tail: Option<u32>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) async fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let client = ctx.client().await?;
    let job = match &args.job {
        Some(job) => Some(client.job_number(job).await?),
        None => None,
    };
    let request = EventsRequest {
        job,
        node: args.node.clone().unwrap_or_default(),
        follow: args.follow,
        tail: args.tail.unwrap_or(0),
    };
    let talker = ctx.printer.talker();
    let printer = &mut ctx.printer;
    let mut newest = None;
    let open = || {
        let request = request.clone();
        client.stream(|mut c| async move { c.events(request).await })
    };
    let take = |event: EventView| {
        // A stream that was opened again starts where the first one did.
        if newest.is_some_and(|newest| event.number <= newest) {
            return Ok(());
        }
        newest = Some(event.number);
        printer.record(&event, line)
    };
    let until = if args.follow { Until::Forever } else { Until::Now };
    match (follow(&client, &talker, until, open, take).await, &args.node) {
        (Err(error), Some(node)) => Err(client.about_node(node, error).await),
        (done, _) => done.map(|()| Exit::OK),
    }
}

fn line(event: &EventView) -> String {
    let mut text = format!("{} {}", time(WallNanos::new(event.wall_ns)), one_line(&event.kind));
    if let Some(job) = event.job {
        text.push_str(&format!(" job {job}"));
    }
    if let Some(attempt) = event.attempt {
        text.push_str(&format!(" attempt {attempt}"));
    }
    if !event.node.is_empty() {
        text.push_str(&format!(" node {}", one_line(place(&event.node_host, &event.node))));
    }
    if !event.actor.is_empty() {
        text.push_str(&format!(" by {}", one_line(&event.actor)));
    }
    if !event.text.is_empty() {
        text.push_str(&format!(": {}", one_line(&event.text)));
    }
    text
}
