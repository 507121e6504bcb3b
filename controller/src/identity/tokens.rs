//! Enrolment tokens: `"<public id>.<secret>"`, printed once. Only a keyed hash is kept, found by the public id, so that
//! the comparison of secrets takes the same time whatever was presented.

use std::fmt;
use std::path::Path;

use hone_proto::identity::IdentityError;
use hone_proto::identity::files::{read_private, write_private};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use secrecy::SecretString;
use zeroize::Zeroizing;

/// Bytes of the public id: enough that two never meet.
const ID_BYTES: usize = 8;

/// Bytes of the secret: 256 bits.
const SECRET_BYTES: usize = 32;

/// What the fleet keeps of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenParts {
    /// By which it is found.
    pub public_id: String,
    /// Keyed hash of the secret, hexadecimal.
    pub hash: String,
}

/// A token as somebody presents it. Its secret cannot be printed.
pub struct Presented {
    public_id: String,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Presented({})", self.public_id)
    }
}

impl Presented {
    /// Reads a token; `None` when it cannot be one.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (public_id, secret) = text.split_once('.')?;
        from_hex::<ID_BYTES>(public_id)?;
        Some(Self { public_id: public_id.to_owned(), secret: from_hex(secret)? })
    }

    /// By which the fleet finds it.
    #[must_use]
    pub fn public_id(&self) -> &str {
        &self.public_id
    }
}

/// Makes tokens and recognises them.
pub struct TokenMint {
    key: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for TokenMint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenMint(..)")
    }
}

impl TokenMint {
    pub(super) fn create(path: &Path) -> Result<Self, IdentityError> {
        let mint = Self { key: random()? };
        write_private(path, to_hex(mint.key.as_slice()).as_bytes())?;
        Ok(mint)
    }

    pub(super) fn open(path: &Path) -> Result<Self, IdentityError> {
        let text = read_private(path)?;
        let key = from_hex(text.trim()).ok_or_else(|| IdentityError::File {
            path: path.to_owned(),
            why: "it must hold 64 hexadecimal digits".to_owned(),
        })?;
        Ok(Self { key })
    }

    /// A new token: the text to print once, and what to keep of it.
    pub fn mint(&self) -> Result<(SecretString, TokenParts), IdentityError> {
        let public_id = to_hex(random::<ID_BYTES>()?.as_slice());
        let secret = random()?;
        let hash = self.hash(&public_id, &secret).to_hex().to_string();
        let text = Zeroizing::new(format!("{}.{}", *public_id, *to_hex(secret.as_slice())));
        let parts = TokenParts { public_id: public_id.to_string(), hash };
        Ok((SecretString::from(text.as_str()), parts))
    }

    /// True when the presented token is the one kept as `hash`. Takes the same time for every secret, and the same for a
    /// token that nobody knows.
    #[must_use]
    pub fn matches(&self, hash: Option<&str>, presented: &Presented) -> bool {
        let found = self.hash(&presented.public_id, &presented.secret);
        let kept = hash.and_then(|hash| blake3::Hash::from_hex(hash).ok());
        // Equality of these hashes is constant-time.
        kept.unwrap_or_else(|| blake3::Hash::from_bytes([0; 32])) == found
    }

    fn hash(&self, public_id: &str, secret: &[u8; SECRET_BYTES]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(b"hone enrolment token\0");
        hasher.update(public_id.as_bytes());
        hasher.update(&[0]);
        hasher.update(secret);
        hasher.finalize()
    }
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, IdentityError> {
    let mut bytes = Zeroizing::new([0; N]);
    OsRng
        .try_fill_bytes(bytes.as_mut_slice())
        .map_err(|_| IdentityError::Key("the system gives no random bytes"))?;
    Ok(bytes)
}

fn to_hex(bytes: &[u8]) -> Zeroizing<String> {
    use std::fmt::Write as _;
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2));
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Exactly `N` bytes in lower-case digits: one token has one text.
fn from_hex<const N: usize>(text: &str) -> Option<Zeroizing<[u8; N]>> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != N * 2 {
        return None;
    }
    let mut bytes = Zeroizing::new([0; N]);
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn mint() -> TokenMint {
        TokenMint { key: random().expect("random bytes") }
    }

    #[test]
    fn a_token_matches_what_is_kept_of_it_and_nothing_else() {
        let mint = mint();
        let (text, parts) = mint.mint().expect("a token");
        let (other, _) = mint.mint().expect("another token");
        let read = |text: &SecretString| Presented::read(text.expose_secret()).expect("a token");
        let presented = read(&text);
        assert_eq!(presented.public_id(), parts.public_id);
        assert!(mint.matches(Some(&parts.hash), &presented));
        assert!(!mint.matches(Some(&parts.hash), &read(&other)));
        assert!(!mint.matches(None, &presented));
        assert!(!mint.matches(Some("not a hash"), &presented));
        assert!(!self::mint().matches(Some(&parts.hash), &presented), "under another key");
        // The same secret under another public id is another token.
        let (_, secret) = text.expose_secret().split_once('.').expect("two parts");
        let moved = Presented::read(&format!("{}.{secret}", "0".repeat(16))).expect("a token");
        assert!(!mint.matches(Some(&parts.hash), &moved));
    }

    #[test]
    fn nothing_of_the_secret_is_printed_or_kept() {
        let mint = mint();
        let (text, parts) = mint.mint().expect("a token");
        let (_, secret) = text.expose_secret().split_once('.').expect("two parts");
        assert_eq!(secret.len(), 64);
        let presented = Presented::read(text.expose_secret()).expect("a token");
        let printed = format!("{text:?} {parts:?} {presented:?} {mint:?}");
        assert!(!printed.contains(secret), "{printed}");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let secret = "0a".repeat(32);
        for bad in [
            "",
            ".",
            "abc",
            &secret,
            &format!(".{secret}"),
            &format!("0123456789abcdef.{}", "0A".repeat(32)),
            &format!("0123456789abcdef.{secret}0"),
            &format!("0123456789abcdef.{}", &secret[1..]),
            &format!("0123456789abcdeg.{secret}"),
            &format!("0123456789abcdef.{secret}\n"),
            &format!("0123456789abcdef..{secret}"),
            &format!("0123456789abcdef.{}", "é".repeat(32)),
        ] {
            assert!(Presented::read(bad).is_none(), "{bad:?} was accepted");
        }
    }
}
