//! Bodies of a real run, in order, damaged and hostile.

use super::*;
use crate::tools::fixtures;

fn bodies() -> Vec<String> {
    let text = fixtures::text("hf5-trl-lora/kubeflow-posts.txt");
    text.lines().filter_map(|line| Some(line[line.find('{')?..].to_owned())).collect()
}

fn body(figures: &[(&str, f64)]) -> Vec<u8> {
    let metrics: Vec<_> = figures
        .iter()
        .map(|(name, value)| serde_json::json!({"name": name, "value": value.to_string()}))
        .collect();
    serde_json::json!({"trainerStatus": {"metrics": metrics}}).to_string().into_bytes()
}

fn read(reader: &mut PushReader, figures: &[(&str, f64)]) -> Vec<(Split, Option<u64>)> {
    let pushed = reader.read(&body(figures)).expect("a body");
    pushed.points.iter().map(|p| (p.split, p.step.map(Step::get))).collect()
}

#[test]
fn a_real_run_s_bodies() {
    let mut reader = PushReader::default();
    let bodies = bodies();
    let first = reader.read(bodies[0].as_bytes()).expect("a body");
    assert_eq!((first.points.len(), first.percent), (0, Some(0)));
    assert_eq!(first.progress, Progress { total: Some(Step::new(6000)), ..Progress::default() });
    let second = reader.read(bodies[1].as_bytes()).expect("a body");
    let progress = Progress {
        step: Some(Step::new(226)),
        total: Some(Step::new(6000)),
        epoch: Some(2.79),
        remaining_s: Some(128),
    };
    assert_eq!((second.progress, second.percent), (progress, Some(3)));
    let [point] = second.points.as_slice() else { panic!("{:?}", second.points) };
    // 81 steps per epoch; the figures were logged at step 200, not at 226.
    assert_eq!((point.step, point.epoch), (Some(Step::new(200)), Some(2.469_135_802_469_135_7)));
    assert_eq!((point.split, point.source), (Split::Train, Source::Push));
    assert_eq!(point.values["loss"], 4.798_444_213_867_188);
    assert_eq!(point.values["tokens_seen"], 45644.0);
    assert_eq!(point.values["tokens_per_second"], 10_258.061);
    assert_eq!(point.at.map(WallNanos::get), Some(1_795_451_100_899_154_000));
    assert!(!point.values.contains_key("current_epoch"));
    assert_eq!(reader.read(bodies[1].as_bytes()).expect("a body").points, [], "no news");
}

#[test]
fn old_figures_of_the_other_kind_do_not_come_again() {
    let mut reader = PushReader::default();
    let now = [("current_step", 50.0), ("total_steps", 100.0), ("current_epoch", 0.5)];
    let with = |more: &[(&'static str, f64)]| [&now[..], more].concat();
    let train = [("loss", 2.0), ("epoch", 0.4)];
    assert_eq!(read(&mut reader, &with(&train)), [(Split::Train, Some(40))]);
    let evaluated =
        [("loss", 2.0), ("eval_loss", 3.0), ("epoch", 0.5), ("num_input_tokens_seen", 9.0)];
    assert_eq!(read(&mut reader, &with(&evaluated)), [(Split::Eval, Some(50))]);
    let both = [("loss", 1.0), ("eval_loss", 2.5), ("epoch", 0.5)];
    assert_eq!(read(&mut reader, &with(&both)), [(Split::Train, None), (Split::Eval, None)]);
    let lost = [("loss", f64::NAN), ("eval_loss", 2.5), ("epoch", 0.5)];
    assert_eq!(read(&mut reader, &with(&lost)), [(Split::Train, Some(50))]);
    assert_eq!(read(&mut reader, &with(&lost)), [], "the same NaN is no news");
}

#[test]
fn a_step_that_is_not_certain_is_not_told() {
    let step = |epoch: f64, step: u64, current: f64| {
        let now =
            Progress { step: Some(Step::new(step)), epoch: Some(current), ..Progress::default() };
        logged_step(epoch, now).map(Step::get)
    };
    // 81 steps per epoch out of 645 micro-batches by 8: no step falls where the log says.
    assert_eq!(step(16.0 / 645.0, 3, 0.04), None);
    assert_eq!(step(1.0, 243, 0.3), None, "any of many numbers of steps per epoch");
    assert_eq!(step(200.0 / 81.0, 226, 2.79), Some(200));
    assert_eq!(step(0.5, 0, 0.0), None);
    assert_eq!(step(0.5, 7, 0.0), None);
    assert_eq!(step(f64::MAX, u64::MAX, f64::MAX), None);
    assert_eq!(step(0.5, u64::MAX, 0.006), None);
}

#[test]
fn what_no_tool_sends_is_refused_or_harmless() {
    let mut reader = PushReader::default();
    for bad in ["", "{}", "[]", "{\"trainerStatus\": 1}", "{\"trainerStatus\": {\"metrics\": [1]}}"]
    {
        assert_eq!(reader.read(bad.as_bytes()), None, "{bad}");
    }
    let odd = r#"{"trainerStatus": {"progressPercentage": -5, "estimatedRemainingSeconds": NaN,
        "lastUpdatedTime": "yesterday", "metrics": [{"name": "loss", "value": "high"}, {"name": "epoch", "value": "inf"},
        {"name": "current_step", "value": "-1"}, {"name": "x", "value": Infinity}, {"name": "y", "value": "1e999"}]}}"#;
    let pushed = reader.read(odd.as_bytes()).expect("a body");
    assert_eq!((pushed.progress.step, pushed.progress.remaining_s), (None, Some(0)));
    assert_eq!(pushed.points[0].values["x"], f64::INFINITY);
    assert!(!pushed.points[0].values.contains_key("y"), "nobody said that it is infinite");
    let bodies = bodies();
    for len in 0..bodies[1].len() {
        assert_eq!(PushReader::default().read(&bodies[1].as_bytes()[..len]), None);
    }
}
