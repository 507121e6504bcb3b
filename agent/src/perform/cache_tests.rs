//! What goes and what stays when a cache is too full, and when something that is staged needs room.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

struct Bench {
    _state: tempfile::TempDir,
    cache: InputCache,
    layout: Layout,
}

/// Of each input.
const SIZE: u64 = 100_000;

impl Bench {
    /// Inputs `a` to `e`, the oldest first, in a cache that keeps so much of them.
    fn new(max: u64) -> Self {
        let state = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(state.path().to_owned());
        let cache = InputCache::new(layout.clone(), Bytes::new(max), Bytes::ZERO);
        let bench = Self { _state: state, cache, layout };
        for (name, age) in ["a", "b", "c", "d", "e"].into_iter().zip([50, 40, 30, 20, 10]) {
            bench.put(&bench.path(name), age);
        }
        bench
    }

    fn put(&self, path: &Path, age: u64) {
        fs::create_dir_all(path).expect("made");
        let size = usize::try_from(SIZE).expect("a size");
        fs::write(path.join("weights"), vec![1; size]).expect("written");
        let when = SystemTime::now() - Duration::from_secs(age);
        fs::File::open(path).expect("opened").set_modified(when).expect("aged");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.layout.cached(&ProjectName::default_project(), Digest::of(name.as_bytes()))
    }

    fn used(&self, names: &[&str]) -> InUse {
        let paths: BTreeSet<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        Arc::new(move |path| paths.contains(path))
    }

    fn there(&self) -> String {
        ["a", "b", "c", "d", "e"].into_iter().filter(|name| self.path(name).exists()).collect()
    }

    /// Makes room on a disk that holds nothing but the cache and `free` bytes.
    fn make_room(&self, free: u64, need: u64, in_use: &InUse) -> Bytes {
        let total = own_disk(&self.layout.cache()).get() + free;
        let free = || total - own_disk(&self.layout.cache()).get();
        self.cache.free_up(in_use, |_| free() >= need)
    }
}

#[test]
fn the_least_recently_used_go_first_and_what_is_used_stays() {
    let bench = Bench::new(250_000);
    bench.cache.evict(&bench.used(&["a"]));
    assert_eq!(bench.there(), "ade");
    bench.cache.evict(&bench.used(&["a"]));
    assert_eq!(bench.there(), "ade", "nothing to do");
}

#[test]
fn what_is_staged_gets_the_room_of_what_nobody_uses_and_no_more_goes_than_must() {
    let bench = Bench::new(u64::MAX);
    assert_eq!(bench.make_room(SIZE, SIZE, &bench.used(&[])), Bytes::ZERO);
    assert_eq!(bench.there(), "abcde", "there is room");
    let freed = bench.make_room(SIZE, SIZE * 5 / 2, &bench.used(&["a", "c"]));
    assert_eq!(bench.there(), "ace");
    assert!(freed.get() >= 2 * SIZE, "{freed}");
    // More than there can be: everything that may go is gone, and nothing else.
    bench.make_room(0, SIZE * 100, &bench.used(&["a", "c"]));
    assert_eq!(bench.there(), "ac");
}

#[test]
fn what_is_being_staged_stays_whole_or_in_part() {
    let bench = Bench::new(u64::MAX);
    let lock = bench.cache.lock(&bench.path("a"));
    let fetching = lock.try_lock().expect("nobody else");
    // A download that waits for a link, for an attempt that is held; and one that nobody wants any more.
    let partial = |name| bench.path(name).with_extension(PARTIAL);
    bench.put(&partial("f"), 60);
    bench.put(&partial("g"), 60);
    bench.make_room(0, u64::MAX, &bench.used(&["e", "f"]));
    assert_eq!(bench.there(), "ae");
    assert!(partial("f").exists() && !partial("g").exists());
    drop(fetching);
    bench.make_room(0, u64::MAX, &bench.used(&["e"]));
    assert_eq!(bench.there(), "e");
    assert_eq!(entries(&bench.layout.cache().join("default")).len(), 1, "leftovers");
}

#[test]
fn an_input_that_becomes_wanted_meanwhile_stays() {
    let bench = Bench::new(u64::MAX);
    // Nobody when the unused are listed; an attempt that is told of while the first of them goes.
    let first = bench.path("a");
    let wanted = bench.path("b");
    let in_use: InUse = Arc::new(move |path| path == wanted && !first.exists());
    bench.make_room(0, u64::MAX, &in_use);
    assert_eq!(bench.there(), "b");
}

#[test]
fn what_nobody_uses_goes_before_the_disk_has_less_free_than_it_must() {
    let bench = Bench::new(u64::MAX);
    bench.cache.free_until(&bench.used(&["a"]), Bytes::ZERO);
    assert_eq!(bench.there(), "abcde", "there is enough");
    // No disk has so much free.
    bench.cache.free_until(&bench.used(&["a"]), Bytes::new(u64::MAX));
    assert_eq!(bench.there(), "a");
}
