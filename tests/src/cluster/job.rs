//! Jobs of a test: submitted by the real command, watched over the operators' service, pulled and compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail, ensure};
use hone_proto::wire::{CheckpointView, JobView, LogView, SeriesPoint};

use super::{Cluster, JOB_PATIENCE, PATIENCE, wait_until};
use crate::docker::docker;

/// Steps of every job.
pub const STEPS: u64 = 40;
/// Steps between two checkpoints.
pub const EVERY: u64 = 10;
/// Steps of all checkpoints.
pub const SAVED: [u64; 4] = [EVERY, 2 * EVERY, 3 * EVERY, STEPS];
/// The seed of jobs whose weights are compared with those of [`Cluster::reference`].
pub const SEED: u32 = 42;

/// A container as the engine knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// When it was started.
    pub started: String,
}

/// A job with short, even steps: long enough to be hit in the middle.
#[must_use]
pub fn spec(name: &str, seed: u32) -> String {
    format!(
        "name: {name}
model: {{path: ./model, name: test-base}}
data:
  train: {{path: ./task.jsonl, format: messages}}
  eval: {{fraction: 0.05, seed: 7}}
method:
  type: lora
  lora: {{r: 8, alpha: 16}}
train:
  max_steps: {STEPS}
  seq_len: 256
  batch: {{effective: 16, micro: 16}}
  optimizer: {{lr: 2.0e-3}}
  precision: fp32
  seed: {seed}
  log_every: 1
checkpoint: {{every: {{steps: {EVERY}}}}}
resources: {{cpu: 1, memory: 2 GiB, disk: 1 GiB}}
"
    )
}

impl Cluster {
    /// Writes a spec beside the model and the task.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_spec(&self, name: &str, text: &str) -> Result<String> {
        let path = self.dir.join("work").join(format!("{name}.yaml"));
        std::fs::write(&path, text)?;
        Ok(path.to_str().context("a path in UTF-8")?.to_owned())
    }

    /// Submits a job of this name and seed.
    ///
    /// # Errors
    /// When it is refused.
    pub fn submit(&self, name: &str, seed: u32) -> Result<u64> {
        let path = self.write_spec(name, &spec(name, seed))?;
        Ok(self.run(&["submit", &path, "--image", &self.image])?.trim().parse()?)
    }

    /// All jobs.
    ///
    /// # Errors
    /// When the controller is away.
    pub fn jobs(&self) -> Result<Vec<JobView>> {
        self.view.jobs()
    }

    /// Every file of bulk data that the controller holds, with its size: chunks, and the manifests of objects.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn stored(&self) -> Result<BTreeMap<PathBuf, u64>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.dir.join("controller/chunks")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_name().as_encoded_bytes().starts_with(b".") {
                    // What is being written.
                } else if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else {
                    found.insert(entry.path(), entry.metadata()?.len());
                }
            }
        }
        Ok(found)
    }

    /// The job as it is now.
    ///
    /// # Errors
    /// When the controller is away.
    pub fn job(&self, job: u64) -> Result<JobView> {
        self.view.job(job)
    }

    /// Its committed checkpoints and packages.
    ///
    /// # Errors
    /// When the controller is away.
    pub fn committed(&self, job: u64) -> Result<Vec<CheckpointView>> {
        self.view.checkpoints(job)
    }

    /// Its training points, in the order in which the controller tells them.
    ///
    /// # Errors
    /// When the controller is away.
    pub fn training(&self, job: u64) -> Result<Vec<SeriesPoint>> {
        let points = self.view.points(job)?.into_iter();
        Ok(points.filter(|point| point.split == "train").collect())
    }

    /// Its log.
    ///
    /// # Errors
    /// When the controller is away.
    pub fn logs(&self, job: u64) -> Result<Vec<LogView>> {
        self.view.logs(job)
    }

    /// Waits until the job has trained this step.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn reach(&self, job: u64, step: u64) -> Result<()> {
        wait_until(&format!("job {job} reaches step {step}"), PATIENCE, || {
            let view = self.job(job)?;
            Ok((view.step >= Some(step)).then_some(()))
        })
    }

    /// Waits until a checkpoint of this step is committed.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn commits(&self, job: u64, step: u64) -> Result<()> {
        wait_until(&format!("job {job} has a checkpoint of step {step}"), PATIENCE, || {
            let committed = self.committed(job)?;
            Ok(committed.iter().any(|c| c.kind == "checkpoint" && c.step == step).then_some(()))
        })
    }

    /// Waits until the job has completed.
    ///
    /// # Errors
    /// When it ends in another way, or not in time.
    pub fn completes(&self, job: u64) -> Result<JobView> {
        let ended = wait_until(&format!("job {job} ends"), JOB_PATIENCE, || {
            let view = self.job(job)?;
            let over = ["completed", "failed", "cancelled"].contains(&view.state.as_str());
            Ok(over.then_some(view))
        })?;
        ensure!(ended.state == "completed", "job {job} is {}: {}", ended.state, ended.reason);
        Ok(ended)
    }

    /// The container in which the job runs.
    ///
    /// # Errors
    /// When it does not run in exactly one.
    pub fn container(&self, job: u64) -> Result<Container> {
        let fleet = format!("label=hone.fleet={}", self.fleet);
        let label = format!("label=hone.job={job}");
        let ids = docker(&["ps", "-q", "--no-trunc", "--filter", &fleet, "--filter", &label])?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        let [id] = ids[..] else { bail!("job {job} runs in {} containers", ids.len()) };
        let started = docker(&["inspect", "--format", "{{.State.StartedAt}}", id])?;
        Ok(Container { id: id.to_owned(), started })
    }

    /// The adapter of the job's package, pulled and verified by the command.
    ///
    /// # Errors
    /// When there is none.
    pub fn adapter(&self, job: u64) -> Result<Vec<u8>> {
        self.packaged(job, "adapter_model.safetensors")
    }

    /// A file of the job's package, pulled and verified by the command.
    ///
    /// # Errors
    /// When there is none.
    pub fn packaged(&self, job: u64, name: &str) -> Result<Vec<u8>> {
        let to = self.dir.join(format!("package-{job}"));
        self.pull(job, &["--package"], &to)?;
        find(&to, name)?.with_context(|| format!("the package holds no {name}"))
    }

    /// Pulls into a new folder.
    ///
    /// # Errors
    /// When it is not there or not whole.
    pub fn pull(&self, job: u64, what: &[&str], to: &Path) -> Result<()> {
        let job = job.to_string();
        let to = to.to_str().context("a path in UTF-8")?;
        let mut args = vec!["pull", job.as_str(), "-o", to];
        args.extend(what);
        self.run(&args).map(drop)
    }

    /// The adapter of a run with [`SEED`] that nothing happened to.
    ///
    /// # Errors
    /// When it does not complete.
    pub fn reference(&self) -> Result<&'static [u8]> {
        static ADAPTER: OnceLock<Vec<u8>> = OnceLock::new();
        if let Some(adapter) = ADAPTER.get() {
            return Ok(adapter);
        }
        let job = self.submit("reference", SEED)?;
        let ended = self.completes(job)?;
        ensure!(ended.attempts.len() == 1, "nothing happens to the reference");
        let adapter = self.adapter(job)?;
        Ok(ADAPTER.get_or_init(|| adapter))
    }

    /// Every training step from the first to the last is there exactly once, in order, with times that do not go back.
    ///
    /// # Errors
    /// When they are not.
    pub fn has_each_step_once(&self, job: u64) -> Result<()> {
        let points = self.training(job)?;
        let mut times: BTreeMap<u64, usize> = BTreeMap::new();
        points.iter().for_each(|point| *times.entry(point.step).or_default() += 1);
        let wanted: BTreeMap<u64, usize> = (1..=STEPS).map(|step| (step, 1)).collect();
        ensure!(times == wanted, "steps and how often they came: {times:?}");
        let ordered = points.is_sorted_by_key(|point| point.step);
        ensure!(ordered && points.is_sorted_by_key(|point| point.wall_ns), "steps out of order");
        Ok(())
    }
}

/// The content of the first file of this name below a folder.
fn find(dir: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if let Some(found) = find(&entry.path(), name)? {
                return Ok(Some(found));
            }
        } else if entry.file_name() == name {
            return Ok(Some(std::fs::read(entry.path())?));
        }
    }
    Ok(None)
}
