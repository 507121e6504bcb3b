//! Downloads: verified, resumed, and visible only when whole.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::Ordering;

use hone_proto::bulk::{BulkError, CHUNK, Silent};
use hone_proto::error::Reason;
use hone_proto::manifest::Kind;

use super::world::World;
use super::*;
use crate::api::bulk::Limits;

#[tokio::test]
async fn what_was_uploaded_comes_back_byte_for_byte() {
    let world = World::new();
    let client = world.ada();
    let digest = uploaded_tree(&world, &client).await;
    let dest = world.dir.path().join("back");
    world.chunks.gets.store(0, Ordering::SeqCst);
    let manifest = client.download(digest, &dest, &Silent).await.unwrap();
    assert_eq!(manifest.digest(), digest);
    assert_eq!(contents(&dest), contents(&world.dir.path().join("tree")));
    assert!(!world.dir.path().join("back.partial").exists());
    // The manifest once for each of the two calls, and equal chunks once.
    assert_eq!(world.chunks.gets.load(Ordering::SeqCst), TREE_CHUNKS + 2);
    let again = client.download(digest, &dest, &Silent).await;
    assert!(matches!(again, Err(BulkError::Exists(_))), "{again:?}");
}

#[tokio::test]
async fn a_download_that_is_cut_off_goes_on_at_the_chunk() {
    let world = World::new();
    let root = world.dir.path().join("tree");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("weights"), noise(1, 12 * CHUNK)).unwrap();
    let (manifest, source) = survey(&root, Kind::Input);
    world.ada().upload(&manifest, &source, &Silent).await.unwrap();
    let chunk = i64::try_from(CHUNK).unwrap();
    world.connections.store(0, Ordering::SeqCst);
    *world.budgets.lock().unwrap() = vec![4 * chunk, 4 * chunk];
    let dest = world.dir.path().join("back");
    world.ada().download(manifest.digest(), &dest, &Silent).await.unwrap();
    assert_eq!(world.connections.load(Ordering::SeqCst), 3);
    assert_eq!(contents(&dest), contents(&root));
}

#[tokio::test]
async fn what_an_earlier_try_left_is_used_as_far_as_it_verifies() {
    let world = World::new();
    let client = world.ada();
    let digest = uploaded_tree(&world, &client).await;
    let tree = world.dir.path().join("tree");
    let partial = world.dir.path().join("back.partial");
    let left = partial.join(digest.to_string());
    fs::create_dir_all(left.join("deep")).unwrap();
    fs::create_dir_all(partial.join("another")).unwrap();
    // The first chunk is there, the second is damaged, and the file is too long.
    let mut weights = fs::read(tree.join("weights")).unwrap();
    weights[CHUNK + 1] ^= 1;
    weights.extend_from_slice(b"more");
    fs::write(left.join("weights"), weights).unwrap();
    fs::write(left.join("deep/same"), noise(2, 100)).unwrap();
    world.chunks.gets.store(0, Ordering::SeqCst);
    let dest = world.dir.path().join("back");
    client.download(digest, &dest, &Silent).await.unwrap();
    assert_eq!(contents(&dest), contents(&tree));
    // Fetched: both chunks of `copy`, of which the second is the damaged one; `small`, `run.sh`; and the manifest twice.
    assert_eq!(world.chunks.gets.load(Ordering::SeqCst), 4 + 2);
}

#[tokio::test]
async fn damage_at_rest_reaches_nobody() {
    let world = World::new();
    let client = world.ada();
    let digest = uploaded_tree(&world, &client).await;
    let chunk = Digest::of(&noise(1, CHUNK)).to_string();
    let (shard, rest) = chunk.split_at(2);
    let stored = world.dir.path().join("chunks/a").join(shard).join(rest);
    let mut bytes = fs::read(&stored).unwrap();
    bytes[7] ^= 1;
    fs::write(&stored, bytes).unwrap();
    let dest = world.dir.path().join("back");
    let damaged = client.download(digest, &dest, &Silent).await;
    let Err(BulkError::Refused(refusal)) = damaged else { panic!("{damaged:?}") };
    assert_eq!(refusal.reason, Reason::Corrupt);
    assert!(!dest.exists());
    // It is set aside, so whoever still has it sends it again, and then all is well.
    uploaded_tree(&world, &client).await;
    client.download(digest, &dest, &Silent).await.unwrap();
}

#[tokio::test]
async fn a_planted_link_is_not_followed() {
    let world = World::new();
    let client = world.ada();
    let digest = uploaded_tree(&world, &client).await;
    let outside = world.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    for planted in ["weights", "deep"] {
        let left = world.dir.path().join("back.partial").join(digest.to_string());
        fs::create_dir_all(&left).unwrap();
        symlink(&outside, left.join(planted)).unwrap();
        let dest = world.dir.path().join("back");
        let refused = client.download(digest, &dest, &Silent).await;
        assert!(matches!(refused, Err(BulkError::Write { .. })), "{planted}: {refused:?}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        fs::remove_dir_all(world.dir.path().join("back.partial")).unwrap();
    }
}

#[tokio::test]
async fn a_file_whose_digest_is_a_lie_is_not_delivered() {
    let world = World::new();
    let client = world.ada();
    let root = world.dir.path().join("tree");
    write_tree(&root);
    let (honest, source) = survey(&root, Kind::Input);
    let mut files = honest.manifest().files.clone();
    let weights = files.iter_mut().find(|file| file.path.as_str() == "weights").unwrap();
    weights.digest = Digest::of(b"something else");
    let lie = seal(Kind::Input, files);
    let digest = client.upload(&lie, &source, &Silent).await.unwrap();
    let dest = world.dir.path().join("back");
    let refused = client.download(digest, &dest, &Silent).await;
    assert!(
        matches!(&refused, Err(BulkError::Corrupt { what, .. }) if what == "weights"),
        "{refused:?}"
    );
    assert!(!dest.exists());
}

#[tokio::test]
async fn a_node_reads_what_its_assignment_names_and_nothing_else() {
    let world = World::new();
    let digest = uploaded_tree(&world, &world.ada()).await;
    let node = world.node();
    let dest = world.dir.path().join("staged");
    let refused = node.download(digest, &dest, &Silent).await;
    let Err(BulkError::Refused(refusal)) = refused else { panic!("{refused:?}") };
    assert_eq!(refusal.reason, Reason::NotFound);
    world.fleet.0.lock().unwrap().assigned.insert((attempt(), digest));
    node.download(digest, &dest, &Silent).await.unwrap();
    assert_eq!(contents(&dest), contents(&world.dir.path().join("tree")));
}

#[tokio::test]
async fn memory_for_one_chunk_is_enough_for_everybody() {
    let world = World::with_limits(Limits { chunks_in_memory: 1, ..Limits::default() });
    let (one, two) = (world.ada(), world.ada());
    let digest = uploaded_tree(&world, &one).await;
    let (here, there) = (world.dir.path().join("here"), world.dir.path().join("there"));
    let root = world.dir.path().join("save");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("weights"), noise(5, 6 * CHUNK)).unwrap();
    let (manifest, source) = survey(&root, Kind::Input);
    let all = tokio::try_join!(
        one.download(digest, &here, &Silent),
        two.download(digest, &there, &Silent),
        async { two.upload(&manifest, &source, &Silent).await }
    );
    all.unwrap();
    assert_eq!(contents(&here), contents(&there));
}
