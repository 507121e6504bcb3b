//! A controller whose state is lost goes back to an export. What the export knew is there again and whole; what came
//! after it does not count any more.

use anyhow::{Context as _, Result, ensure};
use hone_proto::bulk::{Client, Retry, Scope, Silent};
use hone_proto::error::Reason;
use hone_proto::id::{AttemptId, ProjectName};
use hone_proto::identity::{ClientIdentity, Plane};
use hone_proto::wire;
use hone_tests::agent::{Agent, bulk_of, checkpoint};
use hone_tests::reach::fresh_id;
use hone_tests::served::Served;

/// The exit code for what stands in the way.
const CONFLICT: i32 = 8;

/// Bytes that lie as a checkpoint in a folder of the test's own.
fn saved(fleet: &Served, name: &str) -> Result<std::path::PathBuf> {
    let folder = fleet.dir().join(name);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("weights"), name.repeat(100_000))?;
    Ok(folder)
}

/// The reason for which a commit of this attempt is refused.
async fn commit_refused(
    fleet: &Served,
    node: &hone_proto::identity::Credentials,
    attempt: AttemptId,
) -> Result<Reason> {
    let scope = wire::scope::Scope::Attempt(attempt.into());
    let scope = Some(wire::Scope { scope: Some(scope) });
    let request = wire::CommitRequest { scope, manifest: vec![1], request_id: fresh_id() };
    let refused = fleet.reach.bulk(node)?.commit(request).await;
    let status =
        refused.err().context("a commit of an attempt that does not count went through")?;
    Ok(hone_proto::error::Refusal::from(&status).reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_restored_and_nothing_that_came_after_it_counts() -> Result<()> {
    let mut fleet = Served::start("")?;
    let node = fleet.reach.enrolled_node().await?;
    let mut agent = Agent::attach(&fleet.reach, &node).await?;
    let first = fleet.submit("before")?;
    let kept = agent.assigned().await?;
    ensure!(kept.job.get() == first, "{kept} is not of job {first}");
    let bulk = bulk_of(&fleet.reach, &node, kept)?;
    let manifest = checkpoint(&bulk, kept, 10, &saved(&fleet, "ten")?).await?;
    let generation = fleet.who_am_i().await?.generation;

    let export = fleet.dir().join("state.export");
    let export = export.to_str().context("a path in UTF-8")?.to_owned();
    fleet.run(&["export", &export])?;

    // What comes now is not in it: the first job ends, a second one is placed, and somebody joins.
    fleet.run(&["cancel", &first.to_string()])?;
    let outcome = wire::AttemptOutcome {
        attempt: Some(kept.into()),
        kind: wire::OutcomeKind::Interrupted.into(),
        ..Default::default()
    };
    let outcome = wire::event::Payload::Outcome(outcome);
    agent.report(wire::EventStream::State, 1, vec![outcome]).await?;
    agent.acknowledged(wire::EventStream::State, 1).await?;
    let second = fleet.submit("after")?;
    let lost = loop {
        let assigned = agent.assigned().await?;
        if assigned.job.get() == second {
            break assigned;
        }
    };
    let late = fleet.reach.enrolled_node().await?;

    // A controller that runs keeps what it has.
    let dir = fleet.data.to_str().context("a path in UTF-8")?.to_owned();
    let restore = ["restore", &export, "--dir", &dir];
    let told = fleet.refused(&[&restore[..], &["--replace"]].concat(), CONFLICT)?;
    ensure!(told.contains("stop `hone serve` first"), "{told}");
    fleet.process.kill()?;
    let told = fleet.refused(&restore, CONFLICT)?;
    ensure!(told.contains("newer than the export") && told.contains("--replace"), "{told}");

    std::fs::remove_dir_all(fleet.data.join("state"))?;
    let told = fleet.refused(&["serve", "--dir", &dir], 1)?;
    ensure!(told.contains("hone restore ") && told.contains("backup/state.export"), "{told}");
    fleet.run(&restore)?;
    fleet.start_again()?;

    let now = fleet.who_am_i().await?;
    ensure!(now.generation > generation, "generation {} is not raised", now.generation);
    ensure!(commit_refused(&fleet, &node, lost).await? == Reason::NotOwner, "{lost} counts");
    let refused = Agent::attach(&fleet.reach, &late).await.err().context("it was let in")?;
    ensure!(format!("{refused:?}").contains("it is revoked"), "{refused:?}");

    // What the export knew goes on: its attempt still runs, commits, and its checkpoint reads back.
    let mut agent = Agent::attach_holding(&fleet.reach, &node, &[kept]).await?;
    ensure!(agent.welcome.generation == now.generation, "another generation is welcomed");
    ensure!(agent.assigned().await? == kept, "the attempt before the export was given up");
    let bulk = bulk_of(&fleet.reach, &node, kept)?;
    checkpoint(&bulk, kept, 20, &saved(&fleet, "twenty")?).await?;
    let channel = fleet.reach.channel(ClientIdentity::new(&fleet.reach.admin)?, Plane::Bulk)?;
    let scope = Scope::Project(ProjectName::default_project());
    let reading = Client::new(channel, scope, Retry::tries(1));
    reading.download(manifest, &fleet.dir().join("pulled"), &Silent).await?;
    let same = std::fs::read(fleet.dir().join("pulled/weights"))?;
    ensure!(same == "ten".repeat(100_000).into_bytes(), "the checkpoint reads back otherwise");

    // The same export once more: what the life between granted must not be granted again.
    fleet.process.kill()?;
    fleet.run(&[&restore[..], &["--replace"]].concat())?;
    fleet.start_again()?;
    let again = fleet.who_am_i().await?;
    ensure!(again.generation > now.generation, "generation {} came twice", again.generation);
    Ok(())
}

#[test]
fn what_is_no_export_of_this_fleet_is_refused_and_touches_nothing() -> Result<()> {
    let mut fleet = Served::start("")?;
    let export = fleet.dir().join("state.export");
    let path = export.to_str().context("a path in UTF-8")?.to_owned();
    fleet.run(&["export", &path])?;
    let told = fleet.refused(&["export", "controller.toml"], CONFLICT)?;
    ensure!(told.contains("is no export"), "{told}");
    fleet.process.kill()?;
    let state = |fleet: &Served| std::fs::read_to_string(fleet.data.join("state/CURRENT"));
    let before = state(&fleet)?;
    let dir = fleet.data.to_str().context("a path in UTF-8")?.to_owned();
    let whole = std::fs::read(&export)?;
    let mut bent = whole.clone();
    let middle = bent.len() / 2;
    bent[middle] ^= 1;
    for (what, bytes) in [("bent", bent.as_slice()), ("cut", &whole[..middle]), ("empty", &[])] {
        std::fs::write(&export, bytes)?;
        let told = fleet.refused(&["restore", &path, "--dir", &dir, "--replace"], 1)?;
        ensure!(told.contains("nothing was touched"), "{what}: {told}");
    }
    let told = fleet.refused(&["restore", "nothing", "--dir", &dir, "--replace"], 7)?;
    ensure!(told.contains("backup/state.export"), "{told}");

    let other = Served::start("")?;
    let theirs = other.dir().join("state.export");
    let theirs = theirs.to_str().context("a path in UTF-8")?;
    other.run(&["export", theirs])?;
    let told = fleet.refused(&["restore", theirs, "--dir", &dir, "--replace"], CONFLICT)?;
    ensure!(told.contains("is this the right --dir?"), "{told}");
    ensure!(state(&fleet)? == before, "a refused restore changed the state");
    fleet.start_again()
}
