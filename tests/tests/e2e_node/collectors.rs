//! Collectors of spans that hang or are away: nothing waits for them. And none without an endpoint.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use hone_proto::telemetry::OTLP_ENDPOINT;
use hone_tests::cluster::process::Process;
use hone_tests::cluster::{Cluster, PATIENCE, Setup, succeeded, wait_until};
use hone_tests::otlp::Hanging;

/// An image that is named by digest is not uploaded.
const IMAGE: &str =
    "example.org/trainer@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const SPEC: &str = "name: traced
model: {path: ./model, name: nothing}
data:
  train: {path: ./task.jsonl, format: messages}
train: {max_steps: 1}
resources: {cpu: 1, memory: 64 MiB, disk: 64 MiB}
";

/// A node whose engine does not answer, on a machine of any size.
const AGENT: &str = "[engine]
socket = \"/absent\"
[policy]
reserve_memory = \"1 MiB\"
reserve_disk = \"1 MiB\"
";

/// Where nobody listens: the port of a service that inetd forgot.
const AWAY: &str = "http://127.0.0.1:1";

/// Where something listens, that is no address.
const NONSENSE: &str = "not an address";

pub(super) fn bare(agent_disk: &str) -> Result<Cluster> {
    with_agent(AGENT, agent_disk)
}

/// A fleet that can be sent jobs, although nothing of them is real.
pub(super) fn with_agent(settings: &str, agent_disk: &str) -> Result<Cluster> {
    let setup = Setup {
        agent: settings.to_owned(),
        agent_disk: agent_disk.to_owned(),
        bare: true,
        ..Setup::default()
    };
    let fleet = Cluster::new(&setup)?;
    std::fs::create_dir_all(fleet.dir.join("work/model"))?;
    std::fs::write(fleet.dir.join("work/model/config.json"), "{}")?;
    std::fs::write(fleet.dir.join("work/task.jsonl"), "{}\n")?;
    Ok(fleet)
}

pub(super) fn submit(fleet: &Cluster, endpoint: &str) -> Result<Command> {
    let path = fleet.write_spec("traced", SPEC)?;
    let mut submit = fleet.hone();
    submit.env(OTLP_ENDPOINT, endpoint).args(["submit", &path, "--image", IMAGE]);
    Ok(submit)
}

/// Two samples, one after the other, arrive.
pub(super) fn is_heard(fleet: &Cluster) -> Result<()> {
    let last = || -> Result<u64> {
        let node = fleet.node()?;
        let text = fleet.run(&["node", "show", &node, "-o", "json"])?;
        let shown: serde_json::Value = serde_json::from_str(&text)?;
        shown["sample"]["wall_ns"].as_u64().context("no sample yet")
    };
    let first = wait_until("the node is heard", PATIENCE, || last().map(Some))?;
    wait_until("the node goes on", PATIENCE, || Ok((last()? > first).then_some(())))
}

fn exports(process: &Process) -> Result<bool> {
    Ok(process.threads()?.iter().any(|name| name == "otlp" || name.starts_with("OpenTelem")))
}

#[test]
fn nothing_waits_for_a_collector_that_hangs_or_is_away() -> Result<()> {
    let hanging = Hanging::start()?;
    let mut fleet = bare("")?;
    is_heard(&fleet)?;
    ensure!(!exports(&fleet.controller)? && !exports(&fleet.agent)?, "without an endpoint");
    for endpoint in [hanging.endpoint()?.as_str(), AWAY] {
        fleet.trace_to(Some(endpoint))?;
        is_heard(&fleet)?;
        ensure!(exports(&fleet.controller)? && exports(&fleet.agent)?, "with {endpoint}");
        let output = submit(&fleet, endpoint)?.output()?;
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        let job: u64 = succeeded(output)?.trim().parse()?;
        ensure!(!talk.contains("span") && !talk.contains("ERROR"), "the exporter talks: {talk}");
        // Placement, and the agent's first steps: each makes spans that nobody takes.
        wait_until("the agent works on the job", PATIENCE, || {
            Ok(fleet.job(job)?.attempts.iter().any(|a| a.state != "placed").then_some(()))
        })?;
        is_heard(&fleet)?;
        fleet.run(&["cancel", &job.to_string()])?;
    }
    // Both ended by themselves each time; so they do now.
    fleet.trace_to(None)
}

#[test]
fn an_endpoint_that_is_none_keeps_nobody_from_submitting() -> Result<()> {
    let fleet = bare("")?;
    let output = submit(&fleet, NONSENSE)?.output()?;
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    succeeded(output)?;
    ensure!(talk.contains("warning: spans cannot be exported to not an address"), "{talk}");
    Ok(())
}
