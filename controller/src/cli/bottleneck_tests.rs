//! What is named, and what is not worth naming.

use std::collections::BTreeMap;

use hone_proto::id::{Attempt, Generation, JobId, Token};
use hone_proto::sample::rollup::Summary;
use hone_proto::time::Now;

use super::*;

fn record(parts: &[(&str, f64)]) -> SeriesPoint {
    let values = parts.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    SeriesPoint { values, ..SeriesPoint::default() }
}

fn spent(waiting: f64, saving: f64, evaluating: f64, compute: f64) -> Option<Spent> {
    let record = record(&[
        ("data_wait_s", waiting),
        ("save_s", saving),
        ("eval_s", evaluating),
        ("compute_s", compute),
        ("loss", 1e9),
        ("optimizer_s", f64::NAN),
    ]);
    Spent::of([&record, &record])
}

fn demand(gpus: u32) -> DemandView {
    DemandView { gpus, milli_cpu: 2000, ..DemandView::default() }
}

fn named(spent: Option<Spent>, used: Used, gpus: u32) -> Option<Resource> {
    bottleneck(spent, &used, &demand(gpus)).map(|found| found.resource)
}

#[test]
fn time_that_is_not_training_is_named_with_where_it_goes() {
    let disk = Used { read: Some(4e6), cores: Some(2.0), ..Used::default() };
    let found = bottleneck(spent(6.0, 0.0, 0.0, 4.0), &disk, &demand(0)).expect("found");
    assert_eq!(found.resource, Resource::Disk);
    assert_eq!(
        found.line(),
        "disk: 60 % of the time waits for rows, while the disk gives 3.8 MiB a second; \
         `data.preload: memory` reads them once, before training"
    );
    let network = Used { received: Some(9e6), ..Used::default() };
    assert_eq!(named(spent(6.0, 0.0, 0.0, 4.0), network, 0), Some(Resource::Network));
    assert_eq!(named(spent(6.0, 0.0, 0.0, 4.0), Used::default(), 0), Some(Resource::Data));
    assert_eq!(named(spent(0.0, 3.0, 0.0, 7.0), Used::default(), 0), Some(Resource::Disk));
    assert_eq!(named(spent(0.0, 0.0, 4.0, 6.0), Used::default(), 0), Some(Resource::Evaluation));
    // What always takes some of it is not.
    assert_eq!(named(spent(1.0, 1.0, 2.0, 8.0), Used::default(), 0), None);
}

#[test]
fn what_is_used_up_is_named_also_for_tools_that_split_no_time() {
    let cores = Used { cores: Some(1.95), ..Used::default() };
    assert_eq!(named(None, cores, 0), Some(Resource::Cpu));
    assert_eq!(named(None, Used { cores: Some(1.0), ..cores }, 0), None);
    assert_eq!(named(None, Used { gpu: Some(97.0), ..cores }, 1), Some(Resource::Gpu));
    assert_eq!(named(None, Used { gpu: Some(40.0), ..cores }, 1), Some(Resource::Cpu));
    assert_eq!(named(None, Used { memory: Some(0.99), ..cores }, 1), Some(Resource::Memory));
    assert_eq!(named(None, Used::default(), 1), None);
    assert_eq!(Spent::of([&record(&[("loss", 2.0)])]), None);
}

#[test]
fn only_what_the_attempt_itself_used_counts() {
    let id = |attempt| AttemptId {
        job: JobId::new(1),
        token: Token { generation: Generation::new(1), attempt: Attempt::new(attempt) },
    };
    let subject = |subject, figures: &[(Metric, f64)]| {
        let summary = |mean: f64| Summary { min: mean, mean, max: mean, count: 10 };
        let figures: BTreeMap<_, _> =
            figures.iter().map(|(metric, mean)| (*metric, summary(*mean))).collect();
        SubjectRollup { subject, figures, throttle: None, trouble: None }
    };
    let gpu = |name: &str| Subject::Gpu(name.parse().expect("an id"));
    let link = || Subject::Interface("eth0".parse().expect("a name"));
    let window = |cores| NodeRollup {
        from: Now::read(),
        to: Now::read(),
        samples: 10,
        subjects: vec![
            subject(
                Subject::Container(id(2)),
                &[
                    (Metric::CpuUsedCores, cores),
                    (Metric::MemoryUsedBytes, 3.0),
                    (Metric::MemoryLimitBytes, 4.0),
                ],
            ),
            subject(Subject::Container(id(1)), &[(Metric::CpuUsedCores, 100.0)]),
            subject(gpu("GPU-a"), &[(Metric::UtilisationPercent, 50.0)]),
            subject(gpu("GPU-b"), &[(Metric::UtilisationPercent, 1.0)]),
            subject(link(), &[(Metric::ReceiveBytesPerSecond, 9e6)]),
        ],
    };
    let attempt = AttemptView { gpu_uuids: vec!["GPU-a".to_owned()], ..AttemptView::default() };
    let closed = JobView::default();
    let used = Used::of(&[window(1.0), window(2.0)], id(2), &closed, &attempt);
    let expected =
        Used { cores: Some(1.5), memory: Some(0.75), gpu: Some(50.0), ..Used::default() };
    assert_eq!(used, expected, "what the node receives is others'");
    let relaxations = vec!["network: egress".to_owned()];
    let open = JobView { relaxations, ..JobView::default() };
    let used = Used::of(&[window(1.0)], id(2), &open, &attempt);
    assert_eq!(used.received, Some(9e6));
    assert_eq!(Used::of(&[], id(2), &closed, &attempt), Used::default());
}

#[test]
fn what_was_measured_before_the_records_counts_only_while_there_is_nothing_else() {
    let window = |to: u64| {
        let to = Now { wall: WallNanos::new(to), ..Now::read() };
        NodeRollup { from: to, to, samples: 10, subjects: Vec::new() }
    };
    let left = |first| {
        let windows = since(vec![window(10), window(20), window(30)], WallNanos::new(first));
        windows.iter().map(|window| window.to.wall.get()).collect::<Vec<_>>()
    };
    assert_eq!(left(15), [20, 30]);
    assert_eq!(left(31), [30]);
}
