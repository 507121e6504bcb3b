//! From a submit on the wire to a complete wish: the spec is parsed again here, with the authority to refuse.

use std::collections::BTreeMap;

use hone_proto::assignment::{Channel, ImageRef, Input};
use hone_proto::convert;
use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{Attempt, Digest, JobId};
use hone_proto::quantity::Bytes;
use hone_proto::wire;

use crate::core::Command;
use crate::core::record::Wish;
use crate::spec::{self, JobSpec};

/// Labels of an image that are kept with a job.
const MAX_LABELS: usize = 64;

/// Longest label, name and value each.
const MAX_LABEL: usize = 256;

pub(super) fn command(
    request: wire::SubmitRequest,
    traceparent: String,
) -> Result<Command, Refusal> {
    let name = if request.spec_name.is_empty() { "the spec" } else { &request.spec_name };
    let spec = spec::parse(&request.spec_yaml, name).map_err(|error| Refusal::from(&error))?;
    let inputs = inputs(&spec, &request.inputs)?;
    let model = inputs.iter().find(|input| input.channel == Channel::Model);
    let model = model.map(|input| input.manifest);
    let config = config(&spec, &request.tool_config)?;
    let mut demand = spec.demand();
    // An image that the node pulls from a registry is not stored here; its size is known to the client alone. What is
    // stored is counted by the core.
    if request.image_manifest.is_empty() {
        demand.disk = demand.disk.saturating_add(Bytes::new(request.image_bytes));
    }
    let wish = Wish {
        name: spec.name().clone(),
        project: spec.project().clone(),
        demand,
        image: ImageRef {
            reference: reference(&request.image_reference)?,
            manifest: convert::optional_digest("image_manifest", &request.image_manifest)?,
        },
        image_labels: labels(request.image_labels)?,
        command: spec.command().to_vec(),
        trainer_spec: spec::resolve(&spec, JobId::new(0), Attempt::new(0), model, config).to_json(),
        inputs,
        relaxations: spec.relaxations(),
        keep_checkpoints: spec.keep_checkpoints(),
        grace: spec.grace(),
        on_disconnect: spec.on_disconnect(),
        max_attempts: spec.max_attempts(),
        max_time: spec.max_time(),
        exports: !spec.exports().is_empty(),
        traceparent,
    };
    Ok(Command::Submit { wish: Box::new(wish), spec_yaml: request.spec_yaml })
}

/// The text of the tool's configuration file, when the spec names one.
fn config<'a>(spec: &JobSpec, sent: &'a str) -> Result<Option<&'a str>, Refusal> {
    let bad = |text: &str| Err(Refusal::new(Reason::BadRequest, text));
    match (spec.has_config(), sent.is_empty()) {
        (false, true) => Ok(None),
        (false, false) => bad("a configuration file was sent, and the spec names none"),
        (true, true) => bad("the file that `trainer.config` names was not sent, or is empty"),
        (true, false) => {
            spec::check_config(spec, sent).map_err(|error| Refusal::from(&error))?;
            Ok(Some(sent))
        }
    }
}

/// The wish of a submit whose inputs are not there yet, with the sizes that its caller expects.
pub(super) fn foreseen(mut request: wire::SubmitRequest) -> Result<(Wish, String), Refusal> {
    let mut expected = Bytes::ZERO;
    for input in &mut request.inputs {
        expected = expected.saturating_add(Bytes::new(std::mem::take(&mut input.bytes)));
        input.manifest = Digest::of(input.channel.as_bytes()).as_bytes().to_vec();
    }
    match command(request, String::new())? {
        Command::Submit { mut wish, spec_yaml } => {
            wish.demand.disk = wish.demand.disk.saturating_add(expected);
            Ok((*wish, spec_yaml))
        }
        _ => Err(Refusal::new(Reason::Internal, "a submit is not a submit")),
    }
}

/// Exactly the channels that the spec names, each once.
fn inputs(spec: &JobSpec, sent: &[wire::SubmittedInput]) -> Result<Vec<Input>, Refusal> {
    let bad = |text: String| Refusal::new(Reason::BadRequest, text);
    let mut found = BTreeMap::new();
    for input in sent {
        let channel = Channel::from_path(&input.channel)
            .ok_or_else(|| bad(format!("{:?} is not an input channel", input.channel)))?;
        let manifest = convert::digest("input.manifest", &input.manifest)?;
        if found.insert(channel, manifest).is_some() {
            return Err(bad(format!("input {} was sent twice", channel.path())));
        }
    }
    let wanted = spec.channels();
    if let Some(missing) = wanted.iter().find(|channel| !found.contains_key(channel)) {
        return Err(bad(format!("input {} was not uploaded", missing.path())));
    }
    if let Some(extra) = found.keys().find(|channel| !wanted.contains(channel)) {
        return Err(bad(format!("input {} is not in the spec", extra.path())));
    }
    Ok(found.into_iter().map(|(channel, manifest)| Input { channel, manifest }).collect())
}

/// An image id or a digest reference: a tag could mean another image on every node.
fn reference(text: &str) -> Result<String, Refusal> {
    let digest = text.rsplit_once("sha256:").map(|(_, digest)| digest);
    let hex = digest.is_some_and(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit()));
    if !hex || text.len() > 512 || text.chars().any(char::is_whitespace) {
        return Err(Refusal::new(
            Reason::BadRequest,
            format!("image {text:?} must be an image id or a reference by digest"),
        ));
    }
    Ok(text.to_owned())
}

fn labels(sent: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Refusal> {
    let long =
        |(name, value): (&String, &String)| name.len() > MAX_LABEL || value.len() > MAX_LABEL;
    if sent.len() > MAX_LABELS || sent.iter().any(long) {
        let text = "image labels: 64 at most, of 256 bytes each";
        return Err(Refusal::new(Reason::BadRequest, text));
    }
    Ok(sent)
}
