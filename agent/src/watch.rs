//! Reads what trainers leave: metrics, log lines, checkpoints, and in the end their last word. One thread for all
//! attempts of the node. A position is only moved on together with the events that it stands for, by the driver.

mod attempt;
mod events;
mod last_word;
mod passes;
mod printed;
mod told;
mod tool;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hone_proto::id::AttemptId;
use hone_proto::quantity::Bytes;

use self::attempt::Reader;
use crate::adapters::push::Pushes;
use crate::core::Input;
use crate::core::input::Written;
use crate::driver::{Gone, Handle};
use crate::host::HostRoots;
use crate::layout::Layout;
use crate::observe::Space;
use crate::observe::cgroup::Process;
use crate::observe::usage::usage;

/// How often files are looked at: a step's figures are on the screen within a second.
const EVERY: Duration = Duration::from_millis(500);

/// Looks between two measurements of what attempts have written. A disk that fills at 500 MB/s gets 5 GB further.
const DISK_EVERY: u32 = 20;

/// What the engine knows of a container that readers need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// Its log file.
    pub log: PathBuf,
    /// The process id of its init while it runs.
    pub pid: Option<u32>,
    /// Its exit code once it has ended.
    pub exit: Option<i64>,
}

/// What is remembered of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    log: PathBuf,
    init: Option<Process>,
    exit: Option<i64>,
}

#[derive(Debug, Default)]
struct Wanted {
    containers: BTreeMap<AttemptId, Known>,
    drain: BTreeSet<AttemptId>,
    /// Being removed; until they are gone from what the agent holds.
    forget: BTreeSet<AttemptId>,
    /// The engine has told once which containers there are.
    listed: bool,
}

/// Tells the thread what to read.
#[derive(Clone)]
pub struct Watcher {
    wanted: Arc<Mutex<Wanted>>,
}

impl Watcher {
    /// Starts the thread. It ends with the driver. `make_room` is called before the disk is measured.
    pub fn start(
        layout: Layout,
        driver: Handle,
        pushes: Pushes,
        make_room: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        let watcher = Self { wanted: Arc::default() };
        let wanted = Arc::clone(&watcher.wanted);
        std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(move || watch(&layout, &driver, &pushes, &wanted, &make_room))?;
        Ok(watcher)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Wanted) -> T) -> T {
        change(&mut self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All containers that there are, and the attempts that are held: of others nothing is remembered. Before the first
    /// list an ended container may have a log that nobody knows of.
    pub fn listed(&self, containers: Vec<(AttemptId, Traces)>, held: &[AttemptId]) {
        self.with(|wanted| wanted.remember(containers, held));
    }

    /// Read everything that the ended container left, and tell the driver.
    pub fn drain(&self, attempt: AttemptId) {
        self.with(|wanted| wanted.drain.insert(attempt));
    }

    /// The attempt is being removed: touch its files no more.
    pub fn forget(&self, attempt: AttemptId) {
        self.with(|wanted| {
            wanted.containers.remove(&attempt);
            wanted.drain.remove(&attempt);
            wanted.forget.insert(attempt);
        });
    }

    /// The first process of an attempt's container, while it runs.
    #[must_use]
    pub fn init_of(&self, attempt: AttemptId) -> Option<Process> {
        self.with(|wanted| wanted.containers.get(&attempt).and_then(|known| known.init))
    }

    /// Init processes of running containers, for the sampler.
    #[must_use]
    pub fn running(&self) -> Vec<(AttemptId, Process)> {
        self.with(|wanted| {
            wanted.containers.iter().filter_map(|(id, known)| Some((*id, known.init?))).collect()
        })
    }
}

impl Wanted {
    fn remember(&mut self, containers: Vec<(AttemptId, Traces)>, held: &[AttemptId]) {
        self.listed = true;
        let mut before = std::mem::take(&mut self.containers);
        for (id, Traces { log, pid, exit }) in containers {
            if !held.contains(&id) || self.forget.contains(&id) {
                continue;
            }
            // As it was seen first: the container may have ended since the engine was asked, and its number be taken.
            let first = before.remove(&id).and_then(|known| known.init);
            let first = first.filter(|init| Some(init.pid) == pid);
            let init = first.or_else(|| Process::of(&HostRoots::default(), pid?));
            self.containers.insert(id, Known { log, init, exit });
        }
        // A container that vanished has no process; what is open of its log can be read to the end.
        before.retain(|id, _| held.contains(id));
        let gone = before.into_iter().map(|(id, known)| (id, Known { init: None, ..known }));
        self.containers.extend(gone);
    }

    /// Forgets what is of attempts that are no longer held, or are being removed.
    fn tidy<R>(&mut self, readers: &mut BTreeMap<AttemptId, R>, held: &BTreeSet<AttemptId>) {
        // A later container of the same attempt cannot be: what is gone is gone.
        self.forget.retain(|id| held.contains(id));
        self.drain.retain(|id| held.contains(id));
        self.containers.retain(|id, _| held.contains(id));
        readers.retain(|id, _| held.contains(id) && !self.forget.contains(id));
    }
}

fn watch(
    layout: &Layout,
    driver: &Handle,
    pushes: &Pushes,
    wanted: &Mutex<Wanted>,
    make_room: &dyn Fn(),
) {
    let mut readers: BTreeMap<AttemptId, Reader> = BTreeMap::new();
    // A thread that only this loop parks: time passes, nothing is waited for.
    let pause = || std::thread::park_timeout(EVERY);
    for turn in 1_u32.. {
        let (held, live): (BTreeSet<_>, BTreeSet<_>) = {
            let view = driver.view();
            let view = view.borrow();
            (view.held.iter().copied().collect(), view.running.iter().map(|(id, _)| *id).collect())
        };
        let (known, drain, forget, listed) = {
            let mut wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.tidy(&mut readers, &held);
            let forget = wanted.forget.clone();
            (wanted.containers.clone(), wanted.drain.clone(), forget, wanted.listed)
        };
        for id in live.union(&drain).filter(|id| !forget.contains(id)) {
            let reader = readers.entry(*id).or_insert_with(|| Reader::new(*id, layout, pushes));
            let ends = listed && drain.contains(id);
            match reader.look(driver, known.get(id), ends) {
                Ok(Some(drained)) if ends => {
                    readers.remove(id);
                    let mut wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
                    wanted.drain.remove(id);
                    drop(wanted);
                    let drained = Box::new(drained);
                    if driver.tell_blocking(Input::Drained { attempt: *id, drained }).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(Gone) => return,
            }
        }
        if turn.is_multiple_of(DISK_EVERY)
            && !live.is_empty()
            && driver.tell_blocking(disk(layout, &live, make_room)).is_err()
        {
            return;
        }
        pause();
    }
}

/// What running attempts have written, and what is free once what nobody uses has made room.
fn disk(layout: &Layout, live: &BTreeSet<AttemptId>, make_room: &dyn Fn()) -> Input {
    let written = live.iter().map(|id| (*id, written(layout, *id))).collect();
    make_room();
    let free = Space::of(layout.root()).map(|space| space.free);
    Input::Disk { written, free }
}

/// What an attempt has written: all that its container may write to.
fn written(layout: &Layout, id: AttemptId) -> Written {
    let mut all = Written { bytes: Bytes::ZERO, whole: true };
    let dirs = layout.attempt(id);
    // What was taken away from a foreign tool was written on its behalf.
    for dir in dirs.writable().into_iter().chain([dirs.kept()]) {
        let usage = usage(&dir);
        all.bytes = all.bytes.saturating_add(usage.bytes);
        all.whole &= usage.whole;
    }
    all
}

/// What attempts may still write of what they were promised. Blocks, as counting does.
#[must_use]
pub fn outstanding(layout: &Layout, promised: &[(AttemptId, Bytes)]) -> Bytes {
    let left =
        |(id, promised): &(AttemptId, Bytes)| promised.saturating_sub(written(layout, *id).bytes);
    promised.iter().map(left).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_proto::id::{Attempt, Generation, JobId, Token};

    fn id(job: u64) -> AttemptId {
        let token = Token { generation: Generation::new(1), attempt: Attempt::new(1) };
        AttemptId { job: JobId::new(job), token }
    }

    #[test]
    fn nothing_is_remembered_of_an_attempt_that_is_not_held() {
        let watcher = Watcher { wanted: Arc::default() };
        let traces = |pid| Traces { log: PathBuf::from("/log"), pid, exit: None };
        let own = std::process::id();
        watcher.listed(vec![(id(1), traces(Some(own))), (id(9), traces(Some(own)))], &[id(1)]);
        let running = watcher.running();
        assert_eq!(running.len(), 1, "also of a stray: {running:?}");
        assert_eq!((running[0].0, running[0].1.pid), (id(1), own));
        // A list that was asked for before it was removed.
        watcher.forget(id(1));
        watcher.listed(vec![(id(1), traces(Some(own)))], &[id(1)]);
        assert_eq!(watcher.running(), []);
        // It ended, or vanished: it has no process.
        watcher
            .listed(vec![(id(2), traces(Some(own))), (id(3), traces(Some(own)))], &[id(2), id(3)]);
        watcher.listed(vec![(id(2), traces(None))], &[id(2), id(3)]);
        assert_eq!(watcher.running(), []);
        assert_eq!(watcher.with(|wanted| wanted.containers.len()), 2, "their logs are still read");
        watcher.listed(vec![], &[id(3)]);
        assert_eq!(watcher.with(|wanted| wanted.containers.len()), 1);
        // Gone between two looks of the thread, before it could see that it was being removed.
        let mut readers = BTreeMap::from([(id(3), ()), (id(4), ()), (id(5), ())]);
        watcher.forget(id(3));
        watcher.drain(id(4));
        watcher.with(|wanted| wanted.tidy(&mut readers, &[id(5)].into()));
        assert_eq!(readers.into_keys().collect::<Vec<_>>(), [id(5)]);
        let rest = watcher.with(|wanted| (wanted.drain.len(), wanted.forget.len()));
        assert_eq!(rest, (0, 0));
    }

    #[test]
    fn everything_that_a_container_may_write_counts_and_nothing_that_it_was_given() {
        let scratch = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(scratch.path().to_owned());
        let id = id(1);
        let dirs = layout.attempt(id);
        let all = [dirs.output(), dirs.metrics(), dirs.control(), dirs.cache(), dirs.resume()];
        for dir in &all {
            std::fs::create_dir_all(dir).expect("made");
            std::fs::write(dir.join("file"), vec![1; 1 << 20]).expect("written");
        }
        let made = std::cell::Cell::new(0);
        let make_room = || made.set(made.get() + 1);
        let Input::Disk { written, free } = disk(&layout, &[id].into(), &make_room) else {
            panic!("another input")
        };
        let mib = written[&id].bytes.get() >> 20;
        assert_eq!((mib, written[&id].whole), (4, true));
        assert!(free.is_some() && made.get() == 1, "before anybody is stopped for want of it");
        let other = AttemptId { job: JobId::new(2), ..id };
        let far = AttemptId { job: JobId::new(3), ..id };
        for dir in layout.attempt(far).writable() {
            std::fs::create_dir_all(&dir).expect("made");
            std::fs::write(dir.join("file"), vec![1; 1 << 20]).expect("written");
        }
        let promised = [(id, Bytes::mib(10)), (other, Bytes::mib(7)), (far, Bytes::mib(1))];
        let left = outstanding(&layout, &promised).get() as f64 / f64::from(1 << 20);
        assert!((12.9..13.0).contains(&left), "{left}: 6 and 7, and nothing of who is beyond");
    }
}
