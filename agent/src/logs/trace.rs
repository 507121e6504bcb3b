//! Where a Python traceback begins and ends among lines.

/// How a traceback announces itself.
const HEADER: &str = "Traceback (most recent call last):";
/// Between two tracebacks that belong together.
const CHAINS: [&str; 2] = [
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
];
/// Longest mark that a launcher puts before each line, such as `[rank0]: `.
const MAX_MARK_LEN: usize = 24;

/// A traceback that is being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trace {
    /// What stands before every line of it.
    mark: String,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Among the frames, which are indented.
    Frames,
    /// After the line that names the exception; indented lines go on with its message.
    Named,
    /// An empty line after it: a chain may follow.
    Pause,
    /// The chain was announced; another header must follow.
    Chained,
}

impl Trace {
    /// A traceback, if `line` begins one.
    pub(super) fn begin(line: &str) -> Option<Self> {
        let mark = line.strip_suffix(HEADER)?;
        let is_mark = mark.is_empty()
            || (mark.len() <= MAX_MARK_LEN && mark.starts_with('[') && mark.ends_with("]: "));
        is_mark.then(|| Self { mark: mark.to_owned(), place: Place::Frames })
    }

    /// Whether `line` belongs to it too.
    pub(super) fn goes_on(&mut self, line: &str) -> bool {
        let Some(rest) = self.unmarked(line) else { return false };
        let empty = rest.trim().is_empty();
        let indented = !empty && rest.starts_with([' ', '\t']);
        let chain = CHAINS.contains(&rest);
        let next = match self.place {
            Place::Frames if indented => Place::Frames,
            Place::Frames if !empty => Place::Named,
            Place::Named if indented => Place::Named,
            Place::Named | Place::Pause if chain => Place::Chained,
            Place::Named | Place::Pause if empty => Place::Pause,
            Place::Chained if empty => Place::Chained,
            Place::Chained if rest == HEADER => Place::Frames,
            _ => return false,
        };
        self.place = next;
        true
    }

    fn unmarked<'a>(&self, line: &'a str) -> Option<&'a str> {
        // An empty line may have lost the blank at the end of its mark.
        line.strip_prefix(&self.mark)
            .or_else(|| (line.trim_end() == self.mark.trim_end()).then_some(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of the lines after the first belong to the traceback.
    fn length(text: &str) -> usize {
        let mut lines = text.lines();
        let mut trace = lines.next().and_then(Trace::begin).expect("a traceback");
        lines.take_while(|line| trace.goes_on(line)).count()
    }

    #[test]
    fn a_plain_traceback_ends_with_its_exception() {
        let text = "Traceback (most recent call last):\n  File \"a\", line 1\n    x()\n    ^^^\nValueError: no\nnext line";
        assert_eq!(length(text), 4);
    }

    #[test]
    fn chains_are_one_and_messages_may_go_on_indented() {
        let text = "Traceback (most recent call last):\n  File \"a\"\nKeyError: 'x'\n\nDuring handling of the above \
                    exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"b\"\n\
                    pydantic.ValidationError: 2 errors\n  field required\n\nINFO x: on with it";
        // The empty line at the end is swallowed: it could have been the start of a chain.
        assert_eq!(length(text), 10);
    }

    #[test]
    fn the_marks_of_ranks_are_understood_and_keep_ranks_apart() {
        let text = "[rank0]: Traceback (most recent call last):\n[rank0]:   File \"a\"\n[rank1]:   File \"b\"";
        assert_eq!(length(text), 1);
        let text = "[rank0]: Traceback (most recent call last):\n[rank0]:   File \"a\"\n[rank0]: E: x\n[rank0]:\n[rank0]: y";
        assert_eq!(length(text), 3);
    }

    #[test]
    fn talk_about_tracebacks_is_none() {
        for line in
            ["see Traceback (most recent call last):", "Traceback (most recent call last): x", ""]
        {
            assert_eq!(Trace::begin(line), None);
        }
    }
}
