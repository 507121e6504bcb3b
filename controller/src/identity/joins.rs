//! How often anybody may try to enrol: per source, and in all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hone_proto::time::BootNanos;

/// Tries per source in a window. A machine that joins needs one.
pub const PER_SOURCE: u32 = 5;

/// Tries in all in a window: a fleet that is set up by a script stays below it.
pub const IN_ALL: u32 = 60;

/// The window.
const WINDOW: Duration = Duration::from_secs(60);

/// Counts tries to enrol.
#[derive(Debug)]
pub struct Joins {
    per_source: u32,
    in_all: u32,
    window: Mutex<Window>,
}

impl Default for Joins {
    fn default() -> Self {
        Self::new(PER_SOURCE, IN_ALL)
    }
}

#[derive(Debug, Default)]
struct Window {
    began: BootNanos,
    in_all: u32,
    sources: BTreeMap<IpAddr, u32>,
}

impl Joins {
    /// So many tries per source and in all, each minute.
    #[must_use]
    pub fn new(per_source: u32, in_all: u32) -> Self {
        Self { per_source, in_all, window: Mutex::default() }
    }

    /// Counts a try; false when there have been too many.
    pub fn admit(&self, source: IpAddr, now: BootNanos) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(window.began) > WINDOW {
            *window = Window { began: now, ..Window::default() };
        }
        if window.in_all >= self.in_all {
            return false;
        }
        let tries = window.sources.entry(source).or_default();
        if *tries >= self.per_source {
            return false;
        }
        *tries += 1;
        window.in_all += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_and_all_sources_together_are_bounded_per_minute() {
        let joins = Joins::default();
        let now = BootNanos::new(1_000_000_000_000);
        let source = |n: u8| IpAddr::from([10, 0, 0, n]);
        assert_eq!((0..10).filter(|_| joins.admit(source(1), now)).count(), 5);
        let admitted = (2..100).filter(|n| joins.admit(source(*n), now)).count();
        assert_eq!(admitted, 55, "60 in all");
        let later = now.plus(Duration::from_secs(61));
        assert!(joins.admit(source(1), later));
    }
}
