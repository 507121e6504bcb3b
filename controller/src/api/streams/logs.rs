//! What a job printed, to whoever asks for it: read from the journal, so that it is there when its node is gone.

use std::path::Path;

use hone_proto::error::{Reason, Refusal};
use hone_proto::event::{Level, Stream as EventStream};
use hone_proto::id::JobId;
use hone_proto::wire;
use hone_proto::wire::event::Payload;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Boxed, Follower, MAX_TAIL, Step, Tail, news, spawn};
use crate::driver::Handle;

/// What a reader of logs wants.
struct LogFilter {
    level: Level,
    since: u64,
    grep: Option<regex::Regex>,
    attempt: Option<u32>,
}

impl LogFilter {
    fn new(request: &wire::LogsRequest) -> Result<Self, Refusal> {
        let bad = |what: String| Refusal::new(Reason::BadRequest, what);
        let level = match request.level.as_str() {
            "" => Level::Debug,
            name => Level::from_name(name).ok_or_else(|| {
                let known: Vec<_> = Level::ALL.iter().map(|level| level.name()).collect();
                bad(format!("{name:?} is not a level: there are {}", known.join(", ")))
            })?,
        };
        let grep = match request.grep.as_str() {
            "" => None,
            pattern => Some(
                regex::RegexBuilder::new(pattern)
                    .size_limit(1 << 20)
                    .build()
                    .map_err(|error| bad(format!("--grep: {error}")))?,
            ),
        };
        Ok(Self {
            level,
            since: request.since_wall_ns.unwrap_or(0),
            grep,
            attempt: request.attempt,
        })
    }

    fn admits(&self, log: &wire::LogView) -> bool {
        Level::from_name(&log.level).unwrap_or(Level::Info) >= self.level
            && log.wall_ns >= self.since
            && self.attempt.is_none_or(|attempt| attempt == log.attempt)
            && self.grep.as_ref().is_none_or(|grep| grep.is_match(&log.text))
    }
}

fn log(event: wire::Event) -> Option<wire::LogView> {
    let wall_ns = event.at.map_or(0, |at| at.wall_ns);
    match event.payload? {
        Payload::Log(log) => Some(wire::LogView {
            wall_ns,
            attempt: log.attempt.map_or(0, |attempt| attempt.attempt),
            output: log.output,
            level: log.level,
            text: log.text,
        }),
        Payload::Gap(gap) => Some(wire::LogView {
            wall_ns,
            attempt: gap.attempt.map_or(0, |attempt| attempt.attempt),
            output: "hone".to_owned(),
            level: Level::Warning.name().to_owned(),
            text: format!("{} log records were lost: {}", gap.count, gap.reason),
        }),
        _ => None,
    }
}

pub(in crate::api) async fn logs(
    fleet: &Handle,
    journal: &Path,
    request: wire::LogsRequest,
) -> Result<Boxed<wire::LogView>, Refusal> {
    let filter = LogFilter::new(&request)?;
    let mut follower = Follower::new(fleet, journal, JobId::new(request.job), EventStream::Logs);
    follower.job().await?;
    Ok(spawn(move |to| async move {
        let tail = usize::try_from(request.tail).unwrap_or(MAX_TAIL);
        follow_logs(&mut follower, &filter, tail, request.follow, &to).await
    }))
}

async fn follow_logs(
    follower: &mut Follower,
    filter: &LogFilter,
    tail: usize,
    follow: bool,
    to: &mpsc::Sender<Result<wire::LogView, Status>>,
) -> Result<(), Refusal> {
    let mut turns = follower.file.fleet.changes_of(follower.job);
    let mut last = Tail::new(tail);
    loop {
        turns.mark_unchanged();
        let (_, ended, _) = follower.job().await?;
        while let Step::Events(events) = follower.file.step().await? {
            for log in events.into_iter().filter_map(log).filter(|log| filter.admits(log)) {
                if let Some(log) = last.push(log)
                    && to.send(Ok(log)).await.is_err()
                {
                    return Ok(());
                }
            }
        }
        for log in last.end() {
            if to.send(Ok(log)).await.is_err() {
                return Ok(());
            }
        }
        if ended || !follow || !news(&mut turns, to).await? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
