//! Text that grows without bound and keeps its beginning and its end.

use std::fmt::Write as _;

use super::MAX_TEXT_LEN;

/// Kept of the beginning.
const HEAD_LEN: usize = 10 * 1024;
/// Kept of the end.
const TAIL_LEN: usize = 5 * 1024;

/// A text of any length in bounded memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Clip {
    head: String,
    tail: String,
    left_out: u64,
}

impl Clip {
    pub(super) fn push(&mut self, c: char) {
        if self.tail.is_empty() && self.left_out == 0 && self.head.len() + c.len_utf8() <= HEAD_LEN
        {
            self.head.push(c);
            return;
        }
        self.tail.push(c);
        // Cutting at twice the length makes it cheap: each character moves at most once.
        if self.tail.len() > 2 * TAIL_LEN {
            self.shorten();
        }
    }

    pub(super) fn push_str(&mut self, text: &str) {
        text.chars().for_each(|c| self.push(c));
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_blank(&self) -> bool {
        self.left_out == 0 && self.head.trim().is_empty() && self.tail.trim().is_empty()
    }

    /// What was kept, with the size of what was not.
    pub(super) fn into_text(mut self) -> String {
        if self.head.len() + self.tail.len() > MAX_TEXT_LEN - 64 {
            self.shorten();
        }
        if self.left_out > 0 {
            let _ = write!(self.head, "\n… {} bytes left out …\n", self.left_out);
        }
        self.head.push_str(&self.tail);
        self.head
    }

    fn shorten(&mut self) {
        let surplus = self.tail.len().saturating_sub(TAIL_LEN);
        let from = (surplus..=self.tail.len()).find(|at| self.tail.is_char_boundary(*at));
        let cut = from.unwrap_or(0);
        self.tail.drain(..cut);
        self.left_out += cut as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clip(text: &str) -> String {
        let mut clip = Clip::default();
        clip.push_str(text);
        clip.into_text()
    }

    #[test]
    fn the_middle_goes_and_is_counted() {
        let text = format!("begin{}end", "x".repeat(100_000));
        let clipped = clip(&text);
        assert!(clipped.starts_with("begin") && clipped.ends_with("end"));
        let kept = clipped.matches('x').count();
        assert!(clipped.contains(&format!("… {} bytes left out …", 100_000 - kept)), "{kept}");
        let short = "y".repeat(MAX_TEXT_LEN - 64);
        assert_eq!(clip(&short), short);
    }

    proptest! {
        #[test]
        fn it_never_exceeds_its_bound(parts in proptest::collection::vec(("[aé漢]{0,9}", 1_usize..3000), 0..8)) {
            let text: String = parts.iter().map(|(part, times)| part.repeat(*times)).collect();
            prop_assert!(clip(&text).len() <= MAX_TEXT_LEN);
        }
    }
}
