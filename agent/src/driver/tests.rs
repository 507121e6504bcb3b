//! The driver's rule: durable first, then performed. With a real spool and a real state file, and a full stop at any
//! time.

use std::path::PathBuf;
use std::time::Duration;

use hone_proto::assignment::{Assignment, DesiredSet, ImageRef, Intent, Promise};
use hone_proto::event::{Level, LogRecord, Payload, Phase};
use hone_proto::id::{Attempt, Generation, JobId, ProjectName, Seq, Token};
use hone_proto::wire;
use hone_proto::wire::event::Payload as Wire;

use super::*;
use crate::core::state::AgentState;
use crate::core::{Seen, SeenState, Settings};
use crate::layout::Layout;
use crate::spool::Bounds;

struct Bench {
    scratch: tempfile::TempDir,
    driver: Driver,
    handle: Handle,
    effects: mpsc::Receiver<Effect>,
}

fn boot() -> BootId {
    "one".parse().expect("an id")
}

fn id(job: u64) -> AttemptId {
    let token = Token { generation: Generation::new(1), attempt: Attempt::new(1) };
    AttemptId { job: JobId::new(job), token }
}

fn wanted(revision: u64, jobs: &[u64]) -> Input {
    let assignment = |job: &u64| Assignment {
        attempt: id(*job),
        job_name: "tune".parse().expect("a name"),
        project: ProjectName::default_project(),
        owner: "ada".parse().expect("a name"),
        intent: Intent::Run,
        image: ImageRef { reference: "sha256:ab".to_owned(), manifest: None },
        command: vec![],
        trainer_spec: String::new(),
        inputs: vec![],
        resume: None,
        promise: Promise::default(),
        relaxations: vec![],
        keep_checkpoints: 2,
        grace: Duration::from_secs(60),
        disconnect_wait: None,
        checkpoint_requests: 0,
        traceparent: String::new(),
        max_time: None,
    };
    Input::Desired(DesiredSet {
        revision: Revision::new(revision),
        generation: Generation::new(1),
        assignments: jobs.iter().map(assignment).collect(),
    })
}

fn line(text: &str) -> Record {
    let record = LogRecord {
        attempt: id(1),
        output: "stdout".to_owned(),
        level: Level::Info,
        text: text.to_owned(),
    };
    let events = vec![(Now::read(), Payload::Log(record))];
    Record { events, cursors: BTreeMap::from([("1-1-1/log".to_owned(), text.into())]) }
}

impl Bench {
    fn new() -> Self {
        Self::with(Marks::default())
    }

    fn with(marks: Marks) -> Self {
        let scratch = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(scratch.path().join("keep")).expect("made");
        let spool = Spool::open(&scratch.path().join("spool"), Bounds::default()).expect("opened");
        let file = StateFile::new(scratch.path().join("keep/state"));
        let agent = Agent::new(Settings::default(), AgentState::default(), boot());
        let marks = Marks { reserve: Bytes::ZERO, ..marks };
        let room = Room::on(&Layout::new(scratch.path().to_owned()), marks);
        let (driver, handle, effects) =
            Driver::start(agent, spool, file, boot(), room).expect("started");
        Self { scratch, driver, handle, effects }
    }

    fn spool(&self) -> PathBuf {
        self.scratch.path().join("spool")
    }

    fn kept(&self) -> AgentState {
        StateFile::new(self.scratch.path().join("keep/state")).load().expect("it was kept")
    }

    async fn tell(&self, input: Input) {
        self.handle.tell(input).await.expect("it listens");
    }

    /// Waits until everything that was told so far is done.
    async fn done(&self) {
        let handle = self.handle.clone();
        let asked = tokio::task::spawn_blocking(move || handle.cursors_blocking(Vec::new()));
        asked.await.expect("no panic").expect("it listens");
    }

    async fn record(&self, record: Record) -> Appended {
        let handle = self.handle.clone();
        let recorded = tokio::task::spawn_blocking(move || handle.record_blocking(record));
        recorded.await.expect("no panic").expect("it listens")
    }
}

/// What a spool that is opened anew holds of the reconciler's own words.
fn phases(spool: &std::path::Path) -> Vec<i32> {
    let mut spool = Spool::open(spool, Bounds::default()).expect("it opens");
    let events = spool.read(Stream::State, Seq::new(0), usize::MAX).expect("read");
    let phase = |event: wire::Event| match event.payload {
        Some(Wire::Phase(phase)) => Some(phase.phase),
        _ => None,
    };
    events.into_iter().filter_map(phase).collect()
}

#[tokio::test]
async fn whatever_is_performed_was_durable_before() {
    let mut bench = Bench::new();
    bench.tell(wanted(1, &[1])).await;
    let Some(Effect::Stage(assignment, _)) = bench.effects.recv().await else {
        panic!("staging was expected")
    };
    // Whoever stages it sees that it is wanted: it would give up, and its inputs could be deleted.
    assert!(bench.handle.view().borrow().wanted.contains(&assignment.attempt));
    // At this moment the machine may die.
    assert!(bench.kept().attempts.contains_key(&assignment.attempt));
    let staging = i32::from(wire::AgentPhase::from(Phase::Staging));
    assert_eq!(phases(&bench.spool()), [staging]);
    bench.driver.stop().await.expect("it stops");
}

#[tokio::test]
async fn a_state_that_cannot_be_kept_performs_nothing() {
    let mut bench = Bench::new();
    let keep = bench.scratch.path().join("keep");
    std::fs::remove_dir_all(&keep).expect("removed");
    std::fs::write(&keep, "no folder any more").expect("written");
    bench.tell(wanted(1, &[1, 2])).await;
    assert_eq!(bench.effects.recv().await, None, "it was performed and not kept");
    assert_eq!(bench.handle.tell(Input::Tick).await, Err(Gone));
    assert!(matches!(bench.driver.stop().await, Err(DriverError::State(_))));
}

#[tokio::test]
async fn it_stops_while_effects_are_under_way_and_keeps_what_it_accepted() {
    let mut bench = Bench::new();
    bench.tell(wanted(1, &[1])).await;
    assert!(bench.effects.recv().await.is_some());
    assert_eq!(bench.record(line("last words")).await, Appended::Accepted);
    let Bench { scratch, driver, handle, effects } = bench;
    driver.stop().await.expect("it does not wait for what is performed");
    let answer = Input::Staged { attempt: id(1), result: Ok(()) };
    assert_eq!(handle.tell(answer).await, Err(Gone), "who performed it is told");
    drop(effects);
    let mut spool = Spool::open(&scratch.path().join("spool"), Bounds::default()).expect("opened");
    assert_eq!(spool.cursor(Stream::Logs, "1-1-1/log"), Some(&b"last words"[..]));
    assert_eq!(spool.read(Stream::Logs, Seq::new(0), usize::MAX).expect("read").len(), 1);
}

#[tokio::test]
async fn nobody_who_performs_is_no_reason_to_fail() {
    let bench = Bench::new();
    let Bench { scratch, driver, handle, effects } = bench;
    drop(effects);
    handle.tell(wanted(1, &[1])).await.expect("it listens");
    handle.tell(wanted(2, &[1, 2])).await.expect("it listens");
    driver.stop().await.expect("it stops in order");
    let kept = StateFile::new(scratch.path().join("keep/state")).load().expect("kept");
    assert_eq!((kept.revision, kept.attempts.len()), (Revision::new(2), 2));
}

/// The numbers of the log records in the next message to the controller.
async fn next(session: &mut mpsc::Receiver<wire::AgentMessage>) -> Vec<u64> {
    let Some(wire::agent_message::Message::Events(batch)) =
        session.recv().await.and_then(|message| message.message)
    else {
        panic!("events were expected")
    };
    assert_eq!(batch.stream, i32::from(wire::EventStream::from(Stream::Logs)));
    batch.events.iter().map(|event| event.seq).collect()
}

#[tokio::test]
async fn a_session_gets_what_is_not_acknowledged_and_a_full_one_waits() {
    let bench = Bench::new();
    for text in ["one", "two", "three"] {
        bench.record(line(text)).await;
    }
    // What may be relied on elsewhere is synced first.
    bench
        .handle
        .tell(Input::Drained { attempt: id(9), drained: Box::default() })
        .await
        .expect("ok");
    let at = |seq| Position {
        spool: bench.handle.view().borrow().spool.clone(),
        stream: Stream::Logs,
        seq: Seq::new(seq),
    };
    let (sender, mut session) = mpsc::channel(1);
    bench.handle.attach(sender, vec![at(0)]).await.expect("attached");
    assert_eq!(next(&mut session).await, [1, 2, 3]);
    bench.handle.acked(at(2)).await.expect("told");
    drop(session);
    let (sender, mut session) = mpsc::channel(1);
    bench.handle.attach(sender.clone(), vec![at(2)]).await.expect("attached");
    assert_eq!(next(&mut session).await, [3], "only what the controller does not have");
    // The one place of the session is taken: what comes meanwhile is sent once there is room.
    sender.try_send(wire::AgentMessage::default()).expect("a place");
    bench.record(line("four")).await;
    bench
        .handle
        .tell(Input::Drained { attempt: id(9), drained: Box::default() })
        .await
        .expect("ok");
    bench.done().await;
    assert_eq!(session.recv().await, Some(wire::AgentMessage::default()));
    bench.tell(Input::Tick).await;
    assert_eq!(next(&mut session).await, [4]);
    bench.driver.stop().await.expect("it stops");
}

#[tokio::test]
async fn with_a_full_disk_nothing_new_begins_and_what_is_in_files_waits() {
    // No disk has so much room.
    let full = Marks { enter: Bytes::new(u64::MAX), ..Marks::default() };
    let mut bench = Bench::with(full);
    bench.tell(wanted(1, &[1])).await;
    let mut view = bench.handle.view();
    let seen = view.wait_for(|view| view.revision == Revision::new(1)).await;
    drop(seen.expect("it goes on"));
    let outcome = |event: wire::Event| match event.payload {
        Some(Wire::Outcome(outcome)) => Some((outcome.cause, outcome.kind)),
        _ => None,
    };
    let mut spool = Spool::open(&bench.spool(), Bounds::default()).expect("it opens");
    let told = spool.read(Stream::State, Seq::new(0), usize::MAX).expect("read");
    let elsewhere = i32::from(wire::OutcomeKind::FailedRetryable);
    assert_eq!(told.into_iter().find_map(outcome), Some(("disk_full".to_owned(), elsewhere)));
    assert_eq!(bench.kept().revision, Revision::new(1), "it is kept all the same");
    assert!(bench.handle.view().borrow().full, "the offer does not know");
    assert_eq!(bench.record(line("of a job that runs")).await, Appended::Full);
    let rollup = Payload::Hardware(Box::default());
    let sample = Record { events: vec![(Now::read(), rollup)], ..Record::default() };
    assert_eq!(bench.record(sample).await, Appended::Full);
    bench.driver.stop().await.expect("it stops in order");
    assert_eq!(bench.effects.recv().await, None, "something was begun");
}

impl Bench {
    /// The same node in its next life, with a disk that is full.
    async fn again_with_a_full_disk(self) -> Self {
        let Self { scratch, driver, handle, effects } = self;
        driver.stop().await.expect("it stops");
        drop((handle, effects));
        let file = StateFile::new(scratch.path().join("keep/state"));
        let agent = Agent::new(Settings::default(), file.load().expect("kept"), boot());
        let spool = Spool::open(&scratch.path().join("spool"), Bounds::default()).expect("opened");
        // No disk has so much room.
        let enter = Bytes::new(u64::MAX);
        let full = Marks { enter, reserve: Bytes::ZERO, ..Marks::default() };
        let room = Room::on(&Layout::new(scratch.path().to_owned()), full);
        let started = Driver::start(agent, spool, file, boot(), room);
        let (driver, handle, effects) = started.expect("again");
        Self { scratch, driver, handle, effects }
    }

    async fn sees(&self, containers: Vec<Seen>) {
        self.tell(Input::Observed { containers, asked: Now::read().boot }).await;
    }
}

/// A life whose launch was asked for, and the next with a full disk.
async fn launched_and_lost() -> Bench {
    let bench = Bench::new();
    bench.tell(wanted(1, &[1])).await;
    bench.tell(Input::Staged { attempt: id(1), result: Ok(()) }).await;
    let bench = bench.again_with_a_full_disk().await;
    bench.tell(Input::Tick).await;
    bench
}

#[tokio::test]
async fn with_a_full_disk_nothing_is_launched_before_it_is_known_what_runs() {
    let mut bench = launched_and_lost().await;
    let state = SeenState::Running;
    bench.sees(vec![Seen { id: "c1".to_owned(), attempt: Some(id(1)), state }]).await;
    let mut view = bench.handle.view();
    let adopted = view.wait_for(|view| view.running == [(id(1), "c1".to_owned())]).await;
    drop(adopted.expect("it is adopted"));
    bench.driver.stop().await.expect("it stops");
    assert_eq!(bench.effects.recv().await, None, "what runs was launched");
    let mut bench = launched_and_lost().await;
    bench.sees(vec![]).await;
    bench.driver.stop().await.expect("it stops");
    assert_eq!(bench.effects.recv().await, None, "nothing ran, and it was launched");
}

#[tokio::test]
async fn with_a_full_disk_the_last_words_of_what_has_ended_are_taken() {
    let bench = Bench::new();
    bench.tell(wanted(1, &[1])).await;
    bench.tell(Input::Staged { attempt: id(1), result: Ok(()) }).await;
    bench.tell(Input::Launched { attempt: id(1), result: Ok("c1".to_owned()) }).await;
    let mut bench = bench.again_with_a_full_disk().await;
    assert_eq!(bench.record(line("while it runs")).await, Appended::Full);
    let state = SeenState::Exited { code: 0, oom: false };
    bench.sees(vec![Seen { id: "c1".to_owned(), attempt: Some(id(1)), state }]).await;
    assert_eq!(bench.effects.recv().await, Some(Effect::Drain(id(1))));
    assert_eq!(bench.record(line("the last words")).await, Appended::Accepted);
    bench.driver.stop().await.expect("it stops");
}
