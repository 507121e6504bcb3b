//! `hone fit`: what training takes, predicted on this machine alone: no controller, no identity, no network.

use std::path::{Path, PathBuf};

use hone_proto::error::Reason;

use super::error::{Exit, Failure};
use super::render::fit::text;
use super::{Ctx, OutputArgs};
use crate::fit_table::{Report, Row, Shapes, TableError};

/// Most bytes of a table.
const MAX_TABLE: u64 = 64 << 20;

/// Predict GPU memory for a table of configurations, and compare it with what was measured
///
/// The table is a CSV file with a header: id, model, method (full, lora, qlora), quant, lora_r, lora_targets,
/// optimizer, seq_len, micro_batch, grad_ckpt, framework, gpu, n_gpus, notes; and measured_gib with what_measured,
/// or outcome with capacity_gib. In JSON, errors are shares: 0.01 is one per cent.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Configurations, and what was measured
    #[arg(long, value_name = "FILE")]
    table: PathBuf,
    /// Shapes of further models, as a CSV file
    #[arg(long, value_name = "FILE")]
    shapes: Option<PathBuf>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let mut shapes = Shapes::built_in()?;
    if let Some(path) = &args.shapes {
        shapes.add(&read(path)?).map_err(|error| unreadable(path, error))?;
    }
    let rows = Row::read(&read(&args.table)?).map_err(|error| unreadable(&args.table, error))?;
    ctx.printer.value(&Report::of(&rows, &shapes), text)?;
    Ok(Exit::OK)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let failed = || Failure::new(Reason::BadRequest, format!("cannot read {}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| failed().because(error))?.len();
    if size > MAX_TABLE {
        let most = format!("a table has at most {} MiB; split it", MAX_TABLE >> 20);
        return Err(failed().hint(most).into());
    }
    Ok(std::fs::read_to_string(path).map_err(|error| failed().because(error))?)
}

fn unreadable(path: &Path, error: TableError) -> Failure {
    Failure::new(Reason::BadRequest, format!("{} is not such a table", path.display()))
        .because(error)
        .hint("`hone fit --help` names the columns")
}

#[cfg(test)]
mod tests {
    use crate::cli::fake::Fake;

    const TABLE: &str = "\
id,model,method,quant,lora_r,lora_targets,optimizer,seq_len,micro_batch,grad_ckpt,framework,gpu,measured_gib,what_measured,n_gpus,notes
one,meta-llama/Meta-Llama-3-8B,full,,,,adamw_torch (foreach),4096,4,1,HF TRL [foak-liger],A100-80GB,74.802,torch max_allocated,1,AMP
two,meta-llama/Meta-Llama-3-8B,lora,,16,\"q,k,v,o\",AdamW,4096,4,1,my own trainer,A100-80GB,30,torch max_allocated,1,
";

    async fn fit(table: &str, more: &[&str]) -> crate::cli::fake::Ran {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("table.csv");
        std::fs::write(&path, table).expect("written");
        let path = path.to_str().expect("UTF-8");
        let mut words = vec!["fit", "--table", path];
        words.extend(more);
        Fake::default().hone(&words).await
    }

    #[tokio::test]
    async fn a_table_is_predicted_without_a_controller() {
        let ran = fit(TABLE, &[]).await;
        assert_eq!(ran.exit, 0, "{}", ran.err);
        insta::assert_snapshot!(ran.out);
    }

    #[tokio::test]
    async fn json_has_every_row_and_the_sums() {
        let ran = fit(TABLE, &["-o", "json"]).await;
        let value: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
        let rows = value["rows"].as_array().expect("rows");
        assert_eq!(rows.len(), 2);
        assert_eq!((&rows[0]["modelled"], &rows[1]["modelled"]), (&true.into(), &false.into()));
        assert_eq!(rows[1]["reason"], "no profile of `my own trainer`");
        let overall = &value["overall"];
        assert_eq!((&overall["rows"], &overall["modelled"]), (&2.into(), &1.into()));
        assert!(overall["mape"].as_f64().is_some_and(|error| error < 0.001), "{overall}");
        assert_eq!(value["groups"].as_array().map(Vec::len), Some(2));
    }

    #[tokio::test]
    async fn a_file_that_is_no_table_is_refused() {
        let ran = fit("id,model\n\"a,b\nc,d,e\n", &[]).await;
        assert_eq!(ran.exit, 2, "{}", ran.out);
        let ran = Fake::default().hone(&["fit", "--table", "/nowhere/at/all.csv"]).await;
        assert_eq!(ran.exit, 2);
        assert!(ran.err.contains("cannot read /nowhere/at/all.csv"), "{}", ran.err);
    }
}
