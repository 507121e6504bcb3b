//! Minimum, mean and maximum over ten seconds: what the agent spools and the controller keeps.
//!
//! [`Aggregator`] is a plain value that is fed samples and gives a [`NodeRollup`] when a window is complete. Windows lie
//! on multiples of ten seconds of boot time, so that a set wall clock changes nothing.

mod metric;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use metric::Metric;

use super::{GpuState, NodeSample, ThrottleReasons};
use crate::id::AttemptId;
use crate::inventory::GpuId;
use crate::time::Now;

/// Length of a window.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Ten seconds of a node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NodeRollup {
    /// The first sample in it.
    pub from: Now,
    /// The last sample in it.
    pub to: Now,
    /// How many samples it holds: fewer than ten tells of a gap.
    pub samples: u32,
    /// Everything measured, one entry per subject.
    pub subjects: Vec<SubjectRollup>,
}

/// What was measured on one thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubjectRollup {
    /// The thing.
    pub subject: Subject,
    /// Its figures, each metric at most once.
    pub figures: BTreeMap<Metric, Summary>,
    /// Every reason that throttled a GPU at any moment of the window.
    pub throttle: Option<ThrottleReasons>,
    /// The state of a GPU, when it was not `Ok` all the time: the last one that was not.
    pub trouble: Option<GpuState>,
}

/// What a figure is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// The node as a whole.
    Node,
    /// One core, by its number.
    Core(u32),
    /// One GPU.
    Gpu(GpuId),
    /// One disk, by its mount point.
    Disk(String),
    /// One network interface.
    Interface(String),
    /// The container of an attempt.
    Container(AttemptId),
}

/// One figure over a window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The least.
    pub min: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The greatest.
    pub max: f64,
    /// Of how many readings.
    pub count: u32,
}

/// Collects samples of one boot into windows.
#[derive(Debug, Default)]
pub struct Aggregator {
    window: Option<Window>,
}

#[derive(Debug)]
struct Window {
    number: u64,
    from: Now,
    to: Now,
    samples: u32,
    subjects: BTreeMap<Subject, Collected>,
}

#[derive(Debug, Default)]
struct Collected {
    figures: BTreeMap<Metric, Running>,
    throttle: Option<ThrottleReasons>,
    trouble: Option<GpuState>,
}

#[derive(Debug)]
struct Running {
    min: f64,
    sum: f64,
    max: f64,
    count: u32,
}

impl Aggregator {
    /// Takes a sample; gives the window before it when that is complete.
    pub fn push(&mut self, sample: &NodeSample) -> Option<NodeRollup> {
        let span = u64::try_from(WINDOW.as_nanos()).unwrap_or(u64::MAX);
        let number = sample.at.boot.get() / span;
        let complete = match &self.window {
            Some(window) if window.number != number => self.flush(),
            _ => None,
        };
        let window = self.window.get_or_insert_with(|| Window {
            number,
            from: sample.at,
            to: sample.at,
            samples: 0,
            subjects: BTreeMap::new(),
        });
        window.take(sample);
        complete
    }

    /// Ends the window that is being filled: for shutdown.
    pub fn flush(&mut self) -> Option<NodeRollup> {
        let window = self.window.take()?;
        let subjects = window.subjects.into_iter().map(|(subject, collected)| SubjectRollup {
            subject,
            figures: collected.figures.into_iter().map(|(m, r)| (m, r.summary())).collect(),
            throttle: collected.throttle,
            trouble: collected.trouble,
        });
        Some(NodeRollup {
            from: window.from,
            to: window.to,
            samples: window.samples,
            subjects: subjects.collect(),
        })
    }
}

impl Window {
    fn take(&mut self, sample: &NodeSample) {
        self.to = sample.at;
        self.samples += 1;
        self.figures(Subject::Node, &metric::node(sample));
        for (core, busy) in (0..).zip(&sample.cpu.cores_busy_percent) {
            self.figures(Subject::Core(core), &[(Metric::CpuBusyPercent, Some(f64::from(*busy)))]);
        }
        for gpu in &sample.gpus {
            let collected = self.figures(Subject::Gpu(gpu.id.clone()), &metric::gpu(gpu));
            if let Some(reasons) = gpu.throttle {
                let seen = collected.throttle.unwrap_or_default();
                collected.throttle = Some(seen.union(reasons));
            }
            if gpu.state != GpuState::Ok {
                collected.trouble = Some(gpu.state.clone());
            }
        }
        for disk in &sample.disks {
            self.figures(Subject::Disk(disk.mount.clone()), &metric::disk(disk));
        }
        for network in &sample.networks {
            let subject = Subject::Interface(network.interface.clone());
            self.figures(subject, &metric::network(network));
        }
        for container in &sample.containers {
            self.figures(Subject::Container(container.attempt), &metric::container(container));
        }
    }

    fn figures(&mut self, subject: Subject, figures: &[(Metric, Option<f64>)]) -> &mut Collected {
        let collected = self.subjects.entry(subject).or_default();
        for (metric, value) in figures {
            // NaN compares with nothing: it would poison the mean and never be seen in min and max.
            if let Some(value) = value.filter(|value| value.is_finite()) {
                collected.figures.entry(*metric).or_insert_with(|| Running::new(value)).add(value);
            }
        }
        collected
    }
}

impl Running {
    fn new(first: f64) -> Self {
        Self { min: first, sum: 0.0, max: first, count: 0 }
    }

    fn add(&mut self, value: f64) {
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += value;
        self.count += 1;
    }

    fn summary(&self) -> Summary {
        let mean = self.sum / f64::from(self.count);
        // Rounding must not carry the mean past the extremes.
        Summary {
            min: self.min,
            mean: mean.clamp(self.min, self.max),
            max: self.max,
            count: self.count,
        }
    }
}

#[cfg(test)]
mod tests;
