//! `trl sft` with a configuration by hone.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use hone_tests::cluster::cluster;
use hone_tests::cluster::material::tool_image;
use hone_tests::docker::docker;

/// Steps of the job, and between two checkpoints: long enough to be hit in the middle.
const STEPS: u64 = 1000;
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

/// The task's rows as prompts and completions: the base model has no chat template, which TRL needs for messages.
fn pairs(task: &str) -> Result<String> {
    let mut rows = String::new();
    for line in task.lines() {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let content = |at: &str| row.pointer(at).cloned().unwrap_or_default();
        let pair = serde_json::json!({
            "prompt": content("/messages/0/content"), "completion": content("/messages/1/content"),
        });
        rows.push_str(&format!("{pair}\n"));
    }
    Ok(rows)
}

#[test]
fn trl_as_published_is_killed_goes_on_from_the_right_checkpoint_and_completes() -> Result<()> {
    let image = tool_image("trl")?;
    let fleet = cluster()?;
    let work = fleet.dir.join("work");
    std::fs::write(
        work.join("pairs.jsonl"),
        pairs(&std::fs::read_to_string(work.join("task.jsonl"))?)?,
    )?;
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

    // Every step's loss, each once in each attempt that took it.
    let mut seen: BTreeMap<(u32, u64), usize> = BTreeMap::new();
    for point in fleet.training(job)? {
        if point.values.contains_key("loss") {
            *seen.entry((point.attempt, point.step)).or_default() += 1;
        }
    }
    ensure!(seen.values().all(|times| *times == 1), "a step came twice: {seen:?}");
    let from = resumed.unwrap_or_default();
    let missing = (1..=STEPS).find(|step| {
        let attempt = if *step <= from { 1 } else { 2 };
        !seen.contains_key(&(attempt, *step))
    });
    ensure!(missing.is_none(), "the loss of step {missing:?} is missing");
    ensure!(!fleet.adapter(job)?.is_empty(), "the package holds an adapter");
    Ok(())
}
