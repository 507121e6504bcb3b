//! `kill -9` of the agent: its container never notices. The agent's state is lost: nothing happens to the container until
//! somebody says so.

use std::process::{Command, Output};

use anyhow::{Result, ensure};
use hone_tests::cluster::job::SEED;
use hone_tests::cluster::process::binary;
use hone_tests::cluster::{Cluster, cluster, succeeded};

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

/// Another call of the agent's command, on the same folder.
fn agent(fleet: &Cluster, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary("hone-agent")?);
    Ok(command.args(args).arg("--state-dir").arg(fleet.dir.join("agent")).output()?)
}

#[test]
fn a_lost_state_kills_nothing_until_somebody_accepts_it() -> Result<()> {
    let mut fleet = cluster()?;
    let job = fleet.submit("state-lost", SEED)?;
    fleet.reach(job, 12)?;
    let before = fleet.container(job)?;
    fleet.agent.kill()?;
    std::fs::remove_file(fleet.dir.join("agent/state"))?;
    let config = fleet.dir.join("agent.toml").display().to_string();
    let refused = agent(&fleet, &["run", "--config", &config])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success(), "it began with nothing");
    for word in ["its state is gone", "hint: nothing was touched", "accept-loss"] {
        ensure!(said.contains(word), "{word:?} is missing: {said}");
    }
    ensure!(fleet.container(job)? == before, "the container was touched");
    succeeded(agent(&fleet, &["accept-loss"])?)?;
    fleet.agent.start()?;
    let ended = fleet.completes(job)?;
    ensure!(ended.attempts.len() == 2, "{} attempts", ended.attempts.len());
    ensure!(fleet.adapter(job)? == fleet.reference()?, "the weights differ");
    Ok(())
}
