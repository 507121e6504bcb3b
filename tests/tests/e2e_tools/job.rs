//! What the jobs of all tools have in common.

use std::collections::BTreeMap;
use std::sync::MutexGuard;

use anyhow::{Result, ensure};
use hone_tests::cluster::{Cluster, cluster};

/// The fleet of this binary, whose operator has the rows of [`write_pairs`].
pub(super) fn fleet_with_pairs() -> Result<MutexGuard<'static, Cluster>> {
    let fleet = cluster()?;
    write_pairs(&fleet)?;
    Ok(fleet)
}

/// Gives the operator the task's rows as prompts and completions in `pairs.jsonl`: the base model has no chat template,
/// which tools need for messages.
pub(super) fn write_pairs(fleet: &Cluster) -> Result<()> {
    let work = fleet.dir.join("work");
    let mut rows = String::new();
    for line in std::fs::read_to_string(work.join("task.jsonl"))?.lines() {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let content = |at: &str| row.pointer(at).cloned().unwrap_or_default();
        let pair = serde_json::json!({
            "prompt": content("/messages/0/content"), "completion": content("/messages/1/content"),
        });
        rows.push_str(&format!("{pair}\n"));
    }
    Ok(std::fs::write(work.join("pairs.jsonl"), rows)?)
}

/// Every step's loss is there: each once in each attempt that took it, and from `resumed` on in the second one.
pub(super) fn has_each_loss_once(
    fleet: &Cluster,
    job: u64,
    steps: u64,
    resumed: u64,
) -> Result<()> {
    let mut seen: BTreeMap<(u32, u64), usize> = BTreeMap::new();
    for point in fleet.training(job)? {
        if point.values.contains_key("loss") {
            *seen.entry((point.attempt, point.step)).or_default() += 1;
        }
    }
    ensure!(seen.values().all(|times| *times == 1), "a step came twice: {seen:?}");
    let missing = (1..=steps).find(|step| {
        let attempt = if *step <= resumed { 1 } else { 2 };
        !seen.contains_key(&(attempt, *step))
    });
    ensure!(missing.is_none(), "the loss of step {missing:?} is missing");
    Ok(())
}
