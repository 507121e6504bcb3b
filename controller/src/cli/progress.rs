//! How a transfer gets on: a bar on a terminal; without one a line at its start, now and then, and at its end. Nothing
//! for what is quick or was there already.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hone_proto::bulk::Progress;
use hone_proto::quantity::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::{Printer, Talker};

/// What is done sooner is not worth a bar.
const QUIET: Duration = Duration::from_millis(250);
/// Without a terminal, a line so often: enough to see that it goes on, too little to fill a log.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Redraws in a second.
const HERTZ: u8 = 10;

/// One transfer.
pub(super) struct Bar {
    label: String,
    /// How much it is, where that is known before.
    size: Option<Bytes>,
    talker: Talker,
    started: Instant,
    drawn: Drawn,
}

enum Drawn {
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

/// What was said without a terminal.
struct Lines {
    /// When the last line was said.
    said: Instant,
    /// That something is sent was said.
    began: bool,
}

impl Bar {
    /// A transfer that begins now; `label` says what is being done.
    pub(super) fn new(printer: &Printer, label: impl Into<String>) -> Self {
        let (label, now) = (label.into(), Instant::now());
        let drawn = if printer.progress() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
            bar.set_message(label.clone());
            Drawn::Bar(bar)
        } else {
            Drawn::Lines(Mutex::new(Lines { said: now, began: false }))
        };
        Self { label, size: None, talker: printer.talker(), started: now, drawn }
    }

    /// How much it will be, also where the transfer itself cannot tell before its end.
    #[must_use]
    pub(super) fn of(mut self, size: Bytes) -> Self {
        self.size = Some(size).filter(|size| *size > Bytes::ZERO);
        self
    }

    /// It went well.
    pub(super) fn done(self) {
        if self.lines().is_some_and(|lines| lines.began) {
            self.talker.say(&format!("{}: done", self.label));
        }
    }

    fn lines(&self) -> Option<MutexGuard<'_, Lines>> {
        match &self.drawn {
            Drawn::Bar(_) => None,
            Drawn::Lines(lines) => Some(lines.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn line(&self, done: Bytes, total: Option<Bytes>) -> String {
        match total {
            Some(total) => format!("{}: {done} of {total}", self.label),
            None => format!("{}: {done}", self.label),
        }
    }
}

fn style(sized: bool) -> ProgressStyle {
    let template = if sized {
        "{msg} {bar:20} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}"
    } else {
        "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}"
    };
    // The templates are constants, and a bar in the default style is a bar too.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("█▌░")
}

impl Progress for Bar {
    fn report(&self, done: Bytes, total: Option<Bytes>) {
        match &self.drawn {
            Drawn::Bar(bar) => {
                if bar.is_hidden() && self.started.elapsed() >= QUIET {
                    bar.set_style(style(total.is_some()));
                    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(HERTZ));
                }
                if let Some(total) = total {
                    bar.set_length(total.get());
                }
                bar.set_position(done.get());
            }
            Drawn::Lines(_) => {
                if let Some(mut lines) = self.lines()
                    && lines.said.elapsed() >= LINE_EVERY
                {
                    lines.said = Instant::now();
                    self.talker.say(&self.line(done, total.or(self.size)));
                }
            }
        }
    }

    fn sends(&self) {
        if let Some(mut lines) = self.lines()
            && !std::mem::replace(&mut lines.began, true)
        {
            lines.said = Instant::now();
            self.talker.say(&match self.size {
                Some(size) => format!("{}: {size}", self.label),
                None => self.label.clone(),
            });
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Drawn::Bar(bar) = &self.drawn {
            bar.finish_and_clear();
        }
    }
}
