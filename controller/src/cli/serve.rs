//! `hone serve`: runs the controller on this machine until it is told to stop.

use std::path::{Path, PathBuf};

use hone_proto::error::Reason;
use tokio::signal::unix::{SignalKind, signal};

use super::error::{Exit, Failure};
use super::{Ctx, init};
use crate::config::Config;
use crate::serve::{ServeError, serve};
use crate::setup::DataDir;

/// Where settings are read from unless somebody says otherwise.
const CONFIG: &str = "/etc/hone/controller.toml";

/// Run the controller on this machine, until SIGTERM or Ctrl-C
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where its data lives, as `hone init` made it
    #[arg(long, value_name = "DIR", default_value = init::DATA_DIR, env = "HONE_CONTROLLER_DIR")]
    dir: PathBuf,
    /// Settings [default: /etc/hone/controller.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "HONE_CONTROLLER_CONFIG")]
    config: Option<PathBuf>,
    /// Address to listen on [default: all of this machine's]
    #[arg(long, value_name = "IP", env = "HONE_CONTROLLER_LISTEN")]
    listen: Option<std::net::IpAddr>,
}

pub(super) async fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let path = args.config.as_deref().unwrap_or(Path::new(CONFIG));
    let mut config = Config::read(path, args.config.is_some()).map_err(|error| {
        Failure::new(Reason::BadRequest, error.to_string())
            .hint("docs/operations.md lists every setting")
    })?;
    if let Some(ip) = args.listen {
        config.listen.ip = ip;
    }
    let otlp = config.telemetry.otlp_endpoint.as_deref();
    let _telemetry = hone_proto::telemetry::init("hone-controller", otlp)?;
    let mut terminated = signal(SignalKind::terminate())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let dir = DataDir::new(&args.dir);
    let ready = |ports: &str| ctx.printer.talk(&format!("hone serves on {ports}"));
    serve(&config, &dir, ready, shutdown).await.map_err(explain)?;
    Ok(Exit::OK)
}

/// Gives a controller that cannot serve its exit code and hint.
fn explain(error: ServeError) -> anyhow::Error {
    let hint = match &error {
        ServeError::SetUp(_) => {
            return match error {
                ServeError::SetUp(error) => init::explain(error),
                other => other.into(),
            };
        }
        ServeError::Listen { .. } => {
            "is another controller running here? `hone init --port` moves all three ports"
        }
        ServeError::Store(_) => "docs/operations.md tells how to restore the last export",
        _ => return error.into(),
    };
    Failure::new(Reason::Internal, error.to_string()).hint(hint).because(error).into()
}
