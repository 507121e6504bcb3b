//! `hone operator`: the people.

use clap::{Subcommand, ValueEnum};
use hone_proto::error::Reason;
use hone_proto::time::WallNanos;
use hone_proto::wire::{
    InviteOperatorRequest, ListOperatorsRequest, OperatorView, RevokeOperatorRequest,
};

use super::client::request_id;
use super::error::{Exit, Failure, is_not_found, not_there};
use super::node::enrolment_command;
use super::render::human::{UNKNOWN, time};
use super::render::table::{Kind, table};
use super::since::Ttl;
use super::{Ctx, OutputArgs};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Print the command that lets a colleague in; its token works once
    Invite {
        /// The colleague's user name
        name: String,
        /// What they may do
        #[arg(long, value_enum, default_value_t = Role::Submitter)]
        role: Role,
        /// How long the token works: 1h, 1d; 1d at most [default: the controller's `token_most_seconds`]
        #[arg(long, value_name = "DURATION")]
        ttl: Option<Ttl>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List people
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// End a person's certificates at once
    Revoke {
        /// User name
        name: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Role {
    /// Sees everything, changes nothing
    Viewer,
    /// Also submits jobs, and cancels their own
    Submitter,
    /// Also cancels any job, and joins and drains nodes
    Operator,
    /// Also revokes nodes, and invites and revokes people
    Admin,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl Verb {
    pub(super) const fn output(&self) -> OutputArgs {
        match self {
            Self::Invite { output, .. } | Self::List { output } | Self::Revoke { output, .. } => {
                *output
            }
        }
    }
}

pub(super) async fn run(verb: &Verb, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    match verb {
        Verb::Invite { name, role, ttl, .. } => invite(name, *role, *ttl, ctx).await,
        Verb::List { .. } => list(ctx).await,
        Verb::Revoke { name, .. } => revoke(name, ctx).await,
    }
}

async fn invite(name: &str, role: Role, ttl: Option<Ttl>, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let request = InviteOperatorRequest {
        request_id: request_id(),
        user: name.to_owned(),
        role: role.word().to_owned(),
        ttl_seconds: Ttl::asked(ttl),
    };
    let client = ctx.client().await?;
    let reply = client.call(request, |mut c, r| async move { c.invite_operator(r).await }).await?;
    ctx.printer.value(&reply, |reply, _| enrolment_command("hone login --address", reply))?;
    if !ctx.printer.json() {
        ctx.printer.talk(&format!(
            "{name} runs it on their own machine before {}; it works once",
            time(WallNanos::new(reply.expires_wall_ns))
        ));
    }
    Ok(Exit::OK)
}

async fn list(ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let client = ctx.client().await?;
    let reply = client
        .call(ListOperatorsRequest {}, |mut c, r| async move { c.list_operators(r).await })
        .await?;
    ctx.printer.value(&reply.operators, |list, width| operators(list, width))?;
    Ok(Exit::OK)
}

async fn revoke(name: &str, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let request = RevokeOperatorRequest { request_id: request_id(), user: name.to_owned() };
    let client = ctx.client().await?;
    let done = client.call(request, |mut c, r| async move { c.revoke_operator(r).await }).await;
    let view = match done {
        Err(error) if is_not_found(&error) => {
            let listed = client
                .call(ListOperatorsRequest {}, |mut c, r| async move { c.list_operators(r).await });
            let known = listed.await.map(|reply| reply.operators).unwrap_or_default();
            let failure = Failure::new(Reason::NotFound, error.to_string());
            let failure = failure.hint("`hone operator list` lists everybody");
            return Err(not_there(failure, name, known.iter().map(|o| o.user.as_str())).into());
        }
        done => done?,
    };
    ctx.printer.value(&view, |view, _| format!("{} is {}", view.user, view.state))?;
    Ok(Exit::OK)
}

fn operators(list: &[OperatorView], width: usize) -> String {
    let columns = [
        ("USER", Kind::Text),
        ("ROLE", Kind::Fixed),
        ("STATE", Kind::Fixed),
        ("INVITED BY", Kind::Text),
        ("CERTIFICATE UNTIL", Kind::Fixed),
    ];
    let until =
        |ns: Option<u64>| ns.map_or_else(|| UNKNOWN.to_owned(), |n| time(WallNanos::new(n)));
    let rows: Vec<_> = list
        .iter()
        .map(|o| {
            vec![
                o.user.clone(),
                o.role.clone(),
                o.state.clone(),
                o.invited_by.clone(),
                until(o.certificate_expires_wall_ns),
            ]
        })
        .collect();
    table(&columns, &rows, width)
}
