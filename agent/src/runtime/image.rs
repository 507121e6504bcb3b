//! How images are named: by content, never by a tag that somebody can move.

use std::fmt;
use std::str::FromStr;

/// A reference that does not name an image by its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image {text:?} is not valid: {why}")]
pub struct ImageNameError {
    /// The rejected text, cut to 80 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Longest repository name, registry included; the distribution specification allows 255.
const MAX_REPOSITORY_LEN: usize = 255;

fn error(text: &str, why: &'static str) -> ImageNameError {
    ImageNameError { text: text.chars().take(80).collect(), why }
}

/// `sha256:` and 64 lower-case hexadecimal digits.
fn is_sha256(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|digits| {
        digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The engine's id of an image: the digest of its configuration, the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(String);

impl ImageId {
    /// The id as text, `sha256:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageId {
    type Err = ImageNameError;
    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        if is_sha256(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(error(text, "an image id is `sha256:` and 64 hexadecimal digits"))
        }
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An image, named so that every node means the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ImageName {
    /// By the engine's id: carried to nodes by hone.
    Id(ImageId),
    /// By repository digest: pulled from a registry.
    Digest {
        /// Registry and repository, such as `registry.example/team/trainer`.
        repository: String,
        /// The manifest's digest, `sha256:…`.
        digest: String,
    },
}

impl FromStr for ImageName {
    type Err = ImageNameError;
    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        let Some((repository, digest)) = text.rsplit_once('@') else {
            return text.parse().map(Self::Id).map_err(|_| {
                error(text, "it must be `repository@sha256:…` or an image id `sha256:…`")
            });
        };
        if !is_sha256(digest) {
            return Err(error(text, "its digest must be `sha256:` and 64 hexadecimal digits"));
        }
        let allowed = |b: u8| {
            b.is_ascii_lowercase()
                || b.is_ascii_digit()
                || matches!(b, b'.' | b'_' | b'-' | b'/' | b':')
        };
        let clean = !repository.is_empty()
            && repository.len() <= MAX_REPOSITORY_LEN
            && repository.bytes().all(allowed)
            && repository
                .split('/')
                .all(|part| part.starts_with(|c: char| c.is_ascii_alphanumeric()));
        if !clean {
            return Err(error(text, "its repository name is not valid"));
        }
        Ok(Self::Digest { repository: repository.to_owned(), digest: digest.to_owned() })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => f.pad(id.as_str()),
            Self::Digest { repository, digest } => f.pad(&format!("{repository}@{digest}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_content_names_an_image() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let by_id: ImageName = digest.parse().expect("an id");
        assert_eq!(by_id.to_string(), digest);
        let pulled = format!("127.0.0.1:5000/team/trainer@{digest}");
        assert_eq!(pulled.parse::<ImageName>().expect("a digest").to_string(), pulled);
        for bad in [
            "",
            "trainer",
            "trainer:latest",
            "sha256:abcd",
            &format!("../etc@{digest}"),
            &format!("a//b@{digest}"),
            &format!("@{digest}"),
            &format!("a b@{digest}"),
            &format!("team/trainer@{}", digest.to_uppercase()),
            &format!("{}@{digest}", "a".repeat(256)),
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?} was accepted");
        }
    }
}
