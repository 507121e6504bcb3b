//! Readers of whole documents with figures: Python's JSON, the trainer's state, pushed bodies, and the table of names.

use hone_agent::tools::fuzzing;
use hone_agent::tools::json::{from_slice, object};
use hone_agent::tools::point::{Point, Source};
use hone_agent::tools::push::PushReader;
use hone_agent::tools::state::TrainerState;
use hone_proto::id::Step;
use serde_json::Value;

use crate::check;

/// Strict JSON stays what it is; Python's becomes strict, is bounded, and is then left alone.
pub(crate) fn json(bytes: &[u8]) {
    let strict = fuzzing::strict(bytes);
    assert!(strict.len() <= 3 * bytes.len());
    assert_eq!(fuzzing::strict(&strict), strict, "what is strict is left alone");
    if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
        assert_eq!(from_slice::<Value>(bytes).expect("strict JSON is read too"), value);
    }
    let whole = object(bytes);
    if let Ok(map) = &whole {
        let again = serde_json::to_vec(map).expect("it can be written");
        assert_eq!(&object(&again).expect("what was written can be read"), map);
    }
    check::no_beginning_is_whole(bytes, |bytes| object(bytes).is_ok());
}

/// Lines of a name and a number: what is told was put, under a name of hone's or the tool's.
pub(crate) fn point(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let pairs: Vec<(&str, f64)> = text
        .split('\n')
        .filter_map(|line| line.rsplit_once('='))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect();
    let (progress, points) = fuzzing::gather(&pairs);
    check::points(&points, Source::Push);
    assert!(progress.epoch.is_none_or(f64::is_finite));
    let splits: Vec<_> = points.iter().map(|point| point.split).collect();
    assert!(splits.is_sorted_by(|a, b| a < b), "a point for each split: {splits:?}");
    for point in &points {
        assert_eq!((point.step, point.epoch), (progress.step, progress.epoch));
        for (name, value) in &point.values {
            let put = pairs.iter().any(|(_, other)| other.to_bits() == value.to_bits());
            assert!(put, "nobody put {name} = {value}");
        }
    }
}

/// Every log with a step, once; the same from any step on; nothing of a file that is being written.
pub(crate) fn state(bytes: &[u8]) {
    let whole = TrainerState::parse(bytes, None);
    check::no_beginning_is_whole(bytes, |bytes| TrainerState::parse(bytes, None).is_ok());
    let Ok(whole) = whole else { return };
    check::points(&whole.points, Source::StateFile);
    check::odd_values_were_written(&whole.points, bytes);
    assert!(whole.epoch.is_none_or(f64::is_finite));
    assert!(whole.points.iter().all(|point| point.step.is_some()));
    let Some(middle) = whole.points.get(check::cut(bytes) % whole.points.len().max(1)) else {
        return;
    };
    let rest = TrainerState::parse(bytes, middle.step).expect("it was read before");
    let later = |point: &&Point| point.step > middle.step;
    let expected: Vec<Point> = whole.points.iter().filter(later).cloned().collect();
    assert_eq!(check::figures(&rest.points), check::figures(&expected), "after {:?}", middle.step);
    assert_eq!((rest.global_step, rest.malformed), (whole.global_step, whole.malformed));
    let end = TrainerState::parse(bytes, Some(Step::new(u64::MAX))).expect("it was read before");
    assert_eq!(end.points, []);
}

/// Bodies, one a line, as one process pushes them: each figure is news once.
pub(crate) fn push(bytes: &[u8]) {
    let mut reader = PushReader::default();
    for body in bytes.split(|byte| *byte == b'\n') {
        let Some(pushed) = reader.read(body) else { continue };
        check::points(&pushed.points, Source::Push);
        check::odd_values_were_written(&pushed.points, body);
        for point in &pushed.points {
            assert!(point.step <= pushed.progress.step.or(point.step), "a step in the future");
            assert!(point.step.is_none() || point.epoch.is_some(), "a step without its epoch");
        }
        assert!(pushed.progress.epoch.is_none_or(f64::is_finite));
        let again = reader.read(body).expect("it was read before");
        assert_eq!(again.points, [], "the same body is no news");
        assert_eq!((again.progress, again.percent), (pushed.progress, pushed.percent));
    }
}
