//! `hone restore`: goes back to an export of the controller's state.

use std::path::PathBuf;

use hone_proto::error::Reason;
use serde::Serialize;

use super::error::{Exit, Failure};
use super::render::table::facts;
use super::{Ctx, OutputArgs, init};
use crate::restore::{RestoreError, Restored, restore};
use crate::setup::{DataDir, SetupError};

/// Go back to an export of the controller's state, on the controller's machine, while it does not run
///
/// The export is checked before anything is touched, and a crash at any point leaves what was there or the export. The
/// next `hone serve` raises the generation: what was granted after the export was written does not count any more.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The export: `backup/state.export` of the data folder, or what `hone export` saved
    file: PathBuf,
    /// Where the controller's data lives
    #[arg(long, value_name = "DIR", default_value = init::DATA_DIR, env = "HONE_CONTROLLER_DIR")]
    dir: PathBuf,
    /// Set aside the state that is there, damaged or newer; its files stay for you to remove
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Serialize)]
struct Told {
    directory: PathBuf,
    commit: u64,
    records: u64,
    jobs: usize,
    nodes: usize,
    set_aside: Option<PathBuf>,
}

pub(super) fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let restored = restore(&DataDir::new(&args.dir), &args.file, args.replace).map_err(explain)?;
    let Restored { export, jobs, nodes, set_aside } = restored;
    let told = Told {
        directory: args.dir.clone(),
        commit: export.seq,
        records: export.records,
        jobs,
        nodes,
        set_aside,
    };
    ctx.printer.value(&told, |told, width| {
        let mut lines = vec![
            ("data", told.directory.display().to_string()),
            ("state of", format!("commit {}, {} records", told.commit, told.records)),
            ("knows", format!("{} jobs, {} nodes", told.jobs, told.nodes)),
        ];
        lines.extend(told.set_aside.as_ref().map(|old| ("set aside", old.display().to_string())));
        facts(&lines, width)
    })?;
    if !ctx.printer.json() {
        ctx.printer.talk(&format!(
            "\nnext:\n  hone serve --dir {}   goes on from there",
            args.dir.display()
        ));
    }
    Ok(Exit::OK)
}

/// A new controller would be another fleet's: no node and nobody of this one would trust it.
const KEYS_FIRST: &str =
    "put your copy of `authority/` and `address.toml` into it first: an export holds no keys";

/// Gives a refused restore its exit code and hint.
fn explain(error: RestoreError) -> anyhow::Error {
    let (reason, hint) = match &error {
        RestoreError::SetUp(SetupError::NotSetUp(_)) => (Reason::NotFound, KEYS_FIRST),
        RestoreError::SetUp(_) => {
            return match error {
                RestoreError::SetUp(error) => init::explain(error),
                other => other.into(),
            };
        }
        RestoreError::Authority(_) => (Reason::Internal, KEYS_FIRST),
        RestoreError::Export { source, .. } if not_there(source) => {
            (Reason::NotFound, "`backup/state.export` in the data folder is the newest one")
        }
        RestoreError::Export { .. } => {
            (Reason::Corrupt, "nothing was touched; try another copy of the export")
        }
        RestoreError::Unreadable { .. } => {
            (Reason::Protocol, "nothing was touched; use the release that wrote it, or a newer one")
        }
        RestoreError::OtherFleet { .. } => {
            (Reason::Conflict, "nothing was touched; is this the right --dir?")
        }
        RestoreError::Running(_) => (Reason::Conflict, "stop `hone serve` first"),
        RestoreError::Present { .. } => {
            (Reason::Conflict, "--replace sets it aside and goes back to the export")
        }
        RestoreError::Store(source) if source.is_full_disk() => {
            (Reason::OutOfSpace, "free disk space; what was there is still in use")
        }
        RestoreError::Store(_) => (Reason::Internal, "may this user write there?"),
    };
    let failure = Failure::new(reason, error.to_string()).hint(hint);
    match std::error::Error::source(&error) {
        Some(_) => failure.because(error).into(),
        None => failure.into(),
    }
}

fn not_there(error: &crate::store::StoreError) -> bool {
    matches!(error, crate::store::StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::super::error::Report;
    use super::*;

    #[test]
    fn an_empty_folder_wants_its_keys_back_and_no_new_controller() {
        let empty = SetupError::NotSetUp(PathBuf::from("/srv/hone"));
        let report = Report::of(&explain(RestoreError::SetUp(empty))).expect("a report");
        assert_eq!(report.exit.code(), 7);
        assert!(report.text().contains("`authority/` and `address.toml`"), "{}", report.text());
        assert!(!report.text().contains("hone init"), "{}", report.text());
    }
}
