//! What a container printed, as records.

mod text;

pub use text::clean_text;
