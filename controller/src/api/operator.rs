//! What people ask for. The access layer has checked the role; ownership is the core's to check.

mod tokens;

use std::path::PathBuf;
use std::sync::Arc;

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::JobId;
use hone_proto::identity::Role;
use hone_proto::{telemetry, wire};
use tonic::{Request, Response, Status};

use super::streams::Boxed;
use super::{
    caller, find_node, hardware, listing, no_job, request_id, state, streams, submit, views,
};
use crate::backup::Exports;
use crate::core::record::TokenPurpose;
use crate::core::{Caller, Command, Input, Reply};
use crate::driver::Handle;
use crate::identity::Issuer;

pub use tokens::TokenLives;

/// What the service knows besides the fleet.
pub struct Facts {
    /// Where the files of jobs lie.
    pub journal: PathBuf,
    /// Makes tokens.
    pub issuer: Arc<Issuer>,
    /// SHA-256 of the root, hexadecimal.
    pub root_fingerprint: String,
    /// The address that agents and colleagues are told.
    pub address: String,
    /// The first of the three ports.
    pub control_port: u16,
    /// How long tokens work.
    pub tokens: TokenLives,
    /// Writes exports of the state.
    pub exports: Exports,
}

/// The service.
pub struct OperatorService {
    fleet: Handle,
    facts: Arc<Facts>,
}

impl OperatorService {
    /// Serves the fleet behind this handle.
    #[must_use]
    pub const fn new(fleet: Handle, facts: Arc<Facts>) -> Self {
        Self { fleet, facts }
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Refusal> {
        caller(request, &self.fleet.access().borrow())
    }

    async fn change(
        &self,
        caller: Caller,
        request: &str,
        command: Command,
    ) -> Result<Reply, Refusal> {
        let request = request_id(request)?;
        let command = Box::new(command);
        self.fleet.call(move |ticket| Input::Request { ticket, caller, request, command }).await
    }

    async fn job_view(&self, id: JobId) -> Result<wire::JobView, Refusal> {
        self.fleet
            .read(move |fleet| fleet.jobs().get(&id).map(|job| views::job(fleet, job)))
            .await?
            .ok_or_else(|| no_job(id))
    }

    async fn node_view(&self, name: String) -> Result<wire::NodeView, Refusal> {
        let (id, mut view) = self
            .fleet
            .read(move |fleet| {
                let id = find_node(fleet, &name)?;
                let node = fleet.nodes().get(&id).map(|node| views::node(fleet, node));
                let view = node.ok_or_else(|| {
                    Refusal::new(Reason::NotFound, format!("there is no node {id}"))
                })?;
                Ok::<_, Refusal>((id, view))
            })
            .await??;
        show_sample(&mut view, self.fleet.sample(&id));
        Ok(view)
    }

    /// A change of one node, and the node as it is then.
    async fn change_node<T>(
        &self,
        request: &Request<T>,
        request_id: &str,
        node: &str,
        command: impl FnOnce(hone_proto::id::NodeId) -> Command,
    ) -> Result<Response<wire::NodeView>, Status> {
        let caller = self.caller(request)?;
        let name = node.to_owned();
        let id = self.fleet.read(move |fleet| find_node(fleet, &name)).await??;
        self.change(caller, request_id, command(id.clone())).await?;
        Ok(Response::new(self.node_view(id.to_string()).await?))
    }
}

/// The newest sample also tells when the node was last seen.
fn show_sample(node: &mut wire::NodeView, sample: Option<wire::NodeSample>) {
    let at = sample.as_ref().map(|sample| sample.wall_ns);
    node.last_seen_wall_ns = node.last_seen_wall_ns.max(at);
    node.sample = sample;
}

pub(super) fn internal(error: impl std::error::Error + 'static) -> Refusal {
    tracing::error!(error = &error as &dyn std::error::Error, "a call failed");
    Refusal::new(Reason::Internal, error.to_string())
}

#[tonic::async_trait]
impl wire::operator_server::Operator for OperatorService {
    type SeriesStream = Boxed<wire::SeriesUpdate>;
    type LogsStream = Boxed<wire::LogView>;
    type EventsStream = Boxed<wire::EventView>;
    type HardwareStream = Boxed<wire::HardwareUpdate>;

    async fn who_am_i(
        &self,
        request: Request<wire::WhoAmIRequest>,
    ) -> Result<Response<wire::WhoAmIReply>, Status> {
        let caller = self.caller(&request)?;
        let meta = self.fleet.read(|fleet| fleet.meta().clone()).await?;
        Ok(Response::new(wire::WhoAmIReply {
            user: caller.user.to_string(),
            role: caller.role.to_string(),
            fleet_id: meta.fleet.to_string(),
            generation: meta.generation.get(),
            controller_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn submit(
        &self,
        request: Request<wire::SubmitRequest>,
    ) -> Result<Response<wire::SubmitReply>, Status> {
        let caller = self.caller(&request)?;
        // The attempt goes on in this call's trace, wherever it runs; in its caller's where nothing is traced here.
        let mut traceparent = telemetry::context_of(&tracing::Span::current());
        if traceparent.is_empty() {
            traceparent = telemetry::traceparent(request.metadata());
        }
        let request = request.into_inner();
        if request.check_only {
            let (wish, spec_yaml) = submit::foreseen(request)?;
            let by = caller.user;
            self.fleet.read(move |fleet| fleet.could_take(&by, &wish, &spec_yaml)).await??;
            return Ok(Response::new(wire::SubmitReply::default()));
        }
        let id = request.request_id.clone();
        let command = submit::command(request, traceparent)?;
        match self.change(caller, &id, command).await? {
            Reply::Job { job, repeated } => {
                Ok(Response::new(wire::SubmitReply { job: job.get(), repeated_request: repeated }))
            }
            Reply::Done | Reply::Spent(_) => {
                Err(Refusal::new(Reason::Internal, "the fleet gave no job number").into())
            }
        }
    }

    async fn cancel(
        &self,
        request: Request<wire::CancelRequest>,
    ) -> Result<Response<wire::CancelReply>, Status> {
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        let job = JobId::new(request.job);
        self.change(caller, &request.request_id, Command::Cancel(job)).await?;
        Ok(Response::new(wire::CancelReply { job: Some(self.job_view(job).await?) }))
    }

    async fn list_jobs(
        &self,
        request: Request<wire::ListJobsRequest>,
    ) -> Result<Response<wire::ListJobsReply>, Status> {
        let request = request.into_inner();
        let jobs = self.fleet.read(move |fleet| listing::jobs(fleet, &request)).await?;
        Ok(Response::new(wire::ListJobsReply { jobs }))
    }

    async fn get_job(
        &self,
        request: Request<wire::GetJobRequest>,
    ) -> Result<Response<wire::JobView>, Status> {
        let id = JobId::new(request.into_inner().job);
        Ok(Response::new(self.job_view(id).await?))
    }

    async fn explain(
        &self,
        request: Request<wire::ExplainRequest>,
    ) -> Result<Response<wire::ExplainReply>, Status> {
        let id = JobId::new(request.into_inner().job);
        let reply = self
            .fleet
            .read(move |fleet| fleet.jobs().get(&id).map(|job| views::explain(fleet, job)))
            .await?
            .ok_or_else(|| no_job(id))?;
        Ok(Response::new(reply))
    }

    async fn series(
        &self,
        request: Request<wire::SeriesRequest>,
    ) -> Result<Response<Self::SeriesStream>, Status> {
        let stream =
            streams::series(&self.fleet, &self.facts.journal, request.into_inner()).await?;
        Ok(Response::new(stream))
    }

    async fn logs(
        &self,
        request: Request<wire::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let stream = streams::logs(&self.fleet, &self.facts.journal, request.into_inner()).await?;
        Ok(Response::new(stream))
    }

    async fn checkpoints(
        &self,
        request: Request<wire::CheckpointsRequest>,
    ) -> Result<Response<wire::CheckpointsReply>, Status> {
        let id = JobId::new(request.into_inner().job);
        let checkpoints = self
            .fleet
            .read(move |fleet| {
                let job = fleet.jobs().get(&id)?;
                Some(job.saved.values().map(|saved| views::saved(fleet, job, saved)).collect())
            })
            .await?
            .ok_or_else(|| no_job(id))?;
        Ok(Response::new(wire::CheckpointsReply { checkpoints }))
    }

    async fn events(
        &self,
        request: Request<wire::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        Ok(Response::new(streams::events(&self.fleet, request.into_inner()).await?))
    }

    async fn create_node_token(
        &self,
        request: Request<wire::CreateNodeTokenRequest>,
    ) -> Result<Response<wire::TokenReply>, Status> {
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        self.make_token(caller, &request.request_id, TokenPurpose::Node, None, request.ttl_seconds)
            .await
    }

    async fn list_nodes(
        &self,
        _: Request<wire::ListNodesRequest>,
    ) -> Result<Response<wire::ListNodesReply>, Status> {
        let mut nodes: Vec<wire::NodeView> = self
            .fleet
            .read(|fleet| fleet.nodes().values().map(|node| views::node(fleet, node)).collect())
            .await?;
        for node in &mut nodes {
            let sample = node.id.parse().ok().and_then(|id| self.fleet.sample(&id));
            show_sample(node, sample);
        }
        Ok(Response::new(wire::ListNodesReply { nodes }))
    }

    async fn get_node(
        &self,
        request: Request<wire::GetNodeRequest>,
    ) -> Result<Response<wire::NodeView>, Status> {
        Ok(Response::new(self.node_view(request.into_inner().node).await?))
    }

    async fn hardware(
        &self,
        request: Request<wire::HardwareRequest>,
    ) -> Result<Response<Self::HardwareStream>, Status> {
        let request = request.into_inner();
        let stream = hardware::hardware(&self.fleet, &self.facts.journal, request).await?;
        Ok(Response::new(stream))
    }

    async fn drain_node(
        &self,
        request: Request<wire::DrainNodeRequest>,
    ) -> Result<Response<wire::NodeView>, Status> {
        let wire::DrainNodeRequest { request_id, node, stop_jobs } = request.get_ref().clone();
        let drain = |node| Command::Drain { node, stop_jobs };
        self.change_node(&request, &request_id, &node, drain).await
    }

    async fn resume_node(
        &self,
        request: Request<wire::ResumeNodeRequest>,
    ) -> Result<Response<wire::NodeView>, Status> {
        let wire::ResumeNodeRequest { request_id, node } = request.get_ref().clone();
        self.change_node(&request, &request_id, &node, Command::Resume).await
    }

    async fn revoke_node(
        &self,
        request: Request<wire::RevokeNodeRequest>,
    ) -> Result<Response<wire::NodeView>, Status> {
        let wire::RevokeNodeRequest { request_id, node } = request.get_ref().clone();
        self.change_node(&request, &request_id, &node, Command::RevokeNode).await
    }

    async fn lose_node(
        &self,
        request: Request<wire::LoseNodeRequest>,
    ) -> Result<Response<wire::NodeView>, Status> {
        let wire::LoseNodeRequest { request_id, node } = request.get_ref().clone();
        self.change_node(&request, &request_id, &node, Command::Lose).await
    }

    async fn invite_operator(
        &self,
        request: Request<wire::InviteOperatorRequest>,
    ) -> Result<Response<wire::TokenReply>, Status> {
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        let bad = |error: String| Refusal::new(Reason::BadRequest, error);
        let user = request.user.parse().map_err(|e: hone_proto::id::IdError| bad(e.to_string()))?;
        let role: Role = request.role.parse().map_err(|e| bad(format!("{e}")))?;
        let purpose = TokenPurpose::User(user);
        self.make_token(caller, &request.request_id, purpose, Some(role), request.ttl_seconds).await
    }

    async fn list_operators(
        &self,
        _: Request<wire::ListOperatorsRequest>,
    ) -> Result<Response<wire::ListOperatorsReply>, Status> {
        let operators =
            self.fleet.read(|fleet| fleet.users().values().map(views::operator).collect()).await?;
        Ok(Response::new(wire::ListOperatorsReply { operators }))
    }

    async fn revoke_operator(
        &self,
        request: Request<wire::RevokeOperatorRequest>,
    ) -> Result<Response<wire::OperatorView>, Status> {
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        let user: hone_proto::id::UserName =
            request.user.parse().map_err(|e| Refusal::new(Reason::BadRequest, format!("{e}")))?;
        self.change(caller, &request.request_id, Command::RevokeUser(user.clone())).await?;
        let view = self
            .fleet
            .read(move |fleet| fleet.users().get(&user).map(views::operator))
            .await?
            .ok_or_else(|| Refusal::new(Reason::NotFound, "there is no such operator"))?;
        Ok(Response::new(view))
    }
    type ExportStateStream = Boxed<wire::ExportFrame>;

    async fn export_state(
        &self,
        _: Request<wire::ExportStateRequest>,
    ) -> Result<Response<Self::ExportStateStream>, Status> {
        // Exports are written between two turns; looking at the fleet makes one.
        let turn = self.fleet.read(|_| ());
        let (written, _) = tokio::join!(self.facts.exports.now(), turn);
        let (summary, file) = written?;
        Ok(Response::new(state::frames(summary, file)))
    }
}
