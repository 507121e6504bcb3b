//! A part of the terminal that redraws itself in place, and the ways to leave it.
//!
//! The cursor stays visible and nothing else of the terminal's state outlives a `kill -9` but the line mode, which
//! every shell restores.

use std::io::{self, IsTerminal as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::output::{Printer, terminal_size};

/// Assumed where the terminal does not say.
const SIZE: (usize, usize) = (80, 24);

/// How somebody left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Left {
    /// By pressing q.
    Key,
    /// By Ctrl-C, or because the terminal went away.
    Signal,
}

/// The lines that were drawn last, and the terminal's mode from before.
pub(in crate::cli) struct Screen {
    drawn: usize,
    before: Option<Termios>,
}

impl Screen {
    /// A view on standard output, where that is a terminal and text is wanted.
    pub(super) fn open(printer: &Printer) -> Option<Self> {
        (printer.live() && !printer.json()).then(|| Self { drawn: 0, before: keys_at_once() })
    }

    /// Columns and rows that a frame may take now. One row stays free for the cursor.
    #[expect(clippy::unused_self, reason = "only who has a screen may ask")]
    pub(super) fn size(&self) -> (usize, usize) {
        let (columns, rows) = terminal_size().unwrap_or(SIZE);
        (columns, rows.saturating_sub(1).max(1))
    }

    /// What to write so that `lines` stand where the last frame stood.
    pub(super) fn frame(&mut self, lines: &[String]) -> String {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\r\x1b[{}A", self.drawn));
        }
        for line in lines {
            text.push_str(line);
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        self.drawn = lines.len();
        text
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Lets keys arrive without Enter; signals from the keyboard stay. Returns the mode from before, or nothing when
/// standard input is no terminal of ours: touching it from the background would stop the process.
fn keys_at_once() -> Option<Termios> {
    let stdin = io::stdin();
    if !stdin.is_terminal() || tcgetpgrp(&stdin).ok()? != rustix::process::getpgrp() {
        return None;
    }
    let before = tcgetattr(&stdin).ok()?;
    let mut mode = before.clone();
    mode.local_modes &= !(LocalModes::ICANON | LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Now, &mode).ok()?;
    Some(before)
}

/// Ends when somebody presses q (if `keys`) or a signal asks to leave.
pub(super) async fn leaving(keys: bool) -> Left {
    let caught = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            // Without a handler the signal's own effect is to end the process, which is as good.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = caught(SignalKind::interrupt()) => Left::Signal,
        () = caught(SignalKind::terminate()) => Left::Signal,
        () = caught(SignalKind::hangup()) => Left::Signal,
        () = key(), if keys && io::stdin().is_terminal() => Left::Key,
    }
}

async fn key() {
    let mut stdin = tokio::io::stdin();
    let mut byte = [0_u8];
    loop {
        match stdin.read(&mut byte).await {
            Ok(1) if matches!(byte[0], b'q' | b'Q') => return,
            Ok(1) => {}
            // Nothing more will be typed; signals remain.
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_replaces_the_one_before() {
        let mut screen = Screen { drawn: 0, before: None };
        let lines = ["one".to_owned(), "two".to_owned()];
        assert_eq!(screen.frame(&lines), "one\x1b[K\ntwo\x1b[K\n\x1b[J");
        assert_eq!(screen.frame(&lines[..1]), "\r\x1b[2Aone\x1b[K\n\x1b[J");
        assert_eq!(screen.frame(&[]), "\r\x1b[1A\x1b[J");
        assert_eq!(screen.frame(&[]), "\x1b[J");
    }
}
