//! Durations, ages, counts and text from elsewhere, as people read them.

use std::time::Duration;

use hone_proto::quantity::Bytes;
use hone_proto::time::WallNanos;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// What stands where a value is not known.
pub const UNKNOWN: &str = "-";

/// A duration with at most two units: `45 s`, `4 min 05 s`, `2 h 03 min`, `3 d 4 h`.
#[must_use]
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days} d {} h", hours % 24)
    } else if hours > 0 {
        format!("{hours} h {:02} min", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes} min {:02} s", seconds % 60)
    } else {
        format!("{seconds} s")
    }
}

/// How long ago, with one unit: `12 s`, `3 min`, `5 h`, `9 d`.
#[must_use]
pub fn age(now: WallNanos, then: WallNanos) -> String {
    let seconds = now.since(then).as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A wall time to the second, UTC: `2026-11-24 14:56:45Z`.
#[must_use]
pub fn time(wall: WallNanos) -> String {
    wall.to_the_second()
}

/// A size that was averaged.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a size, and `as` saturates"
)]
#[must_use]
pub fn whole_bytes(bytes: f64) -> Bytes {
    Bytes::new(bytes as u64)
}

/// A node as people know it: by its host name, by its id where that is not known.
#[must_use]
pub fn place<'a>(host: &'a str, id: &'a str) -> &'a str {
    if host.is_empty() { id } else { host }
}

/// A number with four significant digits, in scientific notation where that is shorter to read.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "inf".to_owned() } else { "-inf".to_owned() }
    } else if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e5).contains(&size) {
        format!("{value:.2e}")
    } else if size >= 1000.0 {
        format!("{value:.0}")
    } else if size >= 100.0 {
        format!("{value:.1}")
    } else if size >= 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// A count with a metric suffix: `999`, `1.2 k`, `7.2 M`, `1.1 G`.
#[must_use]
pub fn count(n: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is printed")]
    let value = n as f64;
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1} k", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", value / 1e6),
        _ => format!("{:.1} G", value / 1e9),
    }
}

/// Text that somebody else wrote, made safe for a terminal: control characters, escape sequences among them, are
/// shown instead of obeyed. Line breaks and tabs stay.
#[must_use]
pub fn safe(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('?'),
            '\x7f' => '\u{2421}',
            '\u{80}'..='\u{9f}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' => '\u{fffd}',
            '\u{2066}'..='\u{2069}' => '\u{fffd}',
            _ => c,
        })
        .collect()
}

/// Safe text in one line: line breaks become spaces.
#[must_use]
pub fn one_line(text: &str) -> String {
    safe(text).replace(['\n', '\t'], " ")
}

/// Columns that `text` takes on a terminal.
#[must_use]
pub fn width(text: &str) -> usize {
    text.width()
}

/// `text` cut to `limit` columns, with `…` where something is missing.
#[must_use]
pub fn fit(text: &str, limit: usize) -> String {
    if text.width() <= limit {
        return text.to_owned();
    }
    let mut taken = String::new();
    let mut used = 0;
    for c in text.chars() {
        let next = c.width().unwrap_or(0);
        if used + next + 1 > limit {
            break;
        }
        used += next;
        taken.push(c);
    }
    if limit > 0 {
        taken.push('…');
    }
    taken
}

/// `done` of `whole` as a bar of `columns` columns: `█████▌░░░░`.
#[must_use]
pub fn bar(done: u64, whole: u64, columns: usize) -> String {
    const PARTS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = if whole == 0 {
        0
    } else {
        let full = u128::try_from(columns).unwrap_or(0) * 8;
        usize::try_from(u128::from(done.min(whole)) * full / u128::from(whole)).unwrap_or(0)
    };
    let mut text = "█".repeat(eighths / 8);
    let mut used = eighths / 8;
    if eighths % 8 > 0 {
        text.push(PARTS[eighths % 8]);
        used += 1;
    }
    text.push_str(&"░".repeat(columns.saturating_sub(used)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_at_most_two_units() {
        let texts: Vec<_> =
            [0, 45, 245, 7385, 273_600].map(|s| duration(Duration::from_secs(s))).to_vec();
        assert_eq!(texts, ["0 s", "45 s", "4 min 05 s", "2 h 03 min", "3 d 4 h"]);
        let hour = WallNanos::new(3_600_000_000_000);
        assert_eq!(age(hour, WallNanos::new(0)), "1 h");
        assert_eq!(age(WallNanos::new(0), hour), "0 s", "a clock that is behind makes no future");
    }

    #[test]
    fn numbers_are_short() {
        let texts: Vec<_> =
            [0.0, 2.345_67, 12.345, 345.67, 12345.6, 1e-5, 3e9, f64::NAN].map(number).to_vec();
        assert_eq!(texts, ["0", "2.346", "12.35", "345.7", "12346", "1.00e-5", "3.00e9", "NaN"]);
        assert_eq!(count(999), "999");
        assert_eq!(count(7_240_000), "7.2 M");
    }

    #[test]
    fn escape_sequences_are_shown_and_not_obeyed() {
        assert_eq!(safe("a\x1b[2Jb\r\u{9b}31m\ttab"), "a␛[2Jb␍\u{fffd}31m\ttab");
        assert_eq!(one_line("two\nlines"), "two lines");
    }

    #[test]
    fn cutting_counts_columns_and_not_bytes() {
        assert_eq!(fit("short", 5), "short");
        assert_eq!(fit("longer text", 5), "long…");
        assert_eq!(fit("日本語テキスト", 7), "日本語…");
        assert_eq!(fit("x", 0), "");
    }

    #[test]
    fn a_bar_is_as_long_as_it_was_asked_to_be() {
        for done in 0..=17 {
            assert_eq!(width(&bar(done, 17, 10)), 10);
        }
        assert_eq!(bar(1, 2, 4), "██░░");
        assert_eq!(bar(5, 0, 3), "░░░");
        assert_eq!(bar(9, 3, 3), "███");
        assert_eq!(bar(u64::MAX - 1, u64::MAX, 2), "█▉");
    }

    #[test]
    fn times_end_at_the_second() {
        assert_eq!(time(WallNanos::new(1_500_000_000_123_456_789)), "2017-07-14 02:40:00Z");
    }
}
