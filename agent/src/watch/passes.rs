//! Figures of a whole pass over the data, which Keras tells by the number of the pass alone: they wait until something
//! says at which step that pass ended. Metrics have no place without a step, and a guessed one would be wrong.

use std::collections::BTreeMap;

use hone_proto::id::Step;

use crate::tools::point::{Point, Source};

/// Most passes whose ends are remembered.
const MAX_PASSES: usize = 10_000;
/// Most points that wait; beyond them the oldest are given up.
const MAX_WAITING: usize = 1024;

/// What is known of passes, and what waits for it.
#[derive(Debug, Default)]
pub(super) struct Passes {
    ends: BTreeMap<u64, Step>,
    waiting: Vec<(u64, Point)>,
}

impl Passes {
    /// Something says at which step a pass ended. What was said first stands.
    pub(super) fn ended(&mut self, pass: u64, step: Step) {
        if self.ends.len() < MAX_PASSES {
            self.ends.entry(pass).or_insert(step);
        }
    }

    /// Takes a point of an event file that has a pass and no step; every other is given back.
    pub(super) fn take(&mut self, point: Point) -> Option<Point> {
        let pass = point.epoch.filter(|pass| *pass >= 1.0 && pass.fract() == 0.0);
        let is_one = point.step.is_none() && point.source == Source::TensorBoard;
        let Some(pass) = pass.filter(|_| is_one) else { return Some(point) };
        if self.waiting.len() == MAX_WAITING {
            self.waiting.remove(0);
        }
        self.waiting.push((crate::observe::text::whole(pass), point));
        None
    }

    /// The points whose steps are known by now.
    pub(super) fn placed(&mut self) -> Vec<Point> {
        let (ready, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(pass, _)| self.ends.contains_key(pass));
        self.waiting = waiting;
        let placed =
            |(pass, point): (u64, Point)| Point { step: self.ends.get(&pass).copied(), ..point };
        ready.into_iter().map(placed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::point::Split;

    fn point(epoch: Option<f64>, step: Option<u64>) -> Point {
        Point {
            step: step.map(Step::new),
            epoch,
            split: Split::Train,
            values: [("loss".to_owned(), 1.0)].into(),
            at: None,
            source: Source::TensorBoard,
        }
    }

    #[test]
    fn a_pass_s_figures_wait_for_its_step() {
        let mut passes = Passes::default();
        for other in [point(Some(1.0), Some(7)), point(Some(0.5), None), point(None, None)] {
            assert_eq!(passes.take(other.clone()), Some(other));
        }
        assert_eq!(passes.take(point(Some(1.0), None)), None);
        assert_eq!(passes.take(point(Some(2.0), None)), None);
        passes.ended(2, Step::new(24));
        passes.ended(2, Step::new(99));
        assert_eq!(passes.placed(), [point(Some(2.0), Some(24))]);
        assert_eq!(passes.placed(), []);
        passes.ended(1, Step::new(12));
        assert_eq!(passes.placed(), [point(Some(1.0), Some(12))]);
    }

    #[test]
    fn those_that_wait_for_ever_are_bounded() {
        let mut passes = Passes::default();
        for pass in 1..=2 * MAX_WAITING {
            passes.take(point(Some(pass as f64), None));
        }
        assert_eq!(passes.waiting.len(), MAX_WAITING);
        for pass in 0..2 * MAX_PASSES as u64 {
            passes.ended(pass, Step::new(1));
        }
        assert_eq!((passes.ends.len(), passes.placed().len()), (MAX_PASSES, MAX_WAITING));
    }
}
