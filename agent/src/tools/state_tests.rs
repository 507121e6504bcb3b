//! State files of real runs: whole, cut anywhere, and with what is no number.

use super::*;
use crate::tools::fixtures;
use crate::tools::point::Split;

fn fixture() -> Vec<u8> {
    fixtures::bytes("hf5-trl-lora/checkpoint-40/trainer_state.json")
}

fn parsed(text: &str) -> TrainerState {
    TrainerState::parse(text.as_bytes(), None).expect("a state")
}

#[test]
fn a_real_run_s_state() {
    let state = TrainerState::parse(&fixture(), None).expect("a state");
    assert_eq!((state.global_step, state.max_steps), (Step::new(40), Some(Step::new(40))));
    assert!(state.is_finished() && !state.early_stopped && !state.more);
    assert_eq!((state.best_checkpoint.as_deref(), state.malformed), (None, 0));
    let steps = |split| -> Vec<_> {
        let of = state.points.iter().filter(|p| p.split == split);
        of.filter_map(|p| p.step.map(Step::get)).collect()
    };
    assert_eq!(steps(Split::Train)[..3], [5, 10, 15]);
    assert_eq!(steps(Split::Eval), [20, 40]);
    let first = &state.points[0];
    assert_eq!(
        (first.values["loss"], first.epoch),
        (5.399_510_192_871_094, Some(0.061_728_395_061_728_39))
    );
    assert_eq!((first.values["tokens_seen"], first.values["num_tokens"]), (1132.0, 998.0));
    assert_eq!(first.source, Source::StateFile);
}

#[test]
fn only_what_is_asked_for_is_told() {
    let later = TrainerState::parse(&fixture(), Some(Step::new(35))).expect("a state");
    assert!(later.points.iter().all(|p| p.step == Some(Step::new(40))));
    assert_eq!(later.points.len(), 3, "the train log, and the eval log with a count of tokens");
    let entries: Vec<_> =
        (0..MAX_FIGURES + 7).map(|n| format!("{{\"step\":{n},\"loss\":1}}")).collect();
    let long = format!("{{\"log_history\":[{}],\"global_step\":1}}", entries.join(","));
    let first = parsed(&long);
    assert_eq!((first.points.len(), first.more), (MAX_FIGURES, true));
    let rest = TrainerState::parse(long.as_bytes(), first.points.last().and_then(|p| p.step));
    let rest = rest.expect("a state");
    assert_eq!((rest.points.len(), rest.more), (7, false));
}

#[test]
fn a_step_without_end_is_cut_and_what_it_lost_is_counted() {
    let entry = |step: u64| format!("{{\"step\":{step},\"loss\":1,\"x\":2,\"eval_loss\":3}}");
    let entries = format!("{},{}", vec![entry(7); MAX_FIGURES].join(","), entry(8));
    let text = format!("{{\"log_history\":[{entries}],\"global_step\":9}}");
    let first = parsed(&text);
    let figures: usize = first.points.iter().map(|point| point.values.len()).sum();
    assert_eq!((figures, first.more), (MAX_FIGURES + 2, true), "the last log is whole");
    assert_eq!(first.malformed, (MAX_FIGURES - MAX_FIGURES.div_ceil(3)) as u64);
    let rest = TrainerState::parse(text.as_bytes(), Some(Step::new(7))).expect("a state");
    assert_eq!((rest.points.len(), rest.more, rest.malformed), (2, false, 0));
}

#[test]
fn what_is_no_number_is_told_and_what_is_no_log_is_counted() {
    let state = parsed(
        r#"{"global_step": 4.0, "max_steps": -1, "epoch": NaN, "best_metric": Infinity, "best_global_step": 2,
        "best_model_checkpoint": "/hone/output/checkpoint-2",
        "log_history": [{"step": 1, "loss": NaN}, {"loss": 2}, {"step": 2, "loss": "inf", "x": [1, {"step": 9}]}]}"#,
    );
    assert_eq!((state.global_step, state.max_steps, state.epoch), (Step::new(4), None, None));
    assert_eq!((state.best_metric, state.best_step), (Some(f64::INFINITY), Some(Step::new(2))));
    assert_eq!(state.best_checkpoint.as_deref(), Some("/hone/output/checkpoint-2"));
    assert_eq!((state.points.len(), state.malformed), (2, 1));
    assert!(state.points[0].values["loss"].is_nan());
    assert_eq!(state.points[1].values["loss"], f64::INFINITY);
    assert!(!state.is_finished());
}

#[test]
fn early_stopping_shows_in_the_callback_s_own_counter() {
    let state = |callbacks: &str| {
        parsed(&format!("{{\"global_step\": 3, \"stateful_callbacks\": {callbacks}}}"))
            .early_stopped
    };
    let callback = |counter: u32| {
        format!(
            r#"{{"args": {{"early_stopping_patience": 3, "early_stopping_threshold": 0.0}},
            "attributes": {{"early_stopping_patience_counter": {counter}}}}}"#
        )
    };
    assert!(state(&format!(r#"{{"EarlyStoppingCallback": {}}}"#, callback(3))));
    assert!(state(&format!(r#"{{"EarlyStoppingCallback": [{}]}}"#, callback(4))));
    assert!(!state(&format!(r#"{{"EarlyStoppingCallback": {}}}"#, callback(2))));
    // Asked to stop by a signal, it says the same as after its last step.
    assert!(!state(
        r#"{"TrainerControl": {"args": {"should_training_stop": true}}, "x": [1, null, -1, "a", true]}"#
    ));
}

#[test]
fn no_beginning_of_a_state_is_one() {
    let bytes = fixture();
    let whole = bytes.trim_ascii_end().len();
    for len in 0..whole {
        assert!(TrainerState::parse(&bytes[..len], None).is_err(), "cut at {len}");
    }
    for bad in [
        "{}",
        "[]",
        "{\"global_step\": -1}",
        "{\"global_step\": \"x\"}",
        "{\"global_step\":1,\"log_history\":{}}",
    ] {
        assert!(TrainerState::parse(bad.as_bytes(), None).is_err(), "{bad}");
    }
    let deep = format!("{{\"global_step\":1,\"stateful_callbacks\":{}", "[".repeat(100_000));
    assert!(TrainerState::parse(deep.as_bytes(), None).is_err());
}
