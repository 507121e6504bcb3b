//! The link between an agent and the controller cut for as long as the product promises to bear, as by a pulled cable.
//! It is the link of a second agent: the other cases go on meanwhile.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use hone_tests::cluster::job::SAVED;
use hone_tests::cluster::{PATIENCE, cluster, wait_until};

/// What the product promises; `HONE_CUT_SECONDS` sets another length.
const CUT: Duration = Duration::from_secs(120);

fn length() -> Result<Duration> {
    match std::env::var("HONE_CUT_SECONDS") {
        Ok(text) => Ok(Duration::from_secs(text.parse().context("HONE_CUT_SECONDS")?)),
        Err(_) => Ok(CUT),
    }
}

fn wall_ns() -> Result<u64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::try_from(since.as_nanos())?)
}

#[test]
fn what_happens_behind_a_cut_arrives_afterwards() -> Result<()> {
    let length = length()?;
    let fleet = cluster()?;
    let second = fleet.second_agent()?;
    let job = fleet.submit_to(&second, "link-cut", 11)?;
    fleet.reach(job, 3)?;
    second.link.cut();
    let (started, from) = (Instant::now(), wall_ns()?);
    // What was on its way has arrived by the time of the first look.
    let known = fleet.training(job)?.len();
    drop(fleet);
    wait_until("the cut is over", length + PATIENCE, || {
        Ok((started.elapsed() >= length).then_some(()))
    })?;
    let fleet = cluster()?;
    ensure!(fleet.training(job)?.len() <= known + 1, "the link was not cut");
    let to = wall_ns()?;
    second.link.mend();

    let ended = fleet.completes(job)?;
    ensure!(ended.attempts.len() == 1, "{} attempts", ended.attempts.len());
    fleet.has_each_step_once(job)?;
    let behind = |wall: u64| from < wall && wall < to;
    let trained = fleet.training(job)?.iter().filter(|point| behind(point.wall_ns)).count();
    ensure!(trained >= 5, "only {trained} steps were trained during the cut");
    let logs = fleet.logs(job)?;
    ensure!(logs.is_sorted_by_key(|record| record.wall_ns), "the log is out of order");
    ensure!(logs.iter().any(|record| behind(record.wall_ns)), "nothing was logged during the cut");
    let gaps: Vec<_> = logs.iter().filter(|record| record.output == "hone").collect();
    ensure!(gaps.is_empty(), "gaps in the log: {gaps:?}");
    let committed = fleet.committed(job)?;
    let steps: Vec<_> =
        committed.iter().filter(|c| c.kind == "checkpoint").map(|c| c.step).collect();
    ensure!(steps == SAVED, "checkpoints of steps {steps:?}");
    for step in steps {
        let to = fleet.dir.join(format!("checkpoint-{job}-{step}"));
        fleet.pull(job, &["--step", &step.to_string()], &to)?;
    }
    fleet.adapter(job).map(drop)
}
