//! Quantities with units: bytes and processor time. A bare number never stands for either.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A size in bytes. Text needs a unit: `GB` is 10⁹, `GiB` is 2³⁰.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(u64);

/// A size that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("size {text:?} is not valid: {why}")]
pub struct SizeError {
    /// The rejected text, cut to 80 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Units that a size may carry, longest match first for display.
const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

impl Bytes {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// `n` bytes.
    #[must_use]
    pub const fn new(n: u64) -> Self {
        Self(n)
    }
    /// `n` × 2²⁰ bytes.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    /// `n` × 2³⁰ bytes.
    #[must_use]
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
    /// Sum that stops at the largest value instead of wrapping.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
    /// Difference that stops at zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
    /// Sum, or nothing on overflow.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::ZERO, Self::saturating_add)
    }
}

impl fmt::Display for Bytes {
    /// Binary units with one decimal, as people compare them: `3.1 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let text = units.iter().find(|(_, size)| self.0 >= *size).map_or_else(
            || format!("{} B", self.0),
            |(unit, size)| {
                #[expect(clippy::cast_precision_loss, reason = "one decimal is printed")]
                let value = self.0 as f64 / *size as f64;
                format!("{value:.1} {unit}")
            },
        );
        f.pad(&text)
    }
}

impl FromStr for Bytes {
    type Err = SizeError;
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = |why| SizeError { text: text.chars().take(80).collect(), why };
        let trimmed = text.trim();
        let split = trimmed
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .ok_or_else(|| error("it needs a unit, such as GiB or GB"))?;
        let (number, unit) = (&trimmed[..split], trimmed[split..].trim());
        let factor = UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(_, factor)| *factor)
            .ok_or_else(|| error("the unit must be B, kB, MB, GB, TB, KiB, MiB, GiB or TiB"))?;
        exact(number, factor).map(Self).ok_or_else(|| error("the number is missing or too large"))
    }
}

/// `number` × `factor`, without going through floating point when the number is whole.
fn exact(number: &str, factor: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let (whole, fraction) = number.split_once('.')?;
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = fraction.parse::<u128>().ok()? * u128::from(factor) / scale;
    whole.checked_mul(factor)?.checked_add(u64::try_from(part).ok()?)
}

/// Processor time in thousandths of a core.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MilliCpu(u32);

impl MilliCpu {
    /// `n` thousandths of a core.
    #[must_use]
    pub const fn new(n: u32) -> Self {
        Self(n)
    }
    /// `n` whole cores.
    #[must_use]
    pub const fn cores(n: u32) -> Self {
        Self(n.saturating_mul(1000))
    }
    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
    /// Sum that stops at the largest value.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
    /// Difference that stops at zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        let text = if rest == 0 {
            format!("{whole}")
        } else {
            format!("{whole}.{rest:03}").trim_end_matches('0').to_owned()
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_need_a_unit_and_know_both_families() {
        assert_eq!("24GiB".parse(), Ok(Bytes::gib(24)));
        assert_eq!("24 GB".parse(), Ok(Bytes::new(24_000_000_000)));
        assert_eq!("1.5GiB".parse(), Ok(Bytes::mib(1536)));
        assert_eq!("0B".parse(), Ok(Bytes::ZERO));
        for bad in
            ["24", "", "GiB", "-1GiB", "1e3GB", "1.GiB", "99999999999TiB", "4 potatoes", "1.2.3GB"]
        {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn display_is_for_people() {
        assert_eq!(Bytes::new(1023).to_string(), "1023 B");
        assert_eq!(Bytes::mib(3174).to_string(), "3.1 GiB");
        assert_eq!(MilliCpu::new(1500).to_string(), "1.5");
        assert_eq!(MilliCpu::cores(2).to_string(), "2");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Bytes>();
        }

        #[test]
        fn whole_numbers_of_bytes_are_exact(n in any::<u64>()) {
            prop_assert_eq!(format!("{n}B").parse(), Ok(Bytes::new(n)));
        }
    }
}
