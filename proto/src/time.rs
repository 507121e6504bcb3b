//! Times as values. Cores never read a clock: time enters as a field of their input.
//!
//! Wall time is for people and for certificates. Leases and timers use boot time (`CLOCK_BOOTTIME`), which keeps
//! counting while a machine sleeps and never jumps when somebody sets the clock.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Wall-clock nanoseconds since 1970-01-01 UTC.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct WallNanos(u64);

/// Nanoseconds of `CLOCK_BOOTTIME`; comparable only within one boot.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BootNanos(u64);

macro_rules! nanos {
    ($name:ident) => {
        impl $name {
            /// `n` nanoseconds.
            #[must_use]
            pub const fn new(n: u64) -> Self {
                Self(n)
            }
            /// The plain number of nanoseconds.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
            /// Time since `earlier`; zero when it lies in the future.
            #[must_use]
            pub const fn since(self, earlier: Self) -> Duration {
                Duration::from_nanos(self.0.saturating_sub(earlier.0))
            }
            /// This time plus `span`; saturates.
            #[must_use]
            pub fn plus(self, span: Duration) -> Self {
                Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
            }
        }
    };
}
nanos!(WallNanos);
nanos!(BootNanos);

impl WallNanos {
    /// To the second, UTC, as people read it: `2026-11-24 14:56:45Z`.
    #[must_use]
    pub fn to_the_second(self) -> String {
        let text = self.to_string();
        match text.split_once('.') {
            Some((seconds, _)) => format!("{}Z", seconds.replace('T', " ")),
            None => text,
        }
    }
}

impl fmt::Display for WallNanos {
    /// RFC 3339, UTC, milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0 / 1_000_000).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(millis) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{} ns", self.0),
        }
    }
}

/// The current time by both clocks: what a driver stamps on an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Now {
    /// Wall clock, for people.
    pub wall: WallNanos,
    /// Boot clock, for leases and timers.
    pub boot: BootNanos,
}

impl Now {
    /// Reads both clocks. Only drivers and adapters call this.
    #[must_use]
    pub fn read() -> Self {
        let nanos = |clock| {
            let time = rustix::time::clock_gettime(clock);
            let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
            let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
            seconds.saturating_mul(1_000_000_000).saturating_add(rest)
        };
        Self {
            wall: WallNanos::new(nanos(rustix::time::ClockId::Realtime)),
            boot: BootNanos::new(nanos(rustix::time::ClockId::Boottime)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_moves_forward_and_wall_time_is_readable() {
        let first = Now::read();
        let second = Now::read();
        assert!(second.boot >= first.boot);
        assert_eq!(
            WallNanos::new(1_500_000_000_123_456_789).to_string(),
            "2017-07-14T02:40:00.123Z"
        );
        assert_eq!(
            WallNanos::new(1_500_000_000_123_456_789).to_the_second(),
            "2017-07-14 02:40:00Z"
        );
        assert_eq!(WallNanos::new(5).since(WallNanos::new(9)), Duration::ZERO);
    }
}
