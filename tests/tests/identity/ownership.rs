//! A node speaks for its own attempts only. Another node's attempt in a message is refused, and changes nothing.

use hone_proto::error::Reason;
use hone_proto::id::AttemptId;
use hone_proto::wire;
use hone_proto::wire::bulk_client::BulkClient;
use hone_tests::agent::Agent;
use hone_tests::jobs::{placed, submit};
use hone_tests::reach::fresh_id;
use tonic::transport::Channel;

use super::{controller, soon, why};

async fn bulk_refusals(
    mut client: BulkClient<Channel>,
    attempt: AttemptId,
) -> Vec<(&'static str, Reason)> {
    let scope = || {
        let scope = wire::scope::Scope::Attempt(attempt.into());
        Some(wire::Scope { scope: Some(scope) })
    };
    let digest = vec![7; 32];
    let missing = wire::MissingRequest { scope: scope(), digests: vec![digest.clone()] };
    let missing = why(client.missing(missing).await).reason;
    let frame = wire::UploadFrame {
        scope: scope(),
        digest: hone_proto::id::Digest::of(b"x").as_bytes().to_vec(),
        chunk_size: 1,
        data: bytes::Bytes::from_static(b"x"),
    };
    let upload = match client.upload(tokio_stream::once(frame)).await {
        Ok(answers) => why(answers.into_inner().message().await).reason,
        Err(status) => why::<()>(Err(status)).reason,
    };
    let commit = wire::CommitRequest { scope: scope(), manifest: vec![1], request_id: fresh_id() };
    let commit = why(client.commit(commit).await).reason;
    let get = wire::GetManifestRequest { scope: scope(), digest };
    let get = why(client.get_manifest(get).await).reason;
    vec![("missing", missing), ("upload", upload), ("commit", commit), ("get", get)]
}

#[tokio::test]
async fn another_nodes_attempt_in_a_message_is_refused_and_changes_nothing() {
    let controller = controller().await;
    let reach = &controller.reach;
    let mut agents = Vec::new();
    for _ in 0..2 {
        let node = reach.enrolled_node().await.expect("a node");
        agents.push((Agent::attach(reach, &node).await.expect("a link"), node));
    }
    let job = submit(reach, "tune", b"weights").await.expect("the job is taken").job;
    let (attempt, holder) = placed(reach, job).await.expect("it is placed");
    agents.retain(|(_, node)| node.certificate().id.peer.to_string() != format!("node/{holder}"));
    let (mut thief, credentials) = agents.pop().expect("the other node");

    let bulk = reach.bulk(&credentials).expect("a client");
    for (call, reason) in bulk_refusals(bulk, attempt).await {
        assert_eq!(reason, Reason::NotOwner, "{call}");
    }

    let outcome = wire::AttemptOutcome {
        attempt: Some(attempt.into()),
        kind: wire::OutcomeKind::Failed.into(),
        cause: "stolen".to_owned(),
        ..Default::default()
    };
    let stolen = vec![wire::event::Payload::Outcome(outcome)];
    let stream = wire::EventStream::State;
    thief.report(stream, 1, stolen).await.expect("it is sent");
    // It is taken off the thief's spool all the same.
    thief.acknowledged(stream, 1).await.expect("an acknowledgement");
    let still = placed(reach, job).await.expect("the job");
    assert_eq!(still, (attempt, holder), "the report counted");
    let mut admin = reach.operator(&reach.admin).expect("a client");
    let events = admin.events(wire::EventsRequest::default()).await.expect("events");
    let mut events = events.into_inner();
    let mut kinds = Vec::new();
    while let Some(event) = soon("events", events.message()).await.expect("an event") {
        kinds.push(event.kind);
    }
    assert!(kinds.iter().any(|kind| kind == "foreign_report"), "{kinds:?}");
}
