//! Whoever is revoked is gone at once: what they have open ends, on every port, and nothing new begins.

use std::time::Duration;

use hone_proto::bulk::CHUNK;
use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{AttemptId, Digest};
use hone_proto::identity::{Credentials, certificate_refused};
use hone_proto::wire;
use hone_tests::agent::Agent;
use hone_tests::jobs::submit;
use hone_tests::reach::{Reach, fresh_id};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{controller, soon, why};

/// How often a download asks for one chunk: far more than any window holds.
const MANY: usize = 64;

/// Reads on until the stream ends, and says why.
async fn end_of<T>(mut stream: Streaming<T>) -> Result<(), Status> {
    while stream.message().await?.is_some() {}
    Ok(())
}

async fn revoke(reach: &Reach, machine: &Credentials) {
    let node = machine.certificate().id.peer.to_string().replace("node/", "");
    let mut admin = reach.operator(&reach.admin).expect("a client");
    let request = wire::RevokeNodeRequest { request_id: fresh_id(), node };
    admin.revoke_node(request).await.expect("the node is revoked");
}

fn scope(attempt: AttemptId) -> Option<wire::Scope> {
    Some(wire::Scope { scope: Some(wire::scope::Scope::Attempt(attempt.into())) })
}

#[tokio::test]
async fn revocation_ends_open_streams_at_once() {
    let controller = controller().await;
    let bob = controller.reach.enrolled_user("bob", "viewer").await.expect("bob");
    let mut client = controller.reach.operator(&bob).expect("a client");
    let request = wire::EventsRequest { follow: true, ..Default::default() };
    let mut stream = client.events(request).await.expect("a stream").into_inner();
    soon("a first event", stream.message()).await.expect("the stream is open");
    let machine = controller.reach.enrolled_node().await.expect("a node");
    let Agent { say, mut link, .. } =
        Agent::attach(&controller.reach, &machine).await.expect("a link");

    let mut admin = controller.reach.operator(&controller.reach.admin).expect("a client");
    let began = std::time::Instant::now();
    let request = wire::RevokeOperatorRequest { request_id: fresh_id(), user: "bob".to_owned() };
    admin.revoke_operator(request).await.expect("bob is revoked");
    let ended = soon("bob's stream", end_of(stream)).await.expect_err("it ended well");
    assert_eq!(Refusal::from(&ended).reason, Reason::Revoked, "{ended:?}");

    revoke(&controller.reach, &machine).await;
    let ended = soon("the link", async {
        loop {
            match link.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the link ended well"),
                Err(status) => return status,
            }
        }
    });
    assert_eq!(Refusal::from(&ended.await).reason, Reason::Revoked);
    // What the agent still sends goes nowhere: its half of the stream is closed too.
    soon("the agent's half", say.closed()).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    soon("the refusal of another call", async {
        // Refused on the old connection, or cut off with it.
        while why(client.who_am_i(wire::WhoAmIRequest {}).await).reason != Reason::Revoked {}
    })
    .await;
}

#[tokio::test]
async fn a_revoked_nodes_bulk_data_stops_in_the_middle() {
    let controller = controller().await;
    let reach = &controller.reach;
    let machine = reach.enrolled_node().await.expect("a node");
    let mut agent = Agent::attach(reach, &machine).await.expect("a link");
    let taken = submit(reach, "tune", &vec![7; CHUNK]).await.expect("the job is taken");
    let attempt = agent.assigned().await.expect("it is placed");
    let mut client = reach.bulk(&machine).expect("a client");

    // Half a chunk is on its way in.
    let (frames, sent) = mpsc::channel(1);
    let half = wire::UploadFrame {
        scope: scope(attempt),
        digest: Digest::of(b"whole").as_bytes().to_vec(),
        chunk_size: 1 << 20,
        data: vec![1; 1 << 19].into(),
    };
    frames.send(half).await.expect("a frame");
    let uploading = client.upload(ReceiverStream::new(sent));
    let uploading = soon("an upload", uploading).await.expect("an upload").into_inner();

    // And one chunk, many times, on its way out; nobody reads it yet.
    let [file] = taken.model.manifest().files.as_slice() else { panic!("one file") };
    let request = wire::DownloadRequest {
        scope: scope(attempt),
        digests: vec![file.chunks[0].as_bytes().to_vec(); MANY],
        manifest: taken.model.digest().as_bytes().to_vec(),
    };
    let downloading = soon("a download", client.download(request)).await;
    let mut downloading = downloading.expect("a download").into_inner();
    soon("a frame", downloading.message()).await.expect("the stream is open").expect("a frame");

    revoke(reach, &machine).await;
    for (what, ended) in [
        ("the upload", soon("the upload", end_of(uploading)).await),
        ("the download", soon("the download", end_of(downloading)).await),
    ] {
        let status = ended.expect_err(what);
        assert_eq!(Refusal::from(&status).reason, Reason::Revoked, "{what}: {status:?}");
    }
    soon("the node's half of the upload", frames.closed()).await;

    // Neither the connection that it had nor a new one is of any more use.
    let missing = || wire::MissingRequest { scope: scope(attempt), digests: Vec::new() };
    soon("the refusal", async {
        // Refused on the old connection, or cut off with it.
        while why(client.missing(missing()).await).reason != Reason::Revoked {}
    })
    .await;
    let mut fresh = reach.bulk(&machine).expect("a client");
    let status = soon("a new connection", fresh.missing(missing())).await.expect_err("let in");
    assert!(certificate_refused(&status).is_some(), "{status:?}");
}
