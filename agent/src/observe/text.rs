//! Reading numbers out of the kernel's text without making strings.

use std::time::Duration;

/// The lines of `text`, without their ends.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

/// The fields of `line` between runs of blanks.
pub(crate) fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|field| !field.is_empty())
}

/// A whole number in decimal.
pub(crate) fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Text as it stands; what is not UTF-8 becomes a mark.
pub(crate) fn word(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// How fast a counter grew, per second. Nothing is known when no time passed, or when the counter was reset.
pub(crate) fn per_second(before: u64, now: u64, elapsed: Duration) -> Option<f64> {
    let grown = now.checked_sub(before)?;
    let seconds = elapsed.as_secs_f64();
    (seconds > 0.0).then(|| approximate(grown) / seconds)
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53, far beyond a second's growth")]
pub(crate) fn approximate(value: u64) -> f64 {
    value as f64
}

/// The whole part of a figure that is not negative.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates at both ends, which is what is wanted"
)]
pub(crate) fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// A figure with the precision that samples carry.
#[expect(clippy::cast_possible_truncation, reason = "samples carry single precision")]
pub(crate) fn single(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_know_no_time_and_no_reset() {
        let second = Duration::from_secs(1);
        assert_eq!(per_second(10, 30, 2 * second), Some(10.0));
        assert_eq!(per_second(10, 30, Duration::ZERO), None);
        assert_eq!(per_second(30, 10, second), None, "a counter that went back was reset");
    }

    #[test]
    fn whole_figures_saturate() {
        assert_eq!(whole(-1.0), 0);
        assert_eq!(whole(1.5), 2);
        assert_eq!(whole(f64::INFINITY), u64::MAX);
        assert_eq!(whole(f64::NAN), 0);
    }
}
