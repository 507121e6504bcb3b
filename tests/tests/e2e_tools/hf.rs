//! A script around the `Trainer` of Hugging Face, which is killed while it writes a checkpoint.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use hone_tests::cluster::material::tool_image;
use hone_tests::cluster::{Cluster, PATIENCE, wait_until};
use hone_tests::docker::docker;
use rustix::process::{Pid, Signal, kill_process};

use super::job::{fleet_with_pairs, has_each_loss_once};

const STEPS: u64 = 160;
const EVERY: u64 = 20;
/// What the `Trainer` writes last into a checkpoint.
const LAST: &str = "trainer_state.json";

fn spec(image: &str) -> String {
    format!(
        "name: hf
model: {{path: ./model, name: test-base}}
data: {{train: {{path: ./pairs.jsonl, format: prompt_completion}}}}
method: {{type: full}}
train:
  max_steps: {STEPS}
  batch: {{effective: 4, micro: 4}}
  precision: fp32
checkpoint: {{every: {{steps: {EVERY}}}}}
trainer:
  kind: hf
  image: \"{image}\"
  command: [python3, /opt/tool/train.py, --model_name_or_path, /hone/input/model,
            --train_file, /hone/input/data/train/pairs.jsonl]
resources: {{cpu: 1, memory: 3 GiB, disk: 2 GiB}}
"
    )
}

/// Checkpoint folders that the tool has begun, by step.
fn begun(output: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(output)? {
        let entry = entry?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("checkpoint-")?.parse().ok());
        found.extend(step.map(|step| (step, entry.path())));
    }
    Ok(found)
}

/// Where the tool of the job's only attempt writes.
fn output(fleet: &Cluster, job: u64) -> Result<PathBuf> {
    for entry in std::fs::read_dir(fleet.agent_dir().join("attempts"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&format!("{job}-")) {
            return Ok(entry.path().join("output"));
        }
    }
    bail!("job {job} has no folder on the node")
}

/// Processes of a container, by the numbers that the host has for them.
fn processes(container: &str) -> Result<Vec<Pid>> {
    let told = docker(&["top", container, "-eo", "pid"])?;
    told.lines()
        .skip(1)
        .map(|line| Pid::from_raw(line.trim().parse()?).context("a process"))
        .collect()
}

/// Kills a job while it writes a checkpoint after this step, and tells which. All its processes are stopped before it is
/// looked how far the save is, so that it cannot end between the look and the kill.
fn kill_in_a_save(fleet: &Cluster, job: u64, after: u64) -> Result<u64> {
    let container = fleet.container(job)?.id;
    let (output, processes) = (output(fleet, job)?, processes(&container)?);
    let all = |signal| processes.iter().try_for_each(|process| kill_process(*process, signal));
    let mut missed: BTreeSet<u64> = begun(&output)?.into_iter().map(|(step, _)| step).collect();
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        let new = begun(&output)?;
        let new = new.into_iter().find(|(step, _)| *step > after && !missed.contains(step));
        let Some((step, folder)) = new else {
            std::thread::yield_now();
            continue;
        };
        all(Signal::STOP)?;
        if !folder.join(LAST).exists() {
            docker(&["kill", &container])?;
            ensure!(!folder.join(LAST).exists(), "the save of step {step} went on");
            return Ok(step);
        }
        all(Signal::CONT)?;
        missed.insert(step);
    }
    bail!("no save was caught in the middle; there were those of {missed:?}")
}

#[test]
fn a_script_that_dies_in_the_middle_of_a_save_goes_on_from_the_checkpoint_before() -> Result<()> {
    let image = tool_image("hf")?;
    let fleet = fleet_with_pairs()?;
    let path = fleet.write_spec("hf", &spec(&image))?;
    let job: u64 = fleet.run(&["submit", &path])?.trim().parse()?;
    fleet.commits(job, EVERY)?;
    let cut = kill_in_a_save(&fleet, job, EVERY)?;
    wait_until("the attempt has ended", PATIENCE, || {
        Ok(fleet
            .job(job)?
            .attempts
            .first()
            .is_some_and(|a| a.ended_wall_ns.is_some())
            .then_some(()))
    })?;
    let committed = fleet.committed(job)?;
    let torn = committed.iter().find(|saved| saved.attempt == 1 && saved.step >= cut);
    ensure!(torn.is_none(), "the torn save of step {cut} was committed: {torn:?}");
    let newest = committed.iter().map(|saved| saved.step).max();

    let ended = fleet.completes(job)?;
    let resumed: Vec<_> = ended.attempts.iter().map(|a| a.resumed_from_step).collect();
    ensure!(resumed == [None, newest], "they began at {resumed:?}; {newest:?} was committed");
    ensure!(ended.step == Some(STEPS), "it ended at {:?}", ended.step);
    has_each_loss_once(&fleet, job, STEPS, newest.unwrap_or_default())?;
    ensure!(!fleet.packaged(job, "model.safetensors")?.is_empty(), "the package holds no model");
    Ok(())
}
