//! Jobs that are submitted over the wire with inputs of the test's own, for nodes that only say that they train; and what
//! an agent is told of one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hone_proto::assignment::{Assignment, ImageRef, Intent, Promise};
use hone_proto::bulk::source::{Source, Trust};
use hone_proto::bulk::{Client, Retry, Scope, Silent};
use hone_proto::id::{AttemptId, ProjectName};
use hone_proto::identity::{ClientIdentity, Plane};
use hone_proto::manifest::{Kind, Manifest, Sealed};
use hone_proto::wire;

use crate::cluster::job::spec;
use crate::reach::{Reach, fresh_id};

/// A job that was taken.
#[derive(Debug)]
pub struct Taken {
    /// Its number.
    pub job: u64,
    /// The manifest of its model.
    pub model: Sealed,
}

/// An image that no node will ever pull.
#[must_use]
pub fn image() -> String {
    format!("registry.example/trainer@sha256:{}", "ab".repeat(32))
}

/// The project's bulk data, as the admin. Gives up at once.
pub fn bulk(reach: &Reach) -> Result<Client> {
    let channel = reach.channel(ClientIdentity::new(&reach.admin)?, Plane::Bulk)?;
    Ok(Client::new(channel, Scope::Project(ProjectName::default_project()), Retry::tries(1)))
}

/// Submits a job whose model is one file of these bytes.
pub async fn submit(reach: &Reach, name: &str, model: &[u8]) -> Result<Taken> {
    let scratch = tempfile::tempdir()?;
    let bulk = bulk(reach)?;
    let mut inputs = Vec::new();
    let mut sent = None;
    for (channel, bytes) in [("model", model), ("data/train", b"{\"messages\": []}\n")] {
        let folder = scratch.path().join(channel);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("file"), bytes)?;
        let source = Source::open(&folder, Trust::Owner)?;
        let files = source.survey(|_| true, |_| {})?;
        let project = ProjectName::default_project();
        let manifest = Manifest { kind: Kind::Input, project, spec: None, base_model: None, files };
        let manifest = manifest.seal()?;
        let digest = bulk.upload(&manifest, &Arc::new(source), &Silent).await?;
        inputs.push(wire::SubmittedInput {
            channel: channel.to_owned(),
            manifest: digest.as_bytes().to_vec(),
            bytes: manifest.manifest().total_size().get(),
        });
        sent.get_or_insert(manifest);
    }
    let request = wire::SubmitRequest {
        request_id: fresh_id(),
        spec_yaml: spec(name, 1),
        spec_name: format!("{name}.yaml"),
        inputs,
        image_reference: image(),
        ..Default::default()
    };
    let reply = reach.operator(&reach.admin)?.submit(request).await?.into_inner();
    Ok(Taken { job: reply.job, model: sent.context("a model")? })
}

/// The newest attempt of a job, and the node that it was placed on.
pub async fn placed(reach: &Reach, job: u64) -> Result<(AttemptId, String)> {
    let mut admin = reach.operator(&reach.admin)?;
    let view = admin.get_job(wire::GetJobRequest { job }).await?.into_inner();
    let attempt = view.attempts.last().context("an attempt")?;
    let named = wire::AttemptRef { job, generation: attempt.generation, attempt: attempt.attempt };
    Ok((named.into(), attempt.node.clone()))
}

/// What an agent is told of an attempt, at its least; a test says what else it needs.
///
/// # Errors
/// Never: its names are names.
pub fn assignment(attempt: AttemptId) -> Result<Assignment> {
    Ok(Assignment {
        attempt,
        job_name: "tune".parse()?,
        project: ProjectName::default_project(),
        owner: "ada".parse()?,
        intent: Intent::Run,
        image: ImageRef { reference: "sha256:ab".to_owned(), manifest: None },
        command: vec![],
        trainer_spec: String::new(),
        inputs: vec![],
        resume: None,
        promise: Promise::default(),
        relaxations: vec![],
        keep_checkpoints: 2,
        grace: Duration::from_secs(60),
        disconnect_wait: None,
        checkpoint_requests: 0,
        traceparent: String::new(),
        max_time: None,
    })
}
