//! `hone logs`: what a job printed, also when its node is gone.

use std::cell::Cell;

use clap::ValueEnum;
use hone_proto::time::WallNanos;
use hone_proto::wire::{LogView, LogsRequest};

use super::error::Exit;
use super::follow::{Seen, Until, follow};
use super::render::human::{one_line, safe};
use super::since::Since;
use super::{Ctx, OutputArgs};

/// How much is asked for again after a break, before the newest record.
const OVERLAP_NS: u64 = 10_000_000_000;

/// Show what a job printed, also when its node is gone
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number, or name (the newest job of that name)
    job: String,
    /// Go on until the job ends
    #[arg(short, long)]
    follow: bool,
    /// Only records of this level and above
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// Only records since then: 10m, 2h, 1d, or 2026-11-24T14:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Only records whose text matches this regular expression
    #[arg(long, value_name = "REGEX", value_parser = regex_text)]
    grep: Option<String>,
    /// Only this attempt
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    /// Only the last so many records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tail: Option<u32>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Refuses a bad expression here, where the message can point at it.
fn regex_text(text: &str) -> Result<String, regex::Error> {
    regex::Regex::new(text).map(|_| text.to_owned())
}

pub(super) async fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let client = ctx.client().await?;
    let job = client.job_number(&args.job).await?;
    let request = LogsRequest {
        job,
        follow: args.follow,
        level: args.level.map_or("", Level::word).to_owned(),
        since_wall_ns: args.since.map(|since| since.before(ctx.now()).get()),
        grep: args.grep.clone().unwrap_or_default(),
        attempt: args.attempt,
        tail: args.tail.unwrap_or(0),
    };
    let talker = ctx.printer.talker();
    let printer = &mut ctx.printer;
    let mut seen = Seen::default();
    let newest = Cell::new(0_u64);
    // Sent again after a break: from a little before the newest record, since two outputs are not in one order.
    let open = || {
        let mut request = request.clone();
        if newest.get() > 0 {
            let from = newest.get().saturating_sub(OVERLAP_NS);
            request.since_wall_ns = Some(request.since_wall_ns.unwrap_or(0).max(from));
            request.tail = 0;
        }
        client.stream(|mut c| async move { c.logs(request).await })
    };
    let take = |record: LogView| {
        newest.set(newest.get().max(record.wall_ns));
        let key = (record.wall_ns, record.attempt, &record.output, &record.text);
        // Without following nothing is sent again, and equal records are two records.
        if !args.follow || seen.is_news(&key) { printer.record(&record, line) } else { Ok(()) }
    };
    let until = if args.follow { Until::Ended(job) } else { Until::Now };
    follow(&client, &talker, until, open, take).await?;
    Ok(Exit::OK)
}

/// `time attempt level text`; further lines of one record are indented, so that a traceback is seen as one.
fn line(record: &LogView) -> String {
    let level = if record.level.is_empty() { &record.output } else { &record.level };
    format!(
        "{} {} {:<7} {}",
        WallNanos::new(record.wall_ns),
        record.attempt,
        one_line(level),
        safe(record.text.trim_end()).replace('\n', "\n    "),
    )
}
