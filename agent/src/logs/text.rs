//! Text from a container made safe for a terminal and a log: no escapes, no controls, no hidden direction changes.

/// `text` without what could fool a reader or drive a terminal, cut to `max` bytes at a character. Newlines and tabs
/// stay.
#[must_use]
pub fn clean_text(text: &str, max: usize) -> String {
    let mut clean = Cleaner::default();
    let mut out = String::new();
    for c in text.chars() {
        if let Some(c) = clean.keep(c) {
            if out.len() + c.len_utf8() > max {
                break;
            }
            out.push(c);
        }
    }
    out
}

/// Where in an escape sequence the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Plain,
    /// After ESC.
    Escape,
    /// In `ESC [ …`, until a final byte.
    Control,
    /// In `ESC ] …` and its kin, until BEL or ESC \.
    Command,
    /// In a command, after ESC.
    CommandEscape,
}

/// Filters characters one by one, so that a line may come in pieces.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cleaner(State);

impl Cleaner {
    /// The character to keep for `c`, if any.
    pub(super) fn keep(&mut self, c: char) -> Option<char> {
        // A newline ends whatever a torn escape sequence began: the next line must not vanish.
        if c == '\n' {
            self.0 = State::Plain;
            return Some(c);
        }
        let (state, kept) = match (self.0, c) {
            (State::Plain | State::Escape | State::Control, '\u{1b}') => (State::Escape, None),
            (State::Plain, '\u{9b}') => (State::Control, None),
            (State::Plain, c) => (State::Plain, (!is_unwanted(c)).then_some(c)),
            (State::Escape, '[') => (State::Control, None),
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => (State::Command, None),
            // Intermediate bytes go on, anything else is the last of a short sequence.
            (State::Escape, ' '..='/') => (State::Escape, None),
            (State::Escape, '0'..='~') => (State::Plain, None),
            (State::Control, ' '..='?') => (State::Control, None),
            (State::Control, '@'..='~') => (State::Plain, None),
            // Not a sequence after all: what follows is text.
            (State::Escape | State::Control, c) => (State::Plain, (!is_unwanted(c)).then_some(c)),
            (State::Command | State::CommandEscape, '\u{7}' | '\u{9c}') => (State::Plain, None),
            (State::Command | State::CommandEscape, '\u{1b}') => (State::CommandEscape, None),
            (State::CommandEscape, '\\') => (State::Plain, None),
            (State::Command | State::CommandEscape, _) => (State::Command, None),
        };
        self.0 = state;
        kept
    }
}

/// Control characters, and characters that reorder or hide text.
fn is_unwanted(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_controls_and_direction_changes_go() {
        for (dirty, clean) in [
            ("\u{1b}[1;31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}text", "text"),
            ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{9b}31mred", "red"),
            ("a\u{8}b\u{0}c\u{7f}", "abc"),
            ("\u{1b}(Bplain", "plain"),
            ("user\u{202e}gnp.exe", "usergnp.exe"),
            ("tab\tnew\nline", "tab\tnew\nline"),
            ("\u{1b}]torn\nnext", "\nnext"),
            ("\u{1b}[12\u{e9}", "\u{e9}"),
        ] {
            assert_eq!(clean_text(dirty, 100), clean, "{dirty:?}");
        }
    }

    #[test]
    fn the_cut_is_at_a_character() {
        assert_eq!(clean_text("ééé", 5), "éé");
    }

    proptest! {
        #[test]
        fn nothing_unwanted_survives(text in any::<String>(), max in 0_usize..64) {
            let clean = clean_text(&text, max);
            prop_assert!(clean.len() <= max);
            prop_assert!(!clean.chars().any(is_unwanted));
        }
    }
}
