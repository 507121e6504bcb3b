//! `hone-agent`: joins a machine to a fleet, and runs its jobs.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use hone_agent::config::Config;
use hone_agent::layout::Layout;
use hone_agent::run::run;
use hone_proto::enrol::{Invitation, join};
use hone_proto::identity::{ControllerAddress, IdentityDir};
use hone_proto::{telemetry, wire};
use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};

/// Where settings are read from unless somebody says otherwise.
const CONFIG: &str = "/etc/hone/agent.toml";

/// The enrolment port, unless the address names another.
const ENROLMENT_PORT: u16 = 7402;

/// Longest token that is read.
const MAX_TOKEN: u64 = 4096;

/// Runs fine-tuning jobs on this machine for a hone controller
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Where the agent's data lives
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/var/lib/hone-agent",
        env = "HONE_AGENT_STATE_DIR"
    )]
    state_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join a fleet, with the token on standard input; `hone node token` prints the whole command
    Join {
        /// The controller's address, and its enrolment port if that is not 7402
        #[arg(long, value_name = "HOST[:PORT]")]
        controller: String,
        /// SHA-256 of the fleet's root certificate
        #[arg(long, value_name = "HEX")]
        fingerprint: String,
        /// Read the token from this file instead of standard input
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// Run until SIGTERM; containers go on when the agent stops
    Run {
        /// Settings [default: /etc/hone/agent.toml, if it is there]
        #[arg(long, value_name = "FILE", env = "HONE_AGENT_CONFIG")]
        config: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One thread: an idle agent must cost next to nothing. What blocks has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.context("cannot start the runtime").and_then(|runtime| {
        let done = tokio::task::LocalSet::new().block_on(&runtime, command(cli));
        runtime.shutdown_background();
        done
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut lines = format!("error: {error}\n");
            for cause in error.chain().skip(1) {
                lines.push_str(&format!("  caused by: {cause}\n"));
            }
            anstream_stderr(&lines);
            ExitCode::FAILURE
        }
    }
}

/// Talk goes to standard error.
fn anstream_stderr(text: &str) {
    use std::io::Write as _;
    // Nobody is left to tell when standard error is gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

async fn command(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Join { controller, fingerprint, token_file } => {
            let layout = Layout::new(cli.state_dir);
            let token = read_token(token_file.as_deref())?;
            let dir = IdentityDir::new(layout.identity());
            let invitation = Invitation {
                controller: address(&controller)?,
                root: fingerprint.parse().context("--fingerprint")?,
                token,
                kind: wire::EnrolKind::Node,
                display_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            };
            let (_, record) = join(&dir, invitation).await?;
            anstream_stderr(&format!(
                "joined as {}\nnext: hone-agent run --state-dir {}\n",
                record.id,
                layout.root().display()
            ));
            Ok(())
        }
        Command::Run { config } => {
            let path = config.as_deref().unwrap_or(Path::new(CONFIG));
            let config = Config::read(path, config.is_some())?;
            let endpoint = config.telemetry.otlp_endpoint.as_deref();
            let _telemetry = telemetry::init("hone-agent", endpoint)?;
            let mut terminated = signal(SignalKind::terminate())?;
            let shutdown = async move {
                tokio::select! {
                    _ = terminated.recv() => {}
                    _ = tokio::signal::ctrl_c() => {}
                }
            };
            run(&config, cli.state_dir, ready, shutdown).await?;
            Ok(())
        }
    }
}

fn ready() {
    tracing::info!("the agent runs");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!("systemd was not told: {error}");
    }
}

/// The enrolment port follows the two others, as the controller lays them out.
fn address(text: &str) -> anyhow::Result<ControllerAddress> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().with_context(|| format!("--controller {text}: the port"))?)
        }
        Some(_) | None => (text, ENROLMENT_PORT),
    };
    if host.is_empty() || port < 3 {
        bail!("--controller {text}: it must be HOST or HOST:PORT");
    }
    Ok(ControllerAddress::consecutive(host, port - 2))
}

fn read_token(file: Option<&Path>) -> anyhow::Result<SecretString> {
    let mut text = String::new();
    match file {
        Some(path) => {
            let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
            file.take(MAX_TOKEN).read_to_string(&mut text)?;
        }
        None => {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                anstream_stderr("paste the token and press Enter, then Ctrl-D:\n");
            }
            stdin.take(MAX_TOKEN).read_to_string(&mut text)?;
        }
    }
    if text.trim().is_empty() {
        bail!("no token was given; `hone node token` prints one");
    }
    Ok(SecretString::from(text.trim()))
}
