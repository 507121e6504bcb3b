//! A dictionary as Python prints it: `{'loss': 2.1, 'epoch': 0.5}`, and since transformers 5 `{'loss': '2.1', …}` with
//! four digits.

use super::number;

/// Most entries of one line.
const MAX_ENTRIES: usize = 256;
/// Longest key or text.
const MAX_TEXT_LEN: usize = 128;
/// `epoch` is rounded to two decimals, up to transformers 4.
const DECIMALS: f64 = 0.005;

/// What one line says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Log {
    /// Position in the data, in passes, as it was printed.
    pub(super) epoch: f64,
    /// How far the true one may be from it.
    pub(super) rounding: f64,
    /// All figures, with the tool's names.
    pub(super) figures: Vec<(String, f64)>,
}

/// Reads a line that is one flat dictionary of figures with an `epoch`; nothing of any other.
pub(super) fn parse(line: &str) -> Option<Log> {
    let mut rest = line.trim().strip_prefix('{')?.strip_suffix('}')?.trim_start();
    let mut figures = Vec::new();
    let mut place = None;
    for _ in 0..MAX_ENTRIES {
        if rest.is_empty() {
            break;
        }
        let (key, after) = quoted(rest)?;
        let after = after.trim_start().strip_prefix(':')?.trim_start();
        let (value, is_text, after) = value(after)?;
        let figure = number(value);
        if let Some(figure) = figure {
            if key == "epoch" && figure.is_finite() && figure >= 0.0 {
                place = Some((figure, if is_text { digits(figure) } else { DECIMALS }));
            }
            figures.push((key.to_owned(), figure));
        }
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    let (epoch, rounding) = place.filter(|_| rest.is_empty())?;
    (figures.len() > 1).then_some(Log { epoch, rounding, figures })
}

/// Half of the fourth digit.
fn digits(figure: f64) -> f64 {
    let power = if figure > 0.0 { figure.log10().floor() } else { 0.0 };
    0.5 * 10_f64.powf(power - 3.0)
}

/// A text in quotes of either kind, and what follows. Names and numbers have nothing escaped in them.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let (inner, rest) = text[1..].split_once(quote)?;
    (inner.len() <= MAX_TEXT_LEN && !inner.contains('\\')).then_some((inner, rest))
}

/// A plain value, whether it is in quotes, and what follows. Lists and dictionaries are none.
fn value(text: &str) -> Option<(&str, bool, &str)> {
    if text.starts_with(['\'', '"']) {
        let (inner, rest) = quoted(text)?;
        return Some((inner, true, rest));
    }
    let end = text.find(',').unwrap_or(text.len());
    let word = text[..end].trim_end();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '_');
    let is_plain = !word.is_empty() && word.len() <= MAX_TEXT_LEN && word.chars().all(plain);
    is_plain.then_some((word, false, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_trainer_s_logs_are_read() {
        let old = "{'loss': 2.1034, 'grad_norm': nan, 'learning_rate': 5e-05, 'epoch': 0.06}";
        let log = parse(old).expect("a log");
        assert_eq!((log.epoch, log.rounding), (0.06, 0.005));
        assert_eq!((&log.figures[0].0[..], log.figures[0].1), ("loss", 2.1034));
        assert!(log.figures[1].1.is_nan());
        assert_eq!(log.figures[2].1, 5e-5);
        let new = "{'eval_loss': 'inf', 'x': '-inf', \"y\": 1132, 'b': True, 'n': None, 'epoch': '0.06173'}";
        let log = parse(new).expect("a log");
        assert_eq!((log.figures[0].1, log.figures[1].1), (f64::INFINITY, f64::NEG_INFINITY));
        let names: Vec<_> = log.figures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["eval_loss", "x", "y", "epoch"], "a truth is no figure");
        assert!((log.rounding - 5e-6).abs() < 1e-12, "{}", log.rounding);
        assert!((digits(12.34) - 0.005).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_log_is_none() {
        for line in [
            "",
            "{}",
            "{'epoch': 1.0}",
            "{'loss': 1.0}",
            "{'loss': 1.0, 'epoch': nan}",
            "{'loss': 1.0, 'epoch': -1}",
            "{'loss': 1.0, 'epoch': 1.0",
            "x {'loss': 1.0, 'epoch': 1.0}",
            "{'loss': [1.0, 2.0], 'epoch': 1.0}",
            "{'loss': {'a': 1}, 'epoch': 1.0}",
            "{'loss': 1.0 2.0, 'epoch': 1.0}",
            "{'loss': 1.0; 'epoch': 1.0}",
            "{'lo\\'ss': 1.0, 'epoch': 1.0}",
            "{loss: 1.0, epoch: 1.0}",
            "{'loss': infinite, 'epoch': }",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
        let many: String = (0..300).map(|n| format!("'a{n}': 1, ")).collect();
        assert_eq!(parse(&format!("{{{many}'epoch': 1.0}}")), None, "it goes on beyond the bound");
    }
}
