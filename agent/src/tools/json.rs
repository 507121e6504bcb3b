//! JSON as Python's `json` writes it: with bare `NaN`, `Infinity` and `-Infinity`, which strict JSON has no place for.
//!
//! Those words become the strings that hone's own records use for them (`"nan"`, `"inf"`, `"-inf"`), and `serde_json`
//! reads the result, with its bound on depth (128). Input is bounded by whoever reads the file. A crate that reads the
//! three words itself (`jiter`) brings a dozen others and its own unsafe code for what is one pass here.

use std::borrow::Cow;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess,
    Visitor,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What Python writes, and what stands for it in strict JSON.
const WORDS: [(&[u8], &[u8]); 3] =
    [(b"NaN", b"\"nan\""), (b"Infinity", b"\"inf\""), (b"-Infinity", b"\"-inf\"")];

/// Reads a value of Python's JSON.
///
/// # Errors
/// When it is not JSON, or not of the type's form.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(&strict(bytes))
}

/// Reads a value of Python's JSON by a seed, which decides what is kept while the document is walked.
///
/// # Errors
/// When it is not JSON, or not of the seed's form.
pub(super) fn with_seed<S, T>(bytes: &[u8], seed: S) -> Result<T, serde_json::Error>
where
    S: for<'de> DeserializeSeed<'de, Value = T>,
{
    let strict = strict(bytes);
    let mut document = serde_json::Deserializer::from_slice(&strict);
    let value = seed.deserialize(&mut document)?;
    document.end()?;
    Ok(value)
}

/// Reads an object of Python's JSON.
///
/// # Errors
/// When it is not JSON, or no object.
pub fn object(bytes: &[u8]) -> Result<Map<String, Value>, serde_json::Error> {
    from_slice(bytes)
}

/// The same document in strict JSON, at most three times as long.
pub(super) fn strict(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut out: Option<Vec<u8>> = None;
    let (mut copied, mut at) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at),
            b'N' | b'I' | b'-' => {
                let word = WORDS.iter().find(|(word, _)| bytes[at..].starts_with(word));
                let Some((word, plain)) = word else {
                    at += 1;
                    continue;
                };
                let out = out.get_or_insert_with(|| Vec::with_capacity(bytes.len() + 16));
                out.extend_from_slice(&bytes[copied..at]);
                out.extend_from_slice(plain);
                at += word.len();
                copied = at;
            }
            _ => at += 1,
        }
    }
    match out {
        None => Cow::Borrowed(bytes),
        Some(mut out) => {
            out.extend_from_slice(&bytes[copied..]);
            Cow::Owned(out)
        }
    }
}

/// The place after the string that begins at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// A number that may be none: for fields of typed documents.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Real(pub(super) f64);

/// Reads a number.
struct Number;

impl Visitor<'_> for Number {
    type Value = Real;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number")
    }
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Real, E> {
        Ok(Real(number))
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Real, E> {
        Ok(Real(crate::observe::text::approximate(number)))
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Real, E> {
        let size = crate::observe::text::approximate(number.unsigned_abs());
        Ok(Real(if number < 0 { -size } else { size }))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Real, E> {
        word(text).map(Real).ok_or_else(|| E::custom("it is a text, not a number"))
    }
}

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Number)
    }
}

/// One value of which only a number or a text matters; what it holds otherwise is walked and dropped.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    /// A number, or one of the words for what is none.
    Real(f64),
    /// Any other text.
    Text(String),
    /// Something else.
    Other,
}

impl Scalar {
    /// The number, if it is one.
    pub(super) const fn real(&self) -> Option<f64> {
        match self {
            Self::Real(value) => Some(*value),
            Self::Text(_) | Self::Other => None,
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("any value")
            }
            fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }
            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }
            fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar::Real(number))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Scalar, E> {
                Number.visit_u64(number).map(|real| Scalar::Real(real.0))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
                Number.visit_i64(number).map(|real| Scalar::Real(real.0))
            }
            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(word(text).map_or_else(|| Scalar::Text(text.to_owned()), Scalar::Real))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The number that stands for one of Python's words.
fn word(text: &str) -> Option<f64> {
    match text {
        "nan" => Some(f64::NAN),
        "inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trainer::record::real;

    #[test]
    fn python_s_words_are_numbers_and_strings_stay() {
        let map =
            object(br#"{"a": NaN, "b":[-Infinity,Infinity], "c": "NaN \" Infinity", "d":-1.5}"#)
                .expect("an object");
        assert!(real(&map["a"]).is_some_and(f64::is_nan));
        assert_eq!(real(&map["b"][0]), Some(f64::NEG_INFINITY));
        assert_eq!(real(&map["b"][1]), Some(f64::INFINITY));
        assert_eq!(map["c"], "NaN \" Infinity");
        assert_eq!(real(&map["d"]), Some(-1.5));
        let numbers: Vec<Real> = from_slice(b"[NaN, -Infinity, 3, -3, 0.5]").expect("numbers");
        assert!(numbers[0].0.is_nan());
        assert_eq!(numbers[1..], [Real(f64::NEG_INFINITY), Real(3.0), Real(-3.0), Real(0.5)]);
    }

    #[test]
    fn a_number_is_the_nearest_to_what_is_written() {
        for text in
            ["18446744073947557939", "5.399510192871094", "-9.2233720368546854e70", "5e-324"]
        {
            let Real(number) = from_slice(text.as_bytes()).expect("a number");
            assert_eq!(Ok(number.to_bits()), text.parse().map(f64::to_bits), "{text}");
        }
    }

    #[test]
    fn what_is_not_json_stays_an_error() {
        for bad in ["", "{", "{\"a\": NaN", "NaN", "{\"a\": Nan}", "{'a': 1}", "{NaN: 1}x", "\"\\"]
        {
            assert!(object(bad.as_bytes()).is_err(), "{bad} was accepted");
        }
        let deep = "[".repeat(100_000);
        assert!(from_slice::<Value>(deep.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn strict_json_is_left_alone(text in "[ -~]{0,40}", number in any::<i64>()) {
            let value = serde_json::json!({"text": text, "number": number, "list": [text, null]});
            let bytes = value.to_string().into_bytes();
            prop_assert!(matches!(strict(&bytes), Cow::Borrowed(_)));
            prop_assert_eq!(from_slice::<Value>(&bytes).expect("JSON"), value);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(strict(&bytes).len() <= 3 * bytes.len());
            let _ = object(&bytes);
        }
    }
}
