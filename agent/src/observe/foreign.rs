//! What others than hone use of a node, steady enough to plan with: the most of the last minute, told again only when
//! it moved by more than a grain. Of the disk it is what a survey found: what is used and what of it is hone's are looked
//! at together, or a download that came in between would count as a neighbour's.
//!
//! Processor time of others is left at zero (docs/adr/0004): it is shared by weight, so that neither side fails for want
//! of it, and a compiler that runs next to an agent for a minute would make the node refuse every job.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use hone_proto::id::AttemptId;
use hone_proto::inventory::{Foreign, GpuId};
use hone_proto::quantity::{Bytes, MilliCpu};
use hone_proto::sample::{GpuSample, NodeSample};
use hone_proto::time::BootNanos;

use super::disk::Space;
use super::usage::usage;
use crate::layout::Layout;

/// How long a use counts after it ended: a neighbour that comes and goes is there.
pub const MEMORY: Duration = Duration::from_secs(60);

/// How often the most is noted: six notes make a minute.
const NOTE_EVERY: Duration = Duration::from_secs(10);

/// Smaller changes of memory and VRAM are not worth a message: jobs differ by gigabytes.
pub const GRAIN_MEMORY: Bytes = Bytes::mib(256);

/// The same of disk, where logs alone move more.
pub const GRAIN_DISK: Bytes = Bytes::gib(1);

/// What the files below `dir` take on its disk; what is too much to be counted is not counted. Blocks for as long as it
/// takes to look at every file: for a background thread, once a minute.
#[must_use]
pub fn own_disk(dir: &Path) -> Bytes {
    usage(dir).bytes
}

/// What of hone's own files is room for jobs. Those of the attempts that are held are promised to them, and so are inputs
/// in use; inputs that nobody uses go as soon as something is staged that needs the room. All else (the spool, what a
/// former node left, what belongs to no attempt) stays: no job can have its room. Blocks, as [`own_disk`] does.
fn room_taken_by_jobs(layout: &Layout, held: &[AttemptId]) -> Bytes {
    let attempts: Bytes = held.iter().map(|id| own_disk(layout.attempt(*id).root())).sum();
    attempts.saturating_add(own_disk(&layout.cache()))
}

/// What others use of the disk that holds hone's state; nothing where that cannot be told. The same moment cannot be had:
/// what is written or deleted while hone's own files are counted is not taken for others'. Blocks, as [`own_disk`] does.
#[must_use]
pub fn disk_of_others(layout: &Layout, held: &[AttemptId]) -> Bytes {
    let used = || {
        let space = Space::of(layout.root())?;
        Some(space.total.saturating_sub(space.free))
    };
    let before = used();
    let own = room_taken_by_jobs(layout, held);
    let least = before.min(used());
    least.unwrap_or_default().saturating_sub(own)
}

/// Follows what others use.
#[derive(Debug, Default)]
pub struct ForeignUse {
    ram: Highest,
    vram: BTreeMap<GpuId, Highest>,
    told: Option<Foreign>,
}

impl ForeignUse {
    /// Takes a sample, and what others were last found to use of the disk; tells when what they use has changed enough to
    /// matter.
    pub fn update(&mut self, sample: &NodeSample, disk: Bytes) -> Option<Foreign> {
        let at = sample.at.boot;
        if let Some(used) = sample.memory.used() {
            let own: Bytes = sample.containers.iter().filter_map(|container| container.ram).sum();
            self.ram.note(at, used.saturating_sub(own));
        }
        for gpu in &sample.gpus {
            if let Some(used) = used_by_others(gpu) {
                self.vram.entry(gpu.id.clone()).or_default().note(at, used);
            }
        }
        let now = Foreign {
            cpu: MilliCpu::default(),
            ram: self.ram.value(),
            disk,
            vram: self.vram.iter().map(|(id, used)| (id.clone(), used.value())).collect(),
        };
        if self.told.as_ref().is_some_and(|told| !differs(told, &now)) {
            return None;
        }
        self.told = Some(now.clone());
        Some(now)
    }
}

/// What of a GPU's memory hone cannot have, and does not hold itself. Where a driver does not tell how much one of
/// hone's processes holds, all is taken for hone's: a node must not refuse work because of its own.
fn used_by_others(gpu: &GpuSample) -> Option<Bytes> {
    let taken = gpu.memory_total?.saturating_sub(gpu.memory_free?);
    let own = gpu.processes.iter().flatten().filter(|process| process.owner.is_some());
    let own: Option<Vec<Bytes>> = own.map(|process| process.memory).collect();
    Some(own.map_or(Bytes::ZERO, |own| taken.saturating_sub(own.into_iter().sum())))
}

fn differs(told: &Foreign, now: &Foreign) -> bool {
    let far =
        |a: Bytes, b: Bytes, grain: Bytes| a.saturating_sub(b).max(b.saturating_sub(a)) >= grain;
    far(told.ram, now.ram, GRAIN_MEMORY)
        || far(told.disk, now.disk, GRAIN_DISK)
        || !told.vram.keys().eq(now.vram.keys())
        || told.vram.values().zip(now.vram.values()).any(|(a, b)| far(*a, *b, GRAIN_MEMORY))
}

/// The most of the last minute.
#[derive(Debug, Default)]
struct Highest {
    notes: VecDeque<(BootNanos, Bytes)>,
}

impl Highest {
    fn note(&mut self, at: BootNanos, used: Bytes) {
        while self.notes.front().is_some_and(|(noted, _)| at.since(*noted) >= MEMORY) {
            self.notes.pop_front();
        }
        match self.notes.back_mut() {
            Some((noted, most)) if at.since(*noted) < NOTE_EVERY => *most = used.max(*most),
            _ => self.notes.push_back((at, used)),
        }
    }

    fn value(&self) -> Bytes {
        self.notes.iter().map(|(_, used)| *used).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_proto::id::{JobId, Token};
    use hone_proto::sample::{ContainerSample, GpuProcess, GpuState};

    const ATTEMPT: AttemptId = AttemptId {
        job: JobId::new(1),
        token: Token {
            generation: hone_proto::id::Generation::new(1),
            attempt: hone_proto::id::Attempt::new(1),
        },
    };

    fn sample(second: u64, used: Bytes, own: Bytes) -> NodeSample {
        let mut sample = NodeSample::default();
        sample.at.boot = BootNanos::new(second * 1_000_000_000);
        sample.memory.total = Some(Bytes::gib(64));
        sample.memory.available = Some(Bytes::gib(64).saturating_sub(used));
        sample.containers =
            vec![ContainerSample { ram: Some(own), ..ContainerSample::unknown(ATTEMPT) }];
        sample
    }

    #[test]
    fn hones_own_use_is_not_foreign() {
        let mut foreign = ForeignUse::default();
        let first = foreign.update(&sample(0, Bytes::gib(20), Bytes::gib(16)), Bytes::gib(30));
        let first = first.expect("the first is always told");
        assert_eq!((first.ram, first.disk), (Bytes::gib(4), Bytes::gib(30)));
        assert_eq!(first.cpu, MilliCpu::default());
    }

    #[test]
    fn unused_inputs_are_room_and_what_no_job_can_have_is_not() {
        let state = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(state.path().to_owned());
        let stray = AttemptId { job: JobId::new(2), ..ATTEMPT };
        let project = hone_proto::id::ProjectName::default_project();
        let input = layout.cached(&project, hone_proto::id::Digest::of(b"model"));
        let room = [input, layout.attempt(ATTEMPT).output()];
        let none = [layout.former().join("node-1"), layout.spool(), layout.attempt(stray).output()];
        for dir in room.iter().chain(&none) {
            std::fs::create_dir_all(dir).expect("made");
            std::fs::write(dir.join("file"), vec![1; 1 << 20]).expect("written");
        }
        let mib = |held: &[AttemptId]| room_taken_by_jobs(&layout, held).get() >> 20;
        assert_eq!((mib(&[ATTEMPT]), mib(&[])), (2, 1));
    }

    #[test]
    fn only_changes_that_matter_are_told_and_a_peak_counts_for_a_minute() {
        let mut foreign = ForeignUse::default();
        let mut at = |second, used| {
            foreign
                .update(&sample(second, used, Bytes::ZERO), Bytes::ZERO)
                .map(|foreign| foreign.ram)
        };
        assert_eq!(at(0, Bytes::gib(4)), Some(Bytes::gib(4)));
        assert_eq!(at(1, Bytes::gib(4).saturating_add(Bytes::mib(10))), None);
        assert_eq!(at(12, Bytes::gib(9)), Some(Bytes::gib(9)), "more is told at once");
        assert_eq!(at(30, Bytes::gib(4)), None, "less has to last");
        assert_eq!(at(71, Bytes::gib(4)), None);
        assert_eq!(at(73, Bytes::gib(4)), Some(Bytes::gib(4)));
    }

    #[test]
    fn what_hone_holds_on_a_gpu_is_not_foreign_even_when_nobody_tells_how_much() {
        let process = |memory, owner| GpuProcess { pid: 1, memory, name: None, owner };
        let mut gpu = GpuSample::without_figures("GPU-a".parse().expect("an id"), 0, GpuState::Ok);
        assert_eq!(used_by_others(&gpu), None);
        gpu.memory_total = Some(Bytes::gib(24));
        gpu.memory_free = Some(Bytes::gib(10));
        assert_eq!(used_by_others(&gpu), Some(Bytes::gib(14)));
        gpu.processes = Some(vec![
            process(Some(Bytes::gib(9)), Some(ATTEMPT)),
            process(Some(Bytes::gib(4)), None),
        ]);
        assert_eq!(used_by_others(&gpu), Some(Bytes::gib(5)), "the driver's own share counts too");
        gpu.processes = Some(vec![process(None, Some(ATTEMPT))]);
        assert_eq!(used_by_others(&gpu), Some(Bytes::ZERO));
    }
}
