//! The three ports: control, bulk and enrolment. Bulk data has its own connections, so that a checkpoint never delays
//! a heartbeat.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hone_proto::identity::{AcceptLimits, Plane, incoming, server_builder};
use hone_proto::wire::{self, CONTROL_MESSAGE};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::ServeError;
use super::certificate::Certificates;
use crate::api::bulk::Service;
use crate::api::enrolment::EnrolmentService;
use crate::api::fleet_bulk::BulkFleet;
use crate::api::link::LinkService;
use crate::api::operator::{Facts, OperatorService};
use crate::chunks::ChunkStore;
use crate::config::Bounds;
use crate::driver::Handle;
use crate::identity::Issuer;
use crate::identity::layer::AccessLayer;
use crate::renewal::Renewals;

/// Largest message on the enrolment port: a token and a signing request.
const ENROLMENT_MESSAGE: usize = 64 << 10;

/// What all ports share.
#[derive(Clone)]
pub struct Ports {
    /// The address to bind.
    pub ip: IpAddr,
    /// The fleet behind the services.
    pub fleet: Handle,
    /// What the ports present.
    pub certificates: Certificates,
    /// The check in front of every service; one for all ports, since it remembers renewals.
    pub access: AccessLayer,
    /// True once the ports shall end.
    pub stopping: watch::Receiver<bool>,
    /// How often agents say that they are alive.
    pub heartbeat_ms: u64,
    /// How much of everything there may be.
    pub bounds: Bounds,
}

impl Ports {
    /// Binds one port; 0 lets the system choose.
    pub async fn listen(&self, port: u16) -> Result<TcpListener, ServeError> {
        let address = SocketAddr::new(self.ip, port);
        TcpListener::bind(address)
            .await
            .map_err(|source| ServeError::Listen { address: address.to_string(), source })
    }

    async fn stopped(mut stopping: watch::Receiver<bool>) {
        // A sender that is gone means the same.
        let _ = stopping.wait_for(|stop| *stop).await;
    }

    /// Serves agents' links and operators until stopped.
    pub async fn control(
        self,
        listener: TcpListener,
        facts: Arc<Facts>,
        renewals: Renewals,
    ) -> Result<(), ServeError> {
        let link = LinkService::new(self.fleet.clone(), renewals, self.heartbeat_ms);
        let link = wire::link_server::LinkServer::new(link)
            .max_decoding_message_size(CONTROL_MESSAGE)
            .max_encoding_message_size(CONTROL_MESSAGE);
        let operator = OperatorService::new(self.fleet.clone(), facts);
        let operator = wire::operator_server::OperatorServer::new(operator)
            .max_decoding_message_size(CONTROL_MESSAGE)
            .max_encoding_message_size(CONTROL_MESSAGE);
        let connections =
            incoming(listener, self.certificates.closed.clone(), self.bounds.accept());
        server_builder(Plane::Control)
            .layer(self.access.clone())
            .add_service(link)
            .add_service(operator)
            .serve_with_incoming_shutdown(connections, Self::stopped(self.stopping))
            .await?;
        Ok(())
    }

    /// Serves bulk data until stopped.
    pub async fn bulk(
        self,
        listener: TcpListener,
        chunks: Arc<ChunkStore>,
    ) -> Result<(), ServeError> {
        let fleet = Arc::new(BulkFleet::new(self.fleet.clone()));
        let service = Service::new(chunks, fleet, self.bounds.bulk()).into_server();
        let connections =
            incoming(listener, self.certificates.closed.clone(), self.bounds.accept());
        server_builder(Plane::Bulk)
            .layer(self.access.clone())
            .add_service(service)
            .serve_with_incoming_shutdown(connections, Self::stopped(self.stopping))
            .await?;
        Ok(())
    }

    /// Serves peers without a certificate until stopped.
    pub async fn enrolment(
        self,
        listener: TcpListener,
        issuer: Arc<Issuer>,
        renewals: Renewals,
    ) -> Result<(), ServeError> {
        let service = EnrolmentService::new(self.fleet.clone(), issuer, renewals)
            .with_joins(self.bounds.enrolment());
        let service = wire::enrolment_server::EnrolmentServer::new(service)
            .max_decoding_message_size(ENROLMENT_MESSAGE);
        let connections =
            incoming(listener, self.certificates.open.clone(), AcceptLimits::enrolment());
        server_builder(Plane::Enrolment)
            .layer(self.access.clone())
            .add_service(service)
            .serve_with_incoming_shutdown(connections, Self::stopped(self.stopping))
            .await?;
        Ok(())
    }
}
