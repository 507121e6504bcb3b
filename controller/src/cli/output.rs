//! Where words go: data to standard output, talk to standard error. Decided once: format, colour, width, progress.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;
use serde::Serialize;

use super::error::OutputClosed;

/// Columns assumed where there is no terminal to ask.
pub const DEFAULT_WIDTH: usize = 80;
/// Wider lines are hard to read, however wide the terminal.
const MAX_WIDTH: usize = 160;
/// Narrower tables are of no use.
const MIN_WIDTH: usize = 40;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Tables and text for people
    #[default]
    Table,
    /// The same values as JSON; streams print one object per line
    Json,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl From<Color> for ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => Self::Auto,
            Color::Always => Self::Always,
            Color::Never => Self::Never,
        }
    }
}

/// Standard error, for whoever has something to say while others print.
#[derive(Clone)]
pub struct Talker {
    err: Arc<Mutex<Box<dyn Write + Send>>>,
    quiet: bool,
}

impl Talker {
    fn new(err: Box<dyn Write + Send>, quiet: bool) -> Self {
        Self { err: Arc::new(Mutex::new(err)), quiet }
    }

    /// Says a line, unless quiet. Nobody reading it is not an error.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.write(&format!("{text}\n"));
        }
    }

    fn write(&self, text: &str) {
        let mut err = self.err.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}

/// The two streams, and how to write to them.
pub struct Printer {
    out: Box<dyn Write + Send>,
    talker: Talker,
    format: Format,
    width: usize,
    /// Standard output is a terminal.
    live: bool,
    /// Progress may be drawn: standard error is a terminal and nobody forbade it.
    progress: bool,
}

impl Printer {
    /// The process's own streams.
    #[must_use]
    pub fn std(format: Format, color: Color, quiet: bool, no_progress: bool) -> Self {
        let live = io::stdout().is_terminal();
        let columns = if live { terminal_size().map(|(columns, _)| columns) } else { None };
        Self {
            // Data carries no colour of its own, and a live view's cursor moves must not be stripped.
            out: Box::new(io::stdout()),
            talker: Talker::new(Box::new(AutoStream::new(io::stderr(), color.into())), quiet),
            format,
            width: columns.unwrap_or(DEFAULT_WIDTH).clamp(MIN_WIDTH, MAX_WIDTH),
            live,
            progress: io::stderr().is_terminal() && !quiet && !no_progress,
        }
    }

    /// Streams that a test reads afterwards.
    #[cfg(test)]
    pub(crate) fn captured(
        out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
        format: Format,
    ) -> Self {
        let talker = Talker::new(err, false);
        Self { out, talker, format, width: DEFAULT_WIDTH, live: false, progress: false }
    }

    /// Columns that a line may take.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// True when standard output is a terminal, so that a view may redraw itself there.
    #[must_use]
    pub const fn live(&self) -> bool {
        self.live
    }

    /// True when a progress bar may be drawn on standard error.
    #[must_use]
    pub const fn progress(&self) -> bool {
        self.progress
    }

    /// True when JSON is asked for.
    #[must_use]
    pub const fn json(&self) -> bool {
        matches!(self.format, Format::Json)
    }

    /// Prints data, with a line end.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn data(&mut self, text: &str) -> anyhow::Result<()> {
        let done = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
        done.map_err(stdout_error)
    }

    /// Prints data as it is, for views that move the cursor.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn raw(&mut self, text: &str) -> anyhow::Result<()> {
        let done = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        done.map_err(stdout_error)
    }

    /// Prints one value: indented JSON, or what `table` makes of it.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn value<T: Serialize>(
        &mut self,
        value: &T,
        table: impl FnOnce(&T, usize) -> String,
    ) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Json => serde_json::to_string_pretty(value)?,
            Format::Table => table(value, self.width),
        };
        self.data(&text)
    }

    /// Prints one record of a stream: JSON in one line, or what `line` makes of it.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn record<T: Serialize>(
        &mut self,
        value: &T,
        line: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Json => serde_json::to_string(value)?,
            Format::Table => line(value),
        };
        self.data(&text)
    }

    /// Says something on standard error, unless quiet.
    pub fn talk(&self, text: &str) {
        self.talker.say(text);
    }

    /// Writes to standard error even when quiet: errors.
    pub fn complain(&self, text: &str) {
        self.talker.write(text);
    }

    /// For whoever talks from another task.
    #[must_use]
    pub fn talker(&self) -> Talker {
        self.talker.clone()
    }
}

fn stdout_error(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        OutputClosed.into()
    } else {
        anyhow::Error::new(error).context("cannot write to standard output")
    }
}

/// Columns and rows of the terminal on standard output, where it is one.
#[must_use]
pub fn terminal_size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    let (columns, rows) = (usize::from(size.ws_col), usize::from(size.ws_row));
    (columns > 0 && rows > 0).then_some((columns, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_is_gone_ends_the_command_without_a_word() {
        let mut printer = Printer::captured(Box::new(Gone), Box::new(Gone), Format::Table);
        let error = printer.data("x").expect_err("nobody reads");
        assert!(error.is::<OutputClosed>());
        printer.talk("nobody hears this, and nothing fails");
    }
}
