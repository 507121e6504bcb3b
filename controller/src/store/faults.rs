//! What happens to the durable store: killed writers, damaged and missing files, full disks, second openers.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Batch, Origin, Present, Record, SledStore, Store, StoreError, verify_export};

fn put(store: &mut SledStore, key: &str, value: &[u8]) {
    let mut batch = Batch::new();
    batch.put(key, value);
    store.commit(&batch).unwrap();
}

fn filled(data: &Path, records: u32) -> SledStore {
    let mut store = SledStore::open(data).unwrap();
    let mut batch = Batch::new();
    for n in 0..records {
        batch.put(format!("record/{n:04}"), vec![7; 300]);
    }
    store.commit(&batch).unwrap();
    store
}

fn generation(data: &Path) -> PathBuf {
    let current = fs::read_to_string(data.join("state/CURRENT")).unwrap();
    data.join("state").join(current.trim())
}

#[test]
fn a_fresh_store_says_so_and_an_existing_one_too() {
    let data = tempfile::tempdir().unwrap();
    let store = SledStore::open(&data.path().join("deep/below")).unwrap();
    assert_eq!(store.origin(), Origin::Created);
    drop(store);
    let store = SledStore::open(&data.path().join("deep/below")).unwrap();
    assert_eq!(store.origin(), Origin::Existing);
}

#[test]
fn a_second_opener_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let _first = SledStore::open(data.path()).unwrap();
    assert!(matches!(SledStore::open(data.path()), Err(StoreError::InUse { .. })));
}

#[test]
fn nothing_starts_empty_where_there_was_state() {
    let data = tempfile::tempdir().unwrap();
    drop(filled(data.path(), 3));
    let log = generation(data.path()).join("db");
    let kept = fs::read(&log).unwrap();

    fs::remove_file(&log).unwrap();
    assert!(matches!(SledStore::open(data.path()), Err(StoreError::Damaged { .. })));
    fs::write(&log, b"").unwrap();
    assert!(SledStore::open(data.path()).is_err(), "an empty log was opened");
    fs::write(&log, &kept).unwrap();
    assert_eq!(SledStore::open(data.path()).unwrap().stats().records, 3);

    fs::remove_dir_all(data.path().join("state")).unwrap();
    assert!(matches!(SledStore::open(data.path()), Err(StoreError::StateMissing { .. })));
}

#[test]
fn a_crash_in_the_middle_of_creation_leaves_nothing_in_the_way() {
    let data = tempfile::tempdir().unwrap();
    drop(SledStore::open(data.path()).unwrap());
    fs::remove_file(data.path().join("instance")).unwrap();
    fs::remove_file(data.path().join("state/CURRENT")).unwrap();
    assert_eq!(SledStore::open(data.path()).unwrap().origin(), Origin::Created);
}

#[test]
fn a_snapshot_that_a_crash_left_half_written_does_not_matter() {
    let data = tempfile::tempdir().unwrap();
    drop(filled(data.path(), 100));
    for name in ["snap.FFFFFFFFFFFFFFF0.generating", "snap.FFFFFFFFFFFFFFF1"] {
        fs::write(generation(data.path()).join(name), b"").unwrap();
        assert_eq!(SledStore::open(data.path()).unwrap().stats().records, 100, "{name}");
    }
}

#[test]
fn every_damage_of_the_log_is_noticed_or_harmless() {
    let data = tempfile::tempdir().unwrap();
    drop(filled(data.path(), 400));
    let dir = generation(data.path());
    let kept = copy_of(&dir);
    let whole = SledStore::open(data.path()).unwrap().scan(b"").unwrap();
    let len = kept.iter().find(|(name, _)| name == "db").unwrap().1.len();
    let mut refused = 0;
    for at in (0..len).step_by(len / 24) {
        put_back(&dir, &kept);
        remove_snapshots(&dir);
        let mut log = fs::read(dir.join("db")).unwrap();
        log[at] ^= 0x20;
        fs::write(dir.join("db"), log).unwrap();
        match SledStore::open(data.path()) {
            Ok(store) => assert!(store.scan(b"").unwrap() == whole, "silent loss by byte {at}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "no flipped byte was noticed: the test flips the wrong ones");
}

fn copy_of(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

fn put_back(dir: &Path, kept: &[(String, Vec<u8>)]) {
    for (name, bytes) in kept {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

fn remove_snapshots(dir: &Path) {
    for (name, _) in copy_of(dir) {
        if name.starts_with("snap.") {
            fs::remove_file(dir.join(name)).unwrap();
        }
    }
}

#[test]
fn a_full_disk_refuses_the_commit_and_the_store_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let mut store = SledStore::open(data.path()).unwrap();
    put(&mut store, "a", b"1");
    let floor = std::mem::replace(&mut store.floor, u64::MAX / 2);
    let mut batch = Batch::new();
    batch.put("b", "2");
    assert!(matches!(store.commit(&batch), Err(StoreError::DiskFull { .. })));
    assert!(!data.path().join("reserve").exists(), "the reserve was not given back");
    assert_eq!(store.scan(b"").unwrap().len(), 1);
    store.floor = floor;
    store.commit(&batch).unwrap();
    assert_eq!(store.scan(b"").unwrap().len(), 2);
}

#[test]
fn an_export_restores_everything_and_is_marked_until_the_first_commit() {
    let data = tempfile::tempdir().unwrap();
    let export = data.path().join("state.export");
    let store = filled(data.path(), 500);
    let summary = store.export(&export).unwrap();
    assert_eq!((summary.records, summary.seq), (500, 1));
    let records = store.scan(b"").unwrap();
    drop(store);

    let other = tempfile::tempdir().unwrap();
    assert_eq!(SledStore::import(other.path(), &export, Present::Refuse).unwrap(), summary);
    drop(SledStore::open(other.path()).unwrap());
    let mut restored = SledStore::open(other.path()).unwrap();
    assert_eq!(restored.origin(), Origin::Restored, "the mark did not outlive an open");
    assert_eq!(restored.scan(b"").unwrap(), records);
    put(&mut restored, "generation", b"2");
    drop(restored);
    assert_eq!(SledStore::open(other.path()).unwrap().origin(), Origin::Existing);
}

#[test]
fn a_restore_over_state_must_be_asked_for_and_keeps_the_old_files() {
    let data = tempfile::tempdir().unwrap();
    let export = data.path().join("state.export");
    let mut store = filled(data.path(), 5);
    store.export(&export).unwrap();
    put(&mut store, "later", b"1");
    drop(store);
    let refused = SledStore::import(data.path(), &export, Present::Refuse);
    assert!(matches!(refused, Err(StoreError::AlreadyExists { .. })));
    let old = generation(data.path());
    SledStore::import(data.path(), &export, Present::SetAside).unwrap();
    assert_eq!(SledStore::open(data.path()).unwrap().stats().records, 5);
    assert!(old.join("db").is_file(), "the replaced state is gone");
}

#[test]
fn a_bent_or_cut_export_restores_nothing() {
    let data = tempfile::tempdir().unwrap();
    let export = data.path().join("state.export");
    filled(data.path(), 4).export(&export).unwrap();
    let whole = fs::read(&export).unwrap();
    let empty = tempfile::tempdir().unwrap();
    for at in (0..whole.len()).step_by(13).chain(whole.len() - 40..whole.len()) {
        let mut bent = whole.clone();
        bent[at] ^= 0x10;
        fs::write(&export, &bent).unwrap();
        assert!(verify_export(&export).is_err(), "byte {at} was not noticed");
        fs::write(&export, &whole[..at]).unwrap();
        assert!(verify_export(&export).is_err(), "a cut at {at} was not noticed");
    }
    assert!(SledStore::import(empty.path(), &export, Present::Refuse).is_err());
    assert_eq!(SledStore::open(empty.path()).unwrap().origin(), Origin::Created);
}

#[test]
fn version_1_of_the_export_is_read_for_ever() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/fixtures/v1.export");
    let data = tempfile::tempdir().unwrap();
    SledStore::import(data.path(), &fixture, Present::Refuse).unwrap();
    let records = SledStore::open(data.path()).unwrap().scan(b"").unwrap();
    let expected: Vec<_> = fixture_records().into_iter().collect();
    assert_eq!(records, expected);
}

fn fixture_records() -> Vec<Record> {
    vec![(b"job/1".to_vec(), b"quickstart".to_vec()), (b"job/2".to_vec(), vec![2; 9_000])]
}

#[test]
fn compaction_shrinks_the_log_and_removes_the_old_generation() {
    let data = tempfile::tempdir().unwrap();
    let mut store = filled(data.path(), 10);
    for round in 0..40_u8 {
        put(&mut store, "record/0000", &vec![round; 60_000]);
    }
    let (before, old) = (store.stats(), generation(data.path()));
    store.compact().unwrap();
    assert!(store.stats().log_bytes < before.log_bytes);
    assert_eq!(store.stats().records, before.records);
    assert_eq!(store.stats().unsynced_files, 0);
    assert!(!old.exists());
    put(&mut store, "after", b"1");
    drop(store);
    assert_eq!(SledStore::open(data.path()).unwrap().stats().records, 11);
}

/// Set for the child of the kill test: where it commits.
const CHILD: &str = "HONE_TEST_STORE_CHILD";
const KILL_TEST: &str = "store::faults::nothing_acknowledged_is_lost_by_kill_9";
/// Records of each batch, all of one number: a batch that is there in part is seen.
const WIDTH: usize = 4;

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    if let Some(data) = std::env::var_os(CHILD) {
        commit_for_ever(Path::new(&data));
    }
    let data = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 1..=6_u64 {
        acknowledged = acknowledged.max(run_and_kill(data.path(), round * 7));
        let store = SledStore::open(data.path()).unwrap();
        let records = store.scan(b"n/").unwrap();
        assert_eq!(records.len(), WIDTH);
        let found: Vec<u64> = records.iter().map(|(_, value)| number(value)).collect();
        assert!(found.iter().all(|n| *n == found[0]), "a batch is there in part: {found:?}");
        assert!(found[0] >= acknowledged, "{acknowledged} was acknowledged, {} is here", found[0]);
    }
}

fn number(value: &[u8]) -> u64 {
    u64::from_le_bytes(*value.first_chunk().unwrap())
}

/// Starts a writer, kills it after it acknowledged `count` more commits, and returns the last number acknowledged.
fn run_and_kill(data: &Path, count: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", KILL_TEST, "--nocapture", "--test-threads=1"])
        .env(CHILD, data)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut seen, mut last) = (0, 0);
    for line in lines.map_while(Result::ok) {
        if let Some(n) = line.strip_prefix("ack ") {
            (seen, last) = (seen + 1, n.parse().unwrap());
        }
        if seen == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= count, "the writer ended by itself after {seen} commits");
    last
}

fn commit_for_ever(data: &Path) -> ! {
    let mut store = SledStore::open(data).unwrap();
    let mut n = store.scan(b"n/").unwrap().first().map_or(0, |(_, value)| number(value));
    let mut out = std::io::stdout();
    loop {
        n += 1;
        let mut batch = Batch::new();
        for i in 0..WIDTH {
            let mut value = n.to_le_bytes().to_vec();
            value.resize(if i == 0 { 9_000 } else { 40 }, 1);
            batch.put(format!("n/{i}"), value);
        }
        store.commit(&batch).unwrap();
        writeln!(out, "ack {n}").unwrap();
        out.flush().unwrap();
    }
}
