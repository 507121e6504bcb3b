//! `hone-agent`: joins a machine to a fleet, and runs its jobs.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use hone_agent::config::Config;
use hone_agent::instance::Loss;
use hone_agent::layout::Layout;
use hone_agent::preview;
use hone_agent::report::{Missing, Report};
use hone_agent::run::{Vacant, forgo, run};
use hone_proto::enrol::Invitation;
use hone_proto::identity::{ControllerAddress, Fingerprint};
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
        controller: EnrolsAt,
        /// SHA-256 of the fleet's root certificate
        #[arg(long, value_name = "HEX")]
        fingerprint: Fingerprint,
        /// Read the token from this file instead of standard input
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Make another node of a machine that has joined
        #[arg(long)]
        again: bool,
    },
    /// Run until SIGTERM; containers go on when the agent stops
    Run {
        /// Settings [default: /etc/hone/agent.toml, if it is there]
        #[arg(long, value_name = "FILE", env = "HONE_AGENT_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Show what this machine has and would offer; touches nothing, and works before joining
    Inventory {
        /// Settings [default: /etc/hone/agent.toml, if it is there]
        #[arg(long, value_name = "FILE", env = "HONE_AGENT_CONFIG")]
        config: Option<PathBuf>,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Begin anew after the state or the spool was lost; says what that costs
    AcceptLoss,
}

/// For whom something is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Output {
    /// For people, in 80 columns
    #[default]
    Text,
    /// For programs
    Json,
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
            let report = Report::of(&error);
            anstream_stderr(&report.text);
            ExitCode::from(report.exit)
        }
    }
}

/// Talk goes to standard error.
fn anstream_stderr(text: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

async fn command(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Join { controller, fingerprint, token_file, again } => {
            let layout = Layout::new(cli.state_dir);
            // First of all: a token is asked for only when it can be used.
            let vacant = Vacant::take(&layout, again).await?;
            let invitation = Invitation {
                controller: controller.0,
                root: fingerprint,
                token: read_token(token_file.as_deref())?,
                kind: wire::EnrolKind::Node,
                display_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            };
            let record = vacant.join(invitation).await?;
            anstream_stderr(&format!(
                "joined as {}\nnext: hone-agent run --state-dir {}\n",
                record.id,
                layout.root().display()
            ));
            Ok(())
        }
        Command::Run { config } => {
            let config = read_config(config.as_deref())?;
            let endpoint = config.telemetry.otlp_endpoint.as_deref();
            let _telemetry = telemetry::init(telemetry::Service::Agent, endpoint)?;
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
        Command::Inventory { config, output } => {
            let config = read_config(config.as_deref())?;
            let preview = preview::look(&config, cli.state_dir).await?;
            let text = match output {
                Output::Text => preview::render(&preview),
                Output::Json => serde_json::to_string_pretty(&preview)? + "\n",
            };
            // A reader that went away has read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(())
        }
        Command::AcceptLoss => {
            anstream_stderr(&told(&forgo(cli.state_dir)?));
            Ok(())
        }
    }
}

fn read_config(named: Option<&Path>) -> anyhow::Result<Config> {
    Ok(Config::read(named.unwrap_or(Path::new(CONFIG)), named.is_some())?)
}

/// Says what was given up, and what follows.
fn told(loss: &Loss) -> String {
    if loss.consequences().is_empty() {
        return "nothing is lost: `hone-agent run` starts as it is\n".to_owned();
    }
    let mut text = String::new();
    for consequence in loss.consequences() {
        text.push_str(&format!("accepted: {consequence}\n"));
    }
    if let Some(place) = &loss.kept_in {
        text.push_str(&format!("what could not be used lies in {}\n", place.display()));
    }
    text.push_str("next: hone-agent run\n");
    text
}

fn ready() {
    tracing::info!("the agent runs");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!("systemd was not told: {error}");
    }
}

/// `HOST[:PORT]` of enrolment, whose port follows the two others, as the controller lays them out.
#[derive(Debug, Clone)]
struct EnrolsAt(ControllerAddress);

impl FromStr for EnrolsAt {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "use HOST or HOST:PORT, as `hone node token` prints it";
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().map_err(|_| FORM)?)
            }
            Some(_) | None => (text, ENROLMENT_PORT),
        };
        if host.is_empty() || host.contains('/') || port < 3 {
            return Err(FORM);
        }
        Ok(Self(ControllerAddress::consecutive(host, port - 2)))
    }
}

fn read_token(file: Option<&Path>) -> anyhow::Result<SecretString> {
    let mut text = String::new();
    match file {
        Some(path) => {
            let opened = std::fs::File::open(path);
            let read = opened.and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text));
            read.with_context(|| format!("cannot read the token from {}", path.display()))?;
        }
        None => {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                anstream_stderr("paste the token and press Enter, then Ctrl-D:\n");
            }
            let read = stdin.take(MAX_TOKEN).read_to_string(&mut text);
            read.context("cannot read the token from standard input")?;
        }
    }
    if text.trim().is_empty() {
        let what = "no token was given";
        return Err(Missing { what, hint: "run the command that `hone node token` prints" }.into());
    }
    Ok(SecretString::from(text.trim()))
}
