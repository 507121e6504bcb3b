//! `hone submit`: reads the spec here for its messages, brings inputs and image to the controller, and asks it to take
//! the job.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hone_proto::error::Reason;
use hone_proto::wire::{SubmitReply, SubmitRequest, WhoAmIRequest};
use tracing::Instrument as _;

use super::client::{Client, request_id};
use super::context::Contexts;
use super::error::{Exit, Failure};
use super::image::{self, Image, Target};
use super::{Ctx, Global, OutputArgs, input, pull, watch};
use crate::spec::{self, JobSpec};

/// Submit a job: check the spec, upload what is missing, and print its number
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The spec, a YAML file; its paths are relative to its own folder
    file: PathBuf,
    /// Watch the job until it ends; the exit code is 9 when it does not complete
    #[arg(short, long)]
    follow: bool,
    /// Image to use instead of the spec's: a local one, or name@sha256:… in a registry
    #[arg(long, value_name = "REF")]
    image: Option<String>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// The collector of spans, as every program that exports them names it.
const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

pub(super) async fn run(args: &Args, global: &Global, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    // The trace of a job begins here. Without a collector nothing is set up, and nothing logged.
    let _telemetry = match std::env::var_os(OTLP_ENDPOINT) {
        Some(_) => Some(hone_proto::telemetry::init("hone", None)?),
        None => None,
    };
    let span = tracing::info_span!("submit", spec = %args.file.display());
    let (client, reply, spec) = submit(args, global, ctx).instrument(span).await?;
    report(&client, &reply, &spec, args, ctx).await
}

/// Everything up to the controller's answer.
async fn submit(
    args: &Args,
    global: &Global,
    ctx: &mut Ctx,
) -> anyhow::Result<(Client, SubmitReply, JobSpec)> {
    let (text, spec) = read(&args.file)?;
    let folder = args.file.parent().unwrap_or(Path::new("."));
    let inputs = spec::local_inputs(&spec, folder)?;
    let client = ctx.client().await?;
    // Asked before anything large is read: whoever cannot reach the controller learns it at once.
    client.call(WhoAmIRequest {}, |mut c, r| async move { c.who_am_i(r).await }).await?;
    let bulk = pull::bulk_client(&client, spec.project().as_str()).await?;
    let mut submitted = Vec::with_capacity(inputs.len());
    for input in &inputs {
        let channel = input.channel.path();
        let sent = input::upload(channel, &input.path, spec.project(), &bulk, &ctx.printer).await?;
        submitted.push(sent);
    }
    let contexts = Contexts::locate(global.config_dir.as_deref())?;
    let target = Target {
        bulk,
        project: spec.project(),
        address: client.address(),
        config_dir: contexts.dir(),
    };
    let reference = args.image.as_deref().unwrap_or_else(|| spec.image());
    let image = image::resolve(reference, &target, &ctx.printer).await?;
    let request = request(text, args, image, submitted);
    let reply = client.call(request, |mut c, r| async move { c.submit(r).await }).await?;
    Ok((client, reply, spec))
}

/// The spec's text and what it says.
fn read(path: &Path) -> anyhow::Result<(String, JobSpec)> {
    let open = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // One byte over the bound, so that the parser sees that it is too long and says so.
        let limit = u64::try_from(spec::MAX_TEXT).unwrap_or(u64::MAX).saturating_add(1);
        std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = open().map_err(|error| {
        let message = format!("cannot read the spec {}", path.display());
        Failure::new(Reason::BadSpec, message).hint("name a YAML file").because(error)
    })?;
    let spec = spec::parse_bytes(&bytes, &path.display().to_string())?;
    let text = String::from_utf8(bytes).context("the spec is not UTF-8")?;
    Ok((text, spec))
}

fn request(
    spec_yaml: String,
    args: &Args,
    image: Image,
    inputs: Vec<hone_proto::wire::SubmittedInput>,
) -> SubmitRequest {
    SubmitRequest {
        request_id: request_id(),
        spec_yaml,
        spec_name: args.file.display().to_string(),
        inputs,
        image_reference: image.reference,
        image_manifest: image.manifest.map(|d| d.as_bytes().to_vec()).unwrap_or_default(),
        image_labels: image.labels,
        image_bytes: image.bytes.get(),
    }
}

async fn report(
    client: &Client,
    reply: &SubmitReply,
    spec: &JobSpec,
    args: &Args,
    ctx: &mut Ctx,
) -> anyhow::Result<Exit> {
    let job = reply.job;
    if args.follow {
        // Data of a followed job is its progress; its number is talk.
        ctx.printer.talk(&format!("job {job} {} is submitted", spec.name()));
        return watch::follow(client.clone(), job, &mut ctx.printer).await;
    }
    ctx.printer.value(reply, |reply, _| reply.job.to_string())?;
    if !ctx.printer.json() {
        ctx.printer.talk(&format!(
            "job {job} {} is submitted; try:\n  hone watch {job}\n  hone explain {job}\n  hone logs {job} -f",
            spec.name()
        ));
    }
    Ok(Exit::OK)
}
