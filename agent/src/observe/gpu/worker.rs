//! The thread that talks to the driver.

use std::ffi::OsStr;
use std::sync::{Arc, PoisonError};

use hone_proto::inventory::{Gpu, Nvml};
use hone_proto::sample::{GpuSample, GpuState};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml as Library};

use super::{GpuInventory, GpuSettings, Question, Shared, State, Thread, ask};

/// The driver's library by the name that every distribution gives it.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// Most GPUs that are looked at.
const MAX_GPUS: u32 = 64;

/// Answers questions until nobody is left to ask, or until it finds no library: then the next inventory starts anew.
pub(super) fn work(shared: &Arc<Shared>) {
    let mut end = End { shared, told: false };
    if next_question(shared).is_none() {
        return;
    }
    let library = match load(&shared.settings) {
        Ok(library) => library,
        Err(why) => return end.tell(|state| state.inventory.give(absent(why))),
    };
    let mut devices = Devices { library: &library, handles: Vec::new(), known: Vec::new() };
    let first = devices.inventory();
    answer(shared, |state| state.inventory.give(first));
    while let Some(question) = next_question(shared) {
        match question {
            Question::Inventory => {
                let inventory = devices.inventory();
                answer(shared, |state| state.inventory.give(inventory));
            }
            Question::Samples => {
                let samples = devices.samples();
                answer(shared, |state| state.samples.give(samples));
            }
        }
    }
}

/// Marks the thread as gone however it ends, so that the next question starts another.
struct End<'a> {
    shared: &'a Shared,
    /// It was said already. Saying it twice would take the next thread for this one.
    told: bool,
}

impl End<'_> {
    /// Gives a last answer. That there is no thread any more is seen together with it, not after it.
    fn tell(&mut self, give: impl FnOnce(&mut State)) {
        let mut state = self.shared.lock();
        give(&mut state);
        state.thread = Thread::None;
        state.wanted = None;
        self.told = true;
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.tell(|_| {});
        }
    }
}

fn next_question(shared: &Shared) -> Option<Question> {
    let mut state = shared.lock();
    loop {
        if state.closed {
            return None;
        }
        if let Some(question) = state.wanted.take() {
            state.thread = Thread::Busy;
            return Some(question);
        }
        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

fn answer(shared: &Shared, give: impl FnOnce(&mut State)) {
    let mut state = shared.lock();
    give(&mut state);
    state.thread = Thread::Idle;
    drop(state);
    shared.changed.notify_all();
}

fn load(settings: &GpuSettings) -> Result<Library, String> {
    let path = settings.library.as_deref().map_or(OsStr::new(LIBRARY), |path| path.as_os_str());
    Library::builder().lib_path(path).init().map_err(|error| match error {
        // The loader's own words name the file; what the wrapper puts before them helps nobody.
        NvmlError::LibloadingError(error) => error.to_string(),
        error => error.to_string(),
    })
}

/// The inventory of a machine without NVML.
pub(super) fn absent(why: String) -> GpuInventory {
    GpuInventory { nvml: Nvml::Absent { why }, gpus: Vec::new(), silent: Vec::new() }
}

/// What the driver handed out, and what is known of each GPU.
struct Devices<'lib> {
    library: &'lib Library,
    handles: Vec<Handle<'lib>>,
    /// Every GPU that ever told who it is: one that is lost cannot tell any more.
    known: Vec<Gpu>,
}

struct Handle<'lib> {
    index: u32,
    device: Device<'lib>,
    /// Its place in `known`, once it told who it is.
    gpu: Option<usize>,
}

impl Devices<'_> {
    /// Counts and identifies the GPUs anew. A GPU that vanished since keeps its place, as lost.
    fn inventory(&mut self) -> GpuInventory {
        let mut silent = Vec::new();
        let mut seen = vec![false; self.known.len()];
        let count = self.library.device_count().unwrap_or(0).min(MAX_GPUS);
        let mut handles = Vec::new();
        for index in 0..count {
            match self.library.device_by_index(index) {
                Ok(device) => handles.push(Handle { index, device, gpu: None }),
                Err(error) => {
                    // An old handle still knows which GPU it was.
                    match self.handles.iter().position(|handle| handle.index == index) {
                        Some(at) => handles.push(self.handles.swap_remove(at)),
                        None => silent.push(ask::silent(index, &error)),
                    }
                }
            }
        }
        for handle in &mut handles {
            match ask::gpu(handle.index, &handle.device) {
                Ok(gpu) => handle.gpu = Some(self.remember(gpu, &mut seen)),
                Err(error) => match handle.gpu {
                    Some(at) => {
                        self.known[at].state = ask::trouble(&error);
                        seen[at] = true;
                    }
                    None => silent.push(ask::silent(handle.index, &error)),
                },
            }
        }
        for (gpu, _) in self.known.iter_mut().zip(&seen).filter(|(_, seen)| !**seen) {
            gpu.state = GpuState::Lost;
        }
        self.handles = handles;
        GpuInventory { nvml: ask::versions(self.library), gpus: self.known.clone(), silent }
    }

    fn remember(&mut self, fresh: Gpu, seen: &mut Vec<bool>) -> usize {
        let at = self.known.iter().position(|gpu| gpu.id == fresh.id).unwrap_or(self.known.len());
        if at == self.known.len() {
            self.known.push(fresh);
            seen.push(true);
        } else {
            // What a GPU no longer tells is still true of it.
            let old = &self.known[at];
            self.known[at] = Gpu {
                name: fresh.name.or_else(|| old.name.clone()),
                serial: fresh.serial.or_else(|| old.serial.clone()),
                vram: fresh.vram.or(old.vram),
                compute_capability: fresh.compute_capability.or(old.compute_capability),
                power_limit_mw: fresh.power_limit_mw.or(old.power_limit_mw),
                pcie: fresh.pcie.or_else(|| old.pcie.clone()),
                ..fresh
            };
            seen[at] = true;
        }
        at
    }

    fn samples(&self) -> Vec<GpuSample> {
        let of_gpu = |(at, gpu): (usize, &Gpu)| {
            let handle = self.handles.iter().find(|handle| handle.gpu == Some(at));
            handle.map_or_else(
                || GpuSample::without_figures(gpu.id.clone(), gpu.index, GpuState::Lost),
                |handle| ask::sample(&gpu.id, handle.index, &handle.device),
            )
        };
        self.known.iter().enumerate().map(of_gpu).collect()
    }
}
