//! `hone serve`: runs the controller on this machine until it is told to stop.

use std::path::{Path, PathBuf};

use hone_proto::error::Reason;
use hone_proto::telemetry;
use tokio::signal::unix::{SignalKind, signal};

use super::error::{Exit, Failure, refused_by_system};
use super::{Ctx, init};
use crate::config::Config;
use crate::serve::{ServeError, serve};
use crate::setup::DataDir;
use crate::store::StoreError;

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
            .because(error)
    })?;
    if let Some(ip) = args.listen {
        config.listen.ip = ip;
    }
    let otlp = config.telemetry.otlp_endpoint.as_deref();
    let _telemetry = telemetry::init(telemetry::Service::Controller, otlp)?;
    let mut terminated = signal(SignalKind::terminate())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let dir = DataDir::new(&args.dir);
    let ready = |ports: &str| ctx.printer.talk(&format!("hone serves on {ports}"));
    serve(&config, &dir, ready, shutdown).await.map_err(|error| explain(error, &dir))?;
    Ok(Exit::OK)
}

/// Gives a controller that cannot serve its exit code and hint.
fn explain(error: ServeError, dir: &DataDir) -> anyhow::Error {
    let (reason, hint) = match &error {
        ServeError::SetUp(_) => {
            return match error {
                ServeError::SetUp(error) => init::explain(error),
                other => other.into(),
            };
        }
        ServeError::Listen { source, .. } => (
            refused_by_system(source).map_or(Reason::Internal, |(reason, _)| reason),
            "is another controller running here? `hone init --port` moves all three ports"
                .to_owned(),
        ),
        ServeError::Store(StoreError::InUse { .. }) => {
            (Reason::Conflict, "another `hone serve` runs on this folder".to_owned())
        }
        ServeError::Store(error) if error.is_full_disk() => {
            (Reason::OutOfSpace, "free disk space on this machine".to_owned())
        }
        ServeError::Store(StoreError::StateMissing { .. }) => (Reason::Internal, go_back(dir, "")),
        ServeError::Store(StoreError::TooNew { .. }) => {
            (Reason::Protocol, "use the release that wrote it, or a newer one".to_owned())
        }
        ServeError::Store(_) => (Reason::Internal, go_back(dir, " --replace")),
        _ => return error.into(),
    };
    Failure::new(reason, error.to_string()).hint(hint).because(error).into()
}

/// The command that goes back to the last export.
fn go_back(dir: &DataDir, how: &str) -> String {
    let (from, to) = (dir.export(), dir.path());
    format!(
        "`hone restore {} --dir {}{how}` goes back to the last export",
        from.display(),
        to.display()
    )
}

#[cfg(test)]
mod tests {
    use super::super::error::Report;
    use super::*;

    #[tokio::test]
    async fn settings_that_are_not_there_are_told_with_the_cause() {
        let ran = crate::cli::fake::Fake::default()
            .hone(&["serve", "--config", "/nowhere/controller.toml"])
            .await;
        insta::assert_snapshot!(ran.err, @r"
        error: /nowhere/controller.toml cannot be read
          caused by: No such file or directory (os error 2)
        hint: docs/operations.md lists every setting
        ");
        assert_eq!(ran.exit, 2);
    }

    #[test]
    fn a_taken_port_is_a_conflict_and_no_fault_of_hone() {
        let source = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        let error = ServeError::Listen { address: "[::]:7400".to_owned(), source };
        let report = Report::of(&explain(error, &DataDir::new("/var/lib/hone"))).expect("a report");
        assert_eq!(report.exit.code(), 8);
        assert!(report.text().contains("--port"), "{}", report.text());
    }
}
