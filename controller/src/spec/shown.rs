//! What a key takes and what holds without it, as messages and the documentation say it.

use super::keys::{Absent, Shape};

/// A number as people write it: no needless point, and an exponent only where zeros would have to be counted.
pub(super) fn plain(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        format!("{number:.0}")
    } else {
        format!("{number:?}")
    }
}

impl Shape {
    /// What the key takes, for messages and the documentation.
    #[must_use]
    pub fn takes(self) -> String {
        match self {
            Self::Section => "a mapping".to_owned(),
            Self::SectionOr(short) => format!("a mapping, or {short}"),
            Self::Text => "text".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Whole(low, high) if low == high => low.to_string(),
            Self::Whole(low, high) => format!("a whole number from {low} to {high}"),
            Self::Real(low, high) => format!("a number from {} to {}", plain(low), plain(high)),
            Self::Size(low, high) => format!("a size from {low} to {high}"),
            Self::Word(words) => {
                words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            }
            Self::Other(takes) => takes.to_owned(),
        }
    }
}

impl Absent {
    /// What holds without the key, for the documentation.
    #[must_use]
    pub fn shown(self) -> String {
        match self {
            Self::Required => "required".to_owned(),
            Self::Is(value) => format!("`{value}`"),
            Self::Else(text) => text.to_owned(),
            Self::Inner => String::new(),
        }
    }
}
