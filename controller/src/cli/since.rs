//! Times as people type them: `10m` ago, an RFC 3339 time, or how long a token works.

use std::str::FromStr;
use std::time::Duration;

use hone_proto::time::WallNanos;

/// A time, absolute or before now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// So long before now.
    Ago(Duration),
    /// This moment.
    At(WallNanos),
}

/// A time that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use a duration such as 10m, 2h or 1d, or a time such as 2026-11-24T14:00:00Z")]
pub(super) struct NotATime;

impl Since {
    /// The moment meant, seen from `now`.
    pub(super) const fn before(self, now: WallNanos) -> WallNanos {
        match self {
            Self::Ago(span) => {
                // Durations are parsed from whole seconds, far below 2^64 nanoseconds when they make sense at all.
                let nanos = span.as_secs().saturating_mul(1_000_000_000);
                WallNanos::new(now.get().saturating_sub(nanos))
            }
            Self::At(time) => time,
        }
    }
}

/// How long a token works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ttl(u32);

/// A time that no token works.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a token works for 1s to 24h: use a duration such as 15m or 2h")]
pub(super) struct NotATtl;

impl Ttl {
    /// No token works longer; the controller says the same.
    const MOST: u32 = 24 * 3600;

    /// In seconds; zero, which is what the controller says, when nothing was asked for.
    pub(super) fn asked(ttl: Option<Self>) -> u32 {
        ttl.map_or(0, |ttl| ttl.0)
    }
}

impl FromStr for Ttl {
    type Err = NotATtl;

    fn from_str(text: &str) -> Result<Self, NotATtl> {
        let seconds = span(text).and_then(|span| u32::try_from(span.as_secs()).ok());
        seconds.filter(|n| (1..=Self::MOST).contains(n)).map(Self).ok_or(NotATtl)
    }
}

impl FromStr for Since {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        if let Some(span) = span(text) {
            return Ok(Self::Ago(span));
        }
        let time: jiff::Timestamp = text.parse().map_err(|_| NotATime)?;
        let nanos = u64::try_from(time.as_nanosecond()).map_err(|_| NotATime)?;
        Ok(Self::At(WallNanos::new(nanos)))
    }
}

/// `1h30m` and its kin: whole numbers with s, m, h or d.
fn span(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0_u64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..end].parse().ok()?;
        let unit = rest[end..].chars().next()?;
        let factor = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(factor)?)?;
        rest = &rest[end + unit.len_utf8()..];
    }
    (!text.is_empty()).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_times_are_read() {
        assert_eq!("10m".parse(), Ok(Since::Ago(Duration::from_secs(600))));
        assert_eq!("1d2h".parse(), Ok(Since::Ago(Duration::from_secs(93_600))));
        let at = Since::At(WallNanos::new(1_500_000_000_000_000_000));
        assert_eq!("2017-07-14T02:40:00Z".parse(), Ok(at));
        for bad in ["", "10", "m", "10x", "1h30", "yesterday", "99999999999999999999d", "1é"] {
            assert_eq!(bad.parse::<Since>(), Err(NotATime), "{bad}");
        }
    }

    #[test]
    fn a_token_works_for_a_second_to_a_day() {
        for (text, seconds) in [("1s", 1), ("15m", 900), ("1d", 86_400)] {
            assert_eq!(text.parse(), Ok(Ttl(seconds)));
            assert_eq!(Ttl::asked(text.parse().ok()), seconds);
        }
        for bad in ["0s", "", "2026-11-24T14:00:00Z", "24h1s", "30d", "99999d", "136y"] {
            assert_eq!(bad.parse::<Ttl>(), Err(NotATtl), "{bad}");
        }
    }

    #[test]
    fn before_the_epoch_is_the_epoch() {
        let year = Since::Ago(Duration::from_secs(u64::MAX));
        assert_eq!(year.before(WallNanos::new(5)), WallNanos::new(0));
    }
}
