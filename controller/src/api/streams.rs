//! Streams that people follow. Each reads what is durable from the job's files and waits for the next turn: a slow
//! reader holds nothing back, and one who comes late sees everything from the start.

mod history;
mod logs;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use hone_proto::error::{Reason, Refusal};
use hone_proto::event::Stream as EventStream;
use hone_proto::id::{JobId, NodeId};
use hone_proto::wire;
use hone_proto::wire::event::Payload;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{no_job, views};
use crate::core::Job;
use crate::core::record::JobState;
use crate::driver::{FileId, Handle, Journal};

pub(super) use history::events;
pub(super) use logs::logs;

/// Records that wait for a slow reader.
const AHEAD: usize = 256;

/// How often a watcher looks for a newer hardware sample. As often as they are taken.
const SAMPLES: Duration = Duration::from_secs(1);

/// After so many of these looks it looks at the job too: that its node fell silent changes nothing about the job itself.
const LOOK_AFTER: usize = 5;

/// Bytes that are read from a file at once.
const SLICE: u64 = 1 << 20;

/// Most records that `tail` may ask for.
const MAX_TAIL: usize = 100_000;

pub(super) type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Reads one file from its beginning, as far as it is durable.
pub(super) struct FileReader {
    pub(super) fleet: Handle,
    pub(super) journal: PathBuf,
    pub(super) file: FileId,
    pub(super) offset: u64,
}

/// Follows one file of a job.
struct Follower {
    file: FileReader,
    job: JobId,
}

/// What a reader found.
pub(super) enum Step {
    /// These events, and maybe more at once.
    Events(Vec<wire::Event>),
    /// Everything that is durable has been seen.
    End,
}

impl FileReader {
    pub(super) async fn step(&mut self) -> Result<Step, Refusal> {
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
}

impl Follower {
    fn new(fleet: &Handle, journal: &Path, job: JobId, stream: EventStream) -> Self {
        let (fleet, journal) = (fleet.clone(), journal.to_owned());
        let file = FileId::Job(job, stream);
        Self { file: FileReader { fleet, journal, file, offset: 0 }, job }
    }

    /// The job as it is, and whether it has ended.
    async fn job(&self) -> Result<(wire::JobView, bool, Option<NodeId>), Refusal> {
        let id = self.job;
        self.file
            .fleet
            .read(move |fleet| {
                let job = fleet.jobs().get(&id)?;
                let node = job.current().map(|attempt| attempt.node.clone());
                Some((views::job(fleet, job), ended(job), node))
            })
            .await?
            .ok_or_else(|| no_job(id))
    }
}

fn ended(job: &Job) -> bool {
    matches!(job.record.state, JobState::Ended { .. })
}

/// Waits until there may be news for this reader. False when it went away; an error when the fleet did, so that nobody
/// takes the controller's end for the job's.
pub(super) async fn news<T>(
    turns: &mut watch::Receiver<u64>,
    to: &mpsc::Sender<Result<T, Status>>,
) -> Result<bool, Refusal> {
    tokio::select! {
        () = to.closed() => Ok(false),
        turned = turns.changed() => match turned {
            Ok(()) => Ok(true),
            Err(_) => Err(Refusal::new(Reason::Unavailable, "the controller is shutting down")),
        },
    }
}

/// Runs `work` with a sender whose other end is the returned stream.
pub(super) fn spawn<T, F>(
    work: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F + Send + 'static,
) -> Boxed<T>
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
    let mut changes = follower.file.fleet.changes_of(follower.job);
    let mut clock = tokio::time::interval(SAMPLES);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut shown, mut measured) = (None, 0);
    loop {
        changes.mark_unchanged();
        // The state is looked at before the file: what had ended then is complete in the file.
        let (view, ended, node) = follower.job().await?;
        if shown.as_ref() != Some(&view) {
            shown = Some(view.clone());
            if !send(Update::Job(view)).await {
                return Ok(());
            }
        }
        while let Step::Events(events) = follower.file.step().await? {
            for point in events.into_iter().filter_map(point) {
                if !send(Update::Point(point)).await {
                    return Ok(());
                }
            }
        }
        if ended || !follow {
            return Ok(());
        }
        for _ in 0..LOOK_AFTER {
            if let Some(sample) =
                node.as_ref().and_then(|n| follower.file.fleet.sample_since(n, measured))
            {
                measured = sample.wall_ns;
                if !send(Update::Hardware(sample)).await {
                    return Ok(());
                }
            }
            tokio::select! {
                told = news(&mut changes, to) => match told? {
                    true => break,
                    false => return Ok(()),
                },
                _ = clock.tick() => {}
            }
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

/// Holds the first look's records back until its end, but for the last so many; lets everything later pass.
struct Tail<T> {
    keep: usize,
    last: VecDeque<T>,
}

impl<T> Tail<T> {
    /// 0 holds nothing back.
    fn new(keep: usize) -> Self {
        Self { keep: keep.min(MAX_TAIL), last: VecDeque::new() }
    }

    /// What may go on at once.
    fn push(&mut self, item: T) -> Option<T> {
        if self.keep == 0 {
            return Some(item);
        }
        if self.last.len() == self.keep {
            self.last.pop_front();
        }
        self.last.push_back(item);
        None
    }

    /// The first look is over.
    fn end(&mut self) -> VecDeque<T> {
        self.keep = 0;
        std::mem::take(&mut self.last)
    }
}

#[cfg(test)]
mod tests;
