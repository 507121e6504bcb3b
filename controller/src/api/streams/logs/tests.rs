//! What is asked for of stored logs, through the service's own function.

use hone_proto::event::{Event, LogRecord, Payload};
use hone_proto::id::{AttemptId, Seq};
use hone_proto::time::{Now, WallNanos};
use tokio_stream::StreamExt as _;

use super::super::super::tests::{World, hello};
use super::super::tests::revoke;
use super::*;
use crate::core::Input;
use crate::driver::FileId;

const SECOND: u64 = 1_000_000_000;

/// An event of the log at so many seconds.
fn event(seq: u64, second: u64, payload: Payload) -> Event {
    let at = Now { wall: WallNanos::new(second * SECOND), ..Now::read() };
    Event { seq: Seq::new(seq), at, boot: "boot-1".parse().expect("an id"), payload }
}

fn line(attempt: AttemptId, level: Level, text: &str) -> Payload {
    let (output, text) = ("stderr".to_owned(), text.to_owned());
    Payload::Log(LogRecord { attempt, output, level, text })
}

async fn current(fleet: &Handle, job: JobId) -> AttemptId {
    let found = fleet.read(move |fleet| {
        let job = fleet.jobs().get(&job)?;
        Some(job.record.attempt(job.current()?.token))
    });
    found.await.expect("it runs").expect("the job is on a node")
}

/// A node reports, and what it reports is durable.
async fn send(fleet: &Handle, node: &str, job: JobId, events: Vec<Event>) {
    let (node, stream) = (node.parse().expect("an id"), EventStream::Logs);
    let spool = "spool-1".parse().expect("an id");
    let file = FileId::Job(job, stream);
    let (before, mut changes) = (fleet.length(&file), fleet.changes_of(job));
    fleet.tell(Input::Events { node, spool, stream, events }).await.expect("it is told");
    while fleet.length(&file) == before {
        changes.changed().await.expect("the fleet goes on");
    }
}

async fn texts(fleet: &Handle, journal: &Path, request: wire::LogsRequest) -> Vec<String> {
    let found = logs(fleet, journal, request).await.expect("a good request");
    found.map(|log| log.expect("a record").text).collect().await
}

#[tokio::test]
async fn logs_are_found_by_level_time_text_and_attempt_also_when_their_node_is_gone() {
    let mut world = World::new();
    let (first, _) = (world.join("n-1", "gpu-1"), world.join("n-2", "gpu-2"));
    world.offers(&first, 1 << 40);
    let job = world.submit("tune");
    let (driver, fleet, scratch) = world.start();
    let one = current(&fleet, job).await;
    let gap = Payload::Gap {
        attempt: Some(one),
        what: EventStream::Logs.name().to_owned(),
        count: 3,
        reason: "the log was full".to_owned(),
    };
    let said = vec![
        event(1, 10, line(one, Level::Debug, "opened shard 0")),
        event(2, 20, line(one, Level::Info, "step 1 loss 2.5")),
        event(5, 30, gap),
        event(6, 40, line(one, Level::Error, "CUDA out of memory")),
    ];
    send(&fleet, "n-1", job, said).await;
    revoke(&fleet, &first).await;
    fleet.tell(Input::Hello(Box::new(hello("n-2", 1 << 40)))).await.expect("it is told");
    let two = current(&fleet, job).await;
    assert_ne!(one, two, "it moved");
    send(&fleet, "n-2", job, vec![event(1, 50, line(two, Level::Critical, "step 1 loss nan"))])
        .await;

    let [debug, info, lost, error, critical] = [
        "opened shard 0",
        "step 1 loss 2.5",
        "3 log records were lost: the log was full",
        "CUDA out of memory",
        "step 1 loss nan",
    ];
    let ask = || wire::LogsRequest { job: job.get(), ..Default::default() };
    let level = |level: &str| wire::LogsRequest { level: level.to_owned(), ..ask() };
    let since = |second: u64| wire::LogsRequest { since_wall_ns: Some(second * SECOND), ..ask() };
    let grep = |pattern: &str| wire::LogsRequest { grep: pattern.to_owned(), ..ask() };
    let attempt = |number| wire::LogsRequest { attempt: Some(number), ..ask() };
    let table: [(&str, wire::LogsRequest, &[&str]); 16] = [
        ("all", ask(), &[debug, info, lost, error, critical]),
        ("debug", level("debug"), &[debug, info, lost, error, critical]),
        ("info", level("info"), &[info, lost, error, critical]),
        ("warning", level("warning"), &[lost, error, critical]),
        ("error", level("error"), &[error, critical]),
        ("critical", level("critical"), &[critical]),
        ("since a record's own time", since(40), &[error, critical]),
        ("since a moment later", since(41), &[critical]),
        ("since after all", since(51), &[]),
        ("a word", grep("loss"), &[info, critical]),
        ("an expression", grep("^CUDA|nan$"), &[error, critical]),
        ("nothing matches", grep("Loss"), &[]),
        ("the lost attempt", attempt(1), &[debug, info, lost, error]),
        ("the second attempt", attempt(2), &[critical]),
        ("an attempt that never was", attempt(3), &[]),
        (
            "all together, of which the last",
            wire::LogsRequest { tail: 1, attempt: Some(1), ..level("info") },
            &[error],
        ),
    ];
    for (what, request, wanted) in table {
        assert_eq!(texts(&fleet, scratch.path(), request).await, wanted, "{what}");
    }
    for bad in [level("loud"), grep("("), grep(&"(a{1000}){1000}".repeat(9))] {
        let refused = logs(&fleet, scratch.path(), bad).await.map(|_| ()).expect_err("it is bad");
        assert_eq!(refused.reason, Reason::BadRequest, "{refused}");
    }
    driver.stop().await.expect("it ends well");
}
