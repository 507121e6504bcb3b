//! `hone init`: makes a controller on this machine, and its first operator.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use hone_proto::error::Reason;
use hone_proto::id::{FleetId, UserName};
use hone_proto::identity::ControllerAddress;
use hone_proto::time::Now;
use serde::Serialize;

use super::context::Contexts;
use super::error::{Exit, Failure, system_refusal};
use super::render::table::facts;
use super::{Ctx, Global, OutputArgs};
use crate::setup::{DataDir, Founded, SetupError, found};

/// Where a controller lives unless somebody says otherwise.
pub(super) const DATA_DIR: &str = "/var/lib/hone";
/// The first of the three ports.
const CONTROL_PORT: u16 = 7400;

/// Make a controller on this machine: its certificate authority, its state, its first operator
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where its data lives
    #[arg(long, value_name = "DIR", default_value = DATA_DIR, env = "HONE_CONTROLLER_DIR")]
    dir: PathBuf,
    /// Host name or address by which nodes and people reach it [default: this machine's host name]
    #[arg(long, value_name = "HOST")]
    address: Option<Host>,
    /// First of the three ports: control, bulk data, enrolment
    #[arg(long, value_name = "PORT", default_value_t = CONTROL_PORT,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(u16::MAX - 2)))]
    port: u16,
    /// Your user name, as its first admin
    #[arg(long, value_name = "NAME", default_value = "admin")]
    user: UserName,
    /// Name of the context that is made [default: --context, or the address]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Serialize)]
struct Made {
    fleet: String,
    root_fingerprint: String,
    directory: PathBuf,
    address: ControllerAddress,
    user: String,
    context: String,
}

pub(super) fn run(args: &Args, global: &Global, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let Host(host) = match &args.address {
        Some(host) => host.clone(),
        None => hostname()?,
    };
    let data = DataDir::new(&args.dir);
    if data.is_set_up() {
        return Err(explain(SetupError::Exists(args.dir.clone())));
    }
    let contexts = Contexts::locate(global.config_dir.as_deref())?;
    let context = global.name_of_new(args.name.as_deref(), &host);
    let identity = contexts.identity(&context)?;
    let address = ControllerAddress::consecutive(host, args.port);
    if identity.exists() {
        let message =
            format!("there is a context `{context}` in {} already", contexts.dir().display());
        let failure = Failure::new(Reason::Conflict, message);
        return Err(failure
            .hint("choose another name: --name NAME, or remove that context")
            .into());
    }
    // Before anything is made: a controller without its first operator could not be used.
    identity.prepare()?;
    let founded = found(&data, fleet_id()?, &args.user, &address, Now::read());
    let founded = founded.inspect_err(|_| identity.leave()).map_err(explain)?;
    identity.create(&founded.credentials, address.clone())?;
    contexts.use_from_now_on(&context)?;
    report(args, &founded, address, context, ctx)
}

fn report(
    args: &Args,
    founded: &Founded,
    address: ControllerAddress,
    context: String,
    ctx: &mut Ctx,
) -> anyhow::Result<Exit> {
    let made = Made {
        fleet: founded.fleet.to_string(),
        root_fingerprint: founded.root.to_string(),
        directory: args.dir.clone(),
        address,
        user: args.user.to_string(),
        context,
    };
    ctx.printer.value(&made, |made, width| {
        let (first, last) = (made.address.control_port, made.address.enrolment_port);
        facts(
            &[
                ("fleet", made.fleet.clone()),
                ("root", made.root_fingerprint.clone()),
                ("data", made.directory.display().to_string()),
                ("address", format!("{}, ports {first} to {last}", made.address.host)),
                ("you are", format!("{}, an admin (context {})", made.user, made.context)),
            ],
            width,
        )
    })?;
    if !ctx.printer.json() {
        ctx.printer.talk(&format!(
            "\nnext:\n  hone serve --dir {}   runs the controller\n  hone node token   prints the command that joins a machine",
            args.dir.display()
        ));
    }
    Ok(Exit::OK)
}

fn hostname() -> anyhow::Result<Host> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.parse().map_err(|why| {
        let message = format!("this machine calls itself {name:?}, which is no address: {why}");
        Failure::new(Reason::BadRequest, message).hint("give --address HOST").into()
    })
}

/// A host name, or an address without brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Host(String);

impl FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str =
            "use a host name or an address, such as hone.example, 10.0.0.5 or fd00::1";
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return match ip.is_unspecified() || ip.is_multicast() {
                true => Err("nobody can reach that; use an address of this machine"),
                false => Ok(Self(ip.to_string())),
            };
        }
        if text.contains("://") {
            return Err("no scheme belongs to it; use the host alone");
        }
        if text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            return Err("no port belongs to it; --port sets the first of the three");
        }
        let label = |label: &str| {
            let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            (1..=63).contains(&label.len()) && label.chars().all(inner) && !label.starts_with('-')
        };
        // A last label of digits would be an address, and it was none.
        let last = text.rsplit('.').next().unwrap_or_default();
        let digits = last.chars().all(|c| c.is_ascii_digit());
        if text.len() > 253 || digits || !text.split('.').all(label) {
            return Err(FORM);
        }
        Ok(Self(text.to_owned()))
    }
}

/// A random id: two fleets never share one, so a certificate never fits both.
fn fleet_id() -> anyhow::Result<FleetId> {
    let random = uuid::Uuid::new_v4().simple().to_string();
    Ok(format!("fleet-{}", &random[..16]).parse()?)
}

/// Gives a failed set-up its exit code and hint.
pub(super) fn explain(error: SetupError) -> anyhow::Error {
    let (reason, hint) = match &error {
        SetupError::Exists(_) => {
            (Reason::Conflict, Some("`hone serve` runs it; --dir makes another one elsewhere"))
        }
        SetupError::NotSetUp(_) => (Reason::NotFound, Some("`hone init` makes one")),
        other => match system_refusal(other) {
            Some((reason, hint)) => (reason, Some(hint)),
            None => (Reason::Internal, Some("may this user write there, and is there room?")),
        },
    };
    let failure = Failure::new(reason, error.to_string());
    let failure = match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    };
    match std::error::Error::source(&error) {
        Some(_) => failure.because(error).into(),
        None => failure.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_nothing_else() {
        for (text, host) in [
            ("hone.example", "hone.example"),
            ("my_machine", "my_machine"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("[fd00::1]", "fd00::1"),
        ] {
            assert_eq!(text.parse(), Ok(Host(host.to_owned())));
        }
        for (text, why) in [
            ("127.0.0.1:27650", "no port"),
            ("hone.example:7400", "no port"),
            ("http://hone.example", "no scheme"),
            ("0.0.0.0", "nobody can reach"),
            ("::", "nobody can reach"),
            ("300.1.1.1", "use a host name"),
            ("a b", "use a host name"),
            ("-x", "use a host name"),
            ("a..b", "use a host name"),
            ("", "use a host name"),
        ] {
            let refused = text.parse::<Host>().expect_err(text);
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    #[test]
    fn three_ports_have_to_exist() {
        use crate::cli::Cli;
        for (port, good) in [("0", false), ("1", true), ("65533", true), ("65534", false)] {
            let parsed = <Cli as clap::Parser>::try_parse_from(["hone", "init", "--port", port]);
            assert_eq!(parsed.is_ok(), good, "{port}");
        }
    }
}
