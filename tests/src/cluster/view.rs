//! What the fleet says of itself over the operators' service: as it is sent, not as the command line shows it.

use std::path::Path;

use anyhow::Result;
use hone_proto::identity::{
    ClientIdentity, Connector, ControllerAddress, Credentials, IdentityDir, Plane,
};
use hone_proto::wire::operator_client::OperatorClient;
use hone_proto::wire::series_update::Update;
use hone_proto::wire::{
    CheckpointView, CheckpointsRequest, GetJobRequest, JobView, ListJobsRequest, ListNodesRequest,
    LogView, LogsRequest, NodeView, SeriesPoint, SeriesRequest, WhoAmIRequest,
};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

/// Lets a test ask. Each question is a connection of its own, since the controller comes and goes.
pub(super) struct View {
    runtime: Runtime,
    credentials: Credentials,
    controller: ControllerAddress,
}

impl View {
    /// As the holder of this identity.
    pub(super) fn new(identity: &Path) -> Result<Self> {
        let (credentials, record) = IdentityDir::new(identity).load()?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { runtime, credentials, controller: record.controller })
    }

    fn ask<T>(
        &self,
        question: impl AsyncFnOnce(OperatorClient<Channel>) -> Result<T>,
    ) -> Result<T> {
        self.runtime.block_on(async {
            let identity = ClientIdentity::new(&self.credentials)?;
            let channel = Connector::fixed(identity).channel(&self.controller, Plane::Control)?;
            tokio::time::timeout(super::PATIENCE, question(OperatorClient::new(channel))).await?
        })
    }

    pub(super) fn fleet(&self) -> Result<String> {
        self.ask(async |mut to| Ok(to.who_am_i(WhoAmIRequest {}).await?.into_inner().fleet_id))
    }

    pub(super) fn nodes(&self) -> Result<Vec<NodeView>> {
        self.ask(async |mut to| Ok(to.list_nodes(ListNodesRequest {}).await?.into_inner().nodes))
    }

    pub(super) fn jobs(&self) -> Result<Vec<JobView>> {
        let all = ListJobsRequest::default();
        self.ask(async |mut to| Ok(to.list_jobs(all).await?.into_inner().jobs))
    }

    pub(super) fn job(&self, job: u64) -> Result<JobView> {
        self.ask(async |mut to| Ok(to.get_job(GetJobRequest { job }).await?.into_inner()))
    }

    pub(super) fn checkpoints(&self, job: u64) -> Result<Vec<CheckpointView>> {
        let request = CheckpointsRequest { job };
        self.ask(async |mut to| Ok(to.checkpoints(request).await?.into_inner().checkpoints))
    }

    pub(super) fn points(&self, job: u64) -> Result<Vec<SeriesPoint>> {
        self.ask(async |mut to| {
            let mut updates = to.series(SeriesRequest { job, follow: false }).await?.into_inner();
            let mut points = Vec::new();
            while let Some(update) = updates.message().await? {
                if let Some(Update::Point(point)) = update.update {
                    points.push(point);
                }
            }
            Ok(points)
        })
    }

    pub(super) fn logs(&self, job: u64) -> Result<Vec<LogView>> {
        self.ask(async |mut to| {
            let request = LogsRequest { job, ..LogsRequest::default() };
            let mut records = to.logs(request).await?.into_inner();
            let mut logs = Vec::new();
            while let Some(record) = records.message().await? {
                logs.push(record);
            }
            Ok(logs)
        })
    }
}
