//! Followers of a real fleet's thread.

use tokio_stream::StreamExt as _;

use super::super::tests::World;
use super::*;
use crate::core::{Caller, Command, Input};
use crate::driver::Driver;

fn about(job: Option<JobId>, node: &str) -> wire::EventsRequest {
    let job = job.map(JobId::get);
    wire::EventsRequest { job, node: node.to_owned(), ..wire::EventsRequest::default() }
}

async fn kinds(fleet: &Handle, request: wire::EventsRequest) -> Vec<(String, String)> {
    let lines = events(fleet, request).await.expect("it is known").collect::<Vec<_>>().await;
    lines.into_iter().map(|line| line.map(|e| (e.kind, e.node)).expect("a line")).collect()
}

#[tokio::test]
async fn followers_are_told_that_the_controller_ends_and_never_that_the_job_did() {
    let mut world = World::new();
    let job = world.submit("tune").get();
    let (driver, fleet, scratch) = world.start();
    let follow = true;
    let all = wire::EventsRequest { follow, ..wire::EventsRequest::default() };
    let mut history = events(&fleet, all).await.expect("a stream");
    let request = wire::LogsRequest { job, follow, ..wire::LogsRequest::default() };
    let mut printed = logs(&fleet, scratch.path(), request).await.expect("a stream");
    let request = wire::SeriesRequest { job, follow };
    let mut points = series(&fleet, scratch.path(), request).await.expect("a stream");
    assert!(matches!(history.next().await, Some(Ok(_))));
    assert!(matches!(points.next().await, Some(Ok(_))));
    driver.stop().await.expect("it ends well");
    let last = history.filter_map(Result::err).collect::<Vec<_>>().await;
    assert_eq!(last.iter().map(Status::code).collect::<Vec<_>>(), [tonic::Code::Unavailable]);
    for end in [printed.next().await.map(|end| end.err()), points.next().await.map(|p| p.err())] {
        let code = end.flatten().map(|status| status.code());
        assert_eq!(code, Some(tonic::Code::Unavailable));
    }
}

#[tokio::test]
async fn events_of_a_node_are_found_by_host_name_and_what_is_unknown_is_refused() {
    let mut world = World::new();
    let job = world.submit("tune");
    let (first, _) = (world.join("n-1", "gpu-1"), world.join("n-2", "gpu-2"));
    world.drain(&first);
    let (driver, fleet, _scratch) = world.start();
    let seen = kinds(&fleet, about(None, "gpu-1")).await;
    assert!(seen.len() >= 2 && seen.iter().all(|(_, node)| node == "n-1"), "{seen:?}");
    assert_eq!(kinds(&fleet, about(None, "n-1")).await, seen);
    let seen = kinds(&fleet, about(Some(job), "")).await;
    assert_eq!(seen.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(), ["job_submitted"]);
    for unknown in [about(None, "gpu-l"), about(Some(JobId::new(999)), "")] {
        let refused = events(&fleet, unknown).await.map(|_| ()).expect_err("it is unknown");
        assert_eq!(refused.reason, Reason::NotFound);
    }
    driver.stop().await.expect("it ends well");
}

#[tokio::test]
async fn a_cancel_is_asked_for_before_it_is_done() {
    let mut world = World::new();
    let job = world.submit("tune");
    world.cancel(job);
    let (driver, fleet, _scratch) = world.start();
    let seen = kinds(&fleet, about(Some(job), "")).await;
    let seen: Vec<_> = seen.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(seen, ["job_submitted", "job_cancel_requested", "job_cancelled"]);
    driver.stop().await.expect("it ends well");
}

/// A job that runs on a node which has sent a sample.
async fn running() -> (Driver, Handle, tempfile::TempDir, JobId, NodeId) {
    let mut world = World::new();
    let node = world.join("n-1", "gpu-1");
    world.offers(&node, 1 << 40);
    let job = world.submit("tune");
    let (driver, fleet, scratch) = world.start();
    // After what it starts with.
    fleet.read(|_| ()).await.expect("it runs");
    fleet.keep_sample(node.clone(), wire::NodeSample { wall_ns: 5, ..Default::default() });
    (driver, fleet, scratch, job, node)
}

#[tokio::test]
async fn a_watcher_is_woken_by_its_own_job_alone_and_gets_a_sample_once() {
    use wire::series_update::Update;
    let (driver, fleet, scratch, job, node) = running().await;
    let changes = fleet.changes_of(job);
    fleet.tell(Input::Tick).await.expect("it is told");
    drain(&fleet, &node, false).await;
    assert_eq!(changes.has_changed().ok(), Some(false), "somebody else's turn");
    let request = wire::SeriesRequest { job: job.get(), follow: true };
    let updates = series(&fleet, scratch.path(), request).await.expect("a stream");
    let mut updates = updates.filter_map(|update| update.ok()?.update);
    assert!(matches!(updates.next().await, Some(Update::Job(job)) if job.state == "running"));
    assert!(matches!(updates.next().await, Some(Update::Hardware(_))));
    drain(&fleet, &node, true).await;
    assert_eq!(changes.has_changed().ok(), Some(true));
    assert!(matches!(updates.next().await, Some(Update::Job(job)) if job.state == "stopping"));
    driver.stop().await.expect("it ends well");
    assert_eq!(updates.next().await, None, "the same sample came again");
}

async fn drain(fleet: &Handle, node: &NodeId, stop_jobs: bool) {
    change(fleet, &format!("drain-{stop_jobs}"), Command::Drain { node: node.clone(), stop_jobs })
        .await;
}

pub(super) async fn revoke(fleet: &Handle, node: &NodeId) {
    change(fleet, "revoke", Command::RevokeNode(node.clone())).await;
}

async fn change(fleet: &Handle, request: &str, command: Command) {
    let command = Box::new(command);
    let caller =
        Caller { user: "ada".parse().expect("a name"), role: hone_proto::identity::Role::Admin };
    let request = request.parse().expect("an id");
    let done = fleet.call(move |ticket| Input::Request { ticket, caller, request, command });
    done.await.expect("it is admitted");
}
