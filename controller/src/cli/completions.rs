//! `hone completions`: a script for the shell.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::error::Exit;
use super::{Cli, Ctx};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "hone", &mut script);
    ctx.printer.raw(&String::from_utf8_lossy(&script))?;
    Ok(Exit::OK)
}
