//! `trl sft` with a configuration by hone.

use anyhow::{Result, ensure};
use hone_tests::cluster::material::tool_image;
use hone_tests::cluster::{PATIENCE, wait_until};
use hone_tests::docker::docker;

use super::job::{fleet_with_pairs, has_each_loss_once};

/// Steps of the job, and between two checkpoints: long enough to be hit in the middle.
const STEPS: u64 = 600;
const EVERY: u64 = 200;

fn spec(image: &str) -> String {
    format!(
        "name: trl
model: {{path: ./model, name: test-base}}
data: {{train: {{path: ./pairs.jsonl, format: prompt_completion}}}}
method: {{type: lora, lora: {{r: 8, alpha: 16}}}}
train:
  max_steps: {STEPS}
  seq_len: 256
  batch: {{effective: 8, micro: 8}}
  optimizer: {{lr: 2.0e-3}}
  precision: fp32
checkpoint: {{every: {{steps: {EVERY}}}}}
trainer: {{kind: trl, image: \"{image}\"}}
resources: {{cpu: 1, memory: 3 GiB, disk: 1 GiB}}
"
    )
}

#[test]
fn trl_as_published_is_killed_goes_on_from_the_right_checkpoint_and_completes() -> Result<()> {
    let image = tool_image("trl")?;
    let fleet = fleet_with_pairs()?;
    let path = fleet.write_spec("trl", &spec(&image))?;
    let job: u64 = fleet.run(&["submit", &path])?.trim().parse()?;
    fleet.commits(job, EVERY)?;
    let killed = fleet.container(job)?;
    docker(&["kill", &killed.id])?;
    let committed = fleet.committed(job)?.iter().map(|c| c.step).max();
    let ended = fleet.completes(job)?;
    ensure!(ended.attempts.len() == 2, "{} attempts", ended.attempts.len());
    let resumed = ended.attempts.iter().filter_map(|a| a.resumed_from_step).max();
    ensure!(resumed >= committed && resumed.is_some(), "from {resumed:?}, {committed:?} was there");
    ensure!(ended.step == Some(STEPS), "it ended at {:?}", ended.step);

    has_each_loss_once(&fleet, job, STEPS, resumed.unwrap_or_default())?;
    ensure!(!fleet.adapter(job)?.is_empty(), "the package holds an adapter");
    Ok(())
}

#[test]
fn trl_saves_where_it_is_when_it_is_told_to_stop() -> Result<()> {
    let image = tool_image("trl")?;
    let fleet = fleet_with_pairs()?;
    let path = fleet.write_spec("stopped", &spec(&image))?;
    let job: u64 = fleet.run(&["submit", &path])?.trim().parse()?;
    // `trl` starts its trainer as a process of its own, and dies of the signal that this one is to have.
    fleet.reach(job, 10)?;
    fleet.run(&["cancel", &job.to_string()])?;
    let saved = wait_until("what it had is saved", PATIENCE, || {
        Ok(fleet.committed(job)?.into_iter().find(|saved| !saved.step.is_multiple_of(EVERY)))
    })?;
    ensure!(saved.step >= 10 && saved.step < STEPS, "it was saved at {}", saved.step);
    wait_until("it is cancelled", PATIENCE, || {
        Ok((fleet.job(job)?.state == "cancelled").then_some(()))
    })?;
    // The `Trainer` ends with the step in which it saw that it is to end.
    let reached = fleet.job(job)?.step;
    ensure!(reached <= Some(saved.step + 1), "it went on to {reached:?} after {}", saved.step);
    Ok(())
}
