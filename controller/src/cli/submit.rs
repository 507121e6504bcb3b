//! `hone submit`: reads the spec here for its messages, brings inputs and image to the controller, and asks it to take
//! the job.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hone_proto::error::Reason;
use hone_proto::telemetry::{self, OTLP_ENDPOINT, Service, Telemetry};
use hone_proto::wire::{SubmitReply, SubmitRequest, SubmittedInput, WhoAmIRequest};
use tracing::Instrument as _;
use tracing::field::Empty;

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
    /// With --follow and without a terminal, print every step: else the first, the last, evaluations, and one in a second
    #[arg(long, requires = "follow")]
    every_step: bool,
    /// Image to use instead of the spec's: a local one, or name@sha256:… in a registry
    #[arg(long, value_name = "REF")]
    image: Option<String>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) async fn run(args: &Args, global: &Global, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let _telemetry = traces(ctx);
    let span = tracing::info_span!("submit", job = Empty, otel.status_code = Empty);
    let submitted = submit(args, global, ctx).instrument(span.clone()).await;
    match &submitted {
        Ok((_, reply, _)) => drop(span.record("job", reply.job)),
        Err(_) => telemetry::failed(&span),
    }
    // The span ends here: whoever follows the job does that outside of it.
    drop(span);
    let (client, reply, spec) = submitted?;
    report(&client, &reply, &spec, args, ctx).await
}

/// The trace of a job begins here. Without a collector nothing is set up; one that cannot be used keeps nobody from
/// submitting.
fn traces(ctx: &Ctx) -> Option<Telemetry> {
    std::env::var_os(OTLP_ENDPOINT)?;
    match telemetry::init(Service::Command, None) {
        Ok(telemetry) => Some(telemetry),
        Err(error) => {
            let error = anyhow::Error::from(error);
            ctx.printer.talk(&format!("warning: {error:#}"));
            None
        }
    }
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
    let config = spec::read_config(&spec, folder)?.unwrap_or_default();
    for warning in spec.warnings() {
        ctx.printer.talk(&format!("warning: {warning}"));
    }
    let client = ctx.client().await?;
    // Asked before anything large is read: whoever cannot reach the controller learns it at once.
    client.call(WhoAmIRequest {}, |mut c, r| async move { c.who_am_i(r).await }).await?;
    let reference = args.image.as_deref().unwrap_or_else(|| spec.image());
    let found = image::find(reference).await?;
    let expected = inputs.iter().map(|input| SubmittedInput {
        channel: input.channel.path().to_owned(),
        manifest: Vec::new(),
        bytes: input::expected_size(&input.path).get(),
    });
    // Asked before anything is uploaded: what cannot be satisfied costs nothing and leaves nothing behind.
    let check = SubmitRequest {
        check_only: true,
        ..request(text.clone(), &config, args, found.image().clone(), expected.collect())
    };
    client.call(check, |mut c, r| async move { c.submit(r).await }).await?;
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
    let image = found.bring(&target, &ctx.printer).await?;
    let request = request(text, &config, args, image, submitted);
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
    config: &str,
    args: &Args,
    image: Image,
    inputs: Vec<SubmittedInput>,
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
        check_only: false,
        tool_config: config.to_owned(),
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
        return watch::follow(client.clone(), job, args.every_step, &mut ctx.printer).await;
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
