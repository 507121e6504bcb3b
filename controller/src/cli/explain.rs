//! `hone explain`: why a job waits, or why it is where it is.

use hone_proto::wire::{ExplainReply, ExplainRequest};

use super::error::Exit;
use super::render::human::{one_line, place};
use super::render::table::{Kind, facts, table};
use super::{Ctx, OutputArgs};

/// Say why a job waits, or why it runs where it runs
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
    let request = ExplainRequest { job };
    let reply = client.call(request, |mut c, r| async move { c.explain(r).await }).await?;
    ctx.printer.value(&reply, text)?;
    Ok(Exit::OK)
}

fn text(reply: &ExplainReply, width: usize) -> String {
    let job = reply.job.as_ref();
    let pairs = [
        ("job", job.map(|job| format!("{} {}", job.job, one_line(&job.name))).unwrap_or_default()),
        ("state", job.map(|job| job.state.clone()).unwrap_or_default()),
        ("why", reply.reasons.join("\n")),
    ];
    let facts = facts(&pairs, width);
    if reply.nodes.is_empty() {
        return facts;
    }
    let rows: Vec<_> = reply
        .nodes
        .iter()
        .map(|node| {
            let short: Vec<_> = node.shortfalls.iter().map(|s| s.text.as_str()).collect();
            let fits = if node.fits { "yes" } else { "no" };
            vec![place(&node.node_host, &node.node).to_owned(), fits.to_owned(), short.join("; ")]
        })
        .collect();
    let columns = [("NODE", Kind::Text), ("FITS", Kind::Fixed), ("WHAT IS MISSING", Kind::Text)];
    format!("{facts}\n\n{}", table(&columns, &rows, width))
}
