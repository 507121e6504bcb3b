//! A last word that is too long to be kept whole: its optional parts are shortened or left out, and named. What decides
//! (status, code, steps) always has room.

use serde_json::{Map, Value};

/// What is kept first. All else follows, the smallest first.
const ORDER: [&str; 17] = [
    "v",
    "attempt",
    "status",
    "code",
    "step",
    "max_steps",
    "epoch",
    "retryable",
    "best_metric",
    "tokens_seen",
    "wall_s",
    "reason",
    "last_checkpoint",
    "best_checkpoint",
    "package",
    "error",
    "metrics",
];

/// Of an error, in this order: the end of a traceback tells the most, and the most of it can go.
const ERROR_ORDER: [&str; 3] = ["type", "message", "trace"];

/// A text keeps so much, as JSON.
const TEXT: usize = 1 << 10;

/// The end of a traceback: the frames that failed.
const TRACE: usize = 3 << 10;

/// Names of what was cut that are told.
const MAX_TOLD: usize = 8;

/// A document of at most `max` bytes, and what was shortened or left out of it.
pub(super) fn cut(map: &Map<String, Value>, max: usize) -> (String, Vec<String>) {
    let mut cut = Cut { left: max.saturating_sub("{}".len()), parts: Vec::new() };
    let kept = cut.object(map, &ORDER, "");
    (Value::Object(kept).to_string(), cut.parts)
}

struct Cut {
    left: usize,
    parts: Vec<String>,
}

impl Cut {
    /// The members that fit, in the order of their worth.
    fn object(
        &mut self,
        map: &Map<String, Value>,
        order: &[&str],
        above: &str,
    ) -> Map<String, Value> {
        // What should be one word and is not has no place: it could take all the room.
        let in_parts = |key: &str| above.is_empty() && matches!(key, "error" | "metrics");
        let place = |key: &str, value: &Value| {
            let fits = match value {
                Value::Object(_) => in_parts(key),
                Value::Array(_) => false,
                _ => true,
            };
            order.iter().position(|known| *known == key).filter(|_| fits)
        };
        let mut members: Vec<_> = map.iter().collect();
        members.sort_by_key(|(key, value)| {
            let place = place(key, value);
            let size = if place.is_some() { 0 } else { size(value) };
            (place.unwrap_or(order.len()), size)
        });
        let mut kept = Map::new();
        for (key, value) in members {
            // Of hundreds of figures only that they are not whole.
            let name = match above {
                "" => key.clone(),
                "error" => format!("{above}.{key}"),
                other => other.to_owned(),
            };
            // Its name, a colon, a comma.
            let frame = size(&Value::from(key.as_str())) + 2;
            let Some(room) = self.left.checked_sub(frame) else {
                self.note(&name);
                continue;
            };
            self.left = room;
            match self.member(&name, value) {
                Some(value) => {
                    kept.insert(key.clone(), value);
                }
                None => self.left += frame,
            }
        }
        kept
    }

    fn member(&mut self, name: &str, value: &Value) -> Option<Value> {
        let value = match value {
            Value::String(text) => {
                let is_trace = name == "error.trace";
                let most = if is_trace { TRACE } else { TEXT };
                let short = shorten(text, most, is_trace);
                if short.len() < text.len() {
                    self.note(name);
                }
                Value::from(short)
            }
            Value::Object(map) => {
                self.left = self.left.checked_sub("{}".len())?;
                let order: &[&str] = if name == "error" { &ERROR_ORDER } else { &[] };
                return Some(Value::Object(self.object(map, order, name)));
            }
            other => other.clone(),
        };
        match self.left.checked_sub(size(&value)) {
            Some(left) => {
                self.left = left;
                Some(value)
            }
            None => {
                self.note(name);
                None
            }
        }
    }

    fn note(&mut self, name: &str) {
        let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        if self.parts.len() < MAX_TOLD && !self.parts.contains(&name) {
            self.parts.push(name);
        }
    }
}

fn size(value: &Value) -> usize {
    value.to_string().len()
}

/// The beginning of a text, or its end, that has at most `most` bytes as JSON.
fn shorten(text: &str, most: usize, end: bool) -> String {
    let mut left = most.saturating_sub("\"\"".len());
    let mut fits = |c: &char| {
        let size = match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            c if u32::from(*c) < 0x20 => 6,
            c => c.len_utf8(),
        };
        left.checked_sub(size).map(|rest| left = rest).is_some()
    };
    if end {
        let length: usize = text.chars().rev().take_while(|c| fits(c)).map(char::len_utf8).sum();
        text[text.len() - length..].to_owned()
    } else {
        text.chars().take_while(|c| fits(c)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const MAX: usize = 8 << 10;

    fn of(value: Value) -> (Value, usize, Vec<String>) {
        let Value::Object(map) = value else { panic!("an object was expected") };
        let (text, parts) = cut(&map, MAX);
        (serde_json::from_str(&text).expect("it is a document"), text.len(), parts)
    }

    #[test]
    fn what_decides_stays_and_the_end_of_the_trace_with_it() {
        let figures: Map<String, Value> =
            (0..2_000).map(|n| (format!("figure_{n}"), json!(1.5))).collect();
        let trace = format!("{}the last frame\n", "  frame \u{1b}[0m\n".repeat(4_000));
        let (kept, size, parts) = of(json!({
            "v": 1, "attempt": 3, "status": "failed", "code": 70, "step": 12, "reason": "é".repeat(9_000),
            "error": {"type": "ValueError", "message": "bad", "trace": trace},
            "metrics": figures, "own": vec!["x"; 5000], "small": true,
        }));
        assert!(size <= MAX && size > MAX / 2, "{size}");
        assert_eq!((&kept["code"], &kept["step"], &kept["v"]), (&json!(70), &json!(12), &json!(1)));
        assert_eq!(kept["error"]["message"], "bad");
        let trace = kept["error"]["trace"].as_str().expect("a trace");
        assert!(trace.ends_with("the last frame\n") && trace.len() > 1_000, "{trace}");
        assert!(kept["metrics"].as_object().expect("some figures").len() > 20);
        assert_eq!(kept.get("own"), None);
        for part in ["reason", "error.trace", "metrics", "own"] {
            assert!(parts.iter().any(|told| told == part), "{part} is not told: {parts:?}");
        }
    }

    #[test]
    fn what_should_be_one_word_and_is_not_takes_no_room_of_what_decides() {
        let large: Map<String, Value> =
            (0..2_000).map(|n| (format!("part_{n}"), json!("x"))).collect();
        let (kept, _, _) = of(json!({
            "v": large, "epoch": vec![1; 3_000], "attempt": 3, "status": "failed", "code": 70,
            "error": {"type": large, "message": "bad"},
        }));
        for (key, value) in
            [("attempt", json!(3)), ("status", json!("failed")), ("code", json!(70))]
        {
            assert_eq!(kept[key], value, "{key}");
        }
        assert_eq!(kept["error"]["message"], "bad");
    }

    #[test]
    fn what_fits_is_left_alone() {
        let whole =
            json!({"attempt": 3, "status": "completed", "code": 0, "metrics": {"loss": 1.5}});
        let (kept, _, parts) = of(whole.clone());
        assert_eq!((kept, parts), (whole, vec![]));
    }

    proptest! {
        #[test]
        fn no_document_gets_over_the_bound(
            members in proptest::collection::btree_map(".{0,2000}", ".{0,4000}", 0..12),
            max in 2_usize..20_000,
        ) {
            let map: Map<String, Value> =
                members.into_iter().map(|(key, text)| (key, Value::from(text))).collect();
            let (text, _) = cut(&map, max);
            prop_assert!(text.len() <= max, "{} of {max}", text.len());
            prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
        }
    }
}
