//! `hone login`: a person's first certificate, by a token that never shows among arguments.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use hone_proto::enrol::{EnrolError, Invitation, is_spent, join};
use hone_proto::error::Reason;
use hone_proto::identity::{ControllerAddress, Fingerprint, IdentityDir, Peer};
use hone_proto::wire::EnrolKind;
use secrecy::SecretString;
use serde::Serialize;
use zeroize::Zeroizing;

use super::context::Contexts;
use super::error::{Exit, Failure, system_refusal};
use super::output::Printer;
use super::{Ctx, Global, OutputArgs};

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
    /// Name of the context that is made [default: --context, or the controller's host]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Who somebody is from now on.
#[derive(Debug, Serialize)]
struct LoggedIn {
    user: String,
    context: String,
    controller: ControllerAddress,
}

impl LoggedIn {
    /// JSON is data; for people it is talk.
    fn tell(&self, printer: &mut Printer) -> anyhow::Result<()> {
        if printer.json() {
            return printer.value(self, |_, _| String::new());
        }
        let Self { user, context, .. } = self;
        printer
            .talk(&format!("you are {user}; the context `{context}` is now in use; try `hone ps`"));
        Ok(())
    }
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
    let name = global.name_of_new(args.name.as_deref(), &controller.host);
    let dir = contexts.identity(&name)?;
    may_replace(&dir, &name, args).await?;
    let token = read_token(args.token_file.as_deref(), ctx)?;
    let invitation = Invitation {
        controller: controller.clone(),
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
    LoggedIn { user, context: name, controller }.tell(&mut ctx.printer)?;
    Ok(Exit::OK)
}

/// Refuses to put a new identity over one that still works: its holder would be locked out.
async fn may_replace(dir: &IdentityDir, name: &str, args: &Args) -> anyhow::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let refuse = |message: String| -> anyhow::Error {
        let failure = Failure::new(Reason::Conflict, message);
        failure.hint("choose another name: --name NAME; `hone --context NAME` uses it").into()
    };
    let (held, record) = dir.load()?;
    let same_fleet = Fingerprint::of(held.root()) == args.fingerprint;
    if record.controller != args.address.0 || !same_fleet {
        return Err(refuse(format!("the context `{name}` belongs to another controller")));
    }
    if is_spent(&held, &record.controller).await.map_err(|error| explain(error.into()))? {
        return Ok(());
    }
    let (who, until) = (&held.certificate().id.peer, held.certificate().facts.not_after);
    Err(refuse(format!("the context `{name}` is {who}'s, whose certificate works until {until}")))
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
    let (reason, hint) = match system_refusal(&error) {
        Some((reason, hint)) if matches!(error, EnrolError::Identity(_)) => (reason, Some(hint)),
        _ => (error.reason(), None),
    };
    let failure = Failure::new(reason, "cannot enrol").because(error);
    if reason == Reason::Unauthenticated {
        return failure.hint("compare --address and --fingerprint with what was printed").into();
    }
    match hint {
        Some(hint) => failure.hint(hint).into(),
        None => failure.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_logged_in_is_data_for_programs_and_talk_for_people() {
        use super::super::fake::Captured;
        use super::super::output::Format;
        let controller = ControllerAddress::consecutive("hone.example", 7400);
        let made =
            LoggedIn { user: "ada".to_owned(), context: "hone.example".to_owned(), controller };
        let printed = |format| {
            let (out, err) = (Captured::default(), Captured::default());
            let mut printer =
                Printer::captured(Box::new(out.clone()), Box::new(err.clone()), format);
            made.tell(&mut printer).expect("it is written");
            (out.text(), err.text())
        };
        let (out, err) = printed(Format::Json);
        let value: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((value["user"].as_str(), err.as_str()), (Some("ada"), ""));
        assert_eq!(value["controller"]["host"], "hone.example");
        let (out, err) = printed(Format::Table);
        assert!(out.is_empty() && err.contains("you are ada"), "{out}{err}");
    }

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
