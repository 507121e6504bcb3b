//! When samples are taken: at whole seconds of the boot clock, whatever a sample costs. What was missed is skipped; it
//! is never made up for by several at once.

use std::time::Duration;

use hone_proto::time::{BootNanos, Now};

/// The schedule.
#[derive(Debug)]
pub(super) struct Beat {
    every: Duration,
    /// The number of the last beat, since boot.
    last: u64,
}

impl Beat {
    /// Beats so often.
    pub(super) const fn new(every: Duration) -> Self {
        Self { every, last: 0 }
    }

    /// When the next one is due.
    fn next(&mut self, now: BootNanos) -> BootNanos {
        let every = u64::try_from(self.every.as_nanos()).unwrap_or(u64::MAX).max(1);
        // A sleep that ended early must not give the same beat twice.
        self.last = (now.get() / every).max(self.last) + 1;
        BootNanos::new(self.last.saturating_mul(every))
    }

    /// Parks this thread until the next one; the time at which it goes on.
    pub(super) fn wait(&mut self) -> Now {
        let mut now = Now::read();
        let due = self.next(now.boot);
        while now.boot < due {
            std::thread::park_timeout(due.since(now.boot));
            now = Now::read();
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn what_a_sample_costs_delays_no_later_one() {
        let mut beat = Beat::new(Duration::from_secs(1));
        let mut now = 5_400 * MS;
        let mut due = Vec::new();
        // Each time the thread wakes a little late, and works for a while.
        for work in [300, 999, 1, 900, 990, 250] {
            let next = beat.next(BootNanos::new(now)).get();
            due.push(next / MS);
            now = next + (work + 1) * MS / 2;
        }
        assert_eq!(due, [6_000, 7_000, 8_000, 9_000, 10_000, 11_000]);
    }

    #[test]
    fn what_was_missed_is_skipped_and_nothing_comes_twice() {
        let mut beat = Beat::new(Duration::from_secs(1));
        let mut next = |ms: u64| beat.next(BootNanos::new(ms * MS)).get() / MS;
        assert_eq!(next(5_400), 6_000);
        assert_eq!(next(9_700), 10_000, "four seconds were lost, and stay lost");
        assert_eq!(next(9_999), 11_000, "the clock of the sleep ran ahead");
        assert_eq!(next(11_000), 12_000, "exactly on time");
    }

    #[test]
    fn it_goes_on_at_a_whole_beat() {
        let every = Duration::from_millis(20);
        let mut beat = Beat::new(every);
        let (first, second) = (beat.wait().boot, beat.wait().boot);
        let number = |at: BootNanos| at.get() / (20 * MS);
        assert!(number(first) < number(second), "{first:?} {second:?}");
        assert!(number(second) >= beat.last, "before its time");
    }
}
