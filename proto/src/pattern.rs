//! Patterns that users write for tools that hone does not know: what a printed line says ([`LinePattern`]), and how the
//! paths of checkpoints are made ([`PathPattern`]).
//!
//! The controller checks them when a job is submitted, the agent applies them to what an untrusted container writes.
//! Both rest on the `regex` crate, whose time is linear in the text and whose memory is bounded here.

use std::fmt;

use regex::{Regex, RegexBuilder};

/// Longest pattern, in bytes.
const MAX_PATTERN_LEN: usize = 1024;
/// Memory of a compiled pattern, and of the cache that matching with it may use.
const MAX_COMPILED_LEN: usize = 256 * 1024;
/// Most named groups of one pattern.
const MAX_GROUPS: usize = 32;
/// Deepest path that a pattern may describe.
const MAX_COMPONENTS: usize = 8;

/// Why a pattern is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is longer than 1024 bytes or empty.
    #[error("a pattern has 1 to 1024 bytes")]
    Length,
    /// It is no regular expression.
    #[error("it is not a regular expression: {0}")]
    Syntax(String),
    /// It would need too much memory.
    #[error("it is too large when compiled: use shorter repetitions")]
    TooLarge,
    /// It names no figure.
    #[error("it has no named group that is a figure, such as (?P<loss>[0-9.e+-]+)")]
    NoFigure,
    /// It names too many.
    #[error("it has more than 32 named groups")]
    TooManyGroups,
    /// It does not say where the step or the epoch stands.
    #[error("it needs {{step}} or {{epoch}}, each at most once")]
    NoPosition,
    /// It is not a plain relative path.
    #[error(
        "it must be a relative path of at most 8 plain names, without '.', '..' and backslashes"
    )]
    NotPlain,
    /// It has a brace that is neither `{step}` nor `{epoch}`.
    #[error("only {{step}}, {{epoch}} and * have a meaning in it")]
    UnknownPlaceholder,
}

/// A regular expression with named groups: `step`, `epoch`, and figures under any other name.
#[derive(Debug, Clone)]
pub struct LinePattern {
    regex: Regex,
}

/// What a line says by a [`LinePattern`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LineMatch {
    /// Optimizer steps completed.
    pub step: Option<u64>,
    /// Position in the data, in passes.
    pub epoch: Option<f64>,
    /// The figures by the names of their groups, in the pattern's order.
    pub values: Vec<(String, f64)>,
}

impl LinePattern {
    /// Checks and compiles a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let regex = compile(text)?;
        let mut names = regex.capture_names().flatten();
        if regex.capture_names().flatten().count() > MAX_GROUPS {
            return Err(PatternError::TooManyGroups);
        }
        if names.all(|name| matches!(name, "step" | "epoch")) {
            return Err(PatternError::NoFigure);
        }
        Ok(Self { regex })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.regex.as_str()
    }

    /// What `line` says: nothing when the pattern does not match or no figure of it is a number. Thousands may be
    /// separated by commas; `nan` and `inf` are numbers.
    #[must_use]
    pub fn apply(&self, line: &str) -> Option<LineMatch> {
        let captures = self.regex.captures(line)?;
        let mut found = LineMatch::default();
        for name in self.regex.capture_names().flatten() {
            let Some(text) = captures.name(name).map(|group| group.as_str().trim()) else {
                continue;
            };
            let text = text.replace(',', "");
            match name {
                "step" => found.step = text.parse().ok(),
                "epoch" => found.epoch = text.parse().ok().filter(|epoch: &f64| epoch.is_finite()),
                _ => found.values.extend(text.parse().ok().map(|value| (name.to_owned(), value))),
            }
        }
        (!found.values.is_empty()).then_some(found)
    }
}

impl PartialEq for LinePattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

/// How the paths of checkpoints are made, beneath the output directory: `ckpt-{step}`, `{step}.keras`,
/// `epoch={epoch}*.ckpt`. A `*` stands for any characters of one name.
#[derive(Debug, Clone)]
pub struct PathPattern {
    text: String,
    components: Vec<Regex>,
}

/// Where in training a path is, by a [`PathPattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PathPosition {
    /// The step in the path.
    pub step: Option<u64>,
    /// The epoch in the path, as the tool counts.
    pub epoch: Option<u64>,
}

impl PathPattern {
    /// Checks and compiles a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.len() > MAX_PATTERN_LEN {
            return Err(PatternError::Length);
        }
        let count = |what: &str| text.matches(what).count();
        let (steps, epochs) = (count("{step}"), count("{epoch}"));
        if text.contains(['\\', '\0'])
            || text.chars().any(char::is_control)
            || text.split('/').count() > MAX_COMPONENTS
            || text.split('/').any(|name| matches!(name, "" | "." | ".."))
        {
            return Err(PatternError::NotPlain);
        }
        if steps > 1 || epochs > 1 || steps + epochs == 0 {
            return Err(PatternError::NoPosition);
        }
        if count("{") != steps + epochs || count("}") != steps + epochs {
            return Err(PatternError::UnknownPlaceholder);
        }
        let components = text
            .split('/')
            .map(|name| {
                let name = regex::escape(name)
                    .replace(r"\{step\}", "(?P<step>[0-9]{1,19})")
                    .replace(r"\{epoch\}", "(?P<epoch>[0-9]{1,19})")
                    .replace(r"\*", ".*");
                compile(&format!("^(?:{name})$"))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), components })
    }

    /// How many names a matching path has.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.components.len()
    }

    /// Whether `name` can be the path's name at `depth`, which begins at 0, and what it adds to what is known of the
    /// position.
    #[must_use]
    pub fn name_at(&self, depth: usize, name: &str, known: PathPosition) -> Option<PathPosition> {
        let captures = self.components.get(depth)?.captures(name)?;
        let number = |group| captures.name(group).map(|text| text.as_str().parse::<u64>());
        let mut position = known;
        // Nineteen nines do not fit: such a name is not a position.
        if let Some(step) = number("step") {
            position.step = Some(step.ok()?);
        }
        if let Some(epoch) = number("epoch") {
            position.epoch = Some(epoch.ok()?);
        }
        Some(position)
    }

    /// The position in a whole path.
    #[must_use]
    pub fn position(&self, path: &str) -> Option<PathPosition> {
        if path.split('/').count() != self.depth() {
            return None;
        }
        path.split('/').enumerate().try_fold(PathPosition::default(), |known, (depth, name)| {
            self.name_at(depth, name, known)
        })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

fn compile(text: &str) -> Result<Regex, PatternError> {
    if text.is_empty() || text.len() > 4 * MAX_PATTERN_LEN {
        return Err(PatternError::Length);
    }
    let built = RegexBuilder::new(text)
        .size_limit(MAX_COMPILED_LEN)
        .dfa_size_limit(MAX_COMPILED_LEN)
        .nest_limit(32)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
        // The last line tells what is wrong; the ones before draw the place.
        other => {
            let told = other.to_string();
            let last = told.lines().last().unwrap_or_default().trim();
            PatternError::Syntax(last.trim_start_matches("error: ").to_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_read_by_the_names_of_the_groups() {
        let pattern = LinePattern::new(
            r"iter (?P<step>[\d,]+) epoch (?P<epoch>\S+) loss (?P<loss>\S+)(?: acc (?P<acc>\S+))?",
        )
        .expect("a pattern");
        let line = "[x] iter 1,200 epoch 0.5 loss 1.25e-1 acc nan";
        let found = pattern.apply(line).expect("a match");
        assert_eq!((found.step, found.epoch), (Some(1200), Some(0.5)));
        assert_eq!(found.values[0], ("loss".to_owned(), 0.125));
        assert!(found.values[1].0 == "acc" && found.values[1].1.is_nan());
        let found = pattern.apply("iter 7 epoch x loss 2").expect("a match");
        assert_eq!((found.step, found.epoch, found.values.len()), (Some(7), None, 1));
        assert_eq!(pattern.apply("iter 7 epoch 1 loss high"), None);
        assert_eq!(pattern.apply("nothing of the kind"), None);
    }

    #[test]
    fn what_cannot_serve_is_refused_with_the_reason() {
        let refused = |text: &str| LinePattern::new(text).expect_err(text);
        assert_eq!(refused(""), PatternError::Length);
        assert_eq!(refused(&"x".repeat(5000)), PatternError::Length);
        assert_eq!(refused("loss=([0-9]+)"), PatternError::NoFigure);
        assert_eq!(refused("step (?P<step>[0-9]+)"), PatternError::NoFigure);
        assert_eq!(refused(r"(?P<a>\w{1000}{1000})"), PatternError::TooLarge);
        assert!(matches!(refused("(?P<loss>"), PatternError::Syntax(why) if why.contains("group")));
    }

    #[test]
    fn a_path_tells_its_step_or_epoch() {
        let at = |pattern: &str, path: &str| {
            let position = PathPattern::new(pattern).expect(pattern).position(path)?;
            Some((position.step, position.epoch))
        };
        assert_eq!(at("ckpt-{step}", "ckpt-00120"), Some((Some(120), None)));
        assert_eq!(at("{step}.keras", "12.keras"), Some((Some(12), None)));
        assert_eq!(at("{step}.keras", "12xkeras"), None);
        assert_eq!(
            at("run*/epoch={epoch}-step={step}.ckpt", "run1/epoch=2-step=40.ckpt"),
            Some((Some(40), Some(2)))
        );
        assert_eq!(at("ckpt-{step}", "ckpt-9999999999999999999999"), None);
        assert_eq!(at("ckpt-{step}", "a/ckpt-1"), None);
        for (pattern, why) in [
            ("ckpt", PatternError::NoPosition),
            ("{step}-{step}", PatternError::NoPosition),
            ("{step}{x}", PatternError::UnknownPlaceholder),
            ("/ckpt-{step}", PatternError::NotPlain),
            ("../ckpt-{step}", PatternError::NotPlain),
            ("", PatternError::Length),
        ] {
            assert_eq!(PathPattern::new(pattern).expect_err(pattern), why);
        }
    }

    proptest! {
        #[test]
        fn no_pattern_and_no_line_panic(pattern in ".{0,60}", line in ".{0,200}") {
            if let Ok(pattern) = LinePattern::new(&pattern) {
                let _ = pattern.apply(&line);
            }
            if let Ok(pattern) = PathPattern::new(&pattern) {
                let _ = pattern.position(&line);
            }
        }
    }
}
