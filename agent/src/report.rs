//! The one place where an error becomes words, a hint and an exit code, by the table that `hone` goes by too.

use std::error::Error as StdError;
use std::io;

use hone_proto::error::Reason;
use hone_proto::identity::IdentityError;

use crate::config::ConfigError;
use crate::run::RunError;

/// What a person is told about an error.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// Exit code.
    pub exit: u8,
    /// For standard error.
    pub text: String,
}

impl Report {
    /// Reads the chain of `error`.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        let mut text = format!("error: {error}\n");
        let mut above = error.to_string();
        for cause in error.chain().skip(1) {
            let said = cause.to_string();
            // Libraries often repeat their source's words in their own.
            if !above.contains(&said) {
                text.push_str(&format!("  caused by: {said}\n"));
            }
            above = said;
        }
        let (reason, hint) = classify(error);
        let hint = hint.unwrap_or_else(|| reason.hint().to_owned());
        text.push_str(&format!("hint: {hint}\n"));
        Self { exit: reason.exit_code(), text }
    }
}

/// Reason and own hint.
fn classify(error: &anyhow::Error) -> (Reason, Option<String>) {
    let mut reason = Reason::Internal;
    for cause in error.chain() {
        if let Some(missing) = cause.downcast_ref::<Missing>() {
            return (Reason::BadRequest, Some(missing.hint.to_owned()));
        }
        if cause.is::<ConfigError>() {
            return (Reason::BadRequest, Some("docs/operations.md lists every setting".to_owned()));
        }
        if let Some(error) = cause.downcast_ref::<RunError>() {
            reason = error.reason();
            if let Some(hint) = error.hint() {
                return (reason, Some(hint));
            }
        }
        if let Some((reason, hint)) = refused_by_system(cause) {
            return (reason, Some(hint.to_owned()));
        }
    }
    (reason, None)
}

/// Something that the command line did not bring.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Missing {
    /// What.
    pub what: &'static str,
    /// Where to get it.
    pub hint: &'static str,
}

/// What the system refused and its user can mend.
fn refused_by_system(cause: &(dyn StdError + 'static)) -> Option<(Reason, &'static str)> {
    use io::ErrorKind as Kind;
    match cause.downcast_ref::<io::Error>()?.kind() {
        Kind::PermissionDenied => {
            Some((Reason::BadRequest, "the agent runs as root; try again as root"))
        }
        Kind::NotFound | Kind::NotADirectory | Kind::IsADirectory | Kind::ReadOnlyFilesystem => {
            Some((Reason::BadRequest, "check that the path exists and that you may use it"))
        }
        Kind::StorageFull | Kind::QuotaExceeded => {
            Some((Reason::OutOfSpace, "free disk space on this machine"))
        }
        _ => None,
    }
}

impl RunError {
    /// The stable reason for it, which decides the exit code.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotJoined(_) => Reason::NotFound,
            Self::Busy(_) | Self::Joined { .. } | Self::NotANode { .. } => Reason::Conflict,
            Self::Place(_) => Reason::BadRequest,
            Self::Join(error) => error.reason(),
            Self::Revoked(_) => Reason::Revoked,
            Self::Identity(_)
            | Self::BootId
            | Self::Instance(_)
            | Self::Start(_)
            | Self::Driver(_) => Reason::Internal,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        const TOKEN: &str = "run the command that `hone node token` prints";
        Some(match self {
            Self::Instance(error) => return error.hint(),
            Self::Driver(error) => return error.hint(),
            Self::Revoked(_) => format!(
                "its jobs were stopped, and what they had not uploaded is still below attempts/; \
                 to use this machine again, {TOKEN}"
            ),
            Self::NotJoined(_) => format!("join a fleet first: {TOKEN}"),
            Self::Joined { .. } => {
                "`hone-agent run` runs it; `hone-agent join --again` makes another node of \
                 this machine, and what it runs now counts no more"
                    .to_owned()
            }
            Self::Busy(_) => {
                "stop it first, as by `systemctl stop hone-agent`; or name another --state-dir"
                    .to_owned()
            }
            Self::Place(_) => "name another --state-dir, such as /var/lib/hone-agent".to_owned(),
            Self::NotANode { .. } => format!("name another --state-dir, and {TOKEN}"),
            // What the system refused has a hint of its own.
            Self::Identity(IdentityError::Io { .. }) => return None,
            Self::Identity(_) => {
                format!("if it cannot be put back, {TOKEN}, with --again behind `join`")
            }
            Self::Join(_) | Self::BootId | Self::Start(_) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_proto::enrol::EnrolError;
    use hone_proto::error::Refusal;

    #[test]
    fn a_reason_has_the_exit_code_and_the_hint_that_hone_gives_it() {
        let spent = Refusal::new(Reason::TokenRefused, "the token is spent");
        let report = Report::of(&RunError::Join(EnrolError::Refused(spent)).into());
        assert_eq!(report.exit, Reason::TokenRefused.exit_code());
        let text = "error: cannot join\n  caused by: the token is spent\nhint: a token works once \
                    and for a short time; ask for a new one\n";
        assert_eq!(report.text, text);
    }

    #[test]
    fn every_error_has_a_hint_and_what_a_user_can_mend_is_no_fault_of_hone() {
        let path = || std::path::PathBuf::from("/srv/agent");
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let identity = IdentityError::Io { doing: "cannot read", path: path(), source: denied() };
        let mendable: [(anyhow::Error, u8); 8] = [
            (RunError::NotJoined(path()).into(), 7),
            (RunError::Busy(path()).into(), 8),
            (RunError::Place(path()).into(), 2),
            (RunError::Joined { path: path(), node: "n-1".to_owned() }.into(), 8),
            (RunError::Revoked("revoked".to_owned()).into(), 6),
            (RunError::Start(denied()).into(), 2),
            (RunError::Identity(identity).into(), 2),
            (ConfigError::Parse { path: path(), why: "a typo".to_owned() }.into(), 2),
        ];
        for (error, exit) in mendable {
            let report = Report::of(&error);
            assert_eq!(report.exit, exit, "{}", report.text);
            assert!(!report.text.contains("a fault of hone"), "{}", report.text);
            assert!(report.text.contains("\nhint: "), "{}", report.text);
        }
        assert_eq!(Report::of(&anyhow::anyhow!("no idea")).exit, 1);
    }
}
