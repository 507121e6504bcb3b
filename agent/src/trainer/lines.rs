//! Lines of a file that grows: each once, the torn one at the end left where it is. Pure.

/// One line, without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// All of it; never blank.
    Whole(&'a [u8]),
    /// It has more bytes than a line may have: told once, whatever it goes on with.
    TooLong,
}

/// Hands out the lines of `bytes`, until `each` says that it wants no more of them, and tells how many bytes are done
/// with: the caller goes on from there. `skipping` is kept between calls: inside a line that is too long.
pub(crate) fn take_lines(
    bytes: &[u8],
    skipping: &mut bool,
    max: usize,
    mut each: impl FnMut(Line<'_>) -> bool,
) -> usize {
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        let goes_on = if std::mem::take(skipping) {
            true
        } else if line.len() > max {
            each(Line::TooLong)
        } else {
            line.trim_ascii().is_empty() || each(Line::Whole(line))
        };
        if !goes_on {
            return bytes.len() - rest.len();
        }
    }
    let endless = rest.len() > max;
    if endless && !*skipping {
        each(Line::TooLong);
        *skipping = true;
    }
    if *skipping { bytes.len() } else { bytes.len() - rest.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_enough_goes_on_where_it_stopped() {
        let mut skipping = false;
        let mut seen = Vec::new();
        let mut take = |bytes: &[u8], most: usize| {
            let mut left = most;
            take_lines(bytes, &mut skipping, 4, |line| {
                seen.push(match line {
                    Line::Whole(line) => String::from_utf8_lossy(line).into_owned(),
                    Line::TooLong => "-".to_owned(),
                });
                left -= 1;
                left > 0
            })
        };
        let text = b"a\n\nb\nlonger\nc\nto";
        let first = take(text, 2);
        assert_eq!(first, 5);
        assert_eq!(first + take(&text[first..], 9), text.len() - 2);
        assert_eq!(take(b"toolong", 9), 7);
        assert_eq!(take(b" and more\nd\n", 9), 12);
        assert_eq!(seen, ["a", "b", "-", "c", "-", "d"]);
    }
}
