//! `model.safetensors.index.json`: the files that the weights of a model lie in when they are several. It names a file
//! for every tensor; only the files' names are kept.

use std::collections::BTreeSet;
use std::fmt;

use hone_proto::quantity::Bytes;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

/// Name of the file.
pub const INDEX_NAME: &str = "model.safetensors.index.json";
/// Largest file that is read: a hundred thousand tensors.
pub const MAX_INDEX_SIZE: Bytes = Bytes::mib(16);
/// Most files; the largest open models have some two hundred.
const MAX_SHARDS: usize = 4096;
/// Longest name of a file, as file systems have it.
const MAX_NAME_LEN: usize = 255;

/// The names of the files that hold the weights, at least one.
///
/// # Errors
/// When it is not JSON of this form, names no file, or more or longer ones than any writer does.
pub fn names(bytes: &[u8]) -> Result<BTreeSet<String>, serde_json::Error> {
    let Index(names) = serde_json::from_slice(bytes)?;
    if names.is_empty() {
        return Err(de::Error::custom("it names no file"));
    }
    Ok(names)
}

/// The whole file. It is walked once.
struct Index(BTreeSet<String>);

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Document;
        impl<'de> Visitor<'de> for Document {
            type Value = Index;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an index of weights")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Index, A::Error> {
                let mut names = BTreeSet::new();
                while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
                    if key == "weight_map" {
                        map.next_value_seed(WeightMap(&mut names))?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Index(names))
            }
        }
        deserializer.deserialize_map(Document)
    }
}

/// The tensors with their files.
struct WeightMap<'a>(&'a mut BTreeSet<String>);

impl<'de> DeserializeSeed<'de> for WeightMap<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMap<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("files by tensor")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(Name(self.0))?;
        }
        Ok(())
    }
}

/// The file of one tensor; most tensors share theirs with others.
struct Name<'a>(&'a mut BTreeSet<String>);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a file")
    }
    fn visit_str<E: de::Error>(self, name: &str) -> Result<(), E> {
        if self.0.contains(name) {
            return Ok(());
        }
        if !(1..=MAX_NAME_LEN).contains(&name.len()) {
            return Err(E::custom("a file's name is empty or longer than 255 bytes"));
        }
        if self.0.len() == MAX_SHARDS {
            return Err(E::custom("it names more than 4096 files"));
        }
        self.0.insert(name.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(map: &str) -> Result<Vec<String>, String> {
        let text = format!(r#"{{"metadata": {{"total_size": 9, "x": [1]}}, "weight_map": {map}}}"#);
        let names = names(text.as_bytes()).map_err(|error| error.to_string())?;
        Ok(names.into_iter().collect())
    }

    #[test]
    fn each_file_is_named_once_however_many_tensors_it_holds() {
        let map = r#"{"b": "model-2.safetensors", "a": "model-1.safetensors", "c": "model-2.safetensors"}"#;
        let expected = ["model-1.safetensors".to_owned(), "model-2.safetensors".to_owned()];
        assert_eq!(index(map), Ok(expected.to_vec()));
        let escaped = r#"{"a": "mod\u0065l.safetensors"}"#;
        assert_eq!(index(escaped), Ok(vec!["model.safetensors".to_owned()]));
    }

    #[test]
    fn an_index_that_names_no_file_or_no_end_of_them_is_refused() {
        let of = |count: usize| {
            let pairs: Vec<_> = (0..count).map(|n| format!(r#""t{n}": "f{n}""#)).collect();
            format!("{{{}}}", pairs.join(","))
        };
        assert_eq!(index(&of(MAX_SHARDS)).expect("an index").len(), MAX_SHARDS);
        for (map, why) in [
            (of(MAX_SHARDS + 1), "more than 4096"),
            ("{}".to_owned(), "names no file"),
            ("[]".to_owned(), "files by tensor"),
            (r#"{"a": 1}"#.to_owned(), "the name of a file"),
            (r#"{"a": ""}"#.to_owned(), "empty or longer"),
            (format!(r#"{{"a": "{}"}}"#, "x".repeat(MAX_NAME_LEN + 1)), "empty or longer"),
            (r#"{"a": "x""#.to_owned(), "EOF"),
        ] {
            let error = index(&map).expect_err("refused");
            assert!(error.contains(why), "{error}");
        }
        for bad in ["", "[]", "{}", "null", r#"{"weight_map": null}"#] {
            assert!(names(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
