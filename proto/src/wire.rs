//! The generated messages and services of `hone.v1`. Past the service handlers and [`crate::convert`], use the domain
//! types instead.

#[allow(
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::too_many_lines,
    clippy::allow_attributes_without_reason,
    reason = "written by prost and tonic; a test proves that it is current"
)]
mod generated {
    include!("generated/hone.v1.rs");
}

mod secrets;

pub use generated::*;

/// The lowest and the highest protocol version that this release speaks.
pub const PROTOCOL: std::ops::RangeInclusive<u32> = 1..=1;

/// Largest message on the control port, both ways: a batch of log records, a desired set with its specs, or a listing.
pub const CONTROL_MESSAGE: usize = 8 << 20;

/// The descriptor set of this release: what a later release is compared with.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/hone.v1.binpb");

/// Serialises digests as text.
pub(crate) fn as_hex<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    to.serialize_str(&text)
}
