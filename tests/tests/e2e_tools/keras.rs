//! A script for Keras, which no one at hone knows: its spec says all that is known of it.

use anyhow::{Result, ensure};
use hone_tests::cluster::material::tool_image;
use hone_tests::docker::docker;

use super::job::{fleet_with_pairs, has_each_loss_once};

const STEPS: u64 = 600;
const EVERY: u64 = 100;

fn spec(image: &str) -> String {
    format!(
        "name: keras
data: {{train: {{path: ./pairs.jsonl}}}}
train: {{max_steps: {STEPS}}}
trainer:
  kind: custom
  image: \"{image}\"
  command: [python3, /opt/tool/train.py, --data, /hone/input/data/train/pairs.jsonl, --out, /hone/output,
            --logs, /hone/metrics/tb, --steps, \"{STEPS}\", --save_every, \"{EVERY}\"]
  telemetry: tensorboard
  checkpoint: {{path: \"ckpt-{{step}}\", complete: {{marker: DONE}}}}
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
    let path = fleet.write_spec("keras", &spec(&image))?;
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
