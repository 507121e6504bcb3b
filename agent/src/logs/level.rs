//! How grave a line is, by what it says itself.

use hone_proto::event::Level;

/// How far into a line a level is looked for: a time, a logger's name, some brackets.
const MAX_PREFIX_LEN: usize = 160;

/// The words that loggers use.
const WORDS: [(&str, Level); 7] = [
    ("DEBUG", Level::Debug),
    ("INFO", Level::Info),
    ("WARNING", Level::Warning),
    ("WARN", Level::Warning),
    ("ERROR", Level::Error),
    ("CRITICAL", Level::Critical),
    ("FATAL", Level::Critical),
];

/// The level that a line starts with: `LEVEL logger: message` as the contract has it, and the forms of the usual tools
/// (`[INFO|trainer.py:12]`, `2024-05-01 10:00:00,123 - name - WARNING - message`).
pub(super) fn stated(line: &str) -> Option<Level> {
    let is_time = |c: char| {
        c.is_ascii_digit()
            || matches!(
                c,
                '-' | ':' | '.' | ',' | '/' | '+' | 'T' | 'Z' | ' ' | '[' | '(' | '<' | '\t' | ']'
            )
    };
    let head = prefix(line);
    word_at_start(head.trim_start_matches(['[', '(', '<', ' '])).or_else(|| {
        let timed = head.starts_with(|c: char| c.is_ascii_digit() || c == '[').then_some(head)?;
        word_at_start(timed.trim_start_matches(is_time))
            .or_else(|| timed.split(" - ").skip(1).take(3).find_map(|part| exact(part.trim())))
    })
}

fn prefix(line: &str) -> &str {
    let end = line.find('\n').unwrap_or(line.len()).min(MAX_PREFIX_LEN);
    let end = (0..=end).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    &line[..end]
}

fn exact(word: &str) -> Option<Level> {
    WORDS.iter().find(|(name, _)| *name == word).map(|(_, level)| *level)
}

/// A word of a level, then something that is not the rest of another word.
fn word_at_start(text: &str) -> Option<Level> {
    let end = text.find(|c: char| !c.is_ascii_uppercase()).unwrap_or(text.len());
    let followed = text[end..].chars().next();
    let ends = matches!(followed, Some(' ' | ':' | ']' | '|' | '-' | ')' | '>' | '\t'));
    exact(&text[..end]).filter(|_| ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_where_loggers_put_them() {
        for (line, level) in [
            ("WARNING hone.trainer: slow", Some(Level::Warning)),
            ("DEBUG x: y", Some(Level::Debug)),
            ("CRITICAL x: y", Some(Level::Critical)),
            ("ERROR:root:bad", Some(Level::Error)),
            (
                "[INFO|trainer.py:1234] 2024-05-01 10:00:00,123 >> ***** Running *****",
                Some(Level::Info),
            ),
            ("[2024-05-01 10:00:00,123] [WARNING] deepspeed", Some(Level::Warning)),
            ("2024-05-01 10:00:00,123 - accelerate - ERROR - bad", Some(Level::Error)),
            ("2024-05-01T10:00:00Z WARN x", Some(Level::Warning)),
            ("INFORMATION about errors", None),
            ("Error: no", None),
            ("ERROR", None),
            ("loss 0.5 ERROR x", None),
            ("0.25 0.5", None),
            ("", None),
        ] {
            assert_eq!(stated(line), level, "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[A-Z0-9é \\[\\-]{0,300}") {
            let _ = stated(&text);
        }
    }
}
