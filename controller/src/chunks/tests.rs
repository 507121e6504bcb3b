//! Objects stored, damaged, crowded out and raced for.

use std::sync::Barrier;

use super::*;

fn project(name: &str) -> ProjectName {
    name.parse().unwrap()
}

fn open(root: &Path) -> ChunkStore {
    ChunkStore::open(root, Bytes::ZERO).unwrap()
}

/// Every file under the root, in the folders of objects and of temporary files.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found
}

#[test]
fn an_object_comes_back_and_storing_it_again_does_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (store, a) = (open(root.path()), project("a"));
    for content in [&b""[..], b"x", &[7; 5_000_000]] {
        let digest = Digest::of(content);
        assert_eq!(store.missing(&a, &[digest]).unwrap(), [digest]);
        assert_eq!(store.put(&a, digest, content).unwrap(), Stored::New);
        assert_eq!(store.put(&a, digest, content).unwrap(), Stored::Already);
        assert_eq!(store.get(&a, digest).unwrap(), content);
        assert_eq!(store.missing(&a, &[digest]).unwrap(), []);
        assert_eq!(store.len(&a, digest).unwrap(), Some(content.len() as u64));
    }
    assert_eq!(store.list(&a).unwrap().len(), 3);
    drop(store);
    assert_eq!(open(root.path()).get(&a, Digest::of(b"x")).unwrap(), b"x");
}

#[test]
fn bytes_under_a_wrong_name_or_too_many_leave_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let (store, a) = (open(root.path()), project("a"));
    let wrong = store.put(&a, Digest::of(b"one"), b"two");
    assert!(matches!(wrong, Err(ChunkError::WrongDigest { .. })));
    let large = vec![0; MAX_OBJECT + 1];
    let refused = store.put(&a, Digest::of(&large), &large);
    assert!(matches!(refused, Err(ChunkError::TooLarge { .. })));
    assert_eq!(files(root.path()), Vec::<PathBuf>::new());
}

#[test]
fn another_project_cannot_tell_what_this_one_has() {
    let root = tempfile::tempdir().unwrap();
    let (store, a, b) = (open(root.path()), project("a"), project("b"));
    let digest = Digest::of(b"secret");
    store.put(&a, digest, b"secret").unwrap();
    assert_eq!(store.missing(&b, &[digest]).unwrap(), [digest]);
    assert!(matches!(store.get(&b, digest), Err(ChunkError::NotFound { .. })));
    assert_eq!(store.put(&b, digest, b"secret").unwrap(), Stored::New);
    assert!(store.remove(&a, digest).unwrap());
    assert!(!store.remove(&a, digest).unwrap());
    assert_eq!(store.get(&b, digest).unwrap(), b"secret");
    assert_eq!(store.list(&a).unwrap(), []);
}

#[test]
fn an_object_damaged_on_disk_is_set_aside_and_can_be_sent_again() {
    let root = tempfile::tempdir().unwrap();
    let (store, a) = (open(root.path()), project("a"));
    let (content, digest) = (b"content", Digest::of(b"content"));
    for damage in [&b"contenT"[..], b"conten", b"", b"content and more"] {
        store.put(&a, digest, content).unwrap();
        fs::write(store.places.object(&a, digest), damage).unwrap();
        let Err(ChunkError::Corrupt { quarantine, .. }) = store.get(&a, digest) else {
            panic!("damage was not noticed: {damage:?}");
        };
        assert_eq!(fs::read(quarantine).unwrap(), damage);
        assert_eq!(store.missing(&a, &[digest]).unwrap(), [digest]);
    }
    assert_eq!(store.put(&a, digest, content).unwrap(), Stored::New);
    fs::write(store.places.object(&a, digest), b"bent").unwrap();
    assert_eq!(store.put(&a, digest, content).unwrap(), Stored::New, "not repaired");
    assert_eq!(store.get(&a, digest).unwrap(), content);
}

#[test]
fn chunks_of_another_length_do_not_fit_a_manifest() {
    let root = tempfile::tempdir().unwrap();
    let (store, a) = (open(root.path()), project("a"));
    let digest = Digest::of(b"four");
    store.put(&a, digest, b"four").unwrap();
    let chunk = |len| Chunk { digest, offset: 0, len };
    assert_eq!(store.unfit(&a, [chunk(4)]).unwrap(), []);
    assert_eq!(store.unfit(&a, [chunk(4), chunk(5)]).unwrap(), [digest]);
}

#[test]
fn a_start_removes_what_was_being_written_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let (store, a) = (open(root.path()), project("a"));
    store.put(&a, Digest::of(b"kept"), b"kept").unwrap();
    fs::write(store.places.temp(0), b"half").unwrap();
    fs::write(store.places.temp(77), b"half").unwrap();
    let store = open(root.path());
    assert_eq!(store.places.temps().unwrap(), Vec::<PathBuf>::new());
    assert_eq!(store.put(&a, Digest::of(b"new"), b"new").unwrap(), Stored::New);
    assert_eq!(store.list(&a).unwrap().len(), 2);
}

#[test]
fn the_room_kept_free_is_not_filled_and_reads_and_removals_go_on() {
    let root = tempfile::tempdir().unwrap();
    let a = project("a");
    let digest = Digest::of(b"here");
    open(root.path()).put(&a, digest, b"here").unwrap();
    let full = ChunkStore::open(root.path(), Bytes::new(u64::MAX)).unwrap();
    let refused = full.put(&a, Digest::of(b"more"), b"more");
    assert!(matches!(refused, Err(ChunkError::DiskFull { .. })));
    assert_eq!(full.put(&a, digest, b"here").unwrap(), Stored::Already);
    assert_eq!(full.get(&a, digest).unwrap(), b"here");
    assert!(full.remove(&a, digest).unwrap());
}

#[test]
fn after_a_failed_sync_nothing_more_is_promised() {
    let root = tempfile::tempdir().unwrap();
    let (store, a) = (open(root.path()), project("a"));
    store.sync_failed(root.path(), io::Error::other("EIO"));
    assert!(matches!(store.put(&a, Digest::of(b"x"), b"x"), Err(ChunkError::Poisoned)));
    assert_eq!(store.missing(&a, &[Digest::of(b"x")]).unwrap().len(), 1);
}

#[test]
fn many_writers_of_the_same_and_of_different_objects_do_not_disturb_each_other() {
    let root = tempfile::tempdir().unwrap();
    let (store, a) = (open(root.path()), project("a"));
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for writer in 0..8_u8 {
            let (store, a, start) = (&store, &a, &start);
            scope.spawn(move || {
                start.wait();
                for n in 0..8_u8 {
                    for content in [vec![n; 10_000], vec![writer, n]] {
                        store.put(a, Digest::of(&content), &content).unwrap();
                    }
                }
            });
        }
    });
    let listed = store.list(&a).unwrap();
    assert_eq!(listed.len(), 8 + 64);
    assert!(listed.into_iter().all(|digest| store.get(&a, digest).is_ok()));
    assert_eq!(store.places.temps().unwrap(), Vec::<PathBuf>::new());
}
