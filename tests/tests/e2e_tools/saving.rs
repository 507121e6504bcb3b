//! A `Trainer` of Hugging Face, stopped in the middle of writing a checkpoint.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use hone_tests::cluster::{Cluster, PATIENCE};
use hone_tests::docker::docker;
use rustix::process::{Pid, Signal, kill_process};

/// What the `Trainer` writes last into a checkpoint.
const LAST: &str = "trainer_state.json";

/// A job whose processes all stand still while a checkpoint is half written.
pub(super) struct Saving {
    /// The step of that checkpoint.
    pub(super) step: u64,
    /// The job's container.
    pub(super) container: String,
    folder: PathBuf,
    processes: Vec<Pid>,
}

impl Saving {
    /// Waits for a save after this step. All processes are stopped before it is looked how far the save is, so that it
    /// cannot end between the look and what is done to it.
    pub(super) fn caught(fleet: &Cluster, job: u64, after: u64) -> Result<Self> {
        let container = fleet.container(job)?.id;
        let (output, processes) = (output(fleet, job)?, processes(&container)?);
        let mut missed: BTreeSet<u64> = begun(&output)?.into_iter().map(|(step, _)| step).collect();
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            let mut new = begun(&output)?.into_iter();
            let new = new.find(|(step, _)| *step > after && !missed.contains(step));
            let Some((step, folder)) = new else {
                std::thread::yield_now();
                continue;
            };
            let saving =
                Self { step, container: container.clone(), folder, processes: processes.clone() };
            saving.signal(Signal::STOP)?;
            if !saving.is_whole() {
                return Ok(saving);
            }
            saving.goes_on()?;
            missed.insert(step);
        }
        bail!("no save was caught in the middle; there were those of {missed:?}")
    }

    /// All that belongs to the checkpoint has been written.
    pub(super) fn is_whole(&self) -> bool {
        self.folder.join(LAST).exists()
    }

    /// The job does what it was about to do.
    pub(super) fn goes_on(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.processes.iter().try_for_each(|process| Ok(kill_process(*process, signal)?))
    }
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
