//! Rollups on the wire. They are kept for years: a reader of an old one, or of one from a newer agent, skips subjects
//! and metrics that it does not know.

use crate::convert::WireError;
use crate::convert::inventory::{gpu_id, state, state_words};
use crate::sample::ThrottleReasons;
use crate::sample::rollup::{Metric, NodeRollup, Subject, SubjectRollup, Summary};
use crate::time::{BootNanos, Now, WallNanos};
use crate::wire;

/// Each metric and its number on the wire.
const METRICS: [(Metric, wire::Metric); 28] = [
    (Metric::CpuBusyPercent, wire::Metric::CpuBusyPercent),
    (Metric::CpuStealPercent, wire::Metric::CpuStealPercent),
    (Metric::CpuIoWaitPercent, wire::Metric::CpuIoWaitPercent),
    (Metric::Load1, wire::Metric::Load1),
    (Metric::CpuUsedCores, wire::Metric::CpuUsedCores),
    (Metric::MemoryUsedBytes, wire::Metric::MemoryUsedBytes),
    (Metric::MemoryFreeBytes, wire::Metric::MemoryFreeBytes),
    (Metric::SwapUsedBytes, wire::Metric::SwapUsedBytes),
    (Metric::UtilisationPercent, wire::Metric::UtilisationPercent),
    (Metric::MemoryUtilisationPercent, wire::Metric::MemoryUtilisationPercent),
    (Metric::TemperatureCelsius, wire::Metric::TemperatureCelsius),
    (Metric::PowerMilliwatts, wire::Metric::PowerMilliwatts),
    (Metric::PowerLimitMilliwatts, wire::Metric::PowerLimitMilliwatts),
    (Metric::SmClockMegahertz, wire::Metric::SmClockMegahertz),
    (Metric::MemoryClockMegahertz, wire::Metric::MemoryClockMegahertz),
    (Metric::DiskFreeBytes, wire::Metric::DiskFreeBytes),
    (Metric::ReadBytesPerSecond, wire::Metric::ReadBytesPerSecond),
    (Metric::WriteBytesPerSecond, wire::Metric::WriteBytesPerSecond),
    (Metric::ReadsPerSecond, wire::Metric::ReadsPerSecond),
    (Metric::WritesPerSecond, wire::Metric::WritesPerSecond),
    (Metric::ReadLatencyMilliseconds, wire::Metric::ReadLatencyMilliseconds),
    (Metric::WriteLatencyMilliseconds, wire::Metric::WriteLatencyMilliseconds),
    (Metric::DiskBusyPercent, wire::Metric::DiskBusyPercent),
    (Metric::ReceiveBytesPerSecond, wire::Metric::ReceiveBytesPerSecond),
    (Metric::TransmitBytesPerSecond, wire::Metric::TransmitBytesPerSecond),
    (Metric::MemoryLimitBytes, wire::Metric::MemoryLimitBytes),
    (Metric::OomKills, wire::Metric::OomKills),
    (Metric::GpuMemoryUsedBytes, wire::Metric::GpuMemoryUsedBytes),
];

fn metric_on_wire(metric: Metric) -> i32 {
    let pair = METRICS.iter().find(|(known, _)| *known == metric);
    pair.map_or(wire::Metric::Unspecified, |(_, number)| *number).into()
}

fn metric(number: i32) -> Option<Metric> {
    METRICS.iter().find(|(_, known)| i32::from(*known) == number).map(|(metric, _)| *metric)
}

impl From<NodeRollup> for wire::NodeRollup {
    fn from(rollup: NodeRollup) -> Self {
        Self {
            from_wall_ns: rollup.from.wall.get(),
            from_boot_ns: rollup.from.boot.get(),
            to_wall_ns: rollup.to.wall.get(),
            to_boot_ns: rollup.to.boot.get(),
            samples: rollup.samples,
            subjects: rollup.subjects.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::NodeRollup> for NodeRollup {
    type Error = WireError;
    fn try_from(wire: wire::NodeRollup) -> Result<Self, WireError> {
        let at = |wall, boot| Now { wall: WallNanos::new(wall), boot: BootNanos::new(boot) };
        let subjects = wire.subjects.into_iter().filter_map(|s| subject_rollup(s).transpose());
        Ok(Self {
            from: at(wire.from_wall_ns, wire.from_boot_ns),
            to: at(wire.to_wall_ns, wire.to_boot_ns),
            samples: wire.samples,
            subjects: subjects.collect::<Result<_, _>>()?,
        })
    }
}

impl From<SubjectRollup> for wire::SubjectRollup {
    fn from(rollup: SubjectRollup) -> Self {
        let (kind, id, container) = match rollup.subject {
            Subject::Node => ("node", String::new(), None),
            Subject::Core(number) => ("core", number.to_string(), None),
            Subject::Gpu(id) => ("gpu", id.into(), None),
            Subject::Disk(mount) => ("disk", mount, None),
            Subject::Interface(name) => ("interface", name, None),
            Subject::Container(attempt) => ("container", String::new(), Some(attempt.into())),
        };
        let (trouble, trouble_detail) =
            rollup.trouble.map(state_words).map_or((None, String::new()), |(s, d)| (Some(s), d));
        let figure = |(metric, summary): (Metric, Summary)| wire::MetricSummary {
            metric: metric_on_wire(metric),
            min: summary.min,
            mean: summary.mean,
            max: summary.max,
            count: summary.count,
        };
        Self {
            kind: kind.to_owned(),
            id,
            container,
            figures: rollup.figures.into_iter().map(figure).collect(),
            throttle_bits: rollup.throttle.map(ThrottleReasons::bits),
            trouble,
            trouble_detail,
        }
    }
}

/// `None` for a kind of subject that is newer than this release.
fn subject_rollup(wire: wire::SubjectRollup) -> Result<Option<SubjectRollup>, WireError> {
    let subject = match wire.kind.as_str() {
        "node" => Subject::Node,
        "core" => {
            let number = wire.id.parse();
            Subject::Core(number.map_err(|_| WireError::new("rollup.core", "it is no number"))?)
        }
        "gpu" => Subject::Gpu(gpu_id("rollup.gpu", wire.id)?),
        "disk" => Subject::Disk(wire.id),
        "interface" => Subject::Interface(wire.id),
        "container" => {
            let of = wire.container.ok_or_else(|| WireError::missing("rollup.container"))?;
            Subject::Container(of.into())
        }
        _ => return Ok(None),
    };
    let figure = |figure: wire::MetricSummary| {
        let wire::MetricSummary { metric: number, min, mean, max, count } = figure;
        Some((metric(number)?, Summary { min, mean, max, count }))
    };
    Ok(Some(SubjectRollup {
        subject,
        figures: wire.figures.into_iter().filter_map(figure).collect(),
        throttle: wire.throttle_bits.map(ThrottleReasons::from_bits),
        trouble: wire.trouble.map(|name| state(&name, wire.trouble_detail)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_own_number_and_the_same_name_on_the_wire() {
        for metric_here in Metric::ALL {
            let number = metric_on_wire(*metric_here);
            let there = wire::Metric::try_from(number).expect("a number of the wire");
            let name = metric_here.name().to_uppercase();
            assert_eq!(there.as_str_name(), format!("METRIC_{name}"));
            assert_eq!(metric(number), Some(*metric_here));
        }
    }

    #[test]
    fn what_is_newer_than_this_release_is_skipped() {
        let known = wire::MetricSummary { metric: 1, min: 1.0, mean: 2.0, max: 3.0, count: 4 };
        let newer = wire::MetricSummary { metric: 9999, ..known };
        let subject = |kind: &str| wire::SubjectRollup {
            kind: kind.to_owned(),
            figures: vec![known, newer],
            ..wire::SubjectRollup::default()
        };
        let wire = wire::NodeRollup {
            subjects: vec![subject("node"), subject("quantum")],
            ..wire::NodeRollup::default()
        };
        let rollup = NodeRollup::try_from(wire).expect("it is taken");
        assert_eq!(rollup.subjects.len(), 1);
        assert_eq!(rollup.subjects[0].figures.len(), 1);
    }
}
