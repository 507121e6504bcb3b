//! Progress bars as tqdm draws them: on one line, each over the one before, which is gone from the line's text. Two
//! things can be read there and nowhere else: what torchtune says of a step, and at which step a log was printed.
//!
//! tqdm clears its bar before it prints a line for somebody, and draws it again afterwards, at the exact step. So a bar
//! that was drawn on a cleared line tells the step of a log; any other may be some steps behind, since bars are drawn
//! ten times a second at most.

/// Longest piece that is looked at, in bytes: a bar is as wide as a terminal.
const MAX_PIECE_LEN: usize = 1024;
/// Longest label that is kept.
const MAX_LABEL_LEN: usize = 120;
/// Most bars that wait for their line's end: a held line has room for fewer.
const MAX_BARS: usize = 8192;
/// Spaces that clear a bar; fewer are somebody's text.
const MIN_BLANKS: usize = 8;
/// Moves the cursor up: a bar that is drawn below another one ends with it.
const UP: &str = "\u{1b}[A";

/// One drawing of a bar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bar {
    /// What stands before the percentage, without its colon; empty for most.
    pub label: String,
    /// How many are done.
    pub done: u64,
    /// Of how many.
    pub total: u64,
    /// Its line was cleared for a printed line before.
    pub redrawn: bool,
}

/// Finds bars in the characters of one output.
#[derive(Debug, Default)]
pub(super) struct Bars {
    piece: String,
    too_long: bool,
    cleared: bool,
    found: Vec<Bar>,
}

impl Bars {
    /// Takes the next character, as it was printed.
    pub(super) fn take(&mut self, c: char) {
        if c == '\r' || c == '\n' {
            let piece = std::mem::take(&mut self.piece);
            if !std::mem::take(&mut self.too_long) {
                self.piece(&piece, c == '\r');
            }
            // Its room is used again.
            self.piece = piece;
            self.piece.clear();
        } else if self.piece.len() < MAX_PIECE_LEN {
            self.piece.push(c);
        } else {
            self.too_long = true;
        }
    }

    /// The bars since this was asked last.
    pub(super) fn found(&mut self) -> Vec<Bar> {
        std::mem::take(&mut self.found)
    }

    fn piece(&mut self, piece: &str, returned: bool) {
        let lower = piece.contains(UP);
        if piece.trim_start().is_empty() {
            // Cleared for somebody; a bar that ends leaves the cursor where it is.
            self.cleared |= returned && piece.len() >= MIN_BLANKS;
            return;
        }
        let Some(mut bar) = bar(piece) else { return };
        if !lower && bar.label.is_empty() {
            bar.redrawn = std::mem::take(&mut self.cleared);
        }
        if self.found.len() < MAX_BARS {
            self.found.push(bar);
        }
    }
}

/// ` 12%|█▎        | 5/40 [00:00<00:01, 19.95it/s]`, with or without a label before it.
fn bar(piece: &str) -> Option<Bar> {
    let (before, after) = piece.split_once("%|")?;
    let digits = before.len() - before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (label, percent) = before.split_at(before.len() - digits);
    let percent: u64 = percent.parse().ok()?;
    let (_, counts) = after.split_once('|')?;
    let (counts, _) = counts.split_once('[')?;
    let (done, total) = counts.trim().split_once('/')?;
    let (done, total): (u64, u64) = (done.parse().ok()?, total.parse().ok()?);
    if percent > 100 || done > total {
        return None;
    }
    let label = label.trim().trim_end_matches(':');
    let label = if label.len() > MAX_LABEL_LEN { "…".to_owned() } else { label.to_owned() };
    Some(Bar { label, done, total, redrawn: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Bar> {
        let mut bars = Bars::default();
        text.chars().for_each(|c| bars.take(c));
        bars.found()
    }

    fn fixture() -> String {
        let path = "../tests/fixtures/trainer/hf5-trl-lora/stderr-tqdm.txt";
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        std::fs::read_to_string(path).expect("the fixture")
    }

    #[test]
    fn a_real_run_s_bars_tell_the_step_of_each_of_its_logs() {
        let bars = all(&fixture());
        let logs: Vec<u64> = bars.iter().filter(|bar| bar.redrawn).map(|bar| bar.done).collect();
        // Eight logs of training, two of evaluation, and what it came to.
        assert_eq!(logs, [5, 10, 15, 20, 20, 25, 30, 35, 40, 40, 40]);
        assert!(bars.iter().filter(|bar| bar.redrawn).all(|bar| bar.total == 40));
        let labelled: Vec<_> = bars.iter().filter(|bar| bar.label == "Loading weights").collect();
        assert_eq!((labelled.len(), labelled[1].done, labelled[1].total), (2, 21, 21));
    }

    #[test]
    fn a_bar_below_another_that_ends_is_no_log() {
        let text = "\r 50%|##| 2/4 [x]\n\r100%|##| 5/5 [x]\u{1b}[A\n\r          \u{1b}[A\r 75%|##| 3/4 [x]\n";
        assert!(all(text).iter().all(|bar| !bar.redrawn), "{:?}", all(text));
        // One that is drawn again below the first does not take its place.
        let text = "\r          \r\n\r          \r\u{1b}[A\n\r100%|##| 5/5 [x]\u{1b}[A\r 50%|##| 2/4 [x]\r";
        let redrawn: Vec<_> = all(text).into_iter().filter(|bar| bar.redrawn).collect();
        assert_eq!((redrawn.len(), redrawn[0].done, redrawn[0].total), (1, 2, 4));
    }

    #[test]
    fn what_is_no_bar_is_none() {
        for text in [
            "100%|\n",
            "5%|x| 3/2 [\n",
            "101%|x| 1/2 [\n",
            "x%|x| 1/2 [\n",
            "5%|x| a/b [\n",
            "5%|x| 99999999999999999999/1 [\n",
            "|||||\n",
        ] {
            assert_eq!(all(text), [], "{text}");
        }
        let long = format!("{}: 5%|x| 1/2 [\n", "é".repeat(200));
        assert_eq!(all(&long)[0].label, "…");
        assert_eq!(all(&format!("{}5%|x| 1/2 [\n", " ".repeat(2000))), []);
    }
}
