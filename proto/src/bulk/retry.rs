//! When to try again: exponential back-off with full jitter, so that a fleet cut off together does not come back
//! together.

use std::time::Duration;

use super::BulkError;

/// How patient a client is. A try that got any chunk across starts the count anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    tries: Option<u32>,
    first: Duration,
    longest: Duration,
}

impl Retry {
    /// Until the caller drops the future: an agent outlasts any cut of the link.
    #[must_use]
    pub const fn forever() -> Self {
        Self { tries: None, first: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }

    /// At most `tries` tries in a row that bring nothing: somebody waits at a terminal.
    #[must_use]
    pub const fn tries(tries: u32) -> Self {
        Self {
            tries: Some(tries),
            first: Duration::from_millis(250),
            longest: Duration::from_secs(5),
        }
    }

    /// The same patience with other pauses: at most `first` after the first failure, doubling up to `longest`.
    #[must_use]
    pub const fn with_pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.first = first;
        self.longest = longest;
        self
    }

    /// The longest pause after the `failures`-th failure in a row, or none when that was the last try.
    #[must_use]
    pub fn pause(&self, failures: u32) -> Option<Duration> {
        if self.tries.is_some_and(|tries| failures >= tries) {
            return None;
        }
        let doublings = failures.saturating_sub(1).min(16);
        Some(self.first.saturating_mul(1 << doublings).min(self.longest))
    }
}

/// Failures in a row, and what becomes of the next one.
#[derive(Debug)]
pub(super) struct Patience {
    retry: Retry,
    failures: u32,
}

impl Patience {
    pub(super) const fn new(retry: Retry) -> Self {
        Self { retry, failures: 0 }
    }

    /// Something got across.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next try, or gives the error back when it is final or patience has run out.
    pub(super) async fn after(&mut self, error: BulkError) -> Result<(), BulkError> {
        let BulkError::Interrupted(refusal) = error else { return Err(error) };
        self.failures = self.failures.saturating_add(1);
        let Some(longest) = self.retry.pause(self.failures) else {
            return Err(BulkError::GaveUp { tries: self.failures, last: refusal });
        };
        tracing::debug!(failures = self.failures, error = %refusal, "bulk transfer interrupted");
        tokio::time::sleep(longest.mul_f64(rand::random_range(0.0..=1.0))).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_bound_and_end_with_the_tries() {
        let ms = Duration::from_millis;
        let retry = Retry::tries(5).with_pauses(ms(100), ms(300));
        let pauses: Vec<_> = (1..=5).map(|n| retry.pause(n)).collect();
        assert_eq!(pauses, [Some(ms(100)), Some(ms(200)), Some(ms(300)), Some(ms(300)), None],);
        assert_eq!(Retry::forever().pause(u32::MAX), Some(Duration::from_secs(30)));
    }

    #[tokio::test]
    async fn a_final_error_is_never_waited_for() {
        use crate::error::{Reason, Refusal};
        let mut patience = Patience::new(Retry::forever());
        let stale = BulkError::from(Refusal::new(Reason::StaleAttempt, "job 1 moved"));
        assert!(matches!(patience.after(stale).await, Err(BulkError::Refused(_))));
    }
}
