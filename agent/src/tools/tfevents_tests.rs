//! Event files: a real one, cut and damaged at every place, and what other writers make.

use prost::Message as _;

use super::event::{Event, Summary, Value};
use super::*;
use crate::tools::fixtures;
use crate::tools::point::Split;

fn fixture() -> Vec<u8> {
    fixtures::bytes("hf5-trl-lora/tb/events.out.tfevents.1795451049.vm.11120.0")
}

fn all(bytes: &[u8], path: &str) -> (EventsBatch, FileCursor) {
    let (mut batch, mut cursor) = (EventsBatch::default(), FileCursor::default());
    look(bytes, path, &mut cursor, MAX_READ_LEN, &mut batch).expect("memory can be read");
    (batch, cursor)
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(u32::try_from(masked(&length)).expect("32 bits").to_le_bytes());
    out.extend(payload);
    out.extend(u32::try_from(masked(payload)).expect("32 bits").to_le_bytes());
    out
}

fn written(step: i64, tag: &str, value: f32) -> Vec<u8> {
    let value = Value { tag: tag.to_owned(), simple_value: Some(value), tensor: None };
    let event = Event { wall_time: 10.0, step, summary: Some(Summary { value: vec![value] }) };
    framed(&event.encode_to_vec())
}

/// A point in short: its step, its epoch, its split and its figures.
type Told<'a> = (Option<u64>, Option<f64>, Split, Vec<(&'a str, f64)>);

fn told(points: &[Point]) -> Vec<Told<'_>> {
    points
        .iter()
        .map(|p| {
            let values = p.values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            (p.step.map(|step| step.get()), p.epoch, p.split, values)
        })
        .collect()
}

#[test]
fn a_real_run_s_file_says_what_its_state_says() {
    let bytes = fixture();
    let (batch, cursor) = all(&bytes, "events");
    assert_eq!((batch.corrupt, batch.malformed, batch.passed, batch.more), (0, 0, 0, false));
    assert_eq!(cursor, FileCursor { offset: bytes.len() as u64, ended: false });
    let state = fixtures::bytes("hf5-trl-lora/checkpoint-40/trainer_state.json");
    let state = crate::tools::state::TrainerState::parse(&state, None).expect("a state");
    let mut compared = 0;
    for exact in &state.points {
        // How long it ran is told once more at the end of the run, at the same step.
        for (name, value) in exact.values.iter().filter(|(name, _)| *name != "train_runtime") {
            let same =
                batch.points.iter().filter(|p| p.step == exact.step && p.split == exact.split);
            // What is told once more at the end of the run stands at the same step.
            let found: Vec<f64> = same.filter_map(|p| p.values.get(name)).copied().collect();
            let close = |found: &f64| (found - value).abs() <= 1e-6 * value.abs();
            assert!(found.iter().any(close), "{name} at {:?}: {value} in {found:?}", exact.step);
            compared += 1;
        }
    }
    assert!(compared >= 80, "{compared}");
    let first = &batch.points[0];
    assert_eq!((first.source, first.step.map(|s| s.get())), (Source::TensorBoard, Some(5)));
    assert!(first.at.is_some_and(|at| at.get() / 1_000_000_000 == 1_795_451_049));
}

#[test]
fn cut_anywhere_it_tells_what_is_whole_and_goes_on_there() {
    let bytes = fixture();
    let (whole, _) = all(&bytes, "events");
    let count = |batch: &EventsBatch| batch.points.iter().map(|p| p.values.len()).sum::<usize>();
    for len in 0..bytes.len() {
        let (mut batch, mut cursor) = (EventsBatch::default(), FileCursor::default());
        look(&bytes[..len], "events", &mut cursor, MAX_READ_LEN, &mut batch).expect("read");
        assert!(!cursor.ended && !batch.more, "cut at {len}");
        look(&bytes[..], "events", &mut cursor, MAX_READ_LEN, &mut batch).expect("read");
        // A step that was cut in two has two points, each with a figure that both have.
        assert!(count(&batch) >= count(&whole), "cut at {len}");
        assert_eq!(cursor.offset, bytes.len() as u64, "cut at {len}");
    }
}

#[test]
fn a_wrong_byte_ends_the_file_and_is_counted() {
    let bytes = fixture();
    let (whole, _) = all(&bytes, "events");
    for at in (0..bytes.len()).step_by(7) {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x10;
        let (batch, cursor) = all(&wrong, "events");
        // A length that became larger may be waited for, if its checksum were right; it never is.
        assert_eq!((batch.corrupt, cursor.ended), (1, true), "byte {at}");
        assert!(batch.points.len() <= whole.points.len());
    }
}

#[test]
fn a_bounded_look_goes_on_where_it_stopped() {
    let bytes = fixture();
    let (whole, _) = all(&bytes, "events");
    let (mut batch, mut cursor, mut looks) = (EventsBatch::default(), FileCursor::default(), 0);
    while looks == 0 || batch.more {
        batch.more = false;
        look(&bytes[..], "events", &mut cursor, 6000, &mut batch).expect("read");
        looks += 1;
    }
    let count = |points: &[Point]| points.iter().map(|p| p.values.len()).sum::<usize>();
    assert!(count(&batch.points) >= count(&whole.points));
    assert!(looks > 1);
}

#[test]
fn keras_writes_epochs_and_a_folder_for_validation() {
    let bytes =
        [written(0, "epoch_loss", 2.0), written(12, "batch_loss", 1.0), written(12, "custom", 4.0)]
            .concat();
    let (batch, _) = all(&bytes, "run/train/x");
    assert_eq!(
        told(&batch.points),
        [
            (None, Some(1.0), Split::Train, vec![("loss", 2.0)]),
            (Some(12), None, Split::Train, vec![("custom", 4.0), ("loss", 1.0)]),
        ]
    );
    let bytes = [
        written(1, "epoch_loss", 3.0),
        written(24, "evaluation_loss_vs_iterations", 3.0),
        written(24, "custom", 1.0),
    ];
    let (batch, _) = all(&bytes.concat(), "run/validation/x");
    assert_eq!(
        told(&batch.points),
        [
            (None, Some(2.0), Split::Eval, vec![("eval_loss", 3.0)]),
            (Some(24), None, Split::Eval, vec![("eval_custom", 1.0), ("eval_loss", 3.0)]),
        ]
    );
}

#[test]
fn records_that_are_no_figures_are_counted_and_passed_over() {
    let large = vec![0; usize::try_from(MAX_PAYLOAD_LEN).expect("small") + 1];
    let bytes = [framed(b"\xff\xff"), framed(&large), written(1, "loss", f32::NAN)].concat();
    let (mut batch, mut cursor) = (EventsBatch::default(), FileCursor::default());
    look(&bytes[..], "x", &mut cursor, MAX_READ_LEN, &mut batch).expect("read");
    assert_eq!((batch.malformed, batch.passed, batch.more), (1, 1, true));
    batch.more = false;
    look(&bytes[..], "x", &mut cursor, MAX_READ_LEN, &mut batch).expect("read");
    assert!(batch.points[0].values["loss"].is_nan() && !batch.more);
    let torn = framed(&large);
    let (batch, cursor) = all(&torn[..torn.len() - 1], "x");
    assert_eq!((batch, cursor), (EventsBatch::default(), FileCursor::default()));
    let mut endless = u64::MAX.to_le_bytes().to_vec();
    let check = u32::try_from(masked(&endless)).expect("32 bits");
    endless.extend(check.to_le_bytes());
    assert_eq!(all(&endless, "x").0.corrupt, 1);
}

#[test]
fn files_are_read_in_the_order_of_their_times_and_followed_by_name() {
    let temp = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(temp.path().join("b")).expect("made");
    let put =
        |name: &str, bytes: &[u8]| std::fs::write(temp.path().join(name), bytes).expect("written");
    put("b/events.out.tfevents.999.h.1.0", &written(1, "loss", 1.0));
    put("events.out.tfevents.1000.h.1.0", &written(2, "loss", 2.0));
    put("other.txt", b"no events");
    let dir = Dir::open(temp.path()).expect("opened");
    let mut cursor = EventsCursor::default();
    let steps = |batch: &EventsBatch| -> Vec<_> {
        batch.points.iter().filter_map(|p| p.step.map(|s| s.get())).collect()
    };
    assert_eq!(steps(&poll(&dir, &mut cursor).expect("read")), [1, 2]);
    assert_eq!(poll(&dir, &mut cursor).expect("read"), EventsBatch::default());
    let kept = serde_json::to_string(&cursor).expect("kept");
    let mut cursor: EventsCursor = serde_json::from_str(&kept).expect("restored");
    put(
        "b/events.out.tfevents.999.h.1.0",
        &[written(1, "loss", 1.0), written(3, "loss", 1.0)].concat(),
    );
    put("events.out.tfevents.1000.h.1.0", b"");
    let batch = poll(&dir, &mut cursor).expect("read");
    assert_eq!((steps(&batch), batch.corrupt), (vec![3], 1));
    assert_eq!(poll(&dir, &mut cursor).expect("read").corrupt, 0, "told once");
}

#[test]
fn a_gigabyte_of_nothing_costs_one_look() {
    let temp = tempfile::tempdir().expect("a directory");
    let file = std::fs::File::create(temp.path().join("events.out.tfevents.1.h")).expect("made");
    file.set_len(1 << 30).expect("sparse");
    let dir = Dir::open(temp.path()).expect("opened");
    let mut cursor = EventsCursor::default();
    let batch = poll(&dir, &mut cursor).expect("read");
    assert_eq!((batch.corrupt, batch.more), (1, false));
}
