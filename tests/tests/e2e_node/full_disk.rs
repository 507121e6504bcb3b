//! The agent's disk is full to the last byte: it goes on, reports, stops what runs and takes nothing new, survives a kill
//! there, and goes back to work by itself.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use hone_agent::core::input::{Found, UploadError};
use hone_agent::core::state::AgentState;
use hone_agent::core::{Agent, Effect, Input, Seen, SeenState, Settings, Upload};
use hone_agent::driver::{Driver, Handle, Marks, Record, Room};
use hone_agent::layout::Layout;
use hone_agent::perform::InputCache;
use hone_agent::spool::{Appended, Bounds, Spool};
use hone_agent::state::StateFile;
use hone_proto::assignment::{Assignment, DesiredSet, Intent};
use hone_proto::event::{Level, LogRecord, Payload, Position, Stream};
use hone_proto::id::{
    Attempt, AttemptId, Digest, Generation, JobId, ProjectName, Revision, Seq, Step, Token,
};
use hone_proto::quantity::Bytes;
use hone_proto::time::Now;
use hone_proto::wire::AttemptView;
use hone_proto::wire::agent_message::Message;
use hone_proto::wire::event::Payload as Said;
use hone_tests::cluster::{Cluster, PATIENCE, succeeded, wait_until};
use hone_tests::disk::{Disk, Filler};
use hone_tests::jobs::assignment;
use tokio::sync::mpsc;

use super::collectors::{bare, is_heard, submit};

/// Room for the agent, its reserve, and the mark at which it takes jobs again.
const DISK: &str = "400m";

/// What the reserve really takes.
fn reserved(fleet: &Cluster) -> u64 {
    let facts = std::fs::metadata(fleet.agent_dir().join("reserve"));
    facts.map_or(0, |facts| facts.blocks() * 512)
}

/// Waits until an attempt of the job got so far.
fn gets_to(
    fleet: &Cluster,
    job: u64,
    what: &str,
    far: impl Fn(&AttemptView) -> bool,
) -> Result<()> {
    wait_until(what, PATIENCE, || Ok(fleet.job(job)?.attempts.iter().any(&far).then_some(())))
}

#[test]
fn an_agent_goes_on_with_a_full_disk_and_takes_nothing_new() -> Result<()> {
    let mut fleet = bare(DISK)?;
    is_heard(&fleet)?;
    let reserve = Marks::default().reserve.get();
    ensure!(reserved(&fleet) >= reserve, "{} are set aside", reserved(&fleet));

    let job = succeeded(submit(&fleet, "http://127.0.0.1:1")?.output()?)?.trim().parse()?;
    gets_to(&fleet, job, "the job is staged", |attempt| attempt.state == "staging")?;
    let filler = Filler::fill(&fleet.agent_dir())?;
    // Its engine is away, so that it tries again and again.
    gets_to(&fleet, job, "the job is given back", |attempt| attempt.cause == "disk_full")?;
    is_heard(&fleet)?;
    let left = reserved(&fleet);
    ensure!(left < reserve && left > 0, "{left} of the reserve are left");
    fleet.agent.still_runs()?;

    // It can even be killed and started there.
    filler.again()?;
    fleet.agent.kill()?;
    let before = fleet.agent.said()?.len();
    fleet.agent.start()?;
    is_heard(&fleet)?;
    fleet.agent.still_runs()?;
    let said = fleet.agent.said()?.split_off(before);
    ensure!(said.contains("takes nothing new"), "{said}");
    ensure!(!said.contains("has room again"), "{said}");

    drop(filler);
    wait_until("the reserve is whole again", PATIENCE, || {
        Ok((reserved(&fleet) >= reserve).then_some(()))
    })?;
    ensure!(fleet.agent.said()?.contains("the disk has room again"));
    is_heard(&fleet)?;
    fleet.agent.still_runs()
}

fn id(job: u64) -> AttemptId {
    let token = Token { generation: Generation::new(1), attempt: Attempt::new(1) };
    AttemptId { job: JobId::new(job), token }
}

fn wanted(revision: u64, job: u64, intent: Intent) -> Result<Input> {
    let assignment = Assignment { intent, ..assignment(id(job))? };
    Ok(Input::Desired(DesiredSet {
        revision: Revision::new(revision),
        generation: Generation::new(1),
        assignments: vec![assignment],
    }))
}

/// Waits until this revision is durable: it is seen no sooner.
async fn is_kept(handle: &Handle, revision: u64) -> Result<()> {
    let mut view = handle.view();
    let seen = view.wait_for(|view| view.revision == Revision::new(revision));
    tokio::time::timeout(PATIENCE, seen).await.context("it was not kept")??;
    Ok(())
}

fn kept(disk: &Path) -> Result<u64> {
    Ok(StateFile::new(disk.join("state")).load()?.revision.get())
}

const MARKS: Marks = Marks {
    enter: Bytes::new(512 << 10),
    leave: Bytes::mib(4),
    reserve: Bytes::mib(1),
    ample: Bytes::mib(2),
};

/// A driver on its own small disk.
fn start(layout: &Layout, room: Room) -> Result<(Driver, Handle, mpsc::Receiver<Effect>)> {
    let boot: hone_proto::id::BootId = "boot-1".parse()?;
    Ok(Driver::start(
        Agent::new(Settings::default(), AgentState::default(), boot.clone()),
        Spool::open(&layout.spool(), Bounds::default())?,
        StateFile::new(layout.state()),
        boot,
        room,
    )?)
}

async fn next(effects: &mut mpsc::Receiver<Effect>) -> Result<Effect> {
    let next = tokio::time::timeout(PATIENCE, effects.recv()).await;
    next.context("nothing is done")?.context("it ended")
}

#[tokio::test]
async fn inputs_that_nobody_uses_go_before_anything_is_refused() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let _disk = Disk::mount(scratch.path(), "8m")?;
    let layout = Layout::new(scratch.path().to_owned());
    let unused = layout.cached(&ProjectName::default_project(), Digest::of(b"model"));
    std::fs::create_dir_all(&unused)?;
    std::fs::write(unused.join("weights"), vec![1; 5 << 20])?;
    let cache = InputCache::new(layout.clone(), Bytes::gib(1), Bytes::ZERO);
    let room = Room::on(&layout, MARKS).evicting(cache.evictor());
    let (driver, handle, mut effects) = start(&layout, room)?;
    let _filler = Filler::fill(layout.root())?;
    handle.tell(wanted(1, 1, Intent::Run)?).await?;
    let begun = next(&mut effects).await?;
    ensure!(matches!(begun, Effect::Stage(..)), "{begun:?}");
    ensure!(!unused.exists());
    drop(handle);
    driver.stop().await.context("it stops in order")
}

#[tokio::test]
async fn without_any_room_a_job_is_stopped_all_the_same_and_the_state_is_kept_later() -> Result<()>
{
    let scratch = tempfile::tempdir()?;
    let _disk = Disk::mount(scratch.path(), "8m")?;
    let layout = Layout::new(scratch.path().to_owned());
    let (driver, handle, mut effects) = start(&layout, Room::on(&layout, MARKS))?;
    handle.tell(wanted(1, 1, Intent::Run)?).await?;
    handle.tell(Input::Staged { attempt: id(1), result: Ok(()) }).await?;
    handle.tell(Input::Launched { attempt: id(1), result: Ok("c1".to_owned()) }).await?;
    ensure!(matches!(effects.recv().await, Some(Effect::Stage(..))));
    ensure!(matches!(effects.recv().await, Some(Effect::Launch(..))));

    // Somebody takes whatever becomes free, until the reserve has nothing left.
    let filler = Filler::fill(layout.root())?;
    let mut revision = 1;
    while std::fs::metadata(layout.reserve())?.len() > 0 {
        ensure!(revision < 500, "the reserve has no end");
        revision += 1;
        filler.again()?;
        handle.tell(wanted(revision, 1, Intent::Run)?).await?;
        is_kept(&handle, revision).await?;
    }
    ensure!(revision > 20, "the reserve gave room for {revision} states only");

    revision += 1;
    filler.again()?;
    let stop = Intent::Stop { reason: "told".to_owned() };
    handle.tell(wanted(revision, 1, stop)?).await?;
    let asked = next(&mut effects).await?;
    ensure!(matches!(asked, Effect::AskToStop { .. }), "{asked:?}");
    ensure!(kept(layout.root())? < revision, "there was room");

    drop(filler);
    handle.tell(Input::Tick).await?;
    is_kept(&handle, revision).await?;
    ensure!(kept(layout.root())? == revision, "what was owed is not paid");
    ensure!(std::fs::metadata(layout.reserve())?.len() == MARKS.reserve.get());
    // And everything is taken again; the first job is named no more.
    handle.tell(wanted(revision + 1, 2, Intent::Run)?).await?;
    while !matches!(next(&mut effects).await?, Effect::Stage(..)) {}
    drop(handle);
    driver.stop().await.context("it stops in order")
}

/// An attempt that runs, with a disk that somebody has filled.
async fn runs_on_a_full_disk(
    layout: &Layout,
) -> Result<(Driver, Handle, mpsc::Receiver<Effect>, Filler)> {
    let (driver, handle, mut effects) = start(layout, Room::on(layout, MARKS))?;
    handle.tell(wanted(1, 1, Intent::Run)?).await?;
    handle.tell(Input::Staged { attempt: id(1), result: Ok(()) }).await?;
    handle.tell(Input::Launched { attempt: id(1), result: Ok("c1".to_owned()) }).await?;
    ensure!(matches!(next(&mut effects).await?, Effect::Stage(..)));
    ensure!(matches!(next(&mut effects).await?, Effect::Launch(..)));
    let filler = Filler::fill(layout.root())?;
    Ok((driver, handle, effects, filler))
}

#[tokio::test]
async fn whatever_the_agent_itself_has_to_say_is_kept_from_the_reserve() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let _disk = Disk::mount(scratch.path(), "8m")?;
    let layout = Layout::new(scratch.path().to_owned());
    let (driver, handle, mut effects, _filler) = runs_on_a_full_disk(&layout).await?;
    // What the trainer saved cannot be taken, which is said among its metrics.
    let upload = Upload::Checkpoint(Found { step: Step::new(3), path: "step-3".to_owned() });
    let result = Err(UploadError::Never("damaged".to_owned()));
    let uploaded = Input::Uploaded { attempt: id(1), upload, took: Duration::ZERO, result };
    handle.tell(uploaded).await?;
    let stop = Intent::Stop { reason: "told".to_owned() };
    handle.tell(wanted(2, 1, stop)?).await?;
    is_kept(&handle, 2).await?;
    ensure!(kept(layout.root())? == 2);
    ensure!(matches!(next(&mut effects).await?, Effect::AskToStop { .. }));
    let left = std::fs::metadata(layout.reserve())?.len();
    ensure!(left < MARKS.reserve.get() && left > 0, "{left} of the reserve are left");
    drop(handle);
    driver.stop().await.context("it stops in order")?;
    let mut spool = Spool::open(&layout.spool(), Bounds::default())?;
    let told = spool.read(Stream::Series, Seq::new(0), usize::MAX)?;
    ensure!(told.len() == 1, "{told:?}");
    Ok(())
}

#[tokio::test]
async fn an_ended_attempt_is_read_to_its_end_while_the_reserve_lasts() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let _disk = Disk::mount(scratch.path(), "8m")?;
    let layout = Layout::new(scratch.path().to_owned());
    let (driver, handle, mut effects, filler) = runs_on_a_full_disk(&layout).await?;
    let state = SeenState::Exited { code: 0, oom: false };
    let seen = Seen { id: "c1".to_owned(), attempt: Some(id(1)), state };
    handle.tell(Input::Observed { containers: vec![seen], asked: Now::read().boot }).await?;
    ensure!(next(&mut effects).await? == Effect::Drain(id(1)));
    filler.again()?;
    // Far more than one piece of the reserve, and far less than it has.
    let line = LogRecord {
        attempt: id(1),
        output: "stdout".to_owned(),
        level: Level::Info,
        text: "x".repeat(300 << 10),
    };
    let events = vec![(Now::read(), Payload::Log(line))];
    let record = Record { events, ..Record::default() };
    let told = handle.clone();
    let recorded = tokio::task::spawn_blocking(move || told.record_blocking(record)).await??;
    ensure!(recorded == Appended::Accepted, "it would never be read to its end");
    ensure!(std::fs::metadata(layout.reserve())?.len() > 0, "all of the reserve went for it");
    drop(handle);
    driver.stop().await.context("it stops in order")
}

#[tokio::test]
async fn a_session_that_finds_no_room_begins_once_there_is_some() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let _disk = Disk::mount(scratch.path(), "8m")?;
    let layout = Layout::new(scratch.path().to_owned());
    let marks = Marks { reserve: Bytes::ZERO, ..MARKS };
    let (driver, handle, _effects) = start(&layout, Room::on(&layout, marks))?;
    let filler = Filler::fill(layout.root())?;
    // This disk was rolled back: the controller holds more than it does.
    let position = |stream| Position {
        spool: handle.view().borrow().spool.clone(),
        stream,
        seq: Seq::new(100),
    };
    let (sender, mut session) = mpsc::channel(16);
    handle.attach(sender, Stream::ALL.map(position).to_vec()).await?;
    handle.tell(wanted(1, 1, Intent::Run)?).await?;
    let told = handle.clone();
    tokio::task::spawn_blocking(move || told.cursors_blocking(Vec::new())).await??;
    ensure!(session.try_recv() == Err(mpsc::error::TryRecvError::Empty), "it is not dropped");
    drop(filler);
    handle.tell(Input::Tick).await?;
    let said = tokio::time::timeout(PATIENCE, session.recv()).await.context("nothing is sent")?;
    let Some(Message::Events(batch)) = said.and_then(|said| said.message) else {
        bail!("events were expected")
    };
    let first = batch.events.iter().find(|event| !matches!(event.payload, Some(Said::Gap(_))));
    ensure!(first.is_some_and(|event| event.seq == 101), "{batch:?}");
    drop(handle);
    driver.stop().await.context("it stops in order")
}
