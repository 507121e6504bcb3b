//! What a tool goes by in the end, whoever said it: the spec's raw keys, the configuration, or flags of the user's own
//! command.

use serde_json::Value;

use super::Scene;
use crate::adapters::config::Config;
use crate::adapters::job::ToolJob;

/// The three together, the last word first.
#[derive(Clone, Copy)]
pub(super) struct Said<'a> {
    pub(super) config: &'a Config,
    pub(super) job: &'a ToolJob,
    pub(super) scene: &'a Scene,
}

impl Said<'_> {
    /// What holds for this key; nothing where the tool has its own default.
    pub(super) fn get(&self, key: &str) -> Option<Value> {
        match self.job.overrides.get(key) {
            Some(Value::Null) => None,
            Some(value) => Some(value.clone()),
            None => self.config.get(key).cloned().or_else(|| flag(&self.scene.command, key)),
        }
    }

    pub(super) fn word(&self, key: &str) -> Option<String> {
        self.get(key).and_then(|value| value.as_str().map(str::to_owned))
    }

    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(|value| value.as_f64())
    }

    pub(super) fn is_true(&self, key: &str) -> bool {
        self.get(key).and_then(|value| value.as_bool()).unwrap_or(false)
    }
}

/// The value of `--key value` or `--key=value`, read as YAML would; `--key` alone is true.
fn flag(command: &[String], key: &str) -> Option<Value> {
    let name = format!("--{key}");
    let read = |text: &str| match text.to_ascii_lowercase().as_str() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        lower => serde_json::from_str(lower).unwrap_or_else(|_| Value::String(text.to_owned())),
    };
    // Of a flag that stands twice the last one counts.
    let at = command.iter().rposition(|argument| {
        argument.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })?;
    if let Some((_, value)) = command[at].split_once('=') {
        return Some(read(value));
    }
    let value = command.get(at + 1).filter(|next| !next.starts_with("--"));
    Some(value.map_or(Value::Bool(true), |value| read(value)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flags_of_a_command_are_read() {
        let command = ["c", "--a", "3", "--a=4", "--b", "--c", "True", "--d", "epoch", "--ab", "9"]
            .map(str::to_owned);
        for (key, value) in [
            ("a", Some(json!(4))),
            ("b", Some(json!(true))),
            ("c", Some(json!(true))),
            ("d", Some(json!("epoch"))),
            ("e", None),
        ] {
            assert_eq!(flag(&command, key), value, "{key}");
        }
    }
}
