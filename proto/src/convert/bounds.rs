//! How much of a report is taken. An honest agent stays below every bound, so that what it says is kept as it was said;
//! what a faulty one says beyond is cut, not refused: a report that is refused is sent again for ever.

use prost::Message as _;

use crate::wire;

/// A log record or a notice: what agents cut theirs to.
pub const MAX_TEXT: usize = 16 * 1024;

/// What is kept in the fleet's records and its history: a sentence or the end of a traceback, many times over.
pub const MAX_MESSAGE: usize = 4 * 1024;

/// `result.json`: agents keep no longer one, and it lies in a record that may have 64 KiB with everything else.
pub const MAX_RESULT: usize = 8 * 1024;

/// The name of a value or a cause.
pub const MAX_NAME: usize = 128;

/// A split, a phase, a level: words of a closed vocabulary, mostly.
pub const MAX_WORD: usize = 32;

/// Values of one metrics record.
pub const MAX_VALUES: usize = 256;

/// GPUs of one node: far above what any machine holds.
pub const MAX_GPUS: usize = 128;

/// A rollup or a sample in wire form: a thousand cores and the processes of 64 GPUs have room.
pub const MAX_SAMPLE: usize = 240 * 1024;

/// An inventory in wire form: it is one record of the controller's store.
pub const MAX_INVENTORY: usize = 60 * 1024;

/// Room for the sentence that says how much was left out.
const MARK: usize = 64;

/// Whether a live sample is small enough to be kept.
#[must_use]
pub fn sample_fits(sample: &wire::NodeSample) -> bool {
    sample.encoded_len() <= MAX_SAMPLE
}

/// A text of at most `max` bytes: its beginning and its end, and what was left out between.
pub(super) fn clip(text: String, max: usize) -> String {
    if text.len() <= max {
        return text;
    }
    let tail = max / 3;
    let head = text.floor_char_boundary(max.saturating_sub(tail + MARK));
    let from = text.ceil_char_boundary(text.len() - tail);
    format!("{}\n… {} bytes left out …\n{}", &text[..head], from - head, &text[from..])
}

/// The same without control characters, which a record's encoding makes six times as long.
pub(super) fn plain(text: String, max: usize) -> String {
    let allowed = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    let clean = if text.chars().all(allowed) { text } else { text.replace(|c| !allowed(c), "") };
    clip(clean, max)
}

/// The beginning of a name.
pub(super) fn name(mut text: String, max: usize) -> String {
    text.truncate(text.floor_char_boundary(max));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_keeps_its_beginning_and_its_end_and_the_bound() {
        for filler in ["x", "é", "漢"] {
            let text = format!("begin{}end", filler.repeat(20_000));
            let clipped = clip(text, MAX_MESSAGE);
            assert!(clipped.len() <= MAX_MESSAGE, "{}", clipped.len());
            assert!(clipped.starts_with("begin") && clipped.ends_with("end"));
            assert!(clipped.contains("bytes left out"));
        }
        assert_eq!(clip("short".to_owned(), MAX_MESSAGE), "short");
        assert_eq!(plain("a\u{1}b\nc".to_owned(), MAX_MESSAGE), "ab\nc");
        assert_eq!(name("éé".to_owned(), 3), "é");
    }
}
