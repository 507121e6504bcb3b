//! The controller's side of identity: it issues certificates, keeps tokens by their hash, and lets a call through only
//! when the caller may make it.
//!
//! Who exists and what they may do is state of the fleet ([`crate::core`]); this module holds keys and no state but
//! them.

pub mod access;
pub mod authority;
mod guard;
pub mod issue;
pub mod joins;
pub mod layer;
pub mod succession;
pub mod tokens;

pub use authority::{Authority, AuthorityError};
pub use issue::{Issued, Issuer, Lifetimes};
pub use layer::{AccessLayer, Renewed};
pub use tokens::{TokenMint, TokenParts};
