//! What holds a job back most, from where its time went and what its container used meanwhile. Pure.
//!
//! hone's own trainer splits its time (`<part>_s` in its records); of other tools only what they used is known. The bounds
//! are hone's own: what takes less is not worth a person's evening.

use hone_proto::assignment::Relaxation;
use hone_proto::id::AttemptId;
use hone_proto::sample::rollup::{Metric, NodeRollup, Subject, SubjectRollup};
use hone_proto::time::WallNanos;
use hone_proto::wire::{AttemptView, DemandView, JobView, SeriesPoint};
use serde::Serialize;

use super::render::human::whole_bytes;

/// Newest records that are looked at: long enough for an evaluation or a save to be seen in proportion.
pub(super) const RECORDS: usize = 20;
/// Share of the time that waiting for rows, or saving, must take to be named.
const MUCH: f64 = 0.2;
/// Share of the time that an evaluation must take: it is asked for, and some of it is always there.
const MUCH_EVALUATION: f64 = 0.3;
/// Share of what it may use at which a processor, a GPU or memory counts as used up.
const ALL_OF: f64 = 0.85;
/// Share of its memory limit above which the kernel reclaims without end.
const NO_MEMORY: f64 = 0.97;
/// Bytes per second above which a disk is what rows come from; less is logs.
const DISK_READS: f64 = 256.0 * 1024.0;
/// The same for a network; less is hone's own talk.
const NETWORK_READS: f64 = 1024.0 * 1024.0;

/// What is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Resource {
    Data,
    Disk,
    Network,
    Evaluation,
    Memory,
    Gpu,
    Cpu,
}

impl Resource {
    const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Evaluation => "evaluation",
            Self::Memory => "memory",
            Self::Gpu => "GPU",
            Self::Cpu => "CPU",
        }
    }
}

/// What holds a job back most, why that is thought, and what can be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Bottleneck {
    pub(super) resource: Resource,
    pub(super) evidence: String,
    pub(super) remedy: &'static str,
}

impl Bottleneck {
    /// `disk: 60 % of the time waits for rows, …; data.preload: memory reads them once`.
    pub(super) fn line(&self) -> String {
        format!("{}: {}; {}", self.resource.name(), self.evidence, self.remedy)
    }
}

/// Where the time of the newest records went, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Spent {
    waiting: f64,
    saving: f64,
    evaluating: f64,
    all: f64,
}

impl Spent {
    /// Of records that say it; nothing where none does.
    pub(super) fn of<'a>(records: impl IntoIterator<Item = &'a SeriesPoint>) -> Option<Self> {
        let mut spent = Self::default();
        for record in records {
            let part = |name: &str| record.values.get(name).copied().filter(|s| s.is_finite());
            let parts = ["data_wait_s", "compute_s", "optimizer_s", "save_s", "eval_s"].map(part);
            spent.all += parts.iter().flatten().sum::<f64>();
            spent.waiting += parts[0].unwrap_or_default();
            spent.saving += parts[3].unwrap_or_default();
            spent.evaluating += parts[4].unwrap_or_default();
        }
        (spent.all > 0.0).then_some(spent)
    }
}

/// What a job used while it trained, on the average; what nobody measured is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Used {
    cores: Option<f64>,
    /// Of its limit.
    memory: Option<f64>,
    read: Option<f64>,
    received: Option<f64>,
    /// Percent, of its least busy GPU.
    gpu: Option<f64>,
}

impl Used {
    /// What an attempt of `job` used in these windows. What its node receives is others' where its container is closed.
    pub(super) fn of(
        windows: &[NodeRollup],
        id: AttemptId,
        job: &JobView,
        attempt: &AttemptView,
    ) -> Self {
        let open = job.relaxations.iter().any(|name| name == Relaxation::NetworkEgress.name());
        let subjects = || windows.iter().flat_map(|window| &window.subjects);
        let own = |s: &&SubjectRollup| s.subject == Subject::Container(id);
        let mean = |metric| average(subjects().filter(own), metric);
        let gpu = |uuid: &String| {
            let it =
                |s: &&SubjectRollup| matches!(&s.subject, Subject::Gpu(id) if id.as_str() == uuid);
            average(subjects().filter(it), Metric::UtilisationPercent)
        };
        let gpus = attempt.gpu_uuids.iter().filter_map(gpu);
        let links = subjects().filter(|s| matches!(s.subject, Subject::Interface(_)));
        let limit = mean(Metric::MemoryLimitBytes).filter(|limit| *limit > 0.0);
        Self {
            cores: mean(Metric::CpuUsedCores),
            memory: mean(Metric::MemoryUsedBytes).zip(limit).map(|(used, limit)| used / limit),
            read: mean(Metric::ReadBytesPerSecond),
            received: average(links, Metric::ReceiveBytesPerSecond).filter(|_| open),
            gpu: gpus.reduce(f64::min),
        }
    }
}

/// Of windows in their order those that reach into the time from `first` on; where none does yet, the one before.
pub(super) fn since(mut windows: Vec<NodeRollup>, first: WallNanos) -> Vec<NodeRollup> {
    let reaches = |window: &NodeRollup| window.to.wall >= first;
    if windows.iter().any(reaches) {
        windows.retain(reaches);
        return windows;
    }
    windows.pop().into_iter().collect()
}

fn average<'a>(subjects: impl Iterator<Item = &'a SubjectRollup>, metric: Metric) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for summary in subjects.filter_map(|subject| subject.figures.get(&metric)) {
        sum += summary.mean * f64::from(summary.count);
        count += f64::from(summary.count);
    }
    (count > 0.0).then(|| sum / count)
}

/// What holds the job back most; nothing where nothing is used up.
pub(super) fn bottleneck(
    spent: Option<Spent>,
    used: &Used,
    demand: &DemandView,
) -> Option<Bottleneck> {
    spent.and_then(|spent| of_time(&spent, used)).or_else(|| of_use(used, demand))
}

/// Where time goes that is not training.
fn of_time(spent: &Spent, used: &Used) -> Option<Bottleneck> {
    let share = |part: f64| part / spent.all;
    let percent = |part: f64| format!("{:.0} % of the time", share(part) * 100.0);
    if share(spent.waiting) >= MUCH {
        let waits = format!("{} waits for rows", percent(spent.waiting));
        let read = used.read.filter(|read| *read >= DISK_READS);
        let received = used.received.filter(|received| *received >= NETWORK_READS);
        return Some(match (read, received) {
            (Some(read), _) => Bottleneck {
                resource: Resource::Disk,
                evidence: format!("{waits}, while the disk gives {} a second", whole_bytes(read)),
                remedy: "`data.preload: memory` reads them once, before training",
            },
            (None, Some(received)) => Bottleneck {
                resource: Resource::Network,
                evidence: format!("{waits}, and {} a second arrive", whole_bytes(received)),
                remedy: "give the rows as a file or a folder: hone brings them before training",
            },
            (None, None) => Bottleneck {
                resource: Resource::Data,
                evidence: format!("{waits}, which are read from nowhere meanwhile"),
                remedy: "more cores (`resources.cpu`), or rows that need less preparation",
            },
        });
    }
    if share(spent.saving) >= MUCH {
        return Some(Bottleneck {
            resource: Resource::Disk,
            evidence: format!("{} goes into checkpoints", percent(spent.saving)),
            remedy: "save less often: `checkpoint: {every: auto}`",
        });
    }
    (share(spent.evaluating) >= MUCH_EVALUATION).then(|| Bottleneck {
        resource: Resource::Evaluation,
        evidence: format!("{} goes into evaluations", percent(spent.evaluating)),
        remedy: "evaluate less often (`train.eval_every`), or on fewer rows",
    })
}

/// What is used up while it trains.
fn of_use(used: &Used, demand: &DemandView) -> Option<Bottleneck> {
    if let Some(memory) = used.memory.filter(|memory| *memory >= NO_MEMORY) {
        return Some(Bottleneck {
            resource: Resource::Memory,
            evidence: format!("{:.0} % of what it may have is in use", memory * 100.0),
            remedy: "give it more (`resources.memory`), or smaller micro-batches",
        });
    }
    let cores = f64::from(demand.milli_cpu) / 1000.0;
    let busy = used.cores.filter(|used| cores > 0.0 && *used >= ALL_OF * cores);
    let gpu = used.gpu.filter(|_| demand.gpus > 0);
    if let Some(gpu) = gpu.filter(|gpu| *gpu >= ALL_OF * 100.0) {
        return Some(Bottleneck {
            resource: Resource::Gpu,
            evidence: format!("it is {gpu:.0} % busy"),
            remedy: "it is used as it should be; only a faster one, or more of them, is quicker",
        });
    }
    let used_cores = busy?;
    let beside = gpu.map(|gpu| format!(", and the GPU is {gpu:.0} % busy")).unwrap_or_default();
    Some(Bottleneck {
        resource: Resource::Cpu,
        evidence: format!("it uses {used_cores:.1} of {cores:.1} cores{beside}"),
        remedy: if demand.gpus > 0 {
            "more cores (`resources.cpu`), or larger micro-batches"
        } else {
            "more cores (`resources.cpu`), or a node with a GPU"
        },
    })
}

#[cfg(test)]
#[path = "bottleneck_tests.rs"]
mod tests;
