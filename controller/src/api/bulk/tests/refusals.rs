//! What is stale, foreign, false, too much or too slow is refused, says why, and changes nothing.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes as Buf;
use hone_proto::bulk::{BulkError, CHUNK, DIGESTS, FRAME, Scope, Silent, frames};
use hone_proto::error::{Reason, Refusal};
use hone_proto::manifest::Kind;
use hone_proto::wire;
use hone_proto::wire::bulk_client::BulkClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::Channel;

use super::world::{PEER, World, attempt, project, user};
use super::*;
use crate::api::bulk::{Chunks as _, Limits};

fn reason<T: std::fmt::Debug>(outcome: Result<T, tonic::Status>) -> Reason {
    Refusal::from(&outcome.unwrap_err()).reason
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, BulkError>) -> Reason {
    let Err(BulkError::Refused(refusal)) = outcome else { panic!("{outcome:?}") };
    refusal.reason
}

/// A request as `ada`, who may be lying about everything else.
fn ada<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(PEER, "user/ada".parse().unwrap());
    request
}

fn in_project(name: &str) -> Option<wire::Scope> {
    Some(wire::Scope::from(&Scope::Project(project(name))))
}

/// A client without any of the client's care. `ada` is a member of project `a`.
fn raw(world: &World) -> BulkClient<Channel> {
    world.ada();
    BulkClient::new(world.channel())
}

async fn upload(
    rpc: &mut BulkClient<Channel>,
    sent: Vec<wire::UploadFrame>,
) -> Result<Vec<Digest>, tonic::Status> {
    let mut acks = rpc.upload(ada(tokio_stream::iter(sent))).await?.into_inner();
    let mut stored = Vec::new();
    while let Some(ack) = acks.message().await? {
        stored.push(Digest::try_from(ack.digest.as_slice()).unwrap());
    }
    Ok(stored)
}

fn scoped(digest: Digest, chunk: Vec<u8>) -> Vec<wire::UploadFrame> {
    let mut sent: Vec<wire::UploadFrame> =
        frames(digest, Buf::from(chunk)).map(Into::into).collect();
    sent[0].scope = in_project("a");
    sent
}

#[tokio::test]
async fn a_chunk_that_is_not_what_it_says_leaves_nothing() {
    let world = World::new();
    let mut rpc = raw(&world);
    let named = Digest::of(b"named");
    let outcome = upload(&mut rpc, scoped(named, noise(1, FRAME + 1))).await;
    assert_eq!(reason(outcome), Reason::Corrupt);
    assert_eq!(world.chunks.missing(&project("a"), &[named]).unwrap(), [named]);
    let other = Digest::of(&noise(1, FRAME + 1));
    assert_eq!(world.chunks.missing(&project("a"), &[other]).unwrap(), [other]);
}

#[tokio::test]
async fn malformed_uploads_are_refused() {
    let world = World::new();
    let mut rpc = raw(&world);
    let chunk = noise(1, FRAME + 10);
    let good = scoped(Digest::of(&chunk), chunk.clone());
    let mut twice_scoped = good.clone();
    twice_scoped[1].scope = in_project("a");
    let mut unscoped = good.clone();
    unscoped[0].scope = None;
    let mut long = good.clone();
    long[1].data = Buf::from(vec![0; 11]);
    let cases = [
        ("no frames", vec![]),
        ("no scope", unscoped),
        ("scope twice", twice_scoped),
        ("ends in a chunk", good[..1].to_vec()),
        (
            "a head in a chunk",
            vec![good[0].clone(), scoped(Digest::of(b"x"), b"x".into())[0].clone()],
        ),
        ("too much data", long),
    ];
    for (what, sent) in cases {
        let outcome = upload(&mut rpc, sent).await;
        assert_eq!(reason(outcome), Reason::BadRequest, "{what}");
    }
    assert_eq!(world.chunks.sent(), 0);
    assert_eq!(upload(&mut rpc, good).await.unwrap(), [Digest::of(&chunk)]);
}

#[tokio::test]
async fn a_stale_attempt_is_refused_at_every_door() {
    let world = World::new();
    let node = world.node();
    let root = world.dir.path().join("save");
    write_tree_at(&root);
    let (manifest, source) = survey(&root, checkpoint(1));
    world.fleet.0.lock().unwrap().stale_at_commit.insert(attempt());
    assert_eq!(refused(node.upload(&manifest, &source, &Silent).await), Reason::StaleAttempt);
    assert_eq!(world.chunks.sent(), TREE_CHUNKS + 1, "the fleet refused, at the commit");
    world.fleet.0.lock().unwrap().stale.insert(attempt());
    assert_eq!(refused(node.upload(&manifest, &source, &Silent).await), Reason::StaleAttempt);
    assert_eq!(refused(node.manifest(manifest.digest()).await), Reason::StaleAttempt);
    assert_eq!(world.committed(), 0);
}

fn write_tree_at(root: &Path) {
    fs::create_dir(root).unwrap();
    write_tree(root);
}

#[tokio::test]
async fn a_stream_whose_scope_is_taken_away_ends() {
    let world = World::with_limits(Limits { recheck: Duration::ZERO, ..Limits::default() });
    let mut rpc = raw(&world);
    let (sending, receiving) = mpsc::channel(1);
    sending.send(scoped(Digest::of(b"one"), b"one".to_vec()).remove(0)).await.unwrap();
    let mut acks = rpc.upload(ada(ReceiverStream::new(receiving))).await.unwrap().into_inner();
    assert!(acks.message().await.unwrap().is_some());
    world.fleet.0.lock().unwrap().members.clear();
    let mut second = scoped(Digest::of(b"two"), b"two".to_vec());
    second[0].scope = None;
    sending.send(second[0].clone()).await.unwrap();
    assert_eq!(reason(acks.message().await), Reason::NotFound);
    assert_eq!(world.chunks.sent(), 1);
}

#[tokio::test]
async fn what_is_absent_and_what_is_foreign_look_the_same() {
    let world = World::new();
    let digest = uploaded_tree(&world, &world.ada()).await;
    world.fleet.0.lock().unwrap().members.insert((user("eve"), project("b")));
    let eve = world.client("user/eve", Scope::Project(project("b")));
    let absent = Digest::of(b"nowhere");
    let one = refusal(eve.manifest(digest).await);
    let other = refusal(eve.manifest(absent).await);
    assert_eq!((one.reason, one.message), (other.reason, other.message));
    // In another's project, she learns neither that it exists nor what is in it.
    let eve_in_a = world.client("user/eve", Scope::Project(project("a")));
    let eve_nowhere = world.client("user/eve", Scope::Project(project("nowhere")));
    let one = refusal(eve_in_a.manifest(digest).await);
    let other = refusal(eve_nowhere.manifest(digest).await);
    assert_eq!((one.reason, one.message), (other.reason, other.message));
    // What she stores herself is sent, although project `a` has it.
    let (manifest, source) = survey_of(&world, "b");
    let sent = world.chunks.sent();
    eve.upload(&manifest, &source, &Silent).await.unwrap();
    assert_eq!(world.chunks.sent() - sent, TREE_CHUNKS + 1);
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, BulkError>) -> Refusal {
    outcome.unwrap_err().refusal().unwrap().clone()
}

fn survey_of(world: &World, of: &str) -> (Sealed, Arc<Source>) {
    let source = Source::open(&world.dir.path().join("tree"), Trust::Owner).unwrap();
    let files = source.survey(|_| true, |_| ()).unwrap();
    let manifest =
        Manifest { kind: Kind::Input, project: project(of), spec: None, base_model: None, files };
    (manifest.seal().unwrap(), Arc::new(source))
}

#[tokio::test]
async fn chunks_come_only_through_a_manifest_that_names_them() {
    let world = World::new();
    let digest = uploaded_tree(&world, &world.ada()).await;
    let mut rpc = raw(&world);
    let stray = noise(8, 10);
    let foreign = Digest::of(&stray);
    upload(&mut rpc, scoped(foreign, stray)).await.unwrap();
    let ask = |digests: Vec<Digest>, manifest: Digest| wire::DownloadRequest {
        scope: in_project("a"),
        digests: digests.iter().map(|digest| digest.as_bytes().to_vec()).collect(),
        manifest: manifest.as_bytes().to_vec(),
    };
    let named = Digest::of(&noise(2, 100));
    let mut good = rpc.download(ada(ask(vec![named], digest))).await.unwrap().into_inner();
    assert_eq!(good.message().await.unwrap().unwrap().data, noise(2, 100));
    for (digests, manifest) in [(vec![foreign], digest), (vec![named], foreign)] {
        let outcome = rpc.download(ada(ask(digests, manifest))).await.map(|_| ());
        assert_eq!(reason(outcome), Reason::NotFound);
    }
    let many = rpc.download(ada(ask(vec![named; DIGESTS + 1], digest))).await.map(|_| ());
    assert_eq!(reason(many), Reason::BadRequest);
}

#[tokio::test]
async fn hostile_manifests_change_nothing() {
    let world = World::new();
    world.node();
    let mut rpc = raw(&world);
    let chunk = noise(1, 100);
    upload(&mut rpc, scoped(Digest::of(&chunk), chunk.clone())).await.unwrap();
    let sent = world.chunks.sent();
    let file = |size: u64, digest: Digest| ManifestFile {
        path: "weights".parse().unwrap(),
        size: hone_proto::quantity::Bytes::new(size),
        digest,
        executable: false,
        chunks: vec![digest],
    };
    let whole = file(100, Digest::of(&chunk));
    let bytes = |kind, file| seal(kind, vec![file]).bytes().to_vec();
    let mut escaping = bytes(Kind::Input, whole.clone());
    let at = escaping.windows(7).position(|window| window == b"weights").unwrap();
    escaping[at..at + 7].copy_from_slice(b"../../x");
    let foreign = Manifest {
        kind: Kind::Input,
        project: project("b"),
        spec: None,
        base_model: None,
        files: vec![whole.clone()],
    };
    let cases = [
        ("garbage", vec![0xff; 100], Reason::BadRequest),
        ("nothing", vec![], Reason::BadRequest),
        ("a path out", escaping, Reason::BadRequest),
        ("another project", foreign.seal().unwrap().bytes().to_vec(), Reason::BadRequest),
        ("an attempt's", bytes(checkpoint(1), whole.clone()), Reason::BadRequest),
        (
            "a length that is a lie",
            bytes(Kind::Input, file(99, Digest::of(&chunk))),
            Reason::BadRequest,
        ),
        (
            "a chunk never sent",
            bytes(Kind::Input, file(7, Digest::of(b"never"))),
            Reason::MissingChunks,
        ),
    ];
    for (what, manifest, expected) in cases {
        let message =
            wire::CommitRequest { scope: in_project("a"), manifest, request_id: "r1".into() };
        let outcome = rpc.commit(ada(message)).await;
        assert_eq!(reason(outcome), expected, "{what}");
    }
    let message = wire::CommitRequest {
        scope: in_project("a"),
        manifest: bytes(Kind::Input, whole),
        request_id: "../r".into(),
    };
    assert_eq!(reason(rpc.commit(ada(message)).await), Reason::BadRequest);
    assert_eq!(world.chunks.sent(), sent, "no manifest was stored");
    assert_eq!(world.committed(), 0);
}

#[tokio::test]
async fn an_attempt_commits_nothing_but_its_own() {
    let world = World::new();
    let node = world.node();
    let root = world.dir.path().join("save");
    write_tree_at(&root);
    let mut other = attempt();
    other.token.attempt = hone_proto::id::Attempt::new(2);
    let foreign = Kind::Package { attempt: other, step: None };
    for kind in [Kind::Input, foreign] {
        let (manifest, source) = survey(&root, kind);
        let outcome = node.upload(&manifest, &source, &Silent).await;
        assert_eq!(refused(outcome), Reason::BadRequest, "{kind:?}");
    }
    let (manifest, source) = survey(&root, Kind::Package { attempt: attempt(), step: None });
    node.upload(&manifest, &source, &Silent).await.unwrap();
    assert_eq!(world.committed(), 1);
}

#[tokio::test]
async fn nobody_gets_nothing() {
    let world = World::new();
    let mut rpc = raw(&world);
    let message = wire::MissingRequest { scope: in_project("a"), digests: vec![] };
    let outcome = rpc.missing(Request::new(message)).await.map(|_| ());
    assert_eq!(reason(outcome), Reason::Unauthenticated);
    let message = wire::MissingRequest { scope: None, digests: vec![] };
    assert_eq!(reason(rpc.missing(ada(message)).await.map(|_| ())), Reason::BadRequest);
    let message = wire::MissingRequest { scope: in_project("a"), digests: vec![vec![0; 31]] };
    assert_eq!(reason(rpc.missing(ada(message)).await.map(|_| ())), Reason::BadRequest);
}

/// An upload that has sent half a chunk and then nothing more, and what it hears.
async fn half_a_chunk(
    rpc: &mut BulkClient<Channel>,
    seed: u64,
) -> (mpsc::Sender<wire::UploadFrame>, tonic::Streaming<wire::ChunkStored>) {
    let chunk = noise(seed, FRAME + 1);
    let (sending, receiving) = mpsc::channel(1);
    sending.send(scoped(Digest::of(&chunk), chunk).remove(0)).await.unwrap();
    let acks = rpc.upload(ada(ReceiverStream::new(receiving))).await.unwrap();
    (sending, acks.into_inner())
}

#[tokio::test]
async fn a_peer_has_so_many_streams_and_no_more() {
    let world = World::new();
    let mut rpc = raw(&world);
    let mut held = Vec::new();
    for seed in 0..4 {
        held.push(half_a_chunk(&mut rpc, seed).await);
    }
    let small = noise(9, 10);
    let fifth = upload(&mut rpc, scoped(Digest::of(&small), small.clone())).await;
    assert_eq!(reason(fifth), Reason::Overloaded);
    let (sending, mut acks) = held.remove(0);
    drop(sending);
    assert_eq!(reason(acks.message().await), Reason::BadRequest, "it ends in a chunk");
    upload(&mut rpc, scoped(Digest::of(&small), small)).await.unwrap();
}

#[tokio::test]
async fn a_silent_stream_ends() {
    let limits = Limits { stall: Duration::from_millis(50), ..Limits::default() };
    let world = World::with_limits(limits);
    let mut rpc = raw(&world);
    let (_sending, mut acks) = half_a_chunk(&mut rpc, 1).await;
    assert_eq!(reason(acks.message().await), Reason::Unavailable);
    assert_eq!(world.chunks.sent(), 0);
}

#[tokio::test]
async fn a_chunk_that_trickles_ends_although_it_moves() {
    let limits = Limits { chunk: Duration::from_millis(100), ..Limits::default() };
    let world = World::with_limits(limits);
    let mut rpc = raw(&world);
    let chunk = noise(1, CHUNK);
    let (sending, receiving) = mpsc::channel(1);
    let trickle = tokio::spawn(async move {
        let mut first = scoped(Digest::of(&chunk), chunk.clone()).remove(0);
        first.data = Buf::copy_from_slice(&chunk[..1]);
        let mut frame = first;
        while sending.send(frame).await.is_ok() {
            let data = Buf::from_static(b"x");
            frame = wire::UploadFrame { scope: None, digest: vec![], chunk_size: 0, data };
        }
    });
    let mut acks = rpc.upload(ada(ReceiverStream::new(receiving))).await.unwrap().into_inner();
    assert_eq!(reason(acks.message().await), Reason::Unavailable);
    trickle.await.unwrap();
    assert_eq!(world.chunks.full.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_message_over_the_bound_is_not_decoded() {
    let world = World::new();
    let mut rpc = raw(&world);
    let data = Buf::from(vec![0; hone_proto::bulk::MESSAGE]);
    let mut sent = scoped(Digest::of(b"x"), b"x".to_vec());
    sent[0].data = data;
    let outcome = upload(&mut rpc, sent).await;
    assert_eq!(outcome.unwrap_err().code(), tonic::Code::OutOfRange);
    assert_eq!(world.chunks.sent(), 0);
}
