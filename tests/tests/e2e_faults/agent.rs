//! `kill -9` of the agent: its container never notices.

use anyhow::{Result, ensure};
use hone_tests::cluster::cluster;
use hone_tests::cluster::job::SEED;

#[test]
fn the_container_outlives_the_agent() -> Result<()> {
    let mut fleet = cluster()?;
    let job = fleet.submit("agent-killed", SEED)?;
    fleet.reach(job, 12)?;
    let before = fleet.container(job)?;
    fleet.agent.kill()?;
    ensure!(fleet.container(job)? == before, "the container stopped with the agent");
    fleet.agent.start()?;
    // Reports after the one that was killed: the new agent reads on.
    fleet.reach(job, 22)?;
    ensure!(fleet.container(job)? == before, "the restarted agent did not adopt the container");
    let ended = fleet.completes(job)?;
    ensure!(ended.attempts.len() == 1, "{} attempts", ended.attempts.len());
    fleet.has_each_step_once(job)?;
    ensure!(fleet.adapter(job)? == fleet.reference()?, "the weights differ");
    Ok(())
}
