//! A tool's configuration: a mapping that may begin as the user's file, over which hone lays what it must, each change
//! remembered so that its user can be shown it.

use std::io;

use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use serde_json::{Map, Value};

/// One key that hone set.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// What the user's file said; absent when it said nothing.
    pub was: Option<Value>,
    /// What holds.
    pub now: Value,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.was {
            Some(was) => write!(f, "{}: {was} → {}", self.key, self.now),
            None => write!(f, "{}: {}", self.key, self.now),
        }
    }
}

/// A configuration in the making.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    values: Map<String, Value>,
    changes: Vec<Change>,
}

/// A user's file that is no mapping.
#[derive(Debug, thiserror::Error)]
#[error("{name} cannot be read: {why}")]
pub struct ConfigError {
    /// The file.
    pub name: String,
    /// What is wrong.
    pub why: String,
}

impl Config {
    /// From the user's file, YAML or JSON.
    ///
    /// # Errors
    /// When it is no mapping with text for keys.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        let values = serde_saphyr::from_str(text)
            .map_err(|error| ConfigError { name: name.to_owned(), why: error.to_string() })?;
        Ok(Self { values, changes: Vec::new() })
    }

    /// What a key is now.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Sets a key where the user said nothing: part of a whole that hone writes, and no change worth telling.
    pub fn fill(&mut self, key: &str, value: impl Into<Value>) {
        if !self.values.contains_key(key) {
            self.values.insert(key.to_owned(), value.into());
        }
    }

    /// Sets a key whatever the user said.
    pub fn lay(&mut self, key: &str, value: impl Into<Value>) {
        let now = value.into();
        let was = self.values.insert(key.to_owned(), now.clone());
        if was.as_ref() != Some(&now) {
            self.changes.push(Change { key: key.to_owned(), was, now });
        }
    }

    /// Takes a key away that this version of the tool does not know.
    pub fn drop(&mut self, key: &str) {
        if let Some(was) = self.values.remove(key) {
            self.changes.push(Change { key: key.to_owned(), was: Some(was), now: Value::Null });
        }
    }

    /// The user's own last word: raw keys; null takes one away.
    pub fn override_with(&mut self, keys: &Map<String, Value>) {
        for (key, value) in keys {
            self.changes.retain(|change| change.key != *key);
            if value.is_null() {
                self.values.remove(key);
            } else {
                self.values.insert(key.clone(), value.clone());
            }
        }
    }

    /// What hone set against, or besides, the user's file.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// As a file that readers of JSON and of YAML 1.1 take for the same.
    #[must_use]
    pub fn to_file(&self) -> String {
        let mut bytes = Vec::new();
        let mut serializer = Serializer::with_formatter(&mut bytes, Plain(PrettyFormatter::new()));
        // Text keys and plain values always have this form.
        if serde::Serialize::serialize(&self.values, &mut serializer).is_err() {
            bytes.clear();
        }
        bytes.push(b'\n');
        String::from_utf8(bytes).unwrap_or_default()
    }

    /// As arguments of a command line: `--key value`, lists with a value for each item.
    #[must_use]
    pub fn to_flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        for (key, value) in &self.values {
            let items = match value {
                Value::Array(items) => items.iter().map(word).collect(),
                other => vec![word(other)],
            };
            flags.push(format!("--{key}"));
            flags.extend(items);
        }
        flags
    }
}

/// A value as Python's command lines take it.
fn word(value: &Value) -> String {
    match value {
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// JSON whose numbers YAML 1.1 reads as numbers: `2e-5` would be text there, `2.0e-5` is not.
struct Plain<'a>(PrettyFormatter<'a>);

impl Formatter for Plain<'_> {
    fn write_f64<W: ?Sized + io::Write>(&mut self, to: &mut W, value: f64) -> io::Result<()> {
        to.write_all(number(value).as_bytes())
    }
    fn begin_array<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_array(to)
    }
    fn end_array<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array(to)
    }
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_array_value(to, first)
    }
    fn end_array_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array_value(to)
    }
    fn begin_object<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object(to)
    }
    fn end_object<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object(to)
    }
    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_object_key(to, first)
    }
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object_value(to)
    }
    fn end_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object_value(to)
    }
}

fn number(value: f64) -> String {
    let short = value.to_string();
    if (1e-4..1e15).contains(&value.abs()) || value == 0.0 {
        return if short.contains('.') { short } else { format!("{short}.0") };
    }
    let text = format!("{value:e}");
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = if digits.contains('.') { digits.to_owned() } else { format!("{digits}.0") };
    let sign = if power.starts_with('-') { "" } else { "+" };
    format!("{digits}e{sign}{power}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_hone_lays_over_a_users_file_is_remembered_and_what_the_user_insists_on_stays() {
        let text = "output_dir: ./out\nlearning_rate: 2e-5\nsave_steps: 40\nlogging_dir: ./x\n";
        let mut config = Config::parse("my.yml", text).expect("a mapping");
        config.lay("output_dir", "/hone/output");
        config.lay("save_steps", 40);
        config.lay("report_to", json!(["tensorboard"]));
        config.drop("logging_dir");
        config.fill("learning_rate", 1.0);
        config.fill("seed", 1);
        let told: Vec<_> = config.changes().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                r#"output_dir: "./out" → "/hone/output""#,
                r#"report_to: ["tensorboard"]"#,
                r#"logging_dir: "./x" → null"#
            ]
        );
        config
            .override_with(json!({"report_to": "none", "seed": null}).as_object().expect("a map"));
        assert_eq!(config.changes().len(), 2, "the user's own word is no change of hone's");
        assert_eq!((config.get("report_to"), config.get("seed")), (Some(&json!("none")), None));
        assert!(Config::parse("my.yml", "- a\n").is_err());
    }

    #[test]
    fn files_and_flags_are_read_by_python_as_they_are_meant() {
        let mut config = Config::default();
        for (key, value) in [
            ("lr", json!(2e-5)),
            ("big", json!(1e20)),
            ("one", json!(1.0)),
            ("small", json!(0.03)),
            ("flag", json!(true)),
            ("list", json!(["a", 2])),
        ] {
            config.fill(key, value);
        }
        let file = config.to_file();
        for line in ["\"lr\": 2.0e-5", "\"big\": 1.0e+20", "\"one\": 1.0", "\"small\": 0.03"] {
            assert!(file.contains(line), "{line} is not in {file}");
        }
        let again: Map<String, Value> = serde_json::from_str(&file).expect("JSON");
        assert_eq!(again["lr"], json!(2e-5));
        let flags = config.to_flags().join(" ");
        assert!(flags.contains("--flag True") && flags.contains("--list a 2"), "{flags}");
    }
}
