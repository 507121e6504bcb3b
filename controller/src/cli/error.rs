//! The one place where an error becomes a heading, causes, a hint and an exit code.
//!
//! Verbs return `anyhow::Result` and use `?`. What is known about an error travels as a type in its chain: a
//! [`Failure`] made here, a [`CallError`] from a call, or a [`Refusal`]. Everything else is internal.

use std::error::Error as StdError;
use std::fmt;

use anstyle::{AnsiColor, Style};
use hone_proto::error::{Reason, Refusal};
use hone_proto::identity::refused;

use super::render::human::safe;
use crate::spec::SpecError;

/// How a command ended, as its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// All went well.
    pub const OK: Self = Self(0);
    /// The followed job did not complete.
    pub const JOB_FAILED: Self = Self(9);
    /// Somebody pressed Ctrl-C.
    pub const INTERRUPTED: Self = Self(130);

    /// The code for the operating system.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }
}

/// A failure that this command noticed itself.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    reason: Reason,
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    /// A failure with the exit code and hint of `reason`.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), hint: None, source: None }
    }

    /// Advice that fits better than the reason's own.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What made it fail.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// A call that the controller refused, or that never reached it.
#[derive(Debug)]
pub struct CallError {
    refusal: Refusal,
    status: tonic::Status,
}

impl CallError {
    /// Why.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.refusal.reason
    }
}

impl From<tonic::Status> for CallError {
    fn from(status: tonic::Status) -> Self {
        let refusal = refused::refusal(&status);
        Self { refusal, status }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.refusal.message)
    }
}

impl StdError for CallError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // The refusal of a connection that failed is made from its causes: they are not said again.
        self.status.source().filter(|source| !self.refusal.message.contains(&deepest(*source)))
    }
}

/// What the last error of a chain says.
fn deepest(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

/// Standard output was closed by its reader, who has seen enough.
#[derive(Debug, thiserror::Error)]
#[error("the reader of standard output is gone")]
pub struct OutputClosed;

/// What a person is told about an error.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// Exit code.
    pub exit: Exit,
    lines: Vec<String>,
    hint: Option<String>,
}

impl Report {
    /// Reads the chain of `error`. Nothing when it is not worth a word.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Option<Self> {
        if error.chain().any(|cause| cause.is::<OutputClosed>()) {
            return None;
        }
        let mut lines: Vec<String> = Vec::new();
        for cause in error.chain() {
            let text = safe(&cause.to_string());
            // Libraries often repeat their source's words in their own.
            if !text.is_empty() && lines.last().is_none_or(|above| !above.contains(&text)) {
                lines.push(text);
            }
        }
        let (reason, hint) = error.chain().find_map(classify).unwrap_or((Reason::Internal, None));
        let hint = hint.or_else(|| reason.hint().map(str::to_owned));
        Some(Self { exit: Exit(reason.exit_code()), lines, hint })
    }

    /// The text for standard error.
    #[must_use]
    pub fn text(&self) -> String {
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        let cyan = Style::new().bold().fg_color(Some(AnsiColor::Cyan.into()));
        let mut text = String::new();
        for (n, line) in self.lines.iter().enumerate() {
            let line = line.replace('\n', "\n    ");
            if n == 0 {
                text.push_str(&format!("{red}error{red:#}: {line}\n"));
            } else {
                text.push_str(&format!("  caused by: {line}\n"));
            }
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("{cyan}hint{cyan:#}: {hint}\n"));
        }
        text
    }
}

/// Reason and own hint of one link of the chain, where it has them.
fn classify(cause: &(dyn StdError + 'static)) -> Option<(Reason, Option<String>)> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some((failure.reason, failure.hint.clone()));
    }
    if let Some(call) = cause.downcast_ref::<CallError>() {
        return Some((call.reason(), None));
    }
    if cause.is::<SpecError>() {
        return Some((Reason::BadSpec, None));
    }
    cause.downcast_ref::<Refusal>().map(|refusal| (refusal.reason, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    fn text(error: &anyhow::Error) -> String {
        let report = Report::of(error).expect("a report");
        let plain = anstream::adapter::strip_str(&report.text()).to_string();
        format!("{plain}exit {}", report.exit.code())
    }

    #[test]
    fn a_refusal_keeps_its_reason_under_any_context() {
        let status = tonic::Status::from(Refusal::new(Reason::NotOwner, "job 7 belongs to ada"));
        let error = anyhow::Error::new(CallError::from(status)).context("cannot cancel job 7");
        insta::assert_snapshot!(text(&error), @r"
        error: cannot cancel job 7
          caused by: job 7 belongs to ada
        hint: its owner or an operator may do this
        exit 6
        ");
    }

    #[test]
    fn an_own_hint_comes_before_the_reasons() {
        let io = std::io::Error::other("no such file\nor directory");
        let error: anyhow::Error = Failure::new(Reason::BadSpec, "cannot read job.yaml")
            .hint("look twice")
            .because(io)
            .into();
        insta::assert_snapshot!(text(&error), @r"
        error: cannot read job.yaml
          caused by: no such file
            or directory
        hint: look twice
        exit 4
        ");
    }

    #[test]
    fn a_refused_certificate_is_not_taken_for_a_silent_controller() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRevoked);
        let status = tonic::Status::from_error(Box::new(std::io::Error::other(alert)));
        let report = Report::of(&CallError::from(status).into()).expect("a report");
        assert_eq!(report.exit.code(), 6);
    }

    #[test]
    fn unknown_errors_are_internal_and_repeated_words_are_said_once() {
        let error = Err::<(), _>(std::io::Error::other("disk on fire"))
            .context("disk on fire")
            .context("cannot write")
            .expect_err("it fails");
        insta::assert_snapshot!(text(&error), @r"
        error: cannot write
          caused by: disk on fire
        hint: this is a fault of hone; its log has more
        exit 1
        ");
    }

    #[test]
    fn a_closed_pipe_is_silent() {
        assert_eq!(Report::of(&anyhow::Error::new(OutputClosed).context("while printing")), None);
    }
}
