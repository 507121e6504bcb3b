//! `docker kill` of the trainer: the next attempt ends with the same bytes.

use anyhow::{Result, ensure};
use hone_tests::cluster::cluster;
use hone_tests::cluster::job::{EVERY, SEED};
use hone_tests::docker::docker;

#[test]
fn a_killed_trainer_goes_on_from_the_last_checkpoint_to_the_same_weights() -> Result<()> {
    let fleet = cluster()?;
    let reference = fleet.reference()?;
    let job = fleet.submit("trainer-killed", SEED)?;
    fleet.commits(job, 2 * EVERY)?;
    docker(&["kill", &fleet.container(job)?.id])?;
    let committed = fleet.committed(job)?.iter().map(|c| c.step).max();
    let ended = fleet.completes(job)?;
    ensure!(ended.attempts.len() == 2, "{} attempts", ended.attempts.len());
    let resumed = ended.attempts.iter().filter_map(|a| a.resumed_from_step).max();
    ensure!(resumed.is_some(), "the second attempt began anew");
    ensure!(resumed >= committed, "resumed from {resumed:?}, but {committed:?} was committed");
    ensure!(fleet.adapter(job)? == reference, "the weights differ");
    Ok(())
}
