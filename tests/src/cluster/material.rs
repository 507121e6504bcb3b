//! What the jobs of the tests work with: the trainer's image, a model that has learned nothing, a task.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::process::built;
use super::succeeded;
use crate::docker::docker;

/// Builds the trainer's image.
const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/trainer/build");

/// Builds the images of other tools.
const BUILD_TOOL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images/build");

/// The tag of the image of a tool as its authors publish it, built if it is not there.
///
/// # Errors
/// When it cannot be built.
pub fn tool_image(name: &str) -> Result<String> {
    let output = Command::new(BUILD_TOOL).arg(name).output().context("tests/images/build")?;
    let printed = succeeded(output).context("tests/images/build")?;
    Ok(printed.lines().next_back().context("a tag")?.to_owned())
}

/// Fills `work` with `model/` and `task.jsonl`, and returns the image's tag. Made once and kept beside what cargo builds.
///
/// # Errors
/// When the image cannot be built or run.
pub fn prepare(work: &Path) -> Result<String> {
    let tag = build(&["--print-tag"])?.trim().to_owned();
    if docker(&["image", "inspect", &tag]).is_err() {
        build(&[])?;
    }
    let (_, content) = tag.split_once(':').context("a tag")?;
    let kept = built()?.parent().context("it lies in target/")?.join("test-model").join(content);
    if !kept.join("task.jsonl").exists() {
        std::fs::create_dir_all(&kept)?;
        make(&tag, &kept, &["hone_trainer.make_base", "/out/model", "--steps", "0"])?;
        make(&tag, &kept, &["hone_trainer.make_task", "/out/task.jsonl", "--rows", "300"])?;
    }
    std::fs::create_dir_all(work.join("model"))?;
    for file in std::fs::read_dir(kept.join("model"))? {
        let file = file?;
        std::fs::copy(file.path(), work.join("model").join(file.file_name()))?;
    }
    std::fs::copy(kept.join("task.jsonl"), work.join("task.jsonl"))?;
    Ok(tag)
}

fn build(args: &[&str]) -> Result<String> {
    let output = Command::new(BUILD).args(args).output().context("deploy/trainer/build")?;
    succeeded(output).context("deploy/trainer/build")
}

fn make(tag: &str, out: &Path, module: &[&str]) -> Result<()> {
    let mount = format!("{}:/out", out.display());
    let mut args = vec!["run", "--rm", "--user", "0", "--network", "none", "-v", &mount];
    args.extend(["--entrypoint", "python3", tag, "-m"]);
    args.extend(module);
    docker(&args).map(drop)
}
