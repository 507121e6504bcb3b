//! Event files: a real one, cut and damaged at every place, and what other writers make.

use prost::Message as _;

use super::event::{Event, Summary, Value};
use super::*;
use crate::tools::fixtures;
use crate::tools::point::{Source, Split};

fn fixture() -> Vec<u8> {
    fixtures::bytes("hf5-trl-lora/tb/events.out.tfevents.1795451049.vm.11120.0")
}

fn all(bytes: &[u8], path: &str) -> (EventsBatch, FileCursor) {
    let (mut batch, mut cursor) = (EventsBatch::default(), FileCursor::default());
    // The second time it has not grown.
    for _ in 0..2 {
        if !cursor.ended {
            look(bytes, path, &mut cursor, MAX_READ_LEN, &mut batch).expect("memory can be read");
        }
    }
    batch.held = false;
    (batch, cursor)
}

/// The places at which a file may be cut that differ: around the ends of records and of their parts, and in each part.
fn cuts(bytes: &[u8]) -> Vec<usize> {
    let (mut cuts, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = usize::try_from(little(&bytes[at..at + 8])).expect("small");
        let payload = at + HEAD_LEN;
        let end = payload + length + TAIL_LEN;
        cuts.extend([at, at + 1, at + 8, payload - 1, payload, payload + 1, payload + length / 2]);
        cuts.extend([end - TAIL_LEN, end - 1]);
        at = end;
    }
    cuts
}

/// Every figure with its place, sorted.
fn figures(points: &[Point]) -> Vec<(Option<u64>, Split, &str, u64)> {
    let figure = |p: &Point| (p.step.map(|step| step.get()), p.split);
    let mut all: Vec<_> = points
        .iter()
        .flat_map(|p| p.values.iter().map(move |(name, v)| (p, name.as_str(), v.to_bits())))
        .map(|(p, name, bits)| (figure(p).0, figure(p).1, name, bits))
        .collect();
    all.sort_unstable();
    all
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
    assert_eq!((cursor.offset, cursor.ended), (bytes.len() as u64, false));
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
fn cut_anywhere_it_tells_what_is_whole_and_goes_on_there_with_nothing_told_twice() {
    let bytes = fixture();
    let (whole, _) = all(&bytes, "events");
    let expected = figures(&whole.points);
    for len in cuts(&bytes) {
        let (mut batch, mut cursor) = (EventsBatch::default(), FileCursor::default());
        for upto in [len, bytes.len(), bytes.len()] {
            look(&bytes[..upto], "events", &mut cursor, MAX_READ_LEN, &mut batch).expect("read");
            assert!(!cursor.ended && !batch.more, "cut at {len}");
        }
        assert_eq!(figures(&batch.points), expected, "cut at {len}");
        assert_eq!(cursor.offset, bytes.len() as u64, "cut at {len}");
        assert_eq!((batch.malformed, batch.corrupt, batch.passed), (0, 0, 0), "cut at {len}");
    }
}

#[test]
fn the_last_step_is_told_once_the_file_stands_still() {
    let bytes = [written(1, "loss", 1.0), written(2, "num_tokens", 5.0)].concat();
    let whole = [&bytes[..], &written(2, "num_input_tokens_seen", 7.0)].concat();
    let (mut batch, mut cursor) = (EventsBatch::default(), FileCursor::default());
    look(&bytes[..], "x", &mut cursor, MAX_READ_LEN, &mut batch).expect("read");
    assert_eq!((batch.points.len(), batch.held), (1, true));
    for _ in 0..2 {
        look(&whole[..], "x", &mut cursor, MAX_READ_LEN, &mut batch).expect("read");
    }
    let values = vec![("num_tokens", 5.0), ("tokens_seen", 7.0)];
    assert_eq!(told(&batch.points)[1], (Some(2), None, Split::Train, values));
}

#[test]
fn a_torn_tail_costs_nothing_until_it_is_whole() {
    let last = framed(&vec![1; 50_000]);
    let bytes = [&written(1, "loss", 1.0)[..], &last].concat();
    let torn = &bytes[..bytes.len() - 1];
    let (mut batch, mut cursor) = (EventsBatch::default(), FileCursor::default());
    let cost = |bytes: &[u8], cursor: &mut _, batch: &mut _| {
        look(bytes, "x", cursor, MAX_READ_LEN, batch).expect("read")
    };
    for _ in 0..2 {
        assert_eq!(cost(torn, &mut cursor, &mut batch), torn.len(), "the step before it is told");
    }
    assert_eq!(batch.points.len(), 1);
    assert_eq!(cost(torn, &mut cursor, &mut batch), 0);
    assert_eq!(cost(&bytes[..bytes.len() - 2], &mut cursor, &mut batch), 0);
    assert_eq!(cost(&bytes, &mut cursor, &mut batch), last.len());
    assert_eq!((batch.malformed, cursor.offset), (1, bytes.len() as u64));
}

#[test]
fn many_torn_tails_do_not_starve_the_files_after_them() {
    let temp = tempfile::tempdir().expect("a directory");
    let large = framed(&vec![1; 250_000]);
    let put = |name: String, bytes: &[u8]| {
        std::fs::write(temp.path().join(name), bytes).expect("written");
    };
    for n in 0..20 {
        put(format!("events.out.tfevents.{n}.h"), &large[..large.len() - 1]);
    }
    put("events.out.tfevents.99.h".to_owned(), &written(1, "loss", 1.0));
    let dir = Dir::open(temp.path()).expect("opened");
    let (mut cursor, mut points, mut looks) = (EventsCursor::default(), Vec::new(), 0);
    while points.is_empty() && looks < 20 {
        points = poll(&dir, &mut cursor).expect("read").points;
        looks += 1;
    }
    // Five to see each tail once, and one to see that the last file stands still.
    assert_eq!((points.len(), looks), (1, 6));
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
    while looks == 0 || batch.more || batch.held {
        (batch.more, batch.held) = (false, false);
        look(&bytes[..], "events", &mut cursor, 6000, &mut batch).expect("read");
        looks += 1;
    }
    assert_eq!(figures(&batch.points), figures(&whole.points));
    assert!(looks > bytes.len() / 6000, "{looks}");
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
    assert_eq!(batch.passes, [], "training alone does not say how many steps a pass has");
    let bytes = [
        written(12, "evaluation_loss_vs_iterations", 3.0),
        written(12, "evaluation_custom_vs_iterations", 1.0),
        written(0, "epoch_loss", 3.0),
        written(0, "epoch_custom", 1.0),
        // An evaluation of somebody's own, then the one of the next pass.
        written(20, "evaluation_loss_vs_iterations", 9.0),
        written(24, "evaluation_loss_vs_iterations", 2.0),
        written(1, "epoch_loss", 2.0),
        written(2, "epoch_loss", 2.0),
    ]
    .concat();
    let (batch, _) = all(&bytes, "run/validation/x");
    let values = |loss| vec![("eval_custom", 1.0), ("eval_loss", loss)];
    let told = told(&batch.points);
    assert_eq!(
        told[..2],
        [(Some(12), None, Split::Eval, values(3.0)), (None, Some(1.0), Split::Eval, values(3.0))]
    );
    let passes = [(1, Step::new(12)), (2, Step::new(24))];
    assert_eq!(batch.passes, passes, "of the third pass no evaluation tells");
    // Whatever is read at once.
    for len in cuts(&bytes) {
        let (mut batch, mut cursor) = (EventsBatch::default(), FileCursor::default());
        for upto in [len, len, bytes.len(), bytes.len()] {
            let path = "run/validation/x";
            look(&bytes[..upto], path, &mut cursor, MAX_READ_LEN, &mut batch).expect("read");
        }
        assert_eq!(batch.passes, passes, "cut at {len}");
    }
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
    assert_eq!((batch, cursor.offset, cursor.ended), (EventsBatch::default(), 0, false));
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
    let first = poll(&dir, &mut cursor).expect("read");
    assert_eq!((steps(&first), first.held, first.more), (vec![], true, false));
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
    assert_eq!((steps(&batch), batch.corrupt), (vec![], 1));
    let batch = poll(&dir, &mut cursor).expect("read");
    assert_eq!((steps(&batch), batch.corrupt), (vec![3], 0), "told once");
    std::fs::remove_file(temp.path().join("b/events.out.tfevents.999.h.1.0")).expect("removed");
    poll(&dir, &mut cursor).expect("read");
    assert_eq!(cursor.files.len(), 1, "what is gone is forgotten");
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
