//! Lines of torchtitan and of torchtune's loggers, and labels of torchtune's bars: all say the step.

use hone_proto::id::Step;

use super::super::point::{Gather, Point, Split};
use super::{gather, number};

/// Most figures of one line.
const MAX_FIGURES: usize = 32;

/// `step: 10  loss:  2.3  grad_norm:  0.5  memory: 1.2GiB(3.4%)  tps: 1,234  tflops: 1.2  mfu: 3.4%`, and
/// `validate step: 10  loss: 2.3 …`, after whatever the logger puts before it.
pub(super) fn torchtitan(line: &str) -> Vec<Point> {
    let Some((before, after)) = line.split_once("step:") else { return Vec::new() };
    let before = before.trim_end();
    let (before, validates) = match before.strip_suffix("validate") {
        Some(rest) => (rest.trim_end(), true),
        None => (before, false),
    };
    // The logger's own words end so; those of a sentence do not.
    if !(before.is_empty() || before.ends_with(['-', ']', ':'])) {
        return Vec::new();
    }
    let mut words = after.split_whitespace();
    let Some(step) = words.next().and_then(|word| word.parse().ok()) else { return Vec::new() };
    let mut gather = gather();
    gather.progress.step = Some(Step::new(step));
    let mut has_loss = false;
    for _ in 0..MAX_FIGURES {
        let (Some(name), Some(value)) = (words.next(), words.next()) else { break };
        let Some(name) = name.strip_suffix(':') else { break };
        has_loss |= name == "loss";
        let Some(value) = number(value.strip_suffix('%').unwrap_or(value)) else { continue };
        match name {
            "tps" => gather.put("throughput(tps)", value),
            _ if validates => gather.put(&format!("eval_{name}"), value),
            _ => gather.put(name, value),
        }
    }
    if has_loss { gather.finish().collect() } else { Vec::new() }
}

/// The label of a bar: `1|10|Loss: 2.3`, the pass and the step.
pub(super) fn torchtune(label: &str) -> Option<Point> {
    let (pass, rest) = label.split_once('|')?;
    let (step, loss) = rest.split_once('|')?;
    let _pass: u32 = pass.parse().ok()?;
    let mut gather = gather();
    gather.progress.step = Some(Step::new(step.parse().ok()?));
    gather.put_other(Split::Train, "loss", number(loss.strip_prefix("Loss:")?.trim())?);
    gather.finish().next()
}

/// `Step 10 | loss:2.3 lr:0.0001 `: what torchtune's `StdoutLogger` prints, and its `DiskLogger` writes (up to 0.6 in no
/// other form). Puts the figures; nothing when the line is another.
pub(in crate::tools) fn put_torchtune(line: &str, gather: &mut Gather) -> Option<()> {
    let (step, figures) = line.trim_end().strip_prefix("Step ")?.split_once(" | ")?;
    gather.progress.step = Some(Step::new(step.parse().ok()?));
    for figure in figures.split(' ').take(MAX_FIGURES) {
        let (name, value) = figure.rsplit_once(':')?;
        gather.put(name, number(value)?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A point in short: its step, its split and its figures.
    type Told<'a> = (u64, Split, Vec<(&'a str, f64)>);

    fn told(points: &[Point]) -> Vec<Told<'_>> {
        points
            .iter()
            .map(|p| {
                let values = p.values.iter().map(|(name, value)| (name.as_str(), *value));
                (p.step.map(Step::get).unwrap_or_default(), p.split, values.collect())
            })
            .collect()
    }

    #[test]
    fn torchtitan_s_lines_are_read_with_their_step() {
        let line = "[rank0]:[titan] 2025-06-01 10:00:00,123 - root - INFO - step: 10  loss:  8.1309  \
                    grad_norm:  1.2  memory:  1.50GiB(1.90%)  tps: 12,345  tflops: 1.21  mfu: 3.40%";
        let expected = vec![
            ("grad_norm", 1.2),
            ("loss", 8.1309),
            ("mfu", 3.4),
            ("tflops", 1.21),
            ("tokens_per_second", 12345.0),
        ];
        assert_eq!(told(&torchtitan(line)), [(10, Split::Train, expected)]);
        let line = "[titan] x - root - INFO - validate step: 20  loss:  nan  tps: 5";
        let found = torchtitan(line);
        assert_eq!((found.len(), found[1].split), (2, Split::Eval));
        assert!(found[1].values["eval_loss"].is_nan());
        for line in [
            "step: x loss: 1",
            "the next step: 10 loss: 1",
            "step: 10",
            "step: 10 lr: 1.0",
            "step: -1  loss: 2.0",
            "step: 10 loss is 2",
        ] {
            assert_eq!(torchtitan(line), [], "{line}");
        }
    }

    #[test]
    fn lines_of_torchtune_s_loggers_are_read_with_their_step() {
        let read = |line: &str| {
            let mut gather = gather();
            put_torchtune(line, &mut gather).map(|()| gather.finish().collect::<Vec<_>>())
        };
        let found = read("Step 7 | loss:2.5 lr:0.0001 grad_norm:nan \n").expect("figures");
        let (step, split, figures) = told(&found).remove(0);
        assert_eq!((step, split, figures.len()), (7, Split::Train, 3));
        assert_eq!((figures[1].1, figures[2]), (0.0001, ("loss", 2.5)));
        assert!(figures[0].1.is_nan());
        for line in [
            "Step 7 | ",
            "Step x | loss:1.0",
            "Step 7 loss:1.0",
            "step 7 | loss:1.0",
            "Step 7 | loss 1.0",
            "Step 7 | loss:high",
            "Step 7 of 9 | loss:1.0",
            "A Step 7 | loss:1.0",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn torchtune_s_labels_are_read_with_their_step() {
        let found = torchtune("1|10|Loss: 2.3456").expect("a figure");
        assert_eq!(told(&[found]), [(10, Split::Train, vec![("loss", 2.3456)])]);
        assert!(torchtune("2|11|Loss: inf").is_some_and(|p| p.values["loss"].is_infinite()));
        for label in ["", "1|10", "1|x|Loss: 1", "a|1|Loss: 1", "1|10|Loss: high", "1|-2|Loss: 1"] {
            assert_eq!(torchtune(label), None, "{label}");
        }
    }
}
