//! The steps of the Hugging Face `Trainer`'s printed logs, which do not say them.
//!
//! A log goes to stdout, through tqdm, which clears its bar before and draws it again after, at the log's own step. The
//! bar goes to stderr, which an engine hands on late, in pieces of 16 KiB: the newest bar when a log comes is some steps
//! behind, and so is the one before it on the same output. But both come in the same order, so the nth log belongs to
//! the nth bar that was drawn again, when all were seen from the first line on. Whether it is so can be checked: by
//! `epoch` and step, all logs must agree on one number of steps per pass. Once they do not, nothing is told any more.

use std::collections::VecDeque;

use hone_proto::id::Step;

use super::super::point::Point;
use super::dict::Log;
use super::gather;

/// Most logs whose bars have not come: an engine holds back bars for some 120.
const MAX_LOGS: usize = 1024;
/// Most bars whose logs have not come: these are printed before.
const MAX_BARS: usize = 64;
/// What the `Trainer`'s epochs may be off by arithmetic.
const SLACK: f64 = 1e-9;

/// Logs and bars that wait for each other.
#[derive(Debug)]
pub(super) struct Logs {
    logs: VecDeque<Log>,
    bars: VecDeque<u64>,
    /// Steps of the whole run, as its bar has it.
    total: Option<u64>,
    /// Steps per pass: at least and at most.
    per_pass: (f64, f64),
    first: Option<u64>,
    /// Told once a log of another step agrees.
    held: Vec<Point>,
    agreed: bool,
    over: bool,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            logs: VecDeque::new(),
            bars: VecDeque::new(),
            total: None,
            per_pass: (0.0, f64::INFINITY),
            first: None,
            held: Vec::new(),
            agreed: false,
            over: false,
        }
    }
}

impl Logs {
    /// Nothing is certain any more.
    pub(super) fn give_up(&mut self) {
        *self = Self { over: true, ..Self::default() };
    }

    /// A log was printed.
    pub(super) fn log(&mut self, log: Log) -> Vec<Point> {
        self.logs.push_back(log);
        if self.logs.len() > MAX_LOGS {
            self.give_up();
        }
        self.pairs()
    }

    /// A bar was drawn again at this step.
    pub(super) fn redrawn(&mut self, done: u64, total: u64) -> Vec<Point> {
        self.bars.push_back(done);
        if *self.total.get_or_insert(total) != total || self.bars.len() > MAX_BARS {
            self.give_up();
        }
        self.pairs()
    }

    fn pairs(&mut self) -> Vec<Point> {
        if self.over {
            self.logs.clear();
            self.bars.clear();
            return Vec::new();
        }
        while !self.logs.is_empty()
            && let Some(step) = self.bars.pop_front()
            && let Some(log) = self.logs.pop_front()
        {
            if !self.agrees(step, &log) {
                self.give_up();
                return Vec::new();
            }
            self.held.extend(points(step, log));
        }
        if !self.agreed && self.held.len() > MAX_LOGS {
            self.give_up();
        }
        if self.agreed { std::mem::take(&mut self.held) } else { Vec::new() }
    }

    /// Whether `epoch` says the same as every log before.
    fn agrees(&mut self, step: u64, log: &Log) -> bool {
        let done = crate::observe::text::approximate(step);
        let rounding = log.rounding * (1.0 + SLACK);
        let least = done / (log.epoch + rounding);
        let most = if log.epoch > rounding { done / (log.epoch - rounding) } else { f64::INFINITY };
        self.per_pass = (self.per_pass.0.max(least), self.per_pass.1.min(most));
        self.agreed |= *self.first.get_or_insert(step) != step;
        step > 0 && self.per_pass.0 <= self.per_pass.1
    }
}

fn points(step: u64, log: Log) -> impl Iterator<Item = Point> {
    let mut gather = gather();
    for (name, value) in log.figures {
        gather.put(&name, value);
    }
    gather.progress.step = Some(Step::new(step));
    gather.progress.epoch = Some(log.epoch);
    gather.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(epoch: f64, loss: f64) -> Log {
        let figures = vec![("loss".to_owned(), loss), ("epoch".to_owned(), epoch)];
        Log { epoch, rounding: 0.005, figures }
    }

    fn steps(points: &[Point]) -> Vec<(u64, f64)> {
        points
            .iter()
            .map(|p| (p.step.map(Step::get).unwrap_or_default(), p.values["loss"]))
            .collect()
    }

    #[test]
    fn logs_wait_for_their_bars_and_two_must_agree() {
        let mut logs = Logs::default();
        assert_eq!(logs.log(log(0.1, 3.0)), []);
        assert_eq!(logs.log(log(0.2, 2.0)), []);
        assert_eq!(logs.redrawn(10, 200), [], "one alone proves nothing");
        assert_eq!(steps(&logs.redrawn(20, 200)), [(10, 3.0), (20, 2.0)]);
        assert_eq!(steps(&logs.log(log(0.3, 1.0))), []);
        assert_eq!(steps(&logs.redrawn(30, 200)), [(30, 1.0)]);
        // Two pipes: a bar may come first.
        assert_eq!(logs.redrawn(40, 200), []);
        assert_eq!(steps(&logs.log(log(0.4, 0.5))), [(40, 0.5)]);
    }

    #[test]
    fn a_log_too_many_is_found_out_and_nothing_is_told_any_more() {
        let mut logs = Logs::default();
        for (step, epoch) in [(10, 0.1), (20, 0.2)] {
            logs.log(log(epoch, 1.0));
            logs.redrawn(step, 200);
        }
        // Somebody printed one without a bar: from here on each would have the step of the one before it.
        assert_eq!(logs.log(log(0.2, 9.0)), []);
        logs.log(log(0.3, 1.0));
        assert_eq!(logs.redrawn(30, 200), [], "0.2 is not the place of step 30");
        logs.log(log(0.4, 1.0));
        assert_eq!(logs.redrawn(40, 200), []);
    }

    #[test]
    fn bars_of_another_run_or_logs_without_bars_end_it_in_bounded_memory() {
        let mut logs = Logs::default();
        logs.log(log(0.1, 1.0));
        logs.redrawn(10, 200);
        logs.log(log(0.2, 1.0));
        assert_eq!(logs.redrawn(20, 300), []);
        let mut logs = Logs::default();
        for _ in 0..10_000 {
            assert_eq!(logs.log(log(0.5, 1.0)), []);
        }
        assert_eq!((logs.logs.len(), logs.over), (0, true));
        // All at one step: nothing ever confirms them.
        let mut logs = Logs::default();
        for _ in 0..10_000 {
            logs.log(log(0.5, 1.0));
            assert_eq!(logs.redrawn(10, 200), []);
        }
        assert_eq!((logs.held.len(), logs.over), (0, true));
    }
}
