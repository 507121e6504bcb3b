//! Whether a file ends as a zip archive does. PyTorch's `.pt` and `.pth` files are such archives, whose directory is
//! written last: one that was cut anywhere has no end record.

use super::at::ReadAt;
use crate::trainer::{FileError, PlainFile};

/// The end record without its comment.
const END_LEN: usize = 22;
/// A comment, at most.
const MAX_COMMENT_LEN: usize = 65_535;
/// The 64-bit end record and its locator, which stand between the directory and the end record.
const END_64_LEN: u64 = 56 + 20;

/// Whether `file` ends in a zip archive's end record that agrees with the file's size: its comment reaches exactly to
/// the end, and the directory that it names lies right before it.
///
/// # Errors
/// When the file cannot be read.
pub fn is_whole(file: &PlainFile) -> Result<bool, FileError> {
    check(file)
}

pub(super) fn check(file: &(impl ReadAt + ?Sized)) -> Result<bool, FileError> {
    let size = file.size();
    let wanted = usize::try_from(size).unwrap_or(usize::MAX).min(END_LEN + MAX_COMMENT_LEN);
    let from = size - wanted as u64;
    let Some(tail) = file.exactly(from, wanted)? else { return Ok(false) };
    let Some(last) = tail.len().checked_sub(END_LEN) else { return Ok(false) };
    for at in (0..=last).rev() {
        if !tail[at..].starts_with(b"PK\x05\x06") {
            continue;
        }
        let comment = usize::from(u16::from_le_bytes([tail[at + 20], tail[at + 21]]));
        if comment == last - at {
            return directory_is_there(file, &tail[at..], from + at as u64);
        }
    }
    Ok(false)
}

/// Whether the directory that an end record at `place` names is where it must be.
fn directory_is_there(
    file: &(impl ReadAt + ?Sized),
    end: &[u8],
    place: u64,
) -> Result<bool, FileError> {
    let number = |at: usize| u32::from_le_bytes([end[at], end[at + 1], end[at + 2], end[at + 3]]);
    let (entries, length, start) = (u16::from_le_bytes([end[10], end[11]]), number(12), number(16));
    if start == u32::MAX || length == u32::MAX || entries == u16::MAX {
        // The true numbers are in the 64-bit record.
        let Some(from) = place.checked_sub(END_64_LEN) else { return Ok(false) };
        let Some(record) = file.exactly(from, 48 + 8)? else { return Ok(false) };
        let long = |at: usize| {
            record[at..at + 8].iter().rev().fold(0_u64, |n, byte| n << 8 | u64::from(*byte))
        };
        let signed = record.starts_with(b"PK\x06\x06");
        return Ok(signed && long(48).checked_add(long(40)) == Some(from));
    }
    let stop = u64::from(start) + u64::from(length);
    Ok(stop == place || stop.checked_add(END_64_LEN) == Some(place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures;

    fn whole(bytes: &[u8]) -> bool {
        check(bytes).expect("memory can be read")
    }

    #[test]
    fn a_real_archive_is_whole_and_no_beginning_of_it_is() {
        for name in ["optimizer.pt", "scheduler.pt", "rng_state.pth"] {
            let bytes = fixtures::bytes(&format!("hf5-trl-lora/checkpoint-40/{name}"));
            assert!(whole(&bytes), "{name}");
            for len in 0..bytes.len() {
                assert!(!whole(&bytes[..len]), "{name} cut at {len}");
            }
        }
    }

    #[test]
    fn a_comment_belongs_to_the_end() {
        let mut end = b"PK\x05\x06".to_vec();
        end.resize(END_LEN, 0);
        assert!(whole(&end));
        end[20] = 3;
        assert!(!whole(&end));
        end.extend(b"abc");
        assert!(whole(&end));
        end[16] = 9;
        assert!(!whole(&end), "the directory would lie after the end");
    }

    #[test]
    fn the_64_bit_record_is_read_when_the_numbers_do_not_fit() {
        let mut bytes = vec![0; 10];
        bytes.extend(b"PK\x06\x06");
        bytes.resize(10 + 56 + 20, 0);
        bytes[10 + 40] = 4;
        bytes[10 + 48] = 6;
        bytes.extend(b"PK\x05\x06");
        bytes.resize(10 + 76 + END_LEN, 0);
        bytes[10 + 76 + 12..10 + 76 + 20].fill(0xff);
        assert!(whole(&bytes));
        bytes[10 + 48] = 7;
        assert!(!whole(&bytes));
    }
}
