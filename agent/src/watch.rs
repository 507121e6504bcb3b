//! Reads what trainers leave: metrics, log lines, checkpoints, and in the end their last word. One thread for all
//! attempts of the node. A position is only moved on together with the events that it stands for, by the driver.

mod attempt;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hone_proto::id::AttemptId;

use self::attempt::Reader;
use crate::core::Input;
use crate::driver::{Gone, Handle};
use crate::layout::Layout;

/// How often files are looked at: a step's figures are on the screen within a second.
const EVERY: Duration = Duration::from_millis(500);

/// What the engine knows of a container that readers need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// Its log file.
    pub log: PathBuf,
    /// The process id of its init while it runs.
    pub pid: Option<u32>,
}

#[derive(Debug, Default)]
struct Wanted {
    traces: BTreeMap<AttemptId, Traces>,
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
    /// Starts the thread. It ends with the driver.
    pub fn start(layout: Layout, driver: Handle) -> std::io::Result<Self> {
        let watcher = Self { wanted: Arc::default() };
        let wanted = Arc::clone(&watcher.wanted);
        std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(move || watch(&layout, &driver, &wanted))?;
        Ok(watcher)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Wanted) -> T) -> T {
        change(&mut self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where the container of an attempt leaves its traces.
    pub fn found(&self, attempt: AttemptId, traces: Traces) {
        self.with(|wanted| wanted.traces.insert(attempt, traces));
    }

    /// All containers were told of. Before that an ended one may have a log that nobody knows of.
    pub fn listed(&self) {
        self.with(|wanted| wanted.listed = true);
    }

    /// Read everything that the ended container left, and tell the driver.
    pub fn drain(&self, attempt: AttemptId) {
        self.with(|wanted| wanted.drain.insert(attempt));
    }

    /// The attempt is being removed: touch its files no more.
    pub fn forget(&self, attempt: AttemptId) {
        self.with(|wanted| {
            wanted.traces.remove(&attempt);
            wanted.drain.remove(&attempt);
            wanted.forget.insert(attempt);
        });
    }

    /// Process ids of running containers, for the sampler.
    #[must_use]
    pub fn pids(&self) -> Vec<(AttemptId, u32)> {
        self.with(|wanted| {
            wanted.traces.iter().filter_map(|(id, traces)| Some((*id, traces.pid?))).collect()
        })
    }
}

fn watch(layout: &Layout, driver: &Handle, wanted: &Mutex<Wanted>) {
    let mut readers: BTreeMap<AttemptId, Reader> = BTreeMap::new();
    // A thread that only this loop parks: time passes, nothing is waited for.
    let pause = || std::thread::park_timeout(EVERY);
    loop {
        let (held, live): (BTreeSet<_>, BTreeSet<_>) = {
            let view = driver.view();
            let view = view.borrow();
            (view.held.iter().copied().collect(), view.running.iter().map(|(id, _)| *id).collect())
        };
        let (traces, drain, forget, listed) = {
            let mut wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
            // A later container of the same attempt cannot be: what is gone is gone.
            wanted.forget.retain(|id| held.contains(id));
            let forget = wanted.forget.clone();
            (wanted.traces.clone(), wanted.drain.clone(), forget, wanted.listed)
        };
        readers.retain(|id, _| !forget.contains(id));
        for id in live.union(&drain).filter(|id| !forget.contains(id)) {
            let reader = readers.entry(*id).or_insert_with(|| Reader::new(*id, layout));
            let ends = listed && drain.contains(id);
            match reader.look(driver, traces.get(id), ends) {
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
        pause();
    }
}
