//! Files of JSON lines: each tool's, as they grow, cut anywhere, replaced, and full of junk.

use hone_proto::id::Step;

use super::*;
use crate::tools::point::Split;

const LOG: &str = concat!(
    r#"{"current_steps": 5, "total_steps": 40, "loss": 2.5, "lr": 0.0001, "epoch": 0.12, "percentage": 12.5, "elapsed_time": "0:00:05", "remaining_time": "0:00:35", "throughput": 120.5, "total_tokens": 640}"#,
    "\n",
    r#"{"current_steps": 10, "total_steps": 40, "eval_loss": NaN, "epoch": 0.25, "percentage": 25.0}"#,
    "\n",
    r#"{"current_steps": 15, "total_steps": 40, "loss": Infinity, "lr": 0.0, "epoch": 0.37}"#,
    "\n",
);

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }
    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, bytes).expect("written");
    }
    fn poll(&self, naming: Naming, cursor: &mut LinesCursor) -> LinesBatch {
        poll(&Dir::open(self.0.path()).expect("opened"), naming, cursor).expect("read")
    }
}

/// Step, split, name and value of every figure.
fn figures(points: &[Point]) -> Vec<(u64, Split, String, u64)> {
    let of = |p: &Point| (p.step.map(Step::get).unwrap_or_default(), p.split);
    let each = |p: &Point| {
        let (step, split) = of(p);
        let one = move |(name, v): (&String, &f64)| (step, split, name.clone(), v.to_bits());
        p.values.iter().map(one).collect::<Vec<_>>()
    };
    points.iter().flat_map(each).collect()
}

#[test]
fn llamafactory_s_log_becomes_figures_with_their_steps() {
    let folder = Folder::new();
    folder.put(LLAMAFACTORY, LOG.as_bytes());
    folder.put("other.jsonl", b"{\"step\": 1, \"loss\": 9.0}\n");
    let mut cursor = LinesCursor::default();
    let batch = folder.poll(Naming::Llamafactory, &mut cursor);
    let names: Vec<_> = batch.points[0].values.keys().map(String::as_str).collect();
    assert_eq!(names, ["learning_rate", "loss", "tokens_seen"]);
    let places: Vec<_> = batch.points.iter().map(|p| (p.step.map(Step::get), p.split)).collect();
    assert_eq!(
        places,
        [(Some(5), Split::Train), (Some(10), Split::Eval), (Some(15), Split::Train)]
    );
    assert!(batch.points[1].values["eval_loss"].is_nan());
    assert_eq!(batch.points[2].values["loss"], f64::INFINITY);
    assert_eq!(batch.points[0].source, Source::JsonLines);
    let progress = (batch.progress.step.map(Step::get), batch.progress.total.map(Step::get));
    assert_eq!((progress, batch.malformed, batch.more), ((Some(15), Some(40)), 0, false));
    assert_eq!(folder.poll(Naming::Llamafactory, &mut cursor).points, []);
}

#[test]
fn cut_anywhere_each_line_comes_once() {
    let (folder, mut whole) = (Folder::new(), LinesBatch::default());
    whole.take(LOG.as_bytes(), &mut false);
    for at in 0..LOG.len() {
        let mut cursor = LinesCursor::default();
        let mut points = Vec::new();
        for bytes in [&LOG.as_bytes()[..at], LOG.as_bytes()] {
            // Written in place: the same file grows.
            folder.put(LLAMAFACTORY, bytes);
            let batch = folder.poll(Naming::Llamafactory, &mut cursor);
            assert_eq!((batch.malformed, batch.restarts), (0, 0), "cut at {at}");
            points.extend(batch.points);
            let kept = serde_json::to_string(&cursor).expect("kept");
            cursor = serde_json::from_str(&kept).expect("restored");
        }
        assert_eq!(figures(&points), figures(&whole.points), "cut at {at}");
        folder.put(LLAMAFACTORY, b"");
    }
}

#[test]
fn a_file_that_shrinks_or_is_another_one_is_read_anew() {
    let folder = Folder::new();
    let line = |step: u64| format!("{{\"step\": {step}, \"loss\": 1.0}}\n");
    folder.put("run/log_1700000000.jsonl", format!("{}{}", line(1), line(2)).as_bytes());
    folder.put("run/notes.jsonl", line(99).as_bytes());
    let mut cursor = LinesCursor::default();
    let steps = |batch: &LinesBatch| -> Vec<_> {
        batch.points.iter().filter_map(|p| p.step.map(Step::get)).collect()
    };
    assert_eq!(steps(&folder.poll(Naming::Torchtune, &mut cursor)), [1, 2]);
    folder.put("run/log_1700000000.jsonl", line(3).as_bytes());
    let batch = folder.poll(Naming::Torchtune, &mut cursor);
    assert_eq!((steps(&batch), batch.restarts), (vec![3], 1));
    folder.put("new", format!("{}{}{}", line(4), line(5), line(6)).as_bytes());
    let at = |name: &str| folder.0.path().join(name);
    std::fs::rename(at("new"), at("run/log_1700000000.jsonl")).expect("renamed");
    let batch = folder.poll(Naming::Torchtune, &mut cursor);
    assert_eq!((steps(&batch), batch.restarts), (vec![4, 5, 6], 1), "it is longer, and another");
    let mut cursor = LinesCursor::default();
    folder.put(METRICS_NAME, line(7).as_bytes());
    assert_eq!(steps(&folder.poll(Naming::Any, &mut cursor)), [4, 5, 6, 99], "not the contract's");
    std::fs::remove_file(at("run/notes.jsonl")).expect("removed");
    assert_eq!(folder.poll(Naming::Any, &mut cursor).points, []);
    assert_eq!(cursor.files.len(), 1, "what is gone is forgotten");
}

#[test]
fn lines_that_are_no_figures_are_counted_and_passed_over() {
    let mut batch = LinesBatch::default();
    let junk = [
        "[]".to_owned(),
        "{".to_owned(),
        "{\"loss\": 1.0}".to_owned(),
        "{\"step\": 1.5, \"loss\": 1.0}".to_owned(),
        "{\"step\": -1, \"loss\": 1.0}".to_owned(),
        "{\"step\": NaN, \"loss\": 1.0}".to_owned(),
        format!("{{\"step\": 1, \"x\": {}}}", "[".repeat(9000)),
        format!("{{\"step\": 1, \"loss\": 1.0, \"x\": \"{}\"}}", "x".repeat(MAX_LINE_LEN)),
        "\u{0}\u{1b}[31m".to_owned(),
    ];
    let text = junk.join("\n") + "\n{\"step\": 2, \"loss\": 1.0, \"list\": [1, {\"a\": 2}]}\n";
    assert_eq!(batch.take(text.as_bytes(), &mut false), text.len());
    assert_eq!((batch.malformed, batch.points.len()), (junk.len() as u64, 1));
}

#[test]
fn a_flood_is_read_in_bounded_looks_and_others_have_their_turn() {
    let folder = Folder::new();
    let line = "{\"step\": 7, \"loss\": 1.0}\n";
    folder.put("a.jsonl", line.repeat(2 * MAX_READ_LEN / line.len()).as_bytes());
    // A torn line as long as one may be, and one that is too long.
    folder.put("b.jsonl", "x".repeat(MAX_LINE_LEN).as_bytes());
    folder.put("c.jsonl", "x".repeat(3 * MAX_READ_LEN).as_bytes());
    folder.put("d.jsonl", b"{\"step\": 8, \"loss\": 1.0}\n");
    let (mut cursor, mut looks, mut lines) = (LinesCursor::default(), 0, 0);
    loop {
        let batch = folder.poll(Naming::Any, &mut cursor);
        looks += 1;
        lines += batch.points.len();
        assert!(batch.points.len() <= MAX_READ_LEN / line.len());
        if !batch.more {
            assert_eq!(batch.points.last().and_then(|p| p.step), Some(Step::new(8)));
            break;
        }
    }
    assert_eq!((looks, lines), (6, 1 + 2 * MAX_READ_LEN / line.len()));
}
