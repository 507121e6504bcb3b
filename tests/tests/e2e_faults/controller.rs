//! `kill -9` of the controller: what it acknowledged is there afterwards.

use anyhow::{Result, ensure};
use hone_tests::cluster::job::{EVERY, SAVED};
use hone_tests::cluster::{PATIENCE, cluster, wait_until};

#[test]
fn nothing_acknowledged_is_lost_with_the_controller() -> Result<()> {
    let mut fleet = cluster()?;
    let job = fleet.submit("controller-killed", 7)?;
    fleet.reach(job, 3)?;
    let container = fleet.container(job)?;
    let known = fleet.training(job)?;
    fleet.controller.kill()?;
    fleet.controller.start()?;
    let back = wait_until("the controller is back", PATIENCE, || fleet.training(job).map(Some))?;
    ensure!(back.starts_with(&known), "metrics that were known are lost");
    ensure!(fleet.container(job)? == container, "the container stopped with the controller");

    // What is new in a checkpoint has the same size each time. Of the next one three quarters get through: some of its
    // chunks, not all, and certainly not its commit, which comes after them on the same way.
    fleet.commits(job, EVERY)?;
    let first = fleet.stored()?;
    fleet.commits(job, 2 * EVERY)?;
    let second = fleet.stored()?;
    let new: u64 = second.iter().filter(|(name, _)| !first.contains_key(*name)).map(|o| o.1).sum();
    fleet.link.hold_uploads_after(new * 3 / 4);
    wait_until("an upload is held back", PATIENCE, || Ok(fleet.link.holds().then_some(())))?;
    let through = wait_until("a chunk of it is stored", PATIENCE, || {
        let stored = fleet.stored()?.into_iter();
        let bytes = stored.filter(|(name, _)| !second.contains_key(name)).map(|(_, bytes)| bytes);
        Ok(Some(bytes.sum::<u64>()).filter(|bytes| *bytes > new / 8))
    })?;
    let acknowledged = fleet.committed(job)?;
    let steps = |of: &[hone_proto::wire::CheckpointView]| of.iter().map(|c| c.step).max();
    ensure!(steps(&acknowledged) == Some(2 * EVERY), "committed too early: {acknowledged:?}");
    fleet.controller.kill()?;
    fleet.controller.start()?;
    let back = wait_until("the controller is back", PATIENCE, || fleet.committed(job).map(Some))?;
    ensure!(back == acknowledged, "{back:?} after {acknowledged:?}");

    // Now it is committed, although there is no room on the way for what was stored before the kill.
    fleet.link.hold_uploads_after(new - through / 2);
    fleet.commits(job, 3 * EVERY)?;
    fleet.link.release();

    let ended = fleet.completes(job)?;
    ensure!(ended.attempts.len() == 1, "{} attempts", ended.attempts.len());
    let committed = fleet.committed(job)?;
    for one in &acknowledged {
        ensure!(committed.contains(one), "acknowledged and lost: {one:?}");
    }
    for step in SAVED {
        let to = fleet.dir.join(format!("checkpoint-{job}-{step}"));
        fleet.pull(job, &["--step", &step.to_string()], &to)?;
    }
    fleet.has_each_step_once(job)?;
    fleet.adapter(job).map(drop)
}
