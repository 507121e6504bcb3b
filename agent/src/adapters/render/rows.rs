//! Files of rows: where they lie, and what a tool must be told to read them.

use super::{DATA, RenderError};

/// Full paths of a channel's files.
pub(super) fn files_of(channel: &str, names: &[String]) -> Vec<String> {
    names.iter().map(|name| format!("{DATA}/{channel}/{name}")).collect()
}

/// The loader of the `datasets` library that a file needs, by the end of its name.
///
/// # Errors
/// When `tool` is not told how to read such a file.
pub(super) fn loader(tool: &'static str, name: &str) -> Result<&'static str, RenderError> {
    Ok(match end(name) {
        "csv" => "csv",
        "parquet" => "parquet",
        "arrow" => "arrow",
        "txt" | "md" => "text",
        "tsv" => {
            let hint = "write them as JSON Lines, or bring a configuration of your own";
            return Err(RenderError::Format { tool, format: "tsv".to_owned(), hint });
        }
        _ => "json",
    })
}

/// The one loader of all these files.
///
/// # Errors
/// When they need several.
pub(super) fn one_loader<'a>(
    tool: &'static str,
    names: impl Iterator<Item = &'a String>,
) -> Result<&'static str, RenderError> {
    let mut one = None;
    for name in names {
        let loader = loader(tool, name)?;
        if *one.get_or_insert(loader) != loader {
            return Err(RenderError::Unsupported(format!(
                "{tool} reads all files of rows in one way, and `{name}` needs another than those before it: give them \
                 one format"
            )));
        }
    }
    Ok(one.unwrap_or("json"))
}

/// Refuses files that a tool does not know by the ends of their names.
///
/// # Errors
/// Names the first.
pub(super) fn require_known<'a>(
    tool: &'static str,
    known: &[&str],
    mut names: impl Iterator<Item = &'a String>,
) -> Result<(), RenderError> {
    let Some(name) = names.find(|name| !known.contains(&end(name))) else { return Ok(()) };
    Err(RenderError::Format {
        tool,
        format: end(name).to_owned(),
        hint: "write them as JSON Lines, or bring a configuration of your own",
    })
}

fn end(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Rendered, Scene, Versions, render};
    use super::*;
    use crate::adapters::job::ToolJob;

    fn of(kind: &str, train: &[&str], eval: &[&str]) -> Result<Rendered, RenderError> {
        let spec = json!({"trainer": {"kind": kind}});
        let job = ToolJob::of_spec(&spec.to_string()).expect("a spec").expect("a tool");
        let packages = [("trl", "1.16.0"), ("axolotl", "0.18.0"), ("llamafactory", "0.9.5")];
        let packages = packages.map(|(name, version)| (name.to_owned(), version.to_owned()));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let scene = Scene {
            versions: Versions { packages: packages.into_iter().collect(), ..Versions::default() },
            train: names(train),
            eval: names(eval),
            ..Scene::default()
        };
        render(&job, &scene)
    }

    #[test]
    fn every_file_is_read_by_what_it_is() {
        let found = of("axolotl", &["a.jsonl", "b.csv"], &["c.parquet"]).expect("rendered");
        let config: Value = serde_json::from_str(&found.files[0].1).expect("JSON");
        let kinds = ["/datasets/0", "/datasets/1", "/test_datasets/0"]
            .map(|at| config.pointer(&format!("{at}/ds_type")).cloned());
        assert_eq!(kinds, ["json", "csv", "parquet"].map(|kind| Some(json!(kind))));
    }

    #[test]
    fn what_a_tool_cannot_read_is_refused() {
        for (kind, train, eval, refused) in [
            ("trl", &["a.jsonl", "b.json"][..], &[][..], false),
            ("trl", &["a.jsonl", "b.csv"], &[], true),
            ("trl", &["a.jsonl"], &["b.parquet"], true),
            ("trl", &["a.tsv"], &[], true),
            ("axolotl", &["a.tsv"], &[], true),
            ("axolotl", &["a.jsonl"], &["b.tsv"], true),
            ("llamafactory", &["a.csv", "b.jsonl"], &[], false),
            ("llamafactory", &["a.tsv"], &[], true),
            ("llamafactory", &["a.jsonl"], &["b.ndjson"], true),
        ] {
            let found = of(kind, train, eval);
            assert_eq!(found.is_err(), refused, "{kind} {train:?} {eval:?}: {found:?}");
        }
    }
}
