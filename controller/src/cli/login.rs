//! `hone login`: a person's first certificate, by a token that never shows among arguments.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use hone_proto::enrol::{EnrolError, Invitation, join};
use hone_proto::error::{Reason, Refusal};
use hone_proto::identity::{ControllerAddress, Fingerprint, Peer};
use hone_proto::wire::EnrolKind;
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::context::Contexts;
use super::error::{Exit, Failure};
use super::{Ctx, Global};

/// More than any token; a file that is longer is not one.
const MAX_TOKEN: u64 = 4096;

/// Enrol on a controller, as `hone operator invite NAME` prints it
///
/// The token is read from standard input, or from --token-file; never from an argument, which others can see.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the controller enrols, as printed
    #[arg(long, value_name = "HOST:PORT")]
    address: EnrolmentAddress,
    /// SHA-256 of the fleet's root certificate, as printed
    #[arg(long, value_name = "HEX")]
    fingerprint: Fingerprint,
    /// Read the token from this file instead of standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Name of the context that is made [default: the controller's host]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// `HOST:PORT` of enrolment; the other two ports are the two below.
#[derive(Debug, Clone, PartialEq, Eq)]
struct EnrolmentAddress(ControllerAddress);

impl FromStr for EnrolmentAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or("it needs a port, as in host:7402")?;
        let port: u16 = port.parse().map_err(|_| "the port must be a number, as in host:7402")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let control = port.checked_sub(2).filter(|control| *control > 0);
        match control {
            Some(control) if !host.is_empty() => {
                Ok(Self(ControllerAddress::consecutive(host, control)))
            }
            _ => Err("it must be a host and a port above 2, as in host:7402"),
        }
    }
}

pub(super) async fn run(args: &Args, global: &Global, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let contexts = Contexts::locate(global.config_dir.as_deref())?;
    let controller = args.address.0.clone();
    let name = args.name.clone().unwrap_or_else(|| controller.host.replace(':', "-"));
    let dir = contexts.identity(&name)?;
    if dir.exists() {
        let (_, record) = dir.load()?;
        if record.controller != controller {
            let message = format!("the context `{name}` belongs to another controller");
            let failure = Failure::new(Reason::Conflict, message);
            return Err(failure.hint("choose another name: --name NAME").into());
        }
    }
    let token = read_token(args.token_file.as_deref(), ctx)?;
    let invitation = Invitation {
        controller,
        root: args.fingerprint,
        token,
        kind: EnrolKind::User,
        display_name: String::new(),
    };
    let (credentials, _) = join(&dir, invitation).await.map_err(explain)?;
    contexts.use_from_now_on(&name)?;
    let user = match &credentials.certificate().id.peer {
        Peer::User(user) => user.to_string(),
        other => other.to_string(),
    };
    ctx.printer.talk(&format!("you are {user}; the context `{name}` is now in use; try `hone ps`"));
    Ok(Exit::OK)
}

/// The token from a file or standard input, and nothing else of either.
fn read_token(file: Option<&Path>, ctx: &mut Ctx) -> anyhow::Result<SecretString> {
    let mut text = Zeroizing::new(String::new());
    match file {
        Some(path) => {
            let opened = std::fs::File::open(path);
            let read = opened.and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text));
            read.with_context(|| format!("cannot read the token from {}", path.display()))?;
        }
        None => {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                ctx.printer.talk("paste the token, then press Enter and Ctrl-D");
            }
            let read = stdin.take(MAX_TOKEN).read_to_string(&mut text);
            read.context("cannot read the token from standard input")?;
        }
    }
    Ok(SecretString::from(text.trim()))
}

/// Gives an enrolment's error its exit code and hint.
fn explain(error: EnrolError) -> anyhow::Error {
    let reason = match &error {
        EnrolError::Refused(Refusal { reason, .. }) => *reason,
        EnrolError::Connect(_) => Reason::Unavailable,
        EnrolError::Token => Reason::TokenRefused,
        EnrolError::Answer(_) | EnrolError::WrongKind(_) => Reason::Protocol,
        EnrolError::Identity(_) => Reason::Internal,
    };
    let failure = Failure::new(reason, "cannot enrol").because(error);
    if reason == Reason::Unauthenticated {
        return failure.hint("compare --address and --fingerprint with what was printed").into();
    }
    failure.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_ports_follow_from_the_printed_one() {
        let parsed: EnrolmentAddress = "hone.example:7402".parse().expect("an address");
        assert_eq!(parsed.0, ControllerAddress::consecutive("hone.example", 7400));
        let parsed: EnrolmentAddress = "[fd00::1]:7402".parse().expect("an address");
        assert_eq!(parsed.0.host, "fd00::1");
        for bad in ["", "host", "host:", "host:x", ":7402", "host:2", "host:99999"] {
            assert!(bad.parse::<EnrolmentAddress>().is_err(), "{bad:?} was accepted");
        }
    }
}
