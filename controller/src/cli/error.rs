//! The one place where an error becomes a heading, causes, a hint and an exit code.
//!
//! Verbs return `anyhow::Result` and use `?`. What is known about an error travels as a type in its chain: a
//! [`Failure`] made here, a [`CallError`] from a call, or a [`Refusal`]. Everything else is internal.

use std::error::Error as StdError;
use std::{fmt, io};

use anstyle::{AnsiColor, Style};
use clap::error::ErrorKind;
use hone_proto::bulk::BulkError;
use hone_proto::error::{Reason, Refusal};
use hone_proto::identity::refused;

use super::render::human::safe;
use crate::spec::SpecError;

/// How every mistake in a command line ends; the hint says it better.
const MORE: &str = "For more information, try";

/// Slips of the finger within which a name is taken for another one.
const MOST_TYPOS: usize = 3;

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

/// The failure of something that was named and is not there, with the nearest of what there is.
pub(super) fn not_there<'a>(
    failure: Failure,
    named: &str,
    known: impl Iterator<Item = &'a str>,
) -> Failure {
    let near = known
        .map(|name| (strsim::damerau_levenshtein(name, named), name))
        .filter(|(distance, name)| *distance <= MOST_TYPOS && *distance < name.chars().count())
        .min();
    match near {
        Some((_, name)) => failure.hint(format!("did you mean `{name}`?")),
        None => failure,
    }
}

/// Why the controller refused the call, where it did.
pub(super) fn refused_for(error: &anyhow::Error) -> Option<Reason> {
    error.chain().find_map(|cause| cause.downcast_ref::<CallError>()).map(CallError::reason)
}

/// True for the refusal of something that is not there.
pub(super) fn is_not_found(error: &anyhow::Error) -> bool {
    refused_for(error) == Some(Reason::NotFound)
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
    /// Empty where the lines say what to do.
    hint: String,
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
        // The problems of a spec carry their own.
        let told = reason == Reason::BadSpec && lines.iter().any(|line| line.contains("\nhint: "));
        let generic = if told { "" } else { reason.hint() };
        let hint = hint.unwrap_or_else(|| generic.to_owned());
        Some(Self { exit: Exit(reason.exit_code()), lines, hint })
    }

    /// What is wrong with a command line, in the same form. Nothing for help and version, which are no errors.
    #[must_use]
    pub fn of_usage(error: &clap::Error) -> Option<Self> {
        if !error.use_stderr()
            || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        {
            return None;
        }
        let text = error.render().to_string();
        let (mut said, mut tips, mut usage) = (Vec::new(), Vec::new(), None);
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(tip) = line.strip_prefix("tip: ") {
                tips.push(tip.to_owned());
            } else if let Some(line) = line.strip_prefix("Usage: ") {
                usage = Some(line.to_owned());
            } else if usage.is_none() && tips.is_empty() && !line.starts_with(MORE) {
                said.push(line.strip_prefix("error: ").unwrap_or(line).to_owned());
            }
        }
        let plain = |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase());
        let hint = match usage {
            _ if !tips.is_empty() => tips.join("; "),
            Some(usage) => {
                let command: Vec<_> = usage.split(' ').take_while(plain).collect();
                format!("use it as `{usage}`; `{} --help` tells more", command.join(" "))
            }
            None => Reason::BadRequest.hint().to_owned(),
        };
        let exit = Exit(Reason::BadRequest.exit_code());
        Some(Self { exit, lines: vec![said.join("\n")], hint })
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
        if !self.hint.is_empty() {
            text.push_str(&format!("{cyan}hint{cyan:#}: {}\n", self.hint));
        }
        text
    }
}

/// What an input must be.
pub(super) const INPUT_HINT: &str =
    "an input is a file, or a folder of plain files that nobody writes to";

/// What the system refused and its user can mend: a path or a port that they named, or a full disk.
pub(super) fn refused_by_system(error: &io::Error) -> Option<(Reason, &'static str)> {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::NotFound
        | Kind::PermissionDenied
        | Kind::NotADirectory
        | Kind::IsADirectory
        | Kind::ReadOnlyFilesystem
        | Kind::InvalidFilename => {
            Some((Reason::BadRequest, "check that the path exists and that you may use it"))
        }
        Kind::StorageFull | Kind::QuotaExceeded => {
            Some((Reason::OutOfSpace, "free disk space on this machine"))
        }
        Kind::AddrInUse => Some((Reason::Conflict, "another process listens there")),
        Kind::AddrNotAvailable => Some((Reason::BadRequest, "this machine has no such address")),
        _ => None,
    }
}

/// The first thing in a chain that the system refused.
pub(super) fn system_refusal(error: &(dyn StdError + 'static)) -> Option<(Reason, &'static str)> {
    let chain = std::iter::successors(Some(error), |cause| (*cause).source());
    chain.filter_map(|cause| cause.downcast_ref::<io::Error>()).find_map(refused_by_system)
}

/// A transfer that failed on this side; what the controller refused carries its own reason.
fn of_transfer(error: &BulkError) -> Option<(Reason, Option<String>)> {
    let (reason, hint) = match error {
        BulkError::SourceChanged { .. } | BulkError::Source(_) | BulkError::Manifest(_) => {
            (Reason::BadSpec, INPUT_HINT)
        }
        BulkError::Write { error, .. } => refused_by_system(error).unwrap_or((
            Reason::BadRequest,
            "the disk of this machine refuses it; name another folder",
        )),
        BulkError::Stream { .. } => {
            (Reason::Internal, "the local engine broke off; has it room to save the image?")
        }
        BulkError::Exists(_) => (Reason::Conflict, "name another folder"),
        BulkError::Corrupt { .. } => return Some((Reason::Corrupt, None)),
        BulkError::Refused(_) | BulkError::Interrupted(_) | BulkError::GaveUp { .. } => {
            return None;
        }
    };
    Some((reason, Some(hint.to_owned())))
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
    if let Some(error) = cause.downcast_ref::<BulkError>() {
        return of_transfer(error);
    }
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        return refused_by_system(error).map(|(reason, hint)| (reason, Some(hint.to_owned())));
    }
    cause.downcast_ref::<Refusal>().map(|refusal| (refusal.reason, None))
}

#[cfg(test)]
mod tests;
