//! Readers that say whether a file is whole, and what a failure was.

use hone_agent::tools::{elastic, fuzzing, shards, signs};

use crate::check;

/// Longest name of a file.
const MAX_FILE_NAME_LEN: usize = 255;
/// How much is kept of a message, and of a traceback.
const MAX_MESSAGE_LEN: usize = 400;
const MAX_TRACE_LEN: usize = 16 * 1024;
/// How much of a line is looked at.
const MAX_LINE_LEN: usize = 4096;

/// A file that is whole is whole at one length only.
pub(crate) fn safetensors(bytes: &[u8]) {
    if fuzzing::safetensors(bytes).is_ok() {
        for shorter in [check::cut(bytes), bytes.len() - 1] {
            let cut = shorter < bytes.len() && fuzzing::safetensors(&bytes[..shorter]).is_ok();
            assert!(!cut, "its first {shorter} bytes are taken for all of it");
        }
        let longer = [bytes, b" "].concat();
        assert!(fuzzing::safetensors(&longer).is_err(), "a byte too many is not noticed");
    }
}

/// A file that is whole has an end record whose comment is the rest of the file.
pub(crate) fn zip_end(bytes: &[u8]) {
    if fuzzing::zip_end(bytes) {
        let ends = |at: usize| {
            let record = &bytes[at..];
            record.starts_with(b"PK\x05\x06")
                && record.len() >= 22
                && usize::from(u16::from_le_bytes([record[20], record[21]])) == record.len() - 22
        };
        assert!((0..bytes.len()).any(ends), "there is no end record");
    }
    let _ = fuzzing::zip_end(&bytes[..check::cut(bytes)]);
}

/// Names of files, bounded, and none of an index that is being written.
pub(crate) fn shards(bytes: &[u8]) {
    if let Ok(names) = shards::names(bytes) {
        assert!((1..=4096).contains(&names.len()));
        assert!(names.iter().all(|name| (1..=MAX_FILE_NAME_LEN).contains(&name.len())));
    }
    check::no_beginning_is_whole(bytes, |bytes| shards::names(bytes).is_ok());
}

/// A message and a traceback, bounded and clean.
pub(crate) fn elastic(bytes: &[u8]) {
    if let Some(error) = elastic::parse(bytes) {
        assert!((1..=MAX_MESSAGE_LEN).contains(&error.message.len()), "{:?}", error.message);
        assert!(error.trace.len() <= MAX_TRACE_LEN);
        assert!(!error.message.contains(char::is_control), "{:?}", error.message);
        assert!(!error.trace.contains(is_unclean), "{:?}", error.trace);
    }
    check::no_beginning_is_whole(bytes, |bytes| elastic::parse(bytes).is_some());
}

fn is_unclean(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

/// A cause that does not depend on the order of the lines, told in a line that is bounded and clean.
pub(crate) fn signs(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.split('\n').collect();
    let found = signs::explain(lines.iter().copied());
    let backwards = signs::explain(lines.iter().rev().copied());
    assert_eq!(found.as_ref().map(|s| s.cause), backwards.map(|s| s.cause));
    for line in lines {
        let Some(sign) = signs::sign(line) else { continue };
        assert!(found.is_some(), "a sign explains nothing");
        assert!(sign.line.len() <= MAX_MESSAGE_LEN && !sign.line.contains(is_unclean));
        assert!((65..=83).contains(&sign.cause.code()) && !sign.cause.hint().is_empty());
        let mut head = line.len().min(MAX_LINE_LEN);
        while !line.is_char_boundary(head) {
            head -= 1;
        }
        assert_eq!(signs::sign(&line[..head]).map(|s| s.cause), Some(sign.cause));
    }
}
