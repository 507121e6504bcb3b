//! `kill -9` of the controller: what it acknowledged is there afterwards.

use anyhow::{Result, ensure};
use hone_tests::cluster::job::{EVERY, SAVED};
use hone_tests::cluster::{PATIENCE, cluster, wait_until};

#[test]
fn nothing_acknowledged_is_lost_with_the_controller() -> Result<()> {
    let mut fleet = cluster()?;
    let job = fleet.submit("controller-killed", 7)?;
    fleet.commits(job, EVERY)?;
    let container = fleet.container(job)?;
    fleet.controller.kill()?;
    fleet.controller.start()?;
    let acknowledged =
        wait_until("the controller is back", PATIENCE, || fleet.committed(job).map(Some))?;
    ensure!(acknowledged.iter().any(|c| c.step == EVERY), "a checkpoint is lost");
    ensure!(fleet.container(job)? == container, "the container stopped with the controller");

    // The next checkpoint travels slowly, and meets its end on the way.
    fleet.link.slow_uploads(150_000);
    let before = fleet.link.uploaded();
    wait_until("an upload is under way", PATIENCE, || {
        Ok((fleet.link.uploaded() > before + 100_000).then_some(()))
    })?;
    let acknowledged = fleet.committed(job)?;
    fleet.controller.kill()?;
    fleet.link.at_full_speed();
    fleet.controller.start()?;

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
