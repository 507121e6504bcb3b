//! A controller made up for tests: the real generated service and client over a pipe, with no port and no TLS.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, stream};
use hone_proto::bulk::MESSAGE;
use hone_proto::error::{Reason, Refusal};
use hone_proto::time::WallNanos;
use hone_proto::wire::bulk_server::BulkServer;
use hone_proto::wire::operator_server::{Operator, OperatorServer};
use hone_proto::wire::*;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};

use super::client::{Connect, Pace, Port};
use super::fake_bulk::FakeBulk;
use super::output::{Format, Printer};
use super::{Cli, Ctx, finish, run};

/// When every test happens: 2026-01-01 00:00:00 UTC.
pub(super) const NOW: WallNanos = WallNanos::new(1_767_225_600_000_000_000);

/// Tests do not wait.
const SOON: Duration = Duration::from_millis(1);

/// What the made-up controller knows, and what it was asked.
#[derive(Default)]
pub(super) struct World {
    pub(super) jobs: Vec<JobView>,
    pub(super) nodes: Vec<NodeView>,
    pub(super) operators: Vec<OperatorView>,
    pub(super) checkpoints: Vec<CheckpointView>,
    /// One script per stream of records; the last one is repeated.
    pub(super) logs: VecDeque<Vec<Result<LogView, Status>>>,
    pub(super) events: Vec<EventView>,
    /// Streams of events that were opened.
    pub(super) opened: u32,
    pub(super) export: Vec<ExportFrame>,
    pub(super) explain: ExplainReply,
    /// One script per stream of metrics that is opened; the last one is repeated.
    pub(super) series: VecDeque<Vec<Result<series_update::Update, Status>>>,
    /// States that all jobs take on, one with each question about a job.
    pub(super) states: VecDeque<&'static str>,
    /// Answers of the next unary calls, before any that would succeed.
    pub(super) refusals: VecDeque<Status>,
    /// Request ids of changes, in order.
    pub(super) request_ids: Vec<String>,
    pub(super) log_request: Option<LogsRequest>,
    pub(super) hardware: Vec<hardware_update::Update>,
    pub(super) hardware_request: Option<HardwareRequest>,
    pub(super) submitted: Option<SubmitRequest>,
    /// The newest question whether a submit could be accepted, and what is answered to it.
    pub(super) checked: Option<SubmitRequest>,
    pub(super) check_refused: Option<Status>,
}

/// The made-up controller.
#[derive(Clone, Default)]
pub(super) struct Fake {
    world: Arc<Mutex<World>>,
    pub(super) bulk: FakeBulk,
}

/// What one command did.
pub(super) struct Ran {
    pub(super) exit: u8,
    pub(super) out: String,
    pub(super) err: String,
}

impl Fake {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one command line against this controller.
    pub(super) async fn hone(&self, args: &[&str]) -> Ran {
        let cli = clap::Parser::try_parse_from(std::iter::once(&"hone").chain(args));
        let cli: Cli = cli.expect("the command line is valid");
        let (out, err) = (Captured::default(), Captured::default());
        let format: Format = cli.command.format().or(cli.output.output).unwrap_or_default();
        let printer = Printer::captured(Box::new(out.clone()), Box::new(err.clone()), format);
        let pace = Pace { retry: SOON, reconnect: SOON };
        let mut ctx = Ctx { printer, connect: Arc::new(self.clone()), clock: || NOW, pace };
        let done = run(&cli, &mut ctx).await;
        let exit = finish(done, &mut ctx.printer).code();
        Ran { exit, out: out.text(), err: err.text() }
    }

    fn next_refusal(&self) -> Result<(), Status> {
        self.world().refusals.pop_front().map_or(Ok(()), Err)
    }

    fn change(&self, request_id: &str) -> Result<(), Status> {
        self.world().request_ids.push(request_id.to_owned());
        self.next_refusal()
    }

    fn find_job(&self, job: u64) -> Result<JobView, Status> {
        let found = self.world().jobs.iter().find(|view| view.job == job).cloned();
        found.ok_or_else(|| Refusal::new(Reason::NotFound, format!("there is no job {job}")).into())
    }

    fn find_node(&self, node: &str, state: &str) -> Reply<NodeView> {
        let mut world = self.world();
        if world.nodes.iter().filter(|view| view.hostname == node).count() > 1 {
            let text = format!("several nodes are called {node}");
            return Err(Refusal::new(Reason::Conflict, text).into());
        }
        let found = world.nodes.iter_mut().find(|view| view.id == node || view.hostname == node);
        let view = found.ok_or_else(|| {
            Status::from(Refusal::new(Reason::NotFound, format!("there is no node {node}")))
        })?;
        if !state.is_empty() {
            state.clone_into(&mut view.state);
        }
        Ok(Response::new(view.clone()))
    }
}

impl Connect for Fake {
    fn address(&self) -> String {
        "fake.example:7400".to_owned()
    }

    fn channel(&self, _port: Port) -> BoxFuture<'_, anyhow::Result<Channel>> {
        let fake = self.clone();
        Box::pin(async move {
            let dial = tower::service_fn(move |_: Uri| {
                let service = OperatorServer::new(fake.clone());
                let bulk = BulkServer::new(fake.bulk.clone()).max_decoding_message_size(MESSAGE);
                async move {
                    let (near, far) = tokio::io::duplex(64 << 10);
                    let incoming = stream::iter([Ok::<_, io::Error>(far)]).chain(stream::pending());
                    let server = Server::builder().add_service(service).add_service(bulk);
                    tokio::spawn(server.serve_with_incoming(incoming));
                    Ok::<_, io::Error>(TokioIo::new(near))
                }
            });
            Ok(Endpoint::from_static("http://fake").connect_with_connector_lazy(dial))
        })
    }
}

/// A stream that a test reads afterwards.
#[derive(Clone, Default)]
pub(super) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    pub(super) fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        anstream::adapter::strip_str(&String::from_utf8_lossy(&bytes)).to_string()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Reply<T> = Result<Response<T>, Status>;
type Updates<T> = BoxStream<'static, Result<T, Status>>;

fn all<T: Send + 'static>(items: Vec<T>) -> Reply<Updates<T>> {
    Ok(Response::new(stream::iter(items).map(Ok).boxed()))
}

#[tonic::async_trait]
impl Operator for Fake {
    async fn who_am_i(&self, _: Request<WhoAmIRequest>) -> Reply<WhoAmIReply> {
        Ok(Response::new(WhoAmIReply { user: "ada".to_owned(), ..Default::default() }))
    }
    async fn submit(&self, request: Request<SubmitRequest>) -> Reply<SubmitReply> {
        let request = request.into_inner();
        if request.check_only {
            let refused = self.world().check_refused.clone();
            self.world().checked = Some(request);
            return refused.map_or_else(|| Ok(Response::new(SubmitReply::default())), Err);
        }
        self.change(&request.request_id)?;
        self.world().submitted = Some(request);
        Ok(Response::new(SubmitReply { job: 1, repeated_request: false }))
    }
    async fn cancel(&self, request: Request<CancelRequest>) -> Reply<CancelReply> {
        let request = request.into_inner();
        self.change(&request.request_id)?;
        let mut job = self.find_job(request.job)?;
        "stopping".clone_into(&mut job.state);
        Ok(Response::new(CancelReply { job: Some(job) }))
    }
    async fn list_jobs(&self, request: Request<ListJobsRequest>) -> Reply<ListJobsReply> {
        self.next_refusal()?;
        let ListJobsRequest { active_only, limit, name } = request.into_inner();
        let mut jobs = self.world().jobs.clone();
        jobs.retain(|job| !active_only || job.ended_wall_ns.is_none());
        jobs.retain(|job| name.is_empty() || job.name == name);
        jobs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Response::new(ListJobsReply { jobs }))
    }
    async fn get_job(&self, request: Request<GetJobRequest>) -> Reply<JobView> {
        self.next_refusal()?;
        let next = self.world().states.pop_front();
        if let Some(state) = next {
            self.world().jobs.iter_mut().for_each(|job| state.clone_into(&mut job.state));
        }
        self.find_job(request.into_inner().job).map(Response::new)
    }
    async fn explain(&self, _: Request<ExplainRequest>) -> Reply<ExplainReply> {
        Ok(Response::new(self.world().explain.clone()))
    }
    type SeriesStream = Updates<SeriesUpdate>;
    async fn series(&self, _: Request<SeriesRequest>) -> Reply<Self::SeriesStream> {
        let script = next_script(&mut self.world().series);
        if let [Err(status)] = script.as_slice() {
            return Err(status.clone());
        }
        let updates = script.into_iter().map(|u| u.map(|u| SeriesUpdate { update: Some(u) }));
        Ok(Response::new(stream::iter(updates.collect::<Vec<_>>()).boxed()))
    }
    type LogsStream = Updates<LogView>;
    async fn logs(&self, request: Request<LogsRequest>) -> Reply<Self::LogsStream> {
        let mut world = self.world();
        world.log_request = Some(request.into_inner());
        Ok(Response::new(stream::iter(next_script(&mut world.logs)).boxed()))
    }
    async fn checkpoints(&self, _: Request<CheckpointsRequest>) -> Reply<CheckpointsReply> {
        Ok(Response::new(CheckpointsReply { checkpoints: self.world().checkpoints.clone() }))
    }
    type EventsStream = Updates<EventView>;
    async fn events(&self, request: Request<EventsRequest>) -> Reply<Self::EventsStream> {
        let mut world = self.world();
        world.opened += 1;
        // Who comes back finds nothing new, and the third time nobody at all.
        if request.into_inner().follow && world.opened > 2 {
            return Err(Refusal::new(Reason::Revoked, "the test is over").into());
        }
        all(world.events.clone())
    }
    async fn create_node_token(&self, r: Request<CreateNodeTokenRequest>) -> Reply<TokenReply> {
        self.change(&r.into_inner().request_id)?;
        Ok(Response::new(token()))
    }
    async fn list_nodes(&self, _: Request<ListNodesRequest>) -> Reply<ListNodesReply> {
        Ok(Response::new(ListNodesReply { nodes: self.world().nodes.clone() }))
    }
    async fn get_node(&self, request: Request<GetNodeRequest>) -> Reply<NodeView> {
        self.find_node(&request.into_inner().node, "")
    }
    type HardwareStream = Updates<HardwareUpdate>;
    async fn hardware(&self, request: Request<HardwareRequest>) -> Reply<Self::HardwareStream> {
        let mut world = self.world();
        world.hardware_request = Some(request.into_inner());
        let updates = world.hardware.clone();
        all(updates.into_iter().map(|u| HardwareUpdate { update: Some(u) }).collect())
    }
    async fn drain_node(&self, request: Request<DrainNodeRequest>) -> Reply<NodeView> {
        let request = request.into_inner();
        self.change(&request.request_id)?;
        self.find_node(&request.node, "drained")
    }
    async fn resume_node(&self, request: Request<ResumeNodeRequest>) -> Reply<NodeView> {
        let request = request.into_inner();
        self.change(&request.request_id)?;
        self.find_node(&request.node, "ready")
    }
    async fn revoke_node(&self, request: Request<RevokeNodeRequest>) -> Reply<NodeView> {
        let request = request.into_inner();
        self.change(&request.request_id)?;
        self.find_node(&request.node, "revoked")
    }
    async fn lose_node(&self, request: Request<LoseNodeRequest>) -> Reply<NodeView> {
        let request = request.into_inner();
        self.change(&request.request_id)?;
        self.find_node(&request.node, "unreachable")
    }
    async fn invite_operator(&self, r: Request<InviteOperatorRequest>) -> Reply<TokenReply> {
        self.change(&r.into_inner().request_id)?;
        Ok(Response::new(token()))
    }
    async fn list_operators(&self, _: Request<ListOperatorsRequest>) -> Reply<ListOperatorsReply> {
        Ok(Response::new(ListOperatorsReply { operators: self.world().operators.clone() }))
    }
    async fn revoke_operator(&self, r: Request<RevokeOperatorRequest>) -> Reply<OperatorView> {
        let request = r.into_inner();
        self.change(&request.request_id)?;
        let known = |user: &str| self.world().operators.iter().any(|o| o.user == user);
        if !known(&request.user) {
            let text = format!("there is no operator {}", request.user);
            return Err(Refusal::new(Reason::NotFound, text).into());
        }
        let state = "revoked".to_owned();
        Ok(Response::new(OperatorView { user: request.user, state, ..Default::default() }))
    }

    type ExportStateStream = Updates<ExportFrame>;
    async fn export_state(&self, _: Request<ExportStateRequest>) -> Reply<Self::ExportStateStream> {
        self.next_refusal()?;
        all(self.world().export.clone())
    }
}

/// The next script; the last one is kept.
fn next_script<T: Clone>(scripts: &mut VecDeque<Vec<T>>) -> Vec<T> {
    if scripts.len() > 1 {
        scripts.pop_front().unwrap_or_default()
    } else {
        scripts.front().cloned().unwrap_or_default()
    }
}

fn token() -> TokenReply {
    TokenReply {
        token: "pub1.secret1".to_owned(),
        expires_wall_ns: NOW.get() + 900_000_000_000,
        root_fingerprint: "ab".repeat(32),
        address: "hone.example".to_owned(),
        control_port: 7400,
    }
}
