//! What a watcher knows of a job: built from a stream of updates, each of which may come twice. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use hone_proto::time::WallNanos;
use hone_proto::wire::{EvaluationView, JobView, NodeSample, SeriesPoint, series_update::Update};

/// Steps whose pace makes the estimate of what is left.
const PACE_STEPS: usize = 50;

/// One job as its watcher sees it.
#[derive(Debug, Default, Clone)]
pub struct Progress {
    job: Option<JobView>,
    hardware: Option<NodeSample>,
    points: BTreeMap<(String, u64), SeriesPoint>,
}

impl Progress {
    /// Takes one update in. Points of an earlier attempt give way to those of a later one.
    ///
    /// Returns the point when it is news.
    pub fn apply(&mut self, update: Update) -> Option<&SeriesPoint> {
        match update {
            Update::Job(job) => {
                self.job = Some(job);
                self.forget_rolled_back();
                None
            }
            Update::Hardware(sample) => {
                self.hardware = Some(sample);
                None
            }
            Update::Point(point) => {
                if self.superseded(point.attempt, point.step) {
                    return None;
                }
                let key = (point.split.clone(), point.step);
                match self.points.get_mut(&key) {
                    Some(known) if known.attempt > point.attempt => return None,
                    // What comes twice is no news; a tool's other files may add figures to a step.
                    Some(known) if known.attempt == point.attempt => {
                        for (name, value) in point.values {
                            known.values.entry(name).or_insert(value);
                        }
                        return None;
                    }
                    _ => {}
                }
                self.points.insert(key.clone(), point);
                self.points.get(&key)
            }
        }
    }

    /// What an attempt did after the step from which its successor resumed does not count: it is being done again.
    fn forget_rolled_back(&mut self) {
        let points = std::mem::take(&mut self.points);
        self.points = points
            .into_iter()
            .filter(|((_, step), p)| !self.superseded(p.attempt, *step))
            .collect();
    }

    fn superseded(&self, attempt: u32, step: u64) -> bool {
        let attempts = self.job.iter().flat_map(|job| &job.attempts);
        attempts
            .filter(|later| later.attempt > attempt)
            .any(|later| later.resumed_from_step.is_some_and(|from| step > from))
    }

    /// The job, once it is known.
    #[must_use]
    pub const fn job(&self) -> Option<&JobView> {
        self.job.as_ref()
    }

    /// The newest hardware sample of its node.
    #[must_use]
    pub const fn hardware(&self) -> Option<&NodeSample> {
        self.hardware.as_ref()
    }

    /// A metric of the training split, by step.
    #[must_use]
    pub fn metric(&self, name: &str) -> Vec<(u64, f64)> {
        self.split("train", name)
    }

    /// A metric of one split, by step.
    #[must_use]
    pub fn split(&self, split: &str, name: &str) -> Vec<(u64, f64)> {
        self.train_points(split).filter_map(|p| Some((p.step, *p.values.get(name)?))).collect()
    }

    /// Every point, by split and step.
    #[must_use]
    pub fn all(&self) -> Vec<&SeriesPoint> {
        self.points.values().collect()
    }

    /// The newest training records of an attempt, at most so many, the oldest first.
    #[must_use]
    pub fn newest(&self, attempt: u32, most: usize) -> Vec<&SeriesPoint> {
        let own = self.train_points("train").rev().filter(|point| point.attempt == attempt);
        let mut newest: Vec<_> = own.take(most).collect();
        newest.reverse();
        newest
    }

    /// The newest value of a training metric.
    #[must_use]
    pub fn latest(&self, name: &str) -> Option<f64> {
        self.train_points("train").rev().find_map(|p| p.values.get(name).copied())
    }

    /// The newest step that anything is known of.
    #[must_use]
    pub fn step(&self) -> Option<u64> {
        let seen = self.train_points("train").next_back().map(|p| p.step);
        seen.max(self.job.as_ref().and_then(|job| job.step))
    }

    /// Steps that the job will have made at its end.
    #[must_use]
    pub fn max_steps(&self) -> Option<u64> {
        self.job.as_ref()?.max_steps
    }

    /// How long the rest will take, at the pace of the newest steps of the current attempt.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        let left = self.max_steps()?.checked_sub(self.step()?)?;
        let newest = self.train_points("train").next_back()?;
        let oldest = self
            .train_points("train")
            .rev()
            .take(PACE_STEPS)
            .take_while(|p| p.attempt == newest.attempt)
            .last()?;
        let steps = newest.step.checked_sub(oldest.step).filter(|steps| *steps > 0)?;
        let spent = WallNanos::new(newest.wall_ns).since(WallNanos::new(oldest.wall_ns));
        let nanos = spent.as_nanos().checked_mul(u128::from(left))? / u128::from(steps);
        u64::try_from(nanos).ok().map(Duration::from_nanos)
    }

    fn train_points(&self, split: &str) -> impl DoubleEndedIterator<Item = &SeriesPoint> {
        let range = (split.to_owned(), 0)..=(split.to_owned(), u64::MAX);
        self.points.range(range).map(|(_, point)| point)
    }
}

/// True for the states in which a job stays for ever.
#[must_use]
pub fn ended(state: &str) -> bool {
    matches!(state, "completed" | "failed" | "cancelled")
}

/// Perplexity from summed negative log-likelihood and tokens, never from a mean of means.
#[must_use]
pub fn perplexity(evaluation: &EvaluationView) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a token count is far below 2^52")]
    let tokens = evaluation.tokens as f64;
    (evaluation.tokens > 0).then(|| (evaluation.nll_sum / tokens).exp())
}

#[cfg(test)]
pub(in crate::cli) mod tests {
    use super::*;
    use hone_proto::wire::AttemptView;

    pub(in crate::cli) fn point(attempt: u32, step: u64, loss: f64) -> SeriesPoint {
        SeriesPoint {
            attempt,
            step,
            split: "train".to_owned(),
            epoch: None,
            values: [("loss".to_owned(), loss)].into(),
            wall_ns: step * 2_000_000_000,
        }
    }

    #[test]
    fn an_update_that_comes_twice_is_news_once() {
        let mut progress = Progress::default();
        assert!(progress.apply(Update::Point(point(1, 3, 2.0))).is_some());
        assert!(progress.apply(Update::Point(point(1, 3, 2.0))).is_none());
        assert_eq!(progress.metric("loss"), [(3, 2.0)]);
        assert_eq!(progress.step(), Some(3));
    }

    #[test]
    fn figures_that_another_file_of_the_tool_adds_to_a_step_are_kept() {
        let mut progress = Progress::default();
        progress.apply(Update::Point(point(1, 3, 2.0)));
        let mut later = point(1, 3, 9.0);
        later.values.insert("grad_norm".to_owned(), 0.5);
        progress.apply(Update::Point(later));
        assert_eq!(
            (progress.metric("loss"), progress.metric("grad_norm")),
            (vec![(3, 2.0)], vec![(3, 0.5)])
        );
    }

    #[test]
    fn a_resumed_attempt_replaces_what_it_does_again() {
        let mut progress = Progress::default();
        for step in 1..=6 {
            progress.apply(Update::Point(point(1, step, 9.0)));
        }
        let second = AttemptView { attempt: 2, resumed_from_step: Some(4), ..Default::default() };
        progress.apply(Update::Job(JobView { attempts: vec![second], ..Default::default() }));
        assert_eq!(progress.step(), Some(4), "steps 5 and 6 are being done again");
        progress.apply(Update::Point(point(2, 5, 1.0)));
        progress.apply(Update::Point(point(1, 5, 9.0)));
        progress.apply(Update::Point(point(1, 6, 9.0)));
        assert_eq!(progress.metric("loss"), [(1, 9.0), (2, 9.0), (3, 9.0), (4, 9.0), (5, 1.0)]);
    }

    #[test]
    fn what_is_left_is_estimated_from_the_pace() {
        let mut progress = Progress::default();
        assert_eq!(progress.remaining(), None);
        progress.apply(Update::Job(JobView { max_steps: Some(20), ..Default::default() }));
        progress.apply(Update::Point(point(1, 1, 2.0)));
        assert_eq!(progress.remaining(), None, "one step has no pace");
        progress.apply(Update::Point(point(1, 10, 2.0)));
        assert_eq!(progress.remaining(), Some(Duration::from_secs(20)));
        progress.apply(Update::Point(point(2, 11, 2.0)));
        assert_eq!(progress.remaining(), None, "a new attempt has no pace yet");
    }

    #[test]
    fn perplexity_needs_tokens() {
        let mut evaluation = EvaluationView { nll_sum: 20.0, tokens: 10, ..Default::default() };
        let value = perplexity(&evaluation).expect("a value");
        assert!((value - 2.0_f64.exp()).abs() < 1e-12);
        evaluation.tokens = 0;
        assert_eq!(perplexity(&evaluation), None);
    }
}
