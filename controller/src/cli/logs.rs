//! `hone logs`: what a job printed, also when its node is gone.

use clap::ValueEnum;
use hone_proto::time::WallNanos;
use hone_proto::wire::{LogView, LogsRequest};

use super::error::{CallError, Exit};
use super::render::human::{one_line, safe};
use super::since::Since;
use super::{Ctx, OutputArgs};

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
    #[arg(long, value_name = "N")]
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
    let request = LogsRequest {
        job: client.job_number(&args.job).await?,
        follow: args.follow,
        level: args.level.map_or("", Level::word).to_owned(),
        since_wall_ns: args.since.map(|since| since.before(ctx.now()).get()),
        grep: args.grep.clone().unwrap_or_default(),
        attempt: args.attempt,
        tail: args.tail.unwrap_or(0),
    };
    let mut records = client.stream(|mut c| async move { c.logs(request).await }).await?;
    while let Some(record) = records.message().await.map_err(CallError::from)? {
        ctx.printer.record(&record, line)?;
    }
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
