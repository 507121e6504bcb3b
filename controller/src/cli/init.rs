//! `hone init`: makes a controller on this machine, and its first operator.

use std::path::PathBuf;

use hone_proto::error::Reason;
use hone_proto::id::{FleetId, UserName};
use hone_proto::identity::ControllerAddress;
use hone_proto::time::Now;
use serde::Serialize;

use super::context::Contexts;
use super::error::{Exit, Failure};
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
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    dir: PathBuf,
    /// Host name or address by which nodes and people reach it [default: this machine's host name]
    #[arg(long, value_name = "HOST")]
    address: Option<String>,
    /// First of the three ports: control, bulk data, enrolment
    #[arg(long, value_name = "PORT", default_value_t = CONTROL_PORT)]
    port: u16,
    /// Your user name, as its first admin
    #[arg(long, value_name = "NAME", default_value = "admin")]
    user: UserName,
    /// Name of the context that is made [default: the address]
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
    if args.port > u16::MAX - 2 {
        let message = format!("the ports {} and the next two do not exist", args.port);
        return Err(Failure::new(Reason::BadRequest, message).into());
    }
    let host = args.address.clone().unwrap_or_else(hostname);
    let contexts = Contexts::locate(global.config_dir.as_deref())?;
    let context = args.name.clone().unwrap_or_else(|| host.replace(':', "-"));
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
    let founded = found(&DataDir::new(&args.dir), fleet_id()?, &args.user, &address, Now::read())
        .map_err(explain)?;
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

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
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
        _ => (Reason::Internal, Some("may this user write there, and is there room?")),
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
