//! A script for Keras, which no one at hone knows: its spec says all that is known of it.

use anyhow::{Result, ensure};
use hone_tests::cluster::material::tool_image;
use hone_tests::cluster::{PATIENCE, wait_until};
use hone_tests::docker::docker;

use super::job::{fleet_with_pairs, has_each_loss_once};

const STEPS: u64 = 600;
const EVERY: u64 = 100;

fn spec(name: &str, image: &str) -> String {
    format!(
        "name: {name}
data: {{train: {{path: ./pairs.jsonl}}}}
train: {{max_steps: {STEPS}}}
trainer:
  kind: custom
  image: \"{image}\"
  command: [python3, /opt/tool/train.py, --data, /hone/input/data/train/pairs.jsonl, --out, /hone/output,
            --logs, /hone/metrics/tb, --steps, \"{STEPS}\", --save_every, \"{EVERY}\"]
  telemetry: tensorboard
  checkpoint: {{path: \"ckpt-{{step}}\", complete: {{marker: DONE}}, request: save-now}}
  resume: {{argument: \"--resume={{path}}\"}}
  stop: term
resources: {{cpu: 1, memory: 3 GiB, disk: 1 GiB}}
"
    )
}

#[test]
fn a_keras_script_is_killed_goes_on_from_its_last_whole_checkpoint_and_completes() -> Result<()> {
    let image = tool_image("keras")?;
    let fleet = fleet_with_pairs()?;
    let path = fleet.write_spec("keras", &spec("keras", &image))?;
    let job: u64 = fleet.run(&["submit", &path])?.trim().parse()?;
    fleet.commits(job, EVERY)?;
    docker(&["kill", &fleet.container(job)?.id])?;
    let committed = fleet.committed(job)?.iter().map(|c| c.step).max();
    let ended = fleet.completes(job)?;
    let resumed = ended.attempts.iter().filter_map(|a| a.resumed_from_step).max();
    ensure!(ended.attempts.len() == 2, "{} attempts", ended.attempts.len());
    ensure!(resumed >= committed && resumed.is_some(), "from {resumed:?}, {committed:?} was there");
    ensure!(ended.step == Some(STEPS), "it ended at {:?}", ended.step);
    has_each_loss_once(&fleet, job, STEPS, resumed.unwrap_or_default())?;
    ensure!(!fleet.packaged(job, "model.keras")?.is_empty(), "the package holds no model");
    Ok(())
}

#[test]
fn a_keras_script_that_knows_no_signal_is_asked_to_save_before_it_is_ended() -> Result<()> {
    let image = tool_image("keras")?;
    let fleet = fleet_with_pairs()?;
    let text = spec("asked", &image).replace("stop: term", "stop: none");
    let job: u64 = fleet.run(&["submit", &fleet.write_spec("asked", &text)?])?.trim().parse()?;
    fleet.reach(job, 5)?;
    fleet.run(&["cancel", &job.to_string()])?;
    wait_until("it is cancelled", PATIENCE, || {
        Ok((fleet.job(job)?.state == "cancelled").then_some(()))
    })?;
    let committed = fleet.committed(job)?;
    let asked = committed.iter().find(|saved| !saved.step.is_multiple_of(EVERY));
    ensure!(asked.is_some(), "nothing was saved between its own checkpoints: {committed:?}");
    Ok(())
}
