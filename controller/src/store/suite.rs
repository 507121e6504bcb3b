//! What every store must do: one suite, run on sled and on the twin, and a model that both are compared with.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::{
    Batch, MAX_BATCH, MAX_KEY, MAX_RECORD, MemoryStore, Record, SledStore, Store, StoreError, Write,
};

fn both(test: impl Fn(&mut dyn Store)) {
    test(&mut MemoryStore::new());
    let data = tempfile::tempdir().unwrap();
    test(&mut SledStore::open(data.path()).unwrap());
}

fn batch(writes: &[(&str, Option<&[u8]>)]) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in writes {
        match value {
            Some(value) => batch.put(*key, *value),
            None => batch.delete(*key),
        }
    }
    batch
}

fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    let found = store.scan(prefix.as_bytes()).unwrap();
    found.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

#[test]
fn a_scan_returns_the_prefix_in_order_and_nothing_else() {
    both(|store| {
        let all = ["job/2", "job/1", "job", "jobs/1", "jo", "job/10", "k"];
        let writes: Vec<_> = all.iter().map(|key| (*key, Some(key.as_bytes()))).collect();
        store.commit(&batch(&writes)).unwrap();
        assert_eq!(keys(store, "job/"), ["job/1", "job/10", "job/2"]);
        assert_eq!(keys(store, ""), ["jo", "job", "job/1", "job/10", "job/2", "jobs/1", "k"]);
        assert_eq!(keys(store, "x"), [""; 0]);
    });
}

#[test]
fn of_several_changes_of_one_key_the_last_counts() {
    both(|store| {
        store.commit(&batch(&[("a", Some(b"1")), ("b", Some(b"1"))])).unwrap();
        store
            .commit(&batch(&[("a", None), ("a", Some(b"2")), ("b", Some(b"3")), ("b", None)]))
            .unwrap();
        assert_eq!(store.scan(b"").unwrap(), [(b"a".to_vec(), b"2".to_vec())]);
    });
}

#[test]
fn deleting_what_is_not_there_and_committing_nothing_are_no_errors() {
    both(|store| {
        store.commit(&batch(&[("a", None)])).unwrap();
        store.commit(&Batch::new()).unwrap();
        assert_eq!(store.scan(b"").unwrap(), []);
    });
}

#[test]
fn records_up_to_the_bound_are_kept_and_shrinking_one_leaves_no_rest() {
    both(|store| {
        for len in [MAX_RECORD, 3_989, 3_990, 20_000, 0, 8_000] {
            let value = vec![u8::try_from(len % 256).unwrap(); len];
            store.commit(&batch(&[("big", Some(&value)), ("big\0", Some(b"near"))])).unwrap();
            let expected = [(b"big".to_vec(), value), (b"big\0".to_vec(), b"near".to_vec())];
            assert_eq!(store.scan(b"big").unwrap(), expected);
        }
    });
}

#[test]
fn what_is_out_of_bounds_is_refused_whole_and_the_store_goes_on() {
    both(|store| {
        let long = "k".repeat(MAX_KEY + 1);
        let big = vec![0; MAX_RECORD + 1];
        let full = vec![0; MAX_RECORD];
        let many: Vec<_> = (0..=MAX_BATCH / MAX_RECORD).map(|_| ("a", Some(&full[..]))).collect();
        let good = ("good", Some(&b"1"[..]));
        let error = store.commit(&batch(&[good, (&long, Some(b""))])).unwrap_err();
        assert!(matches!(error, StoreError::BadKey { len } if len == MAX_KEY + 1));
        assert!(matches!(
            store.commit(&batch(&[good, ("", None)])),
            Err(StoreError::BadKey { len: 0 })
        ));
        let error = store.commit(&batch(&[good, ("a", Some(&big))])).unwrap_err();
        assert!(matches!(error, StoreError::RecordTooLarge { .. }));
        assert!(matches!(store.commit(&batch(&many)), Err(StoreError::BatchTooLarge { .. })));
        assert_eq!(store.scan(b"").unwrap(), []);
        store.commit(&batch(&[good])).unwrap();
        assert_eq!(keys(store, ""), ["good"]);
    });
}

/// A step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Write>),
    Reopen,
    Compact,
    Restore,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(b'r'), Just(255)], 1..4),
        1 => prop::collection::vec(any::<u8>(), 1..MAX_KEY),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![8 => 0_usize..64, 1 => 3_980_usize..4_010, 1 => 0..=MAX_RECORD];
    (len, any::<u8>()).prop_map(|(len, fill)| vec![fill; len])
}

fn step() -> impl Strategy<Value = Step> {
    let write = prop_oneof![
        3 => (key(), value()).prop_map(|(key, value)| Write::Put(key, value)),
        1 => key().prop_map(Write::Delete),
    ];
    prop_oneof![
        10 => prop::collection::vec(write, 0..12).prop_map(Step::Commit),
        1 => Just(Step::Reopen),
        1 => Just(Step::Compact),
        1 => Just(Step::Restore),
    ]
}

fn apply(model: &mut BTreeMap<Vec<u8>, Vec<u8>>, writes: &[Write]) {
    for write in writes {
        match write {
            Write::Put(key, value) => model.insert(key.clone(), value.clone()),
            Write::Delete(key) => model.remove(key),
        };
    }
}

fn restore(store: SledStore, data: &Path) -> SledStore {
    let export = data.join("export");
    store.export(&export).unwrap();
    drop(store);
    SledStore::import(data, &export, super::Present::SetAside).unwrap();
    SledStore::open(data).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_equal_a_plain_map_after_any_history(steps in prop::collection::vec(step(), 1..24)) {
        let data = tempfile::tempdir().unwrap();
        let mut durable = SledStore::open(data.path()).unwrap();
        let mut twin = MemoryStore::new();
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Commit(writes) => {
                    apply(&mut model, &writes);
                    let batch = Batch::from(writes);
                    durable.commit(&batch).unwrap();
                    twin.commit(&batch).unwrap();
                }
                Step::Reopen => {
                    drop(durable);
                    durable = SledStore::open(data.path()).unwrap();
                }
                Step::Compact => durable.compact().unwrap(),
                Step::Restore => durable = restore(durable, data.path()),
            }
            prop_assert_eq!(durable.stats().records, model.len() as u64);
        }
        let expected: Vec<Record> = model.clone().into_iter().collect();
        prop_assert_eq!(&durable.scan(b"").unwrap(), &expected);
        prop_assert_eq!(&twin.scan(b"").unwrap(), &expected);
        let under: Vec<Record> = model.into_iter().filter(|(k, _)| k.starts_with(&[0])).collect();
        prop_assert_eq!(&durable.scan(&[0]).unwrap(), &under);
        prop_assert_eq!(&twin.scan(&[0]).unwrap(), &under);
    }
}
