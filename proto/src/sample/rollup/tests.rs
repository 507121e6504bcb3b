//! What an aggregator promises.

use super::*;
use crate::quantity::Bytes;
use crate::sample::{ContainerSample, DiskSample, GpuSample, NetworkSample};
use crate::time::{BootNanos, WallNanos};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn at(second: u64) -> Now {
    Now { wall: WallNanos::new(second * SECOND), boot: BootNanos::new(second * SECOND) }
}

fn sample(second: u64, busy: Option<f32>) -> NodeSample {
    let mut sample = NodeSample { at: at(second), ..NodeSample::default() };
    sample.cpu.busy_percent = busy;
    sample
}

fn figure(rollup: &NodeRollup, subject: &Subject, metric: Metric) -> Option<Summary> {
    let of_subject = rollup.subjects.iter().find(|s| s.subject == *subject)?;
    of_subject.figures.get(&metric).copied()
}

#[test]
fn a_window_is_given_when_the_next_begins() {
    let mut aggregator = Aggregator::default();
    for second in 20..30 {
        let busy = f32::from(u8::try_from(second).expect("small"));
        assert_eq!(aggregator.push(&sample(second, Some(busy))), None);
    }
    let rollup = aggregator.push(&sample(30, Some(90.0))).expect("a complete window");
    assert_eq!((rollup.from, rollup.to, rollup.samples), (at(20), at(29), 10));
    assert_eq!(
        figure(&rollup, &Subject::Node, Metric::CpuBusyPercent),
        Some(Summary { min: 20.0, mean: 24.5, max: 29.0, count: 10 })
    );
    let last = aggregator.flush().expect("the window in progress");
    assert_eq!((last.from, last.samples), (at(30), 1));
    assert_eq!(aggregator.flush(), None);
}

#[test]
fn what_is_not_known_is_not_counted_as_zero() {
    let mut aggregator = Aggregator::default();
    aggregator.push(&sample(0, None));
    aggregator.push(&sample(1, Some(f32::NAN)));
    aggregator.push(&sample(2, Some(50.0)));
    let rollup = aggregator.flush().expect("a window");
    assert_eq!(rollup.samples, 3);
    assert_eq!(
        figure(&rollup, &Subject::Node, Metric::CpuBusyPercent),
        Some(Summary { min: 50.0, mean: 50.0, max: 50.0, count: 1 })
    );
    assert_eq!(figure(&rollup, &Subject::Node, Metric::MemoryUsedBytes), None);
}

#[test]
fn a_gap_ends_a_window_early_and_shows_in_its_count() {
    let mut aggregator = Aggregator::default();
    aggregator.push(&sample(3, Some(1.0)));
    let rollup = aggregator.push(&sample(47, Some(2.0))).expect("the window before the gap");
    assert_eq!((rollup.from, rollup.to, rollup.samples), (at(3), at(3), 1));
}

#[test]
fn a_moment_of_trouble_in_a_window_is_kept() {
    let id: GpuId = "GPU-a".parse().expect("a GPU id");
    let gpu = |state, throttle| {
        let mut gpu = GpuSample::without_figures(id.clone(), 0, state);
        gpu.throttle = throttle;
        gpu
    };
    let mut aggregator = Aggregator::default();
    let hot = Some(ThrottleReasons::from_bits(0x40));
    let capped = Some(ThrottleReasons::from_bits(0x4));
    for (second, state) in
        [gpu(GpuState::Ok, hot), gpu(GpuState::Lost, None), gpu(GpuState::Ok, capped)]
            .into_iter()
            .enumerate()
    {
        let mut sample = sample(u64::try_from(second).expect("small"), None);
        sample.gpus = vec![state];
        aggregator.push(&sample);
    }
    let rollup = aggregator.flush().expect("a window");
    let subject = rollup.subjects.iter().find(|s| s.subject == Subject::Gpu(id.clone()));
    let subject = subject.expect("the GPU");
    assert_eq!(subject.throttle, Some(ThrottleReasons::from_bits(0x44)));
    assert_eq!(subject.trouble, Some(GpuState::Lost));
}

#[test]
fn every_metric_is_fed_by_a_full_sample() {
    let rollup = {
        let mut aggregator = Aggregator::default();
        aggregator.push(&full());
        aggregator.flush().expect("a window")
    };
    let fed: std::collections::BTreeSet<Metric> =
        rollup.subjects.iter().flat_map(|s| s.figures.keys().copied()).collect();
    let missing: Vec<_> = Metric::ALL.iter().filter(|metric| !fed.contains(metric)).collect();
    assert!(missing.is_empty(), "no sample feeds {missing:?}");
    assert_eq!(rollup.subjects.len(), 7, "node, two cores, GPU, disk, interface, container");
    for metric in Metric::ALL {
        assert_eq!(Metric::from_name(metric.name()), Some(*metric));
    }
}

/// A sample in which nothing is unknown.
fn full() -> NodeSample {
    let id: GpuId = "GPU-a".parse().expect("a GPU id");
    let some = Some(Bytes::mib(1));
    let mut sample = sample(0, Some(1.0));
    sample.cpu.steal_percent = Some(1.0);
    sample.cpu.io_wait_percent = Some(1.0);
    sample.cpu.cores_busy_percent = vec![1.0, 2.0];
    sample.cpu.load = Some([1.0, 2.0, 3.0]);
    sample.memory.total = some;
    sample.memory.available = some;
    sample.memory.swap_used = some;
    sample.gpus = vec![GpuSample {
        memory_total: some,
        memory_used: some,
        memory_free: some,
        utilisation_percent: Some(1),
        memory_utilisation_percent: Some(1),
        temperature_celsius: Some(1),
        power_mw: Some(1),
        power_limit_mw: Some(1),
        sm_clock_mhz: Some(1),
        memory_clock_mhz: Some(1),
        ..GpuSample::without_figures(id.clone(), 0, GpuState::Ok)
    }];
    sample.disks = vec![DiskSample {
        mount: "/".to_owned(),
        device: "vda".to_owned(),
        total: some,
        free: some,
        read_per_second: some,
        write_per_second: some,
        reads_per_second: Some(1.0),
        writes_per_second: Some(1.0),
        read_latency_ms: Some(1.0),
        write_latency_ms: Some(1.0),
        busy_percent: Some(1.0),
    }];
    sample.networks = vec![NetworkSample {
        interface: "eth0".to_owned(),
        receive_per_second: some,
        transmit_per_second: some,
    }];
    let attempt = AttemptId { job: crate::id::JobId::new(1), token: crate::id::Token::default() };
    sample.containers = vec![ContainerSample {
        cpu: Some(crate::quantity::MilliCpu::new(500)),
        ram: some,
        ram_limit: some,
        oom_kills: Some(0),
        read_per_second: some,
        write_per_second: some,
        gpu_memory: vec![(id, Bytes::mib(1))],
        ..ContainerSample::unknown(attempt)
    }];
    sample
}

proptest! {
    #[test]
    fn a_mean_lies_between_the_extremes_and_no_sample_is_lost(
        values in proptest::collection::vec(0.0_f32..100.0, 1..60),
    ) {
        let mut aggregator = Aggregator::default();
        let mut rollups = Vec::new();
        for (second, value) in (0_u64..).zip(&values) {
            rollups.extend(aggregator.push(&sample(second, Some(*value))));
        }
        rollups.extend(aggregator.flush());
        let counted: usize = rollups.iter().map(|r| r.samples as usize).sum();
        prop_assert_eq!(counted, values.len());
        for rollup in &rollups {
            let summary = figure(rollup, &Subject::Node, Metric::CpuBusyPercent);
            let Summary { min, mean, max, count } = summary.expect("it was fed");
            prop_assert!(min <= mean && mean <= max);
            prop_assert_eq!(count, rollup.samples);
        }
    }
}
