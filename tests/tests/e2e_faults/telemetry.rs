//! One trace leads from `hone submit` through the controller and the agent to the durable commit.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use hone_proto::telemetry::OTLP_ENDPOINT;
use hone_tests::cluster::job::{STEPS, spec};
use hone_tests::cluster::{Cluster, cluster, succeeded};
use hone_tests::otlp::{Collector, Span};

const SUBMIT: &str = "hone.v1.Operator/Submit";
const COMMIT: &str = "hone.v1.Bulk/Commit";

/// A short job: a checkpoint and a package are saved.
fn short() -> String {
    let spec = spec("traced", 5).replace(&format!("max_steps: {STEPS}"), "max_steps: 3");
    spec.replace("every: {steps: 10}", "every: {steps: 2}")
}

/// Every span of this name, of this program, whose parent satisfies `of`.
fn children<'a>(
    trace: &'a [Span],
    service: &str,
    name: &str,
    parents: &[&Span],
) -> Result<Vec<&'a Span>> {
    let of = |span: &&Span| {
        span.service == service
            && span.name == name
            && parents.iter().any(|parent| parent.id == span.parent)
    };
    let found: Vec<_> = trace.iter().filter(of).collect();
    ensure!(!found.is_empty(), "no {name} of {service} below {parents:?} in {trace:#?}");
    Ok(found)
}

#[test]
fn one_trace_leads_from_submit_to_commit() -> Result<()> {
    let collector = Collector::start()?;
    let mut fleet = cluster()?;
    fleet.trace_to(Some(collector.endpoint()))?;
    let mut secrets = secrets(&fleet)?;
    let path = fleet.write_spec("traced", &short())?;
    let mut submit = fleet.hone();
    submit.env(OTLP_ENDPOINT, collector.endpoint());
    let output = submit.args(["submit", &path, "--image", &fleet.image]).output()?;
    let job: u64 = succeeded(output)?.trim().parse()?;
    // The command has ended, so its spans have been sent.
    let spans = collector.spans();
    let root = spans.iter().find(|span| span.service == "hone" && span.name == "submit");
    let root = root.context("the command sent no span")?.clone();
    ensure!(root.parent.is_empty(), "something was there before the submit: {root:?}");
    ensure!(root.attribute("job") == Some(job.to_string()), "{root:?}");

    fleet.completes(job)?;
    // Daemons, too, send what is left when they end.
    fleet.trace_to(None)?;
    let mut trace = collector.spans();
    trace.retain(|span| span.trace == root.trace);
    is_whole(&trace, &root)?;

    let call = children(&trace, "hone-controller", SUBMIT, &[&root])?;
    let inputs = children(&trace, "hone-controller", COMMIT, &[&root])?;
    children(&trace, "hone-controller", "commit", &inputs)?;
    let attempt = format!("job {job} attempt 1");
    for (service, name) in
        [("hone-controller", "place"), ("hone-agent", "stage"), ("hone-agent", "launch")]
    {
        let spans = children(&trace, service, name, &call)?;
        let of = |span: &Span| span.attribute("attempt").as_deref() == Some(&attempt);
        ensure!(spans.iter().all(|span| of(span)), "another attempt: {spans:?}");
    }
    let uploads = children(&trace, "hone-agent", "upload", &call)?;
    ensure!(uploads.len() >= 2, "a checkpoint and a package: {uploads:?}");
    for upload in uploads {
        let commits = children(&trace, "hone-controller", COMMIT, &[upload])?;
        for durable in children(&trace, "hone-controller", "commit", &commits)? {
            ensure!(durable.attribute("scope").as_deref() == Some(&attempt), "{durable:?}");
        }
    }
    secrets.push(fleet.token()?);
    collector.holds_none_of(&secrets)
}

/// Every span but the first is part of another one of the trace, and begins no earlier than it.
fn is_whole(trace: &[Span], root: &Span) -> Result<()> {
    for span in trace.iter().filter(|span| span.id != root.id) {
        let parent = trace.iter().find(|other| other.id == span.parent);
        let parent = parent.with_context(|| format!("its parent was never sent: {span:?}"))?;
        ensure!(span.times.0 >= parent.times.0, "{span:?} began before {parent:?}");
        ensure!(span.times.1 >= span.times.0, "it ended before it began: {span:?}");
    }
    Ok(())
}

/// What no collector may ever see: tokens, made while everything is traced, and all private keys.
fn secrets(fleet: &Cluster) -> Result<Vec<String>> {
    let mut secrets = vec![fleet.token()?];
    for part in ["controller", "agent", "config"] {
        keys(&fleet.dir.join(part), &mut secrets)?;
    }
    ensure!(secrets.len() > 3, "only {} secrets were found", secrets.len());
    Ok(secrets)
}

fn keys(dir: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            keys(&entry.path(), found)?;
            continue;
        }
        // Chunks and databases are larger than any key.
        if entry.metadata()?.len() > 64 << 10 {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        let key = text.split("PRIVATE KEY-----").nth(1).unwrap_or_default();
        found.extend(key.lines().filter(|line| line.len() > 40).map(str::to_owned));
    }
    Ok(())
}
