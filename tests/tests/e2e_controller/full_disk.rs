//! The controller's disk is full to the last byte: it goes on reading and stopping jobs, refuses the rest and says why,
//! acknowledges nothing that it cannot keep, and recovers by itself.

use anyhow::{Context as _, Result, ensure};
use hone_proto::wire;
use hone_tests::agent::{Agent, bulk_of, checkpoint};
use hone_tests::cluster::{PATIENCE, wait_until};
use hone_tests::disk::Filler;
use hone_tests::served::Served;
use wire::EventStream::{Logs, Series};

/// A small disk; chunks would otherwise leave more of it free than there is.
const SETTINGS: &str = "[store]\nkeep_free = \"16 MiB\"\n";
const DISK: &str = "256m";
/// The exit code for a disk that is full.
const FULL: i32 = 1;

fn metrics(attempt: hone_proto::id::AttemptId, step: u64) -> wire::event::Payload {
    wire::event::Payload::Metrics(wire::TrainerMetrics {
        attempt: Some(attempt.into()),
        step,
        split: "train".to_owned(),
        ..Default::default()
    })
}

fn log(attempt: hone_proto::id::AttemptId, text: &str) -> wire::event::Payload {
    wire::event::Payload::Log(wire::LogRecord {
        attempt: Some(attempt.into()),
        text: text.to_owned(),
        output: "stdout".to_owned(),
        level: "info".to_owned(),
    })
}

/// Every word that only a full disk explains.
fn says_full(told: &str) -> Result<()> {
    for word in ["disk is full", "hint: free disk space on the controller"] {
        ensure!(told.contains(word), "without {word:?}: {told}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_disk_it_reads_and_stops_and_takes_nothing_more() -> Result<()> {
    let mut fleet = Served::on_a_disk(SETTINGS, DISK)?;
    let node = fleet.reach.enrolled_node().await?;
    let mut agent = Agent::attach(&fleet.reach, &node).await?;
    let job = fleet.submit("trained")?;
    let attempt = agent.assigned().await?;
    agent.report(Series, 1, vec![metrics(attempt, 1)]).await?;
    agent.acknowledged(Series, 1).await?;
    agent.report(Logs, 1, vec![log(attempt, "before")]).await?;
    agent.acknowledged(Logs, 1).await?;
    let folder = fleet.dir().join("saved");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("weights"), "w".repeat(100_000))?;
    let another = fleet.submission("another")?;
    let another = another.each_ref().map(String::as_str);
    let number = job.to_string();

    let filler = Filler::fill(&fleet.data)?;
    // What the node says now is not acknowledged; that it is alive, is.
    agent.report(Series, 2, vec![metrics(attempt, 2)]).await?;
    agent.report(Logs, 2, vec![log(attempt, "meanwhile")]).await?;
    for beat in 1..=3 {
        ensure!(agent.beats(beat).await?.is_empty(), "acknowledged what it cannot keep");
    }
    let bulk = bulk_of(&fleet.reach, &node, attempt)?;
    let refused = checkpoint(&bulk, attempt, 10, &folder).await.err();
    let refused = refused.context("a checkpoint was taken")?;
    ensure!(format!("{refused:?}").contains("the disk has "), "{refused:?}");

    for (what, words) in [
        (vec!["ps"], "trained"),
        (vec!["show", &number], "trained"),
        (vec!["logs", &number], "before"),
        (vec!["node", "list"], "ready"),
    ] {
        let said = fleet.run(&what)?;
        ensure!(said.contains(words), "hone {}: {said}", what.join(" "));
    }
    says_full(&fleet.refused(&["node", "token"], FULL)?)?;
    says_full(&fleet.refused(&["operator", "invite", "bob"], FULL)?)?;
    let told = fleet.refused(&another, FULL)?;
    ensure!(told.contains("hint: free disk space on the controller"), "{told}");
    let export = fleet.dir().join("export");
    let export = export.to_str().context("a path in UTF-8")?;
    let told = fleet.refused(&["export", export], FULL)?;
    ensure!(told.contains("hint: free disk space on the controller"), "{told}");
    ensure!(!fleet.data.join("backup/state.tmp").exists(), "a part of an export is left");

    // A stop order goes through, and reaches the node.
    fleet.run(&["cancel", &number])?;
    agent.stopped(attempt).await?;

    // It can even be killed and started there, and knows what it acknowledged.
    fleet.process.kill()?;
    fleet.start_again()?;
    let mut admin = fleet.reach.operator(&fleet.reach.admin)?;
    let view = admin.get_job(wire::GetJobRequest { job }).await?.into_inner();
    ensure!(view.cancel_requested, "the cancel is forgotten");
    let mut agent = Agent::attach_holding(&fleet.reach, &node, &[attempt]).await?;
    ensure!(agent.known(Series) == 1 && agent.known(Logs) == 1, "{:?}", agent.welcome);
    agent.report(Series, 2, vec![metrics(attempt, 2)]).await?;
    agent.report(Logs, 2, vec![log(attempt, "meanwhile")]).await?;
    ensure!(agent.beats(1).await?.is_empty(), "acknowledged what it cannot keep");

    drop(filler);
    // It asks for what it did not take.
    let ended = agent.ended().await?;
    ensure!(ended.message().contains("room again"), "{ended:?}");
    let mut agent = Agent::attach_holding(&fleet.reach, &node, &[attempt]).await?;
    ensure!(agent.known(Series) == 1 && agent.known(Logs) == 1, "{:?}", agent.welcome);
    agent.report(Series, 2, vec![metrics(attempt, 2)]).await?;
    agent.acknowledged(Series, 2).await?;
    agent.report(Logs, 2, vec![log(attempt, "meanwhile")]).await?;
    agent.acknowledged(Logs, 2).await?;
    wait_until("the log is whole", PATIENCE, || {
        let said = fleet.run(&["logs", &number])?;
        Ok((said.contains("before") && said.contains("meanwhile")).then_some(()))
    })?;
    checkpoint(&bulk_of(&fleet.reach, &node, attempt)?, attempt, 10, &folder).await?;
    fleet.run(&another)?;
    fleet.process.still_runs()
}
