//! A node's hardware over time: a line for each ten seconds and each live sample, and the same as JSON.

use std::collections::BTreeMap;

use hone_proto::sample::rollup::{Metric, NodeRollup, Subject, SubjectRollup, Summary};
use hone_proto::sample::{GpuState, NodeSample, ThrottleReasons};
use hone_proto::wire;
use hone_proto::wire::hardware_update::Update;
use serde::Serialize;

use super::hardware::{gpu_line, state};
use super::human::{one_line, time, whole_bytes};

/// An update as JSON: `{"rollup": …}`, `{"sample": …}` or `{"lost": …}`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown<'a> {
    /// Ten seconds.
    Rollup(ShownRollup<'a>),
    /// One measurement, as `node show` prints it.
    Sample(&'a wire::NodeSample),
    /// So many windows were dropped.
    Lost {
        /// How many.
        count: u64,
        /// For people.
        reason: &'a str,
    },
}

/// Ten seconds of a node.
#[derive(Debug, Serialize)]
pub struct ShownRollup<'a> {
    from_wall_ns: u64,
    to_wall_ns: u64,
    samples: u32,
    subjects: Vec<ShownSubject<'a>>,
}

#[derive(Debug, Serialize)]
struct ShownSubject<'a> {
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a wire::ContainerOf>,
    figures: BTreeMap<String, ShownSummary>,
    throttle_bits: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    throttle_reasons: Vec<String>,
    trouble: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct ShownSummary {
    min: f64,
    mean: f64,
    max: f64,
    count: u32,
}

impl<'a> From<&'a Update> for Shown<'a> {
    fn from(update: &'a Update) -> Self {
        match update {
            Update::Rollup(rollup) => Self::Rollup(ShownRollup {
                from_wall_ns: rollup.from_wall_ns,
                to_wall_ns: rollup.to_wall_ns,
                samples: rollup.samples,
                subjects: rollup.subjects.iter().map(shown_subject).collect(),
            }),
            Update::Sample(sample) => Self::Sample(sample),
            Update::Gap(gap) => Self::Lost { count: gap.count, reason: &gap.reason },
        }
    }
}

fn shown_subject(subject: &wire::SubjectRollup) -> ShownSubject<'_> {
    let figure = |figure: &wire::MetricSummary| {
        let wire::MetricSummary { min, mean, max, count, .. } = *figure;
        // A metric that is newer than this release has a number and no name.
        let name = figure.metric().as_str_name().trim_start_matches("METRIC_").to_lowercase();
        (name, ShownSummary { min, mean, max, count })
    };
    let reasons = subject.throttle_bits.map(|bits| ThrottleReasons::from_bits(bits).names());
    ShownSubject {
        kind: &subject.kind,
        id: &subject.id,
        container: subject.container.as_ref(),
        figures: subject.figures.iter().map(figure).collect(),
        throttle_bits: subject.throttle_bits,
        throttle_reasons: reasons.unwrap_or_default(),
        trouble: subject.trouble.as_deref(),
    }
}

/// One line for people; a GPU adds one of its own, indented.
#[must_use]
pub fn line(update: &Update) -> String {
    match update {
        Update::Rollup(rollup) => NodeRollup::try_from(rollup.clone())
            .map_or_else(|error| format!("a window that cannot be read: {error}"), |r| window(&r)),
        Update::Sample(sample) => NodeSample::try_from(sample.clone())
            .map_or_else(|error| format!("a sample that cannot be read: {error}"), |s| moment(&s)),
        Update::Gap(gap) => {
            format!("{} windows were lost: {}", gap.count, one_line(&gap.reason))
        }
    }
}

fn moment(sample: &NodeSample) -> String {
    let parts = [
        sample.cpu.busy_percent.map(|busy| format!("CPU {busy:.0} %")),
        sample.memory.used().map(|used| format!("RAM {used}")),
    ];
    let node = parts.into_iter().flatten().collect::<Vec<_>>().join("  ");
    let gpus = sample.gpus.iter().map(gpu_line);
    lines(format!("{}  now   {node}", time(sample.at.wall)), gpus)
}

fn window(rollup: &NodeRollup) -> String {
    let mut node = String::new();
    let mut gpus = Vec::new();
    for subject in &rollup.subjects {
        match &subject.subject {
            Subject::Node => {
                node = figures(
                    subject,
                    &[(Metric::CpuBusyPercent, "CPU", " %"), (Metric::MemoryUsedBytes, "RAM", "")],
                );
            }
            Subject::Gpu(id) => gpus.push(format!("GPU {id} {}", gpu(subject))),
            Subject::Core(_) | Subject::Disk(_) | Subject::Interface(_) | Subject::Container(_) => {
            }
        }
    }
    lines(format!("{}  {:>2} s  {node}", time(rollup.to.wall), rollup.samples), gpus.into_iter())
}

fn lines(first: String, more: impl Iterator<Item = String>) -> String {
    more.fold(first.trim_end().to_owned(), |text, line| format!("{text}\n  {}", line.trim_end()))
}

fn gpu(subject: &SubjectRollup) -> String {
    let mut text = figures(
        subject,
        &[
            (Metric::UtilisationPercent, "busy", " %"),
            (Metric::MemoryUsedBytes, "memory", ""),
            (Metric::TemperatureCelsius, "", " °C"),
        ],
    );
    if let Some(trouble) = subject.trouble.as_ref().filter(|trouble| **trouble != GpuState::Ok) {
        text.push_str(&format!("  {}", state(trouble)));
    }
    let names = subject.throttle.map(ThrottleReasons::names).unwrap_or_default();
    if names.iter().any(|name| name != "gpu_idle") {
        text.push_str(&format!("  slowed by {}", names.join(", ")));
    }
    text
}

/// `CPU 12 % (max 40)`, for each figure that there is.
fn figures(subject: &SubjectRollup, wanted: &[(Metric, &str, &str)]) -> String {
    let one = |(metric, name, unit): &(Metric, &str, &str)| {
        let Summary { mean, max, .. } = subject.figures.get(metric)?;
        let show = |value: f64| match metric {
            Metric::MemoryUsedBytes => whole_bytes(value).to_string(),
            _ => format!("{value:.0}"),
        };
        let (mean, max) = (show(*mean), show(*max));
        Some(format!("{name} {mean}{unit} (max {max})").trim_start().to_owned())
    };
    wanted.iter().filter_map(one).collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update() -> Update {
        let figure = |metric: wire::Metric, min, mean, max| wire::MetricSummary {
            metric: metric.into(),
            min,
            mean,
            max,
            count: 10,
        };
        let node = wire::SubjectRollup {
            kind: "node".to_owned(),
            figures: vec![
                figure(wire::Metric::CpuBusyPercent, 1.0, 12.4, 40.0),
                figure(wire::Metric::MemoryUsedBytes, 0.0, 3e9, 4e9),
            ],
            ..Default::default()
        };
        let gpu = wire::SubjectRollup {
            kind: "gpu".to_owned(),
            id: "GPU-8f6c2b0e-1111-2222-3333-444455556661".to_owned(),
            figures: vec![figure(wire::Metric::TemperatureCelsius, 60.0, 71.6, 84.0)],
            throttle_bits: Some(0x40),
            trouble: Some("lost".to_owned()),
            ..Default::default()
        };
        Update::Rollup(wire::NodeRollup {
            to_wall_ns: 1_500_000_000_123_456_789,
            samples: 9,
            subjects: vec![node, gpu],
            ..Default::default()
        })
    }

    #[test]
    fn ten_seconds_are_a_line_and_each_gpu_another() {
        insta::assert_snapshot!(line(&update()), @r"
        2017-07-14 02:40:00Z   9 s  CPU 12 % (max 40)  RAM 2.8 GiB (max 3.7 GiB)
          GPU GPU-8f6c2b0e-1111-2222-3333-444455556661 72 °C (max 84)  lost: the machine must be restarted  slowed by hw_thermal_slowdown
        ");
    }

    #[test]
    fn as_json_every_figure_has_its_name() {
        let json = serde_json::to_value(Shown::from(&update())).expect("it serialises");
        let gpu = &json["rollup"]["subjects"][1];
        assert_eq!(gpu["figures"]["temperature_celsius"]["max"], 84.0);
        assert_eq!(gpu["throttle_reasons"][0], "hw_thermal_slowdown");
        assert_eq!(gpu["trouble"], "lost");
    }
}
