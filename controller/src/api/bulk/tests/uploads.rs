//! Uploads: only what is missing, again after a break, and never more than what was there when it was surveyed.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hone_proto::bulk::{BulkError, CHUNK, IMAGE_FILE, Retry, Scope, Silent};
use hone_proto::error::Reason;
use hone_proto::manifest::Kind;
use hone_proto::quantity::Bytes;
use tonic::transport::Endpoint;

use super::world::{World, project};
use super::*;

#[tokio::test]
async fn only_what_is_missing_is_sent_and_a_second_upload_sends_nothing() {
    let world = World::new();
    let client = world.ada();
    let root = world.dir.path().join("tree");
    write_tree(&root);
    let (manifest, source) = survey(&root, Kind::Input);
    let reports = Mutex::new(Vec::new());
    let progress = |done: Bytes, total: Option<Bytes>| {
        reports.lock().unwrap().push((done, total));
    };
    let digest = client.upload(&manifest, &source, &progress).await.unwrap();
    assert_eq!(digest, manifest.digest());
    assert_eq!(world.chunks.sent(), TREE_CHUNKS + 1, "each chunk and the manifest, once");
    let reports = reports.into_inner().unwrap();
    let total = manifest.manifest().total_size();
    assert!(reports.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{reports:?}");
    assert_eq!(reports.first().unwrap(), &(Bytes::ZERO, Some(total)));
    assert_eq!(reports.last().unwrap(), &(total, Some(total)));

    fs::write(root.join("deep/new"), noise(3, 10)).unwrap();
    let (more, source) = survey(&root, Kind::Input);
    client.upload(&more, &source, &Silent).await.unwrap();
    assert_eq!(world.chunks.sent(), TREE_CHUNKS + 3, "the new chunk and the new manifest");
    assert_eq!(world.committed(), 2);
}

#[tokio::test]
async fn an_upload_that_is_cut_off_goes_on_at_the_chunk() {
    let world = World::new();
    let client = world.node();
    let root = world.dir.path().join("save");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("weights"), noise(1, 12 * CHUNK)).unwrap();
    let (manifest, source) = survey(&root, checkpoint(1));
    // Popped from the end: the first connection carries five chunks, the second three, the third is whole.
    let chunk = i64::try_from(CHUNK).unwrap();
    *world.budgets.lock().unwrap() = vec![3 * chunk, 5 * chunk];
    let reports = Mutex::new(Vec::new());
    let progress = |done: Bytes, _: Option<Bytes>| reports.lock().unwrap().push(done.get());
    client.upload(&manifest, &source, &progress).await.unwrap();
    assert_eq!(world.connections.load(Ordering::SeqCst), 3);
    let each: Vec<_> = (0..=12).map(|n| n * CHUNK as u64).collect();
    assert_eq!(reports.into_inner().unwrap(), each, "each chunk is reported once");
    let puts = world.chunks.puts.lock().unwrap().clone();
    assert_eq!(puts.len(), 13, "all chunks and the manifest");
    // What a break caught between the wire and the disk comes again, and that is at most what one stream puts at once.
    let again: usize = puts.values().map(|count| count - 1).sum();
    assert!(again <= 2 * 4, "{again} chunks were sent again");
    assert!(puts.values().all(|count| *count <= 3));
    assert_eq!(world.committed(), 1);
}

#[tokio::test]
async fn chunks_that_a_dead_client_left_are_not_sent_again() {
    let world = World::new();
    let root = world.dir.path().join("save");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("weights"), noise(1, 8 * CHUNK)).unwrap();
    let (manifest, source) = survey(&root, checkpoint(1));
    let stored = Mutex::new(Bytes::ZERO);
    let half = Bytes::new(4 * CHUNK as u64);
    let client = world.node();
    let seen = |done: Bytes, _: Option<Bytes>| *stored.lock().unwrap() = done;
    {
        let mut upload = std::pin::pin!(client.upload(&manifest, &source, &seen));
        // The client dies once half of it is acknowledged.
        std::future::poll_fn(|cx| match upload.as_mut().poll(cx) {
            _ if *stored.lock().unwrap() >= half => std::task::Poll::Ready(()),
            std::task::Poll::Ready(outcome) => panic!("ended early: {outcome:?}"),
            std::task::Poll::Pending => std::task::Poll::Pending,
        })
        .await;
    }
    let acked = *stored.lock().unwrap();
    world.node().upload(&manifest, &source, &Silent).await.unwrap();
    let puts = world.chunks.puts.lock().unwrap().clone();
    let acked_chunks = usize::try_from(acked.get()).unwrap() / CHUNK;
    let once = puts.values().filter(|count| **count == 1).count();
    assert!(once > acked_chunks, "{puts:?}: what was acknowledged was sent once");
    assert_eq!(world.committed(), 1);
}

#[tokio::test]
async fn a_file_that_changes_after_the_survey_is_never_committed() {
    let world = World::new();
    let client = world.ada();
    let root = world.dir.path().join("tree");
    write_tree(&root);
    let (manifest, source) = survey(&root, Kind::Input);
    fs::write(root.join("weights"), noise(9, 3 * CHUNK + 5)).unwrap();
    let changed = client.upload(&manifest, &source, &Silent).await;
    assert!(
        matches!(&changed, Err(BulkError::SourceChanged { path }) if path == "weights"),
        "{changed:?}"
    );
    fs::write(root.join("weights"), noise(1, CHUNK)).unwrap();
    let shorter = client.upload(&manifest, &source, &Silent).await;
    assert!(matches!(shorter, Err(BulkError::SourceChanged { .. })), "{shorter:?}");
    assert_eq!(world.committed(), 0);
}

#[tokio::test]
async fn two_who_upload_the_same_chunks_at_once_both_succeed() {
    let world = World::new();
    let (one, two) = (world.ada(), world.ada());
    let root = world.dir.path().join("tree");
    write_tree(&root);
    let (manifest, source) = survey(&root, Kind::Input);
    let both = tokio::join!(
        one.upload(&manifest, &source, &Silent),
        two.upload(&manifest, &source, &Silent)
    );
    assert_eq!((both.0.unwrap(), both.1.unwrap()), (manifest.digest(), manifest.digest()));
    assert_eq!(world.committed(), 1);
    // One may have committed what the other had stored and not synced yet.
    let settled: Vec<_> = world.chunks.settled.lock().unwrap().iter().copied().collect();
    assert_eq!(settled, manifest.manifest().unique_chunks());
}

#[tokio::test]
async fn a_stream_is_stored_in_one_pass_and_reads_back() {
    let world = World::new();
    let client = world.ada();
    for len in [0, 1, CHUNK, 9 * CHUNK, 20 * CHUNK + 7] {
        let mut image = noise(4, len);
        // Two chunks alike, one of them in the next window.
        if len > 10 * CHUNK {
            image.copy_within(0..CHUNK, 10 * CHUNK);
        }
        let chunk = i64::try_from(CHUNK).unwrap();
        *world.budgets.lock().unwrap() = vec![6 * chunk];
        let fresh = world.ada();
        let digest = fresh.upload_image(project("a"), &image[..], &Silent).await.unwrap();
        let manifest = client.manifest(digest).await.unwrap();
        assert_eq!(manifest.manifest().kind, Kind::Image);
        assert_eq!(manifest.manifest().files[0].path.as_str(), IMAGE_FILE);
        let mut stream = client.download_stream(&manifest).unwrap();
        let mut back = Vec::new();
        while let Some(chunk) = tokio_stream::StreamExt::next(&mut stream).await {
            back.extend_from_slice(&chunk.unwrap());
        }
        assert!(back == image, "{len} bytes came back otherwise");
    }
}

#[tokio::test]
async fn committing_again_answers_the_same() {
    let world = World::new();
    let client = world.ada();
    let digest = uploaded_tree(&world, &client).await;
    assert_eq!(uploaded_tree(&world, &client).await, digest);
    let commits = world.fleet.0.lock().unwrap().commits.clone();
    assert_eq!(commits.len(), 2);
    assert_ne!(commits[0].0, commits[1].0, "two uploads are two requests");
    assert_eq!(world.committed(), 1);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_repeated_under_the_same_request() {
    let world = World::new();
    let client = world.ada();
    world.fleet.0.lock().unwrap().lose_answers = 2;
    uploaded_tree(&world, &client).await;
    let commits = world.fleet.0.lock().unwrap().commits.clone();
    assert_eq!(commits.len(), 3);
    assert!(commits.iter().all(|commit| *commit == commits[0]), "{commits:?}");
}

#[tokio::test]
async fn patience_ends_and_says_how_often_it_was_tried() {
    let nobody = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    let retry = Retry::tries(3).with_pauses(Duration::from_millis(1), Duration::from_millis(1));
    let client = Client::new(nobody, Scope::Project(project("a")), retry);
    let gone = client.manifest(Digest::of(b"x")).await;
    let Err(BulkError::GaveUp { tries: 3, last }) = gone else { panic!("{gone:?}") };
    assert_eq!(last.reason, Reason::Unavailable);
}

#[tokio::test]
async fn a_full_disk_is_said_at_once() {
    let world = World::new();
    let client = world.ada();
    world.chunks.full.store(usize::MAX, Ordering::SeqCst);
    let root = world.dir.path().join("tree");
    write_tree(&root);
    let (manifest, source) = survey(&root, Kind::Input);
    let full = client.upload(&manifest, &source, &Silent).await;
    let Err(BulkError::Refused(refusal)) = full else { panic!("{full:?}") };
    assert_eq!(refusal.reason, Reason::OutOfSpace);
    world.chunks.full.store(0, Ordering::SeqCst);
    client.upload(&manifest, &source, &Silent).await.unwrap();
}
