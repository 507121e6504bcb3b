//! Streams that people follow. Each reads what is durable from the job's files and waits for the next turn: a slow
//! reader holds nothing back, and one who comes late sees everything from the start.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use hone_proto::error::{Reason, Refusal};
use hone_proto::event::{Level, Stream as EventStream};
use hone_proto::id::{JobId, NodeId};
use hone_proto::wire;
use hone_proto::wire::event::Payload;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{no_job, views};
use crate::core::Job;
use crate::core::record::JobState;
use crate::driver::{FileId, Handle, Journal};

/// Records that wait for a slow reader.
const AHEAD: usize = 256;

/// Bytes that are read from a file at once.
const SLICE: u64 = 1 << 20;

/// Most records that `tail` may ask for.
const MAX_TAIL: usize = 100_000;

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Follows one file of a job.
struct Follower {
    fleet: Handle,
    journal: PathBuf,
    file: FileId,
    job: JobId,
    offset: u64,
}

/// What a follower found.
enum Step {
    /// These events, and maybe more at once.
    Events(Vec<wire::Event>),
    /// Everything that is durable has been seen.
    End,
}

impl Follower {
    fn new(fleet: &Handle, journal: &Path, job: JobId, stream: EventStream) -> Self {
        let file = FileId::Job(job, stream);
        Self { fleet: fleet.clone(), journal: journal.to_owned(), file, job, offset: 0 }
    }

    async fn step(&mut self) -> Result<Step, Refusal> {
        let durable = self.fleet.length(&self.file);
        if self.offset >= durable {
            return Ok(Step::End);
        }
        let (journal, file, from) = (self.journal.clone(), self.file.clone(), self.offset);
        let read = move || Journal::read(&journal, &file, from, durable, SLICE);
        let (records, next) = tokio::task::spawn_blocking(read)
            .await
            .map_err(super::operator::internal)?
            .map_err(super::operator::internal)?;
        self.offset = next;
        let events = records
            .iter()
            .map(|record| wire::Event::decode(record.as_slice()))
            .collect::<Result<_, _>>()
            .map_err(super::operator::internal)?;
        Ok(Step::Events(events))
    }

    /// The job as it is, and whether it has ended.
    async fn job(&self) -> Result<(wire::JobView, bool, Option<NodeId>), Refusal> {
        let id = self.job;
        self.fleet
            .read(move |fleet| {
                let job = fleet.jobs().get(&id)?;
                let node = job.record.current().map(|attempt| attempt.node.clone());
                Some((views::job(fleet, job), ended(job), node))
            })
            .await?
            .ok_or_else(|| no_job(id))
    }
}

fn ended(job: &Job) -> bool {
    matches!(job.record.state, JobState::Ended { .. })
}

/// Runs `work` with a sender whose other end is the returned stream.
fn spawn<T, F>(work: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F + Send + 'static) -> Boxed<T>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Refusal>> + Send,
{
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let last = sender.clone();
        if let Err(refusal) = work(sender).await {
            // A reader that went away needs no reason.
            let _ = last.send(Err(refusal.into())).await;
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

pub(super) async fn series(
    fleet: &Handle,
    journal: &Path,
    request: wire::SeriesRequest,
) -> Result<Boxed<wire::SeriesUpdate>, Refusal> {
    let mut follower = Follower::new(fleet, journal, JobId::new(request.job), EventStream::Series);
    follower.job().await?;
    Ok(spawn(move |to| async move { follow_series(&mut follower, request.follow, &to).await }))
}

async fn follow_series(
    follower: &mut Follower,
    follow: bool,
    to: &mpsc::Sender<Result<wire::SeriesUpdate, Status>>,
) -> Result<(), Refusal> {
    use wire::series_update::Update;
    let send =
        async |update| to.send(Ok(wire::SeriesUpdate { update: Some(update) })).await.is_ok();
    let mut turns = follower.fleet.turns();
    let mut shown = None;
    loop {
        turns.mark_unchanged();
        // The state is looked at before the file: what had ended then is complete in the file.
        let (view, ended, node) = follower.job().await?;
        if shown.as_ref() != Some(&view) {
            shown = Some(view.clone());
            if !send(Update::Job(view)).await {
                return Ok(());
            }
        }
        while let Step::Events(events) = follower.step().await? {
            for point in events.into_iter().filter_map(point) {
                if !send(Update::Point(point)).await {
                    return Ok(());
                }
            }
        }
        if let Some(sample) = node.and_then(|node| follower.fleet.sample(&node))
            && follow
            && !send(Update::Hardware(sample)).await
        {
            return Ok(());
        }
        if ended || !follow || turns.changed().await.is_err() || to.is_closed() {
            return Ok(());
        }
    }
}

fn point(event: wire::Event) -> Option<wire::SeriesPoint> {
    let wall_ns = event.at.map_or(0, |at| at.wall_ns);
    match event.payload? {
        Payload::Metrics(metrics) => Some(wire::SeriesPoint {
            attempt: metrics.attempt.map_or(0, |attempt| attempt.attempt),
            step: metrics.step,
            split: metrics.split,
            epoch: metrics.epoch,
            values: metrics.values.into_iter().map(|v| (v.name, v.value)).collect(),
            wall_ns,
        }),
        _ => None,
    }
}

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

pub(super) async fn logs(
    fleet: &Handle,
    journal: &Path,
    request: wire::LogsRequest,
) -> Result<Boxed<wire::LogView>, Refusal> {
    let filter = LogFilter::new(&request)?;
    let mut follower = Follower::new(fleet, journal, JobId::new(request.job), EventStream::Logs);
    follower.job().await?;
    Ok(spawn(move |to| async move {
        let tail = usize::try_from(request.tail).unwrap_or(MAX_TAIL).min(MAX_TAIL);
        follow_logs(&mut follower, &filter, tail, request.follow, &to).await
    }))
}

async fn follow_logs(
    follower: &mut Follower,
    filter: &LogFilter,
    mut tail: usize,
    follow: bool,
    to: &mpsc::Sender<Result<wire::LogView, Status>>,
) -> Result<(), Refusal> {
    let mut turns = follower.fleet.turns();
    let mut last: VecDeque<wire::LogView> = VecDeque::new();
    loop {
        turns.mark_unchanged();
        let (_, ended, _) = follower.job().await?;
        while let Step::Events(events) = follower.step().await? {
            for log in events.into_iter().filter_map(log).filter(|log| filter.admits(log)) {
                if tail == 0 {
                    if to.send(Ok(log)).await.is_err() {
                        return Ok(());
                    }
                } else {
                    if last.len() == tail {
                        last.pop_front();
                    }
                    last.push_back(log);
                }
            }
        }
        tail = 0;
        for log in last.drain(..) {
            if to.send(Ok(log)).await.is_err() {
                return Ok(());
            }
        }
        if ended || !follow || turns.changed().await.is_err() || to.is_closed() {
            return Ok(());
        }
    }
}

pub(super) fn events(fleet: &Handle, request: wire::EventsRequest) -> Boxed<wire::EventView> {
    let fleet = fleet.clone();
    spawn(move |to| async move {
        let mut turns = fleet.turns();
        let mut after = 0;
        let mut tail = usize::try_from(request.tail).unwrap_or(0);
        loop {
            turns.mark_unchanged();
            let (job, node) = (request.job, request.node.clone());
            let mut found: Vec<wire::EventView> = fleet
                .read(move |fleet| {
                    fleet
                        .history()
                        .range(after + 1..)
                        .map(|(_, event)| views::event(event))
                        .filter(|event| job.is_none() || event.job == job)
                        .filter(|event| node.is_empty() || event.node == node)
                        .collect()
                })
                .await?;
            after = found.last().map_or(after, |event| event.number);
            if tail > 0 && found.len() > tail {
                found.drain(..found.len() - tail);
            }
            tail = 0;
            for event in found {
                if to.send(Ok(event)).await.is_err() {
                    return Ok(());
                }
            }
            if !request.follow || turns.changed().await.is_err() || to.is_closed() {
                return Ok(());
            }
        }
    })
}
