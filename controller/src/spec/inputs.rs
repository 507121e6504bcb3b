//! The files and directories that a spec names, found on the machine that submits.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use hone_proto::assignment::Channel;

use super::error::{ProblemKind, SpecError, quoted};
use super::types::JobSpec;

/// Something to upload before the job is submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalInput {
    /// Where it goes.
    pub channel: Channel,
    /// A regular file or a directory; exists when [`local_inputs`] says so, and may vanish any time after.
    pub path: PathBuf,
}

/// What `spec` wants uploaded, with paths relative to `base_dir`. Looks at the file system.
///
/// # Errors
/// Names the line of each path that does not exist, cannot be read, or is not what it should be.
pub fn local_inputs(spec: &JobSpec, base_dir: &Path) -> Result<Vec<LocalInput>, SpecError> {
    let mut inputs = Vec::new();
    let mut problems = Vec::new();
    // What an own script takes for a model is its own affair.
    let layout = !spec.trainer.kind.is_own_script();
    for (channel, named) in spec.inputs() {
        let path = base_dir.join(&named.text);
        match check(channel, &path, layout) {
            Ok(()) => inputs.push(LocalInput { channel, path }),
            Err((what, hint)) => {
                let mut problem = named.origin.problem(ProblemKind::Input, &named.key, what);
                problem.hint = hint.to_owned();
                problems.push(problem);
            }
        }
    }
    if problems.is_empty() { Ok(inputs) } else { Err(SpecError::new(&spec.source, problems, 0)) }
}

/// What is wrong with the file or directory, and a hint. `layout` asks for a model in Hugging Face layout.
fn check(channel: Channel, path: &Path, layout: bool) -> Result<(), (String, &'static str)> {
    let shown = quoted(&path.display().to_string(), 200);
    let meta = std::fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => (
            format!("there is no {shown}"),
            "paths in a spec are relative to the spec's own directory",
        ),
        _ => (format!("cannot read {shown}: {error}"), ""),
    })?;
    let wrong = match channel {
        Channel::Model if !meta.is_dir() => {
            (format!("{shown} is not a directory"), "name the directory that holds the model")
        }
        Channel::Model if layout && !path.join("config.json").is_file() => (
            format!("{shown} has no config.json, so it is not a model in Hugging Face layout"),
            "name the directory that holds config.json and the weights",
        ),
        Channel::Train | Channel::Eval if meta.is_file() && meta.len() == 0 => {
            (format!("{shown} is empty"), "")
        }
        Channel::Train | Channel::Eval if !meta.is_file() && !meta.is_dir() => {
            (format!("{shown} is neither a file nor a directory"), "")
        }
        _ => {
            let opened = std::fs::File::open(path).map(drop);
            return opened.map_err(|error| (format!("cannot read {shown}: {error}"), ""));
        }
    };
    Err(wrong)
}
