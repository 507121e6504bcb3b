//! GPUs through NVML, on a thread of their own: a driver that hangs holds up that thread and nothing else.
//!
//! ```text
//!            start                    asked                       answered
//! (no thread) ────▶ loading library ────────▶ in the driver ─────────────▶ idle ──▶ in the driver …
//!      ▲                 │ absent                   │ deadline passed
//!      └─────────────────┘                          ▼
//!                                     callers get old figures for a while, then "no answer",
//!                                     without waiting, until the driver returns
//! ```
//!
//! No library, no driver, no GPU: each is a fact that the inventory tells. A GPU that fails does not hide the others.

mod ask;
mod worker;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hone_proto::inventory::{Gpu, GpuId, Nvml, SilentGpu};
use hone_proto::sample::{GpuSample, GpuState};

/// Where NVML is found, and how long it is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuSettings {
    /// The library to load; `None` is the driver's own name for it.
    pub library: Option<PathBuf>,
    /// How long a sample may wait. A quarter of the time between two samples: eight busy GPUs answer in a tenth of it.
    pub sample_deadline: Duration,
    /// How long an inventory may wait. Without persistence mode a driver starts each GPU anew, which takes seconds.
    pub inventory_deadline: Duration,
    /// How old figures may be that stand in for a late answer: two samples may be missed unnoticed.
    pub stale_after: Duration,
}

impl Default for GpuSettings {
    fn default() -> Self {
        Self {
            library: None,
            sample_deadline: Duration::from_millis(250),
            inventory_deadline: Duration::from_secs(10),
            stale_after: Duration::from_millis(2_500),
        }
    }
}

/// What the driver says about what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInventory {
    /// The library.
    pub nvml: Nvml,
    /// GPUs that told who they are, now or earlier.
    pub gpus: Vec<Gpu>,
    /// GPUs that never did.
    pub silent: Vec<SilentGpu>,
}

/// The GPUs of this machine. Clones ask the same thread.
#[derive(Debug, Clone)]
pub struct Gpus {
    shared: Arc<Shared>,
    /// Counts the handles, which the thread does not hold: with the last of them it ends.
    _handle: Arc<Closer>,
}

#[derive(Debug)]
struct Shared {
    settings: GpuSettings,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    thread: Thread,
    /// What the thread shall do next.
    wanted: Option<Question>,
    inventory: Answer<GpuInventory>,
    samples: Answer<Vec<GpuSample>>,
    closed: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Thread {
    /// There is none: it was not started, or found no library.
    #[default]
    None,
    /// It waits for a question.
    Idle,
    /// It is in the driver.
    Busy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Inventory,
    Samples,
}

/// The last answer to one kind of question.
#[derive(Debug)]
struct Answer<T> {
    /// How many there were.
    number: u64,
    last: Option<(T, Instant)>,
}

impl<T> Default for Answer<T> {
    fn default() -> Self {
        Self { number: 0, last: None }
    }
}

impl<T> Answer<T> {
    fn give(&mut self, answer: T) {
        self.number += 1;
        self.last = Some((answer, Instant::now()));
    }
}

#[derive(Debug)]
struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Gpus {
    /// Starts looking for GPUs; does not wait for it.
    #[must_use]
    pub fn start(settings: GpuSettings) -> Self {
        let shared =
            Arc::new(Shared { settings, state: Mutex::default(), changed: Condvar::new() });
        let gpus = Self { _handle: Arc::new(Closer(Arc::clone(&shared))), shared };
        gpus.shared.put(&mut gpus.shared.lock(), Question::Inventory);
        gpus
    }

    /// What there is. Looks anew, also for a library that was absent before. Blocks, at most for the deadline.
    pub fn inventory(&self) -> GpuInventory {
        let deadline = self.shared.settings.inventory_deadline;
        let (state, answered) =
            self.shared.ask(Question::Inventory, deadline, |state| state.inventory.number);
        let known = state.inventory.last.as_ref().map(|(inventory, _)| inventory.clone());
        match known {
            Some(inventory) if answered => inventory,
            Some(mut late) => {
                for gpu in &mut late.gpus {
                    gpu.state = GpuState::NoAnswer;
                }
                late
            }
            None => GpuInventory {
                nvml: Nvml::Absent {
                    why: format!("NVML did not answer within {} s", deadline.as_secs()),
                },
                gpus: Vec::new(),
                silent: Vec::new(),
            },
        }
    }

    /// One measurement of each GPU of the last inventory. Blocks, at most for the deadline, and not at all while an
    /// earlier question is unanswered.
    #[must_use]
    pub fn sample(&self) -> Vec<GpuSample> {
        let settings = &self.shared.settings;
        {
            let state = self.shared.lock();
            // Without a thread nothing is there to be measured.
            if state.thread == Thread::None && state.wanted.is_none() {
                return Vec::new();
            }
            if state.thread == Thread::Busy || state.wanted.is_some() {
                return stand_in(&state, settings.stale_after);
            }
        }
        let (state, answered) =
            self.shared
                .ask(Question::Samples, settings.sample_deadline, |state| state.samples.number);
        match &state.samples.last {
            Some((samples, _)) if answered => samples.clone(),
            _ => stand_in(&state, settings.stale_after),
        }
    }
}

/// The last figures while they are fresh enough; after that every GPU is one that gives no answer.
fn stand_in(state: &State, stale_after: Duration) -> Vec<GpuSample> {
    if let Some((samples, at)) = &state.samples.last
        && at.elapsed() <= stale_after
    {
        return samples.clone();
    }
    let known = state.inventory.last.iter().flat_map(|(inventory, _)| &inventory.gpus);
    let silent =
        |id: &GpuId, index| GpuSample::without_figures(id.clone(), index, GpuState::NoAnswer);
    known.map(|gpu| silent(&gpu.id, gpu.index)).collect()
}

impl Shared {
    /// A panic of the thread leaves the last answers as they were: they are still true.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks and waits; tells whether the answer came in time.
    fn ask(
        self: &Arc<Self>,
        question: Question,
        deadline: Duration,
        answers: impl Fn(&State) -> u64,
    ) -> (MutexGuard<'_, State>, bool) {
        let until = Instant::now() + deadline;
        let mut state = self.lock();
        // A question of another caller goes first.
        while state.wanted.is_some() || state.thread == Thread::Busy {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return (state, false);
            };
            state = self.wait(state, left);
        }
        let before = answers(&state);
        self.put(&mut state, question);
        while answers(&state) == before {
            if state.thread == Thread::None {
                return (state, false);
            }
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return (state, false);
            };
            state = self.wait(state, left);
        }
        (state, true)
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>, left: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Leaves a question for the thread, which is started when there is none.
    fn put(self: &Arc<Self>, state: &mut State, question: Question) {
        state.wanted = Some(question);
        if state.thread == Thread::None {
            let shared = Arc::clone(self);
            let started =
                thread::Builder::new().name("nvml".into()).spawn(move || worker::work(&shared));
            match started {
                Ok(_) => state.thread = Thread::Idle,
                Err(error) => {
                    state.wanted = None;
                    state.inventory.give(worker::absent(format!("no thread for NVML: {error}")));
                    state.samples.give(Vec::new());
                }
            }
        }
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
