//! `hone node`: the machines.

use clap::Subcommand;
use hone_proto::time::WallNanos;
use hone_proto::wire::{
    CreateNodeTokenRequest, DrainNodeRequest, GetNodeRequest, ListNodesRequest, LoseNodeRequest,
    NodeView, ResumeNodeRequest, RevokeNodeRequest, TokenReply,
};

use super::client::request_id;
use super::error::Exit;
use super::render::human::time;
use super::render::node;
use super::since::Ttl;
use super::{Ctx, OutputArgs, samples};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Print the command that joins one machine; its token works once
    Token {
        /// How long the token works: 15m, 1h; 24h at most [default: the controller's `token_seconds`]
        #[arg(long, value_name = "DURATION")]
        ttl: Option<Ttl>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List nodes: what they have, and the jobs on them
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show one node: inventory, GPUs, measured disks, newest sample
    Show(Named),
    /// Show what a node's hardware did, ten seconds a line, and follow its live samples
    Samples(samples::Args),
    /// Place nothing more on a node
    Drain {
        /// Also save and move the jobs that run there
        #[arg(long)]
        stop_jobs: bool,
        #[command(flatten)]
        node: Named,
    },
    /// Take back drain
    Resume(Named),
    /// End a node's certificate, at once and for ever
    Revoke(Named),
    /// State that a node is gone, so that its jobs may start elsewhere now
    Lost(Named),
}

#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// Id, or host name
    node: String,
    #[command(flatten)]
    output: OutputArgs,
}

impl Verb {
    /// The node that it is about.
    fn named(&self) -> Option<&str> {
        match self {
            Self::Token { .. } | Self::List { .. } => None,
            Self::Samples(args) => Some(&args.node),
            Self::Show(node)
            | Self::Drain { node, .. }
            | Self::Resume(node)
            | Self::Revoke(node)
            | Self::Lost(node) => Some(&node.node),
        }
    }

    pub(super) const fn output(&self) -> OutputArgs {
        match self {
            Self::Token { output, .. } | Self::List { output } => *output,
            Self::Samples(args) => args.output,
            Self::Show(node)
            | Self::Drain { node, .. }
            | Self::Resume(node)
            | Self::Revoke(node)
            | Self::Lost(node) => node.output,
        }
    }
}

pub(super) async fn run(verb: &Verb, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    match (perform(verb, ctx).await, verb.named()) {
        (Err(error), Some(name)) => Err(ctx.client().await?.about_node(name, error).await),
        (done, _) => done,
    }
}

async fn perform(verb: &Verb, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let request_id = request_id();
    let changed = match verb {
        Verb::Token { ttl, .. } => return token(*ttl, request_id, ctx).await,
        Verb::List { .. } => return list(ctx).await,
        Verb::Samples(args) => return samples::run(args, ctx).await,
        Verb::Show(named) => return show(&named.node, ctx).await,
        Verb::Drain { stop_jobs, node } => {
            let request =
                DrainNodeRequest { request_id, node: node.node.clone(), stop_jobs: *stop_jobs };
            let client = ctx.client().await?;
            client.call(request, |mut c, r| async move { c.drain_node(r).await }).await?
        }
        Verb::Resume(named) => {
            let request = ResumeNodeRequest { request_id, node: named.node.clone() };
            let client = ctx.client().await?;
            client.call(request, |mut c, r| async move { c.resume_node(r).await }).await?
        }
        Verb::Revoke(named) => {
            let request = RevokeNodeRequest { request_id, node: named.node.clone() };
            let client = ctx.client().await?;
            client.call(request, |mut c, r| async move { c.revoke_node(r).await }).await?
        }
        Verb::Lost(named) => {
            let request = LoseNodeRequest { request_id, node: named.node.clone() };
            let client = ctx.client().await?;
            client.call(request, |mut c, r| async move { c.lose_node(r).await }).await?
        }
    };
    ctx.printer.value(&changed, changed_line)?;
    Ok(Exit::OK)
}

fn changed_line(view: &NodeView, _width: usize) -> String {
    format!("node {} ({}) is {}", view.id, view.hostname, view.state)
}

async fn list(ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let client = ctx.client().await?;
    let reply =
        client.call(ListNodesRequest {}, |mut c, r| async move { c.list_nodes(r).await }).await?;
    if reply.nodes.is_empty() && !ctx.printer.json() {
        ctx.printer.talk("no nodes yet: `hone node token` prints the command that joins one");
        return Ok(Exit::OK);
    }
    let now = ctx.now();
    ctx.printer.value(&reply.nodes, |nodes, width| node::list(nodes, now, width))?;
    Ok(Exit::OK)
}

async fn show(name: &str, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let client = ctx.client().await?;
    let request = GetNodeRequest { node: name.to_owned() };
    let view = client.call(request, |mut c, r| async move { c.get_node(r).await }).await?;
    let now = ctx.now();
    ctx.printer.value(&view, |view, width| node::details(view, now, width))?;
    Ok(Exit::OK)
}

async fn token(ttl: Option<Ttl>, request_id: String, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let request = CreateNodeTokenRequest { request_id, ttl_seconds: Ttl::asked(ttl) };
    let client = ctx.client().await?;
    let reply =
        client.call(request, |mut c, r| async move { c.create_node_token(r).await }).await?;
    ctx.printer
        .value(&reply, |reply, _| enrolment_command("hone-agent join --controller", reply))?;
    if !ctx.printer.json() {
        ctx.printer.talk(&format!(
            "run it as root on the new node before {}; it works once",
            time(WallNanos::new(reply.expires_wall_ns))
        ));
    }
    Ok(Exit::OK)
}

/// One command that feeds the token by a here-document: it never shows in a list of processes or a history of
/// arguments.
pub(super) fn enrolment_command(command: &str, reply: &TokenReply) -> String {
    // Enrolment is the third of the three ports of the controller's address.
    let port = reply.control_port.saturating_add(2);
    let host = &reply.address;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    format!(
        "{command} {host}:{port} --fingerprint {} <<'EOF'\n{}\nEOF",
        reply.root_fingerprint, reply.token
    )
}
