//! Which steps become lines where nothing can be redrawn: a run of 100,000 steps must not fill a log. Pure.

use std::time::Duration;

use hone_proto::wire::SeriesPoint;
use tokio::time::Instant;

/// Ordinary steps are printed at most so often; people read no faster.
const EVERY: Duration = Duration::from_secs(1);

/// Lets the first step, the last, each evaluation, and one ordinary step in a second pass.
#[derive(Debug, Default)]
pub(super) struct Pace {
    every_step: bool,
    printed: Option<Instant>,
    /// The newest step that was held back.
    held: Option<SeriesPoint>,
}

impl Pace {
    /// With `every_step` nothing is held back.
    pub(super) fn new(every_step: bool) -> Self {
        Self { every_step, ..Self::default() }
    }

    /// What is printed now that this point is known.
    pub(super) fn next(
        &mut self,
        point: &SeriesPoint,
        whole: Option<u64>,
        now: Instant,
    ) -> Option<SeriesPoint> {
        let ordinary = point.split == "train" && whole != Some(point.step);
        let soon = self.printed.is_some_and(|last| now.duration_since(last) < EVERY);
        if ordinary && soon && !self.every_step {
            self.held = Some(point.clone());
            return None;
        }
        if point.split == "train" {
            (self.printed, self.held) = (Some(now), None);
        }
        Some(point.clone())
    }

    /// What was held back last: printed before the state changes, so that nobody wonders how far it came.
    pub(super) fn held(&mut self) -> Option<SeriesPoint> {
        self.held.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::watch::model::tests::point;

    fn printed(pace: &mut Pace, points: &[SeriesPoint], gap: Duration) -> Vec<u64> {
        let mut now = Instant::now();
        let mut lines = Vec::new();
        for point in points {
            now += gap;
            lines.extend(pace.next(point, Some(100_000), now).map(|point| point.step));
        }
        lines
    }

    #[test]
    fn a_hundred_thousand_steps_are_a_few_lines() {
        let mut points: Vec<_> = (1..=100_000).map(|step| point(1, step, 1.0)).collect();
        points.insert(500, SeriesPoint { split: "eval".to_owned(), ..point(1, 500, 1.0) });
        let burst = printed(&mut Pace::default(), &points, Duration::ZERO);
        assert_eq!(burst, [1, 500, 100_000]);
        let slow = printed(&mut Pace::default(), &points[..2000], Duration::from_millis(10));
        assert_eq!(slow.len(), 21, "one a second, and the evaluation: {slow:?}");
        let all = printed(&mut Pace::new(true), &points, Duration::ZERO);
        assert_eq!(all.len(), 100_001);
    }

    #[test]
    fn the_step_before_a_change_of_state_is_not_lost() {
        let mut pace = Pace::default();
        let points: Vec<_> = (1..=7).map(|step| point(1, step, 1.0)).collect();
        assert_eq!(printed(&mut pace, &points, Duration::ZERO), [1]);
        assert_eq!(pace.held().map(|point| point.step), Some(7));
        assert_eq!(pace.held(), None);
    }
}
