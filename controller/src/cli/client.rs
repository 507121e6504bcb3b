//! Calls to the controller: one channel, bounded retries, one request id per change.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hone_proto::error::Reason;
use hone_proto::wire::operator_client::OperatorClient;
use hone_proto::wire::{
    CONTROL_MESSAGE, GetJobRequest, JobView, ListJobsRequest, ListNodesRequest,
};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::error::{CallError, Failure, not_there, refused_for};

/// How often a call is tried while the controller is out of reach.
const TRIES: u32 = 4;
/// A unary call that takes longer is given up. Longer than any commit on a slow disk.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// Newest jobs among which a name is looked for that is like a mistyped one.
const NEAR_NAMES: u32 = 200;

/// Which of the controller's two authenticated ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Commands and views.
    Control,
    /// Bulk data.
    Bulk,
}

/// A way to the controller: mutual TLS with the identity of a context, or a pipe within a test.
pub trait Connect: Send + Sync {
    /// Where it leads, for people.
    fn address(&self) -> String;
    /// A channel that connects when it is first used, and again after it broke.
    fn channel(&self, port: Port) -> BoxFuture<'_, anyhow::Result<Channel>>;
}

/// How long to wait before trying again.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Before the second try of a call; doubles.
    pub retry: Duration,
    /// Before a stream is opened again; doubles.
    pub reconnect: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        // All tries of a call take under two seconds: a person waits.
        Self { retry: Duration::from_millis(200), reconnect: Duration::from_millis(500) }
    }
}

/// Adds the trace's context to a call.
type Traced = fn(Request<()>) -> Result<Request<()>, Status>;

/// The operator service, each call within the caller's trace.
pub type Rpc = OperatorClient<InterceptedService<Channel, Traced>>;

/// Calls on behalf of one context.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    connect: Arc<dyn Connect>,
    pace: Pace,
}

impl Client {
    /// Opens a channel to the operator service.
    ///
    /// # Errors
    /// When the context's identity cannot be used.
    pub async fn open(connect: Arc<dyn Connect>, pace: Pace) -> anyhow::Result<Self> {
        let channel = connect.channel(Port::Control).await?;
        Ok(Self { channel, connect, pace })
    }

    /// A channel for bulk data.
    ///
    /// # Errors
    /// When the context's identity cannot be used.
    pub async fn bulk(&self) -> anyhow::Result<Channel> {
        self.connect.channel(Port::Bulk).await
    }

    /// How patient it is.
    #[must_use]
    pub const fn pace(&self) -> Pace {
        self.pace
    }

    /// Where the controller is, for people.
    #[must_use]
    pub fn address(&self) -> String {
        self.connect.address()
    }

    /// One unary call, tried again while the controller is out of reach. The caller makes the request once, so that a
    /// change carries the same request id each time and has one effect.
    ///
    /// # Errors
    /// What the controller refused, or why it cannot be reached.
    pub async fn call<R, T, F, C>(&self, request: R, call: C) -> anyhow::Result<T>
    where
        R: Clone,
        C: Fn(Rpc, R) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut pause = self.pace.retry;
        let mut tried = 1;
        loop {
            let answer = call(self.rpc(), request.clone());
            let done = tokio::time::timeout(CALL_DEADLINE, answer).await;
            let status = match done {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) => status,
                // Whoever did not answer for so long is not asked again: a person waits.
                Err(_) => return Err(self.explain(CallError::from(no_answer()))),
            };
            let error = CallError::from(status);
            if error.reason() != Reason::Unavailable || tried >= TRIES {
                return Err(self.explain(error));
            }
            tried += 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Opens a stream; not tried again, since its reader knows better from where to go on.
    ///
    /// # Errors
    /// What the controller refused, or why it cannot be reached.
    pub async fn stream<T, F, C>(&self, call: C) -> anyhow::Result<tonic::Streaming<T>>
    where
        C: FnOnce(Rpc) -> F,
        F: Future<Output = Result<Response<tonic::Streaming<T>>, Status>>,
    {
        let done = tokio::time::timeout(CALL_DEADLINE, call(self.rpc()));
        match done.await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(self.explain(CallError::from(status))),
            Err(_) => Err(self.explain(CallError::from(no_answer()))),
        }
    }

    fn rpc(&self) -> Rpc {
        let traced: Traced = |mut request| {
            hone_proto::telemetry::inject(request.metadata_mut());
            Ok(request)
        };
        OperatorClient::with_interceptor(self.channel.clone(), traced)
            .max_decoding_message_size(CONTROL_MESSAGE)
    }

    /// Names the address when the controller is out of reach.
    fn explain(&self, error: CallError) -> anyhow::Error {
        if error.reason() == Reason::Unavailable {
            let message = format!("cannot reach the controller at {}", self.address());
            Failure::new(Reason::Unavailable, message).because(error).into()
        } else {
            error.into()
        }
    }

    /// The job that `text` names: a number, or a name, which means the newest job of that name.
    ///
    /// # Errors
    /// When there is none.
    pub async fn job_number(&self, text: &str) -> anyhow::Result<u64> {
        if let Ok(number) = text.parse() {
            return Ok(number);
        }
        let named = self.jobs(text, 1).await?;
        match named.iter().find(|job| job.name == text) {
            Some(job) => Ok(job.job),
            None => Err(no_such_job(text, &self.jobs("", NEAR_NAMES).await?).into()),
        }
    }

    /// The newest jobs of this name, or of any.
    async fn jobs(&self, name: &str, limit: u32) -> anyhow::Result<Vec<JobView>> {
        let request = ListJobsRequest { active_only: false, limit, name: name.to_owned() };
        let reply = self.call(request, |mut c, r| async move { c.list_jobs(r).await }).await?;
        Ok(reply.jobs)
    }

    /// A refusal of something about the node `text`: where there is no such node, with the nearest that there is; where
    /// several are called so, with their ids.
    pub async fn about_node(&self, text: &str, error: anyhow::Error) -> anyhow::Error {
        let reason = refused_for(&error);
        if !matches!(reason, Some(Reason::NotFound | Reason::Conflict)) {
            return error;
        }
        let listed =
            self.call(ListNodesRequest {}, |mut c, r| async move { c.list_nodes(r).await }).await;
        let nodes = listed.map(|reply| reply.nodes).unwrap_or_default();
        if reason == Some(Reason::NotFound) {
            let failure = Failure::new(Reason::NotFound, error.to_string());
            let failure = failure.hint("`hone node list` lists every node");
            let names = nodes.iter().flat_map(|node| [node.hostname.as_str(), node.id.as_str()]);
            return not_there(failure, text, names).into();
        }
        let named: Vec<_> = nodes
            .iter()
            .filter(|node| node.hostname == text)
            .map(|node| format!("{} ({})", node.id, node.state))
            .collect();
        if named.len() < 2 || nodes.iter().any(|node| node.id == text) {
            return error;
        }
        let hint = format!("name one by its id: {}", named.join(", "));
        Failure::new(Reason::Conflict, error.to_string()).hint(hint).into()
    }

    /// The job that `text` names, in full.
    ///
    /// # Errors
    /// When there is none.
    pub async fn job(&self, text: &str) -> anyhow::Result<JobView> {
        let job = self.job_number(text).await?;
        self.call(GetJobRequest { job }, |mut c, r| async move { c.get_job(r).await }).await
    }
}

fn no_answer() -> Status {
    Status::unavailable(format!("no answer within {} s", CALL_DEADLINE.as_secs()))
}

fn no_such_job(text: &str, jobs: &[JobView]) -> Failure {
    let failure = Failure::new(Reason::NotFound, format!("there is no job named `{text}`"));
    let failure = failure.hint("`hone ps --all` lists every job");
    not_there(failure, text, jobs.iter().map(|job| job.name.as_str()))
}

/// A fresh id for one change, for its first try and every retry.
#[must_use]
pub fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
