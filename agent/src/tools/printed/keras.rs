//! Keras's progress: `Epoch 2/5`, then `100/100 ━━━━ 3s 5ms/step - loss: 0.3 - val_loss: 0.2`, once or as it goes.
//!
//! Steps are batches: those of the passes before, which all have the same number, and those of this one.

use hone_proto::id::Step;

use super::super::point::Point;
use super::{gather, number};

/// Most figures of one line.
const MAX_FIGURES: usize = 64;

/// Which pass the lines are of.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    epoch: Option<u64>,
    /// Batches of a pass, as the first line of figures says; a pass that has others ends it.
    batches: Option<u64>,
    /// How far the pass is.
    done: u64,
    ended: Option<(u64, Step)>,
}

impl Epochs {
    /// The figures of a line, with their step.
    pub(super) fn line(&mut self, line: &str) -> Vec<Point> {
        if let Some(place) = line.trim().strip_prefix("Epoch ") {
            self.epoch = pair(place).filter(|(epoch, all)| (1..=*all).contains(epoch)).map(|e| e.0);
            self.done = 0;
            return Vec::new();
        }
        self.figures(line).unwrap_or_default()
    }

    /// The pass that ended since this was asked last.
    pub(super) fn passes(&mut self) -> Vec<(u64, Step)> {
        self.ended.take().into_iter().collect()
    }

    fn figures(&mut self, line: &str) -> Option<Vec<Point>> {
        let epoch = self.epoch?;
        let (head, figures) = line.trim().split_once(" - ")?;
        let (place, _) = head.split_once(' ').unwrap_or((head, ""));
        let (done, batches) = pair(place).filter(|(done, all)| (1..=*all).contains(done))?;
        // Only the figures of rows held out come after a pass, at the same place.
        let goes_on = done > self.done || (done == self.done && figures.contains("- val_"));
        if !goes_on || *self.batches.get_or_insert(batches) != batches {
            // An evaluation, or data without a fixed length.
            self.epoch = None;
            return None;
        }
        self.done = done;
        let step = (epoch - 1).checked_mul(batches)?.checked_add(done)?;
        let mut gather = gather();
        gather.progress.step = Some(Step::new(step));
        if done == batches {
            gather.progress.epoch = Some(crate::observe::text::approximate(epoch));
            self.ended = Some((epoch, Step::new(step)));
        }
        // What comes before the figures says how long it took: `3s`, `30ms/step`.
        let named = figures.split(" - ").filter_map(|part| part.split_once(": "));
        for (name, value) in named.take(MAX_FIGURES) {
            if let Some(value) = number(value.trim()) {
                gather.put(name.trim(), value);
            }
        }
        Some(gather.finish().collect())
    }
}

fn pair(text: &str) -> Option<(u64, u64)> {
    let (one, other) = text.split_once('/')?;
    Some((one.parse().ok()?, other.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::point::Split;

    fn told(lines: &[&str]) -> Vec<(u64, Split, f64)> {
        let mut epochs = Epochs::default();
        let points = lines.iter().flat_map(|line| epochs.line(line)).map(|p| {
            let loss = p.values.get("loss").or_else(|| p.values.get("eval_loss"));
            (p.step.map(Step::get).unwrap_or_default(), p.split, loss.copied().unwrap_or(f64::NAN))
        });
        points.collect()
    }

    #[test]
    fn steps_are_counted_over_passes_in_every_form() {
        let lines = [
            "Epoch 1/3",
            "60/100 ━━━━━━━━━━━━━━━━━━━━ 1s 5ms/step - accuracy: 0.5 - loss: 4.0",
            "100/100 ━━━━━━━━━━━━━━━━━━━━ 3s 5ms/step - accuracy: 0.5 - loss: 3.0 - val_loss: 2.5",
            "Epoch 2/3",
            "100/100 - 3s - 30ms/step - accuracy: 0.5 - loss: 2.0 - val_loss: nan",
            "Epoch 3/3",
            "100/100 [==============================] - 3s 30ms/step - loss: 1.0000e+00",
        ];
        let found = told(&lines);
        let places: Vec<_> = found.iter().map(|(step, split, _)| (*step, *split)).collect();
        assert_eq!(
            places,
            [
                (60, Split::Train),
                (100, Split::Train),
                (100, Split::Eval),
                (200, Split::Train),
                (200, Split::Eval),
                (300, Split::Train)
            ]
        );
        assert_eq!((found[1].2, found[2].2, found[5].2), (3.0, 2.5, 1.0));
        assert!(found[4].2.is_nan());
    }

    #[test]
    fn an_evaluation_and_data_of_unknown_length_have_no_step() {
        assert_eq!(told(&["10/10 - 1s - loss: 1.0"]), [], "of no pass");
        assert_eq!(told(&["Epoch 1/2", "10/Unknown - 1s - loss: 1.0"]), []);
        let lines = ["Epoch 2/2", "100/100 - 1s - loss: 1.0", "10/10 - 0s - loss: 9.0"];
        assert_eq!(told(&lines), [(200, Split::Train, 1.0)]);
        let lines = ["Epoch 1/1", "9/9 - 1s - loss: 1.0", "9/9 - 0s - loss: 8.0"];
        assert_eq!(told(&lines), [(9, Split::Train, 1.0)], "an evaluation as long as a pass");
        let lines = ["Epoch 3/2", "100/100 - 1s - loss: 1.0"];
        assert_eq!(told(&lines), []);
        let far = ["Epoch 18446744073709551615/18446744073709551615", "9/9 - loss: 1.0"];
        assert_eq!(told(&far), []);
    }
}
