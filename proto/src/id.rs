//! Ids: one newtype each, so that a job can never be taken for an attempt.
//!
//! Textual ids are validated when they are made: 1 to 64 characters of `[a-z0-9._-]`, starting with a letter or a
//! digit, so that they are safe in paths, labels and URIs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A textual id that is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {why}")]
pub struct IdError {
    /// Which id was meant.
    pub what: &'static str,
    /// The rejected text, cut to 80 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Longest textual id, in bytes: fits a DNS label and every label set we write to.
pub const MAX_ID_LEN: usize = 64;

fn check(what: &'static str, text: &str) -> Result<(), IdError> {
    let why = if text.is_empty() {
        "it is empty"
    } else if text.len() > MAX_ID_LEN {
        "it is longer than 64 characters"
    } else if !text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) {
        "it must start with a lower-case letter or a digit"
    } else if !text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
    {
        "only a-z, 0-9, '.', '_' and '-' are allowed"
    } else {
        return Ok(());
    };
    Err(IdError { what, text: text.chars().take(80).collect(), why })
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                check($what, text)?;
                Ok(Self(text.to_owned()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                check($what, &text)?;
                Ok(Self(text))
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name($int);

        impl $name {
            /// The number `n` as this id.
            #[must_use]
            pub const fn new(n: $int) -> Self {
                Self(n)
            }
            /// The plain number.
            #[must_use]
            pub const fn get(self) -> $int {
                self.0
            }
            /// The next number; saturates, which a fleet cannot reach.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

text_id! {
    /// One enrolled machine. Chosen at random by the controller, never derived from a token.
    NodeId, "node id"
}
text_id! {
    /// A person who holds an operator certificate.
    UserName, "user name"
}
text_id! {
    /// The boundary of sharing: quotas, deduplication, caches, visibility.
    ProjectName, "project"
}
text_id! {
    /// The name that a user gave to a job; not unique over time.
    JobName, "job name"
}
text_id! {
    /// One fleet: a controller, its CA, and everything that trusts it.
    FleetId, "fleet id"
}
text_id! {
    /// A client-made id of one mutating request; its result is kept for 24 hours, so a retry has one effect.
    RequestId, "request id"
}
text_id! {
    /// One event spool. Random, made when the spool is created: a wiped disk is a new stream.
    SpoolId, "spool id"
}
text_id! {
    /// One boot of one machine, as the kernel names it.
    BootId, "boot id"
}

impl ProjectName {
    /// The project of everything that names none.
    #[must_use]
    pub fn default_project() -> Self {
        Self("default".to_owned())
    }
}

number_id! {
    /// A job, numbered by the fleet core from 1.
    JobId, u64
}
number_id! {
    /// One placement of a job on a node, numbered from 1 within the job.
    Attempt, u32
}
number_id! {
    /// A life of the controller's state: raised when state is restored from an export.
    Generation, u64
}
number_id! {
    /// The revision of one node's desired set: raised with each change.
    Revision, u64
}
number_id! {
    /// The place of an event in its stream, from 1.
    Seq, u64
}
number_id! {
    /// An optimizer step of training, counted from the start of the run.
    Step, u64
}

impl FromStr for JobId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let why = "a job is named by its number, such as 12";
        let number = text.parse().map_err(|_| IdError {
            what: "job",
            text: text.chars().take(80).collect(),
            why,
        })?;
        Ok(Self(number))
    }
}

/// The fencing token: of two tokens of one job, only the greater one may commit anything durable.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct Token {
    /// Generation of the controller that granted it.
    pub generation: Generation,
    /// The attempt.
    pub attempt: Attempt,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.attempt)
    }
}

/// One attempt of one job: what an agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId {
    /// The job.
    pub job: JobId,
    /// Its fencing token.
    pub token: Token,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {} attempt {}", self.job, self.token.attempt)
    }
}

/// A BLAKE3 digest: names a chunk, a file or a manifest by its content. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
    /// From raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
    /// The first 12 hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = IdError;
    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        <[u8; 32]>::try_from(bytes).map(Self).map_err(|_| IdError {
            what: "digest",
            text: format!("({} bytes)", bytes.len()),
            why: "it must be 32 bytes",
        })
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError {
            what: "digest",
            text: text.chars().take(80).collect(),
            why: "it must be 64 hexadecimal digits",
        };
        if text.len() != 64 {
            return Err(error());
        }
        blake3::Hash::from_hex(text).map(Self::from).map_err(|_| error())
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn textual_ids_refuse_what_is_unsafe_in_a_path() {
        for bad in ["", "..", ".hidden", "-x", "A", "a/b", "a b", "a\0", "é", &"a".repeat(65)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "gpu-1", "0a.b_c-d", &"a".repeat(64)] {
            assert!(good.parse::<NodeId>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn a_digest_survives_text_and_refuses_other_lengths() {
        let digest = Digest::of(b"chunk");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("abcd".parse::<Digest>().is_err());
        assert!("zz".repeat(32).parse::<Digest>().is_err());
        assert!(Digest::try_from(&[0_u8; 31][..]).is_err());
    }

    #[test]
    fn a_later_generation_fences_every_earlier_attempt() {
        let old = Token { generation: Generation::new(1), attempt: Attempt::new(9) };
        let new = Token { generation: Generation::new(2), attempt: Attempt::new(1) };
        assert!(new > old);
    }
}
