//! Whether an account fits on a card.

use serde::Serialize;

use super::GIB;

/// What the context of the driver takes beside the allocator where the node has not measured it: 0.25 to 0.5 GiB on
/// current drivers.
pub const CONTEXT: u64 = GIB / 2;

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// With room to spare.
    Fits,
    /// It may run, with retries of the allocator, or fail.
    Tight,
    /// It does not run.
    DoesNotFit,
}

impl Verdict {
    /// Whether it may be tried.
    #[must_use]
    pub const fn may_run(self) -> bool {
        !matches!(self, Self::DoesNotFit)
    }
}

/// Holds a peak of the allocator against the bytes of a card. The allocator runs to within two per cent of what is
/// there, so only what exceeds the card with the context does not fit; below that, a spare of 3 % (and 0.5 GiB at
/// least) tells what fits from what is tight.
#[must_use]
pub const fn verdict(peak: u64, capacity: u64) -> Verdict {
    let needed = peak + CONTEXT;
    let share = capacity / 100 * 3;
    let spare = if share > GIB / 2 { share } else { GIB / 2 };
    if needed > capacity {
        Verdict::DoesNotFit
    } else if needed + spare > capacity {
        Verdict::Tight
    } else {
        Verdict::Fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_full_before_its_last_byte() {
        assert_eq!(verdict(70 * GIB, 80 * GIB), Verdict::Fits);
        assert_eq!(verdict(78 * GIB, 80 * GIB), Verdict::Tight);
        assert_eq!(verdict(80 * GIB, 80 * GIB), Verdict::DoesNotFit);
        assert!(Verdict::Tight.may_run() && !Verdict::DoesNotFit.may_run());
    }
}
