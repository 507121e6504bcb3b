//! The `hone` command: what a person types. One file per verb; doc comments of arguments are the help text.
//!
//! Verbs use the generated client only, never the fleet core or the store. Data goes to standard output and talk to
//! standard error ([`output`]); errors become words and exit codes in one place ([`error`]).

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use hone_proto::time::{Now, WallNanos};

pub mod client;
pub mod error;
pub mod output;
pub mod render;
pub mod watch;

mod bottleneck;
mod cancel;
mod checkpoints;
mod completions;
pub mod context;
mod events;
mod explain;
mod export;
mod fit;
mod follow;
mod image;
mod init;
mod input;
mod login;
mod logs;
mod node;
mod operator;
mod progress;
mod ps;
mod pull;
mod restore;
mod samples;
mod serve;
mod show;
mod since;
mod submit;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_bulk;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_bulk;

use client::{Client, Connect, Pace};
use context::FromContext;
use error::{Exit, Report};
use output::{Color, Format, Printer};

/// Fine-tunes language models on the servers you already rent
///
/// Exit codes: 0 ok, 1 internal, 2 usage, 3 the answer is no, 4 bad spec, 5 controller unreachable, 6 not permitted,
/// 7 not found, 8 conflict, 9 the followed job failed, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "hone", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    command: Command,
}

/// Options that stand before or after any verb.
#[derive(Debug, Args)]
struct Global {
    /// Context to use instead of the current one
    #[arg(long, global = true, env = "HONE_CONTEXT", value_name = "NAME")]
    context: Option<String>,
    /// Where contexts are kept [default: ~/.config/hone]
    #[arg(long, global = true, env = "HONE_CONFIG_DIR", value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Say only what was asked for, and errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Draw no progress bars
    #[arg(long, global = true)]
    no_progress: bool,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
}

impl Global {
    /// The name of a context that is made: `--name`, or else `--context`, or else one made of the controller's host.
    fn name_of_new(&self, name: Option<&str>, host: &str) -> String {
        let given = name.or(self.context.as_deref());
        given.map_or_else(|| context::name_for(host), str::to_owned)
    }
}

/// How to print data. Not global in clap's sense, since `pull -o` names a folder.
#[derive(Debug, Clone, Copy, Default, Args)]
struct OutputArgs {
    /// How to print data
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Serve(serve::Args),
    Submit(submit::Args),
    Ps(ps::Args),
    Show(show::Args),
    Watch(watch::Args),
    Logs(logs::Args),
    Cancel(cancel::Args),
    Checkpoints(checkpoints::Args),
    Pull(pull::Args),
    Explain(explain::Args),
    Events(events::Args),
    /// Join, list, drain, resume and revoke nodes
    #[command(subcommand)]
    Node(node::Verb),
    /// Invite, list and revoke people
    #[command(subcommand)]
    Operator(operator::Verb),
    Login(login::Args),
    Export(export::Args),
    Restore(restore::Args),
    Fit(fit::Args),
    Completions(completions::Args),
}

impl Command {
    /// The format asked for after the verb.
    fn format(&self) -> Option<Format> {
        let output = match self {
            Self::Init(args) => args.output,
            Self::Submit(args) => args.output,
            Self::Ps(args) => args.output,
            Self::Show(args) => args.output,
            Self::Watch(args) => args.output,
            Self::Logs(args) => args.output,
            Self::Cancel(args) => args.output,
            Self::Checkpoints(args) => args.output,
            Self::Explain(args) => args.output,
            Self::Events(args) => args.output,
            Self::Export(args) => args.output,
            Self::Restore(args) => args.output,
            Self::Fit(args) => args.output,
            Self::Node(verb) => verb.output(),
            Self::Operator(verb) => verb.output(),
            Self::Login(args) => args.output,
            // `pull -o` names a folder; the other two print no data.
            Self::Serve(_) | Self::Pull(_) | Self::Completions(_) => OutputArgs::default(),
        };
        output.output
    }
}

/// What every verb works with.
struct Ctx {
    printer: Printer,
    connect: Arc<dyn Connect>,
    clock: fn() -> WallNanos,
    pace: Pace,
}

impl Ctx {
    async fn client(&self) -> anyhow::Result<Client> {
        Client::open(Arc::clone(&self.connect), self.pace).await
    }

    fn now(&self) -> WallNanos {
        (self.clock)()
    }
}

/// Reads the command line, does what it says, and returns the exit code.
#[must_use]
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let format = cli.command.format().or(cli.output.output).unwrap_or_default();
    let global = &cli.global;
    let printer = Printer::std(format, global.color, global.quiet, global.no_progress);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            printer.complain(&format!("error: cannot start the runtime: {error}\n"));
            return 1;
        }
    };
    let connect = FromContext::new(global.config_dir.clone(), global.context.clone());
    let mut ctx = Ctx {
        printer,
        connect: Arc::new(connect),
        clock: || Now::read().wall,
        pace: Pace::default(),
    };
    let done = runtime.block_on(run(&cli, &mut ctx));
    // A reader of standard input may still block in a thread of the runtime.
    runtime.shutdown_background();
    finish(done, &mut ctx.printer).code()
}

/// Help and version as they are; mistakes as every other error.
fn usage(error: &clap::Error) -> u8 {
    match Report::of_usage(error) {
        Some(report) => {
            let printer = Printer::std(Format::Table, Color::Auto, false, true);
            printer.complain(&report.text());
            report.exit.code()
        }
        None => {
            // Nobody reading it is not an error.
            let _ = error.print();
            u8::try_from(error.exit_code()).unwrap_or(2)
        }
    }
}

/// Tells what went wrong, and turns it into an exit code.
fn finish(done: anyhow::Result<Exit>, printer: &mut Printer) -> Exit {
    match done {
        Ok(exit) => exit,
        Err(error) => match Report::of(&error) {
            Some(report) => {
                printer.complain(&report.text());
                report.exit
            }
            None => Exit::OK,
        },
    }
}

async fn run(cli: &Cli, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    match &cli.command {
        Command::Init(args) => init::run(args, &cli.global, ctx),
        Command::Serve(args) => serve::run(args, ctx).await,
        Command::Submit(args) => submit::run(args, &cli.global, ctx).await,
        Command::Ps(args) => ps::run(args, ctx).await,
        Command::Show(args) => show::run(args, ctx).await,
        Command::Watch(args) => watch::run(args, ctx).await,
        Command::Logs(args) => logs::run(args, ctx).await,
        Command::Cancel(args) => cancel::run(args, ctx).await,
        Command::Checkpoints(args) => checkpoints::run(args, ctx).await,
        Command::Pull(args) => pull::run(args, ctx).await,
        Command::Explain(args) => explain::run(args, ctx).await,
        Command::Events(args) => events::run(args, ctx).await,
        Command::Node(verb) => node::run(verb, ctx).await,
        Command::Operator(verb) => operator::run(verb, ctx).await,
        Command::Login(args) => login::run(args, &cli.global, ctx).await,
        Command::Export(args) => export::run(args, ctx).await,
        Command::Restore(args) => restore::run(args, ctx),
        Command::Fit(args) => fit::run(args, ctx),
        Command::Completions(args) => completions::run(args, ctx),
    }
}
