//! A controller within the test: the production fleet, services and ports, on ports that the system chose.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hone_controller::api::enrolment::EnrolmentService;
use hone_controller::api::operator::Facts;
use hone_controller::chunks::ChunkStore;
use hone_controller::core::{Fleet, Settings};
use hone_controller::driver::{Driver, Handle, Journal};
use hone_controller::identity::joins::Joins;
use hone_controller::identity::{AccessLayer, Lifetimes};
use hone_controller::renewal::Renewals;
use hone_controller::serve::certificate::{Certificates, keep_current};
use hone_controller::serve::ports::Ports;
use hone_controller::store::MemoryStore;
use hone_proto::enrol::{EnrolError, Invitation, enrol};
use hone_proto::identity::{
    AcceptLimits, ClientIdentity, Connector, ControllerAddress, Credentials, Fingerprint, Plane,
    incoming, server_builder,
};
use hone_proto::quantity::Bytes;
use hone_proto::time::Now;
use hone_proto::wire;
use hone_proto::wire::link_client::LinkClient;
use hone_proto::wire::operator_client::OperatorClient;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::identities::{Identities, user};

/// The first admin's name.
pub const ADMIN: &str = "ada";

/// A running controller. Ends when dropped.
pub struct InProcess {
    /// Certificates of its authority, and wrong ones.
    pub identities: Identities,
    /// Where it listens.
    pub address: ControllerAddress,
    /// Its fleet.
    pub fleet: Handle,
    /// The first admin.
    pub admin: Credentials,
    _driver: Driver,
    _stop: watch::Sender<bool>,
    _tasks: JoinSet<()>,
    _scratch: tempfile::TempDir,
}

impl InProcess {
    /// With the usual lives of certificates.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with(Lifetimes::default(), Joins::new(1000, 1000)).await
    }

    /// With these lives and these bounds on enrolment.
    pub async fn with(lifetimes: Lifetimes, joins: Joins) -> anyhow::Result<Self> {
        let scratch = tempfile::tempdir()?;
        let identities = Identities::new(lifetimes)?;
        let issuer = Arc::clone(&identities.issuer);
        let fleet_id = issuer.authority.fleet().clone();
        let now = Now::read();
        let (state, founding) = Fleet::found(Settings::default(), fleet_id, ADMIN.parse()?, now);
        let series = scratch.path().join("series");
        let journal = Journal::open(&series, [])?;
        let (driver, fleet) =
            Driver::start(state, founding, MemoryStore::default(), journal, |_| {})?;
        let chunks = Arc::new(ChunkStore::open(&scratch.path().join("chunks"), Bytes::new(0))?);
        let (certificates, _) = keep_current(Arc::clone(&issuer), fleet.access())?;
        let (stop, stopping) = watch::channel(false);
        let ports = Ports {
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            fleet: fleet.clone(),
            certificates,
            access: AccessLayer::new(fleet.access()),
            stopping,
            heartbeat_ms: 1000,
        };
        let control = ports.listen(0).await?;
        let bulk = ports.listen(0).await?;
        let enrolment = ports.listen(0).await?;
        let address = ControllerAddress {
            host: ports.ip.to_string(),
            control_port: control.local_addr()?.port(),
            bulk_port: bulk.local_addr()?.port(),
            enrolment_port: enrolment.local_addr()?.port(),
        };
        let facts = Arc::new(Facts {
            journal: series,
            issuer: Arc::clone(&issuer),
            root_fingerprint: issuer.authority.root_fingerprint().to_string(),
            address: address.host.clone(),
            control_port: address.control_port,
        });
        let renewals = Renewals::new(Arc::clone(&issuer), fleet.clone());
        let service = EnrolmentService::new(fleet.clone(), issuer, renewals.clone());
        let mut tasks = JoinSet::new();
        let enrolling = enrolments(
            enrolment,
            &ports.certificates,
            ports.access.clone(),
            service.with_joins(joins),
        );
        tasks.spawn(enrolling);
        let serving = ports.clone().control(control, facts, renewals);
        tasks.spawn(async move { drop(serving.await) });
        let serving = ports.bulk(bulk, chunks);
        tasks.spawn(async move { drop(serving.await) });
        let admin = identities.good(&user(ADMIN)?)?;
        Ok(Self {
            identities,
            address,
            fleet,
            admin,
            _driver: driver,
            _stop: stop,
            _tasks: tasks,
            _scratch: scratch,
        })
    }

    /// SHA-256 of the root.
    #[must_use]
    pub fn root(&self) -> Fingerprint {
        self.identities.issuer.authority.root_fingerprint()
    }

    /// A channel with this identity.
    pub fn channel(&self, identity: ClientIdentity, plane: Plane) -> anyhow::Result<Channel> {
        Ok(Connector::fixed(identity).channel(&self.address, plane)?)
    }

    /// The operators' service, as the holder of these credentials.
    pub fn operator(&self, credentials: &Credentials) -> anyhow::Result<OperatorClient<Channel>> {
        let identity = ClientIdentity::new(credentials)?;
        Ok(OperatorClient::new(self.channel(identity, Plane::Control)?))
    }

    /// The link, as the holder of these credentials.
    pub fn link(&self, credentials: &Credentials) -> anyhow::Result<LinkClient<Channel>> {
        let identity = ClientIdentity::new(credentials)?;
        Ok(LinkClient::new(self.channel(identity, Plane::Control)?))
    }

    /// A token for one node.
    pub async fn node_token(&self, ttl_seconds: u32) -> anyhow::Result<String> {
        let request = wire::CreateNodeTokenRequest { request_id: fresh_id(), ttl_seconds };
        let reply = self.operator(&self.admin)?.create_node_token(request).await?;
        Ok(reply.into_inner().token)
    }

    /// A token for this person.
    pub async fn invite(&self, name: &str, role: &str) -> anyhow::Result<String> {
        let request = wire::InviteOperatorRequest {
            request_id: fresh_id(),
            user: name.to_owned(),
            role: role.to_owned(),
            ttl_seconds: 0,
        };
        let reply = self.operator(&self.admin)?.invite_operator(request).await?;
        Ok(reply.into_inner().token)
    }

    /// What a newcomer with this token knows.
    #[must_use]
    pub fn invitation(&self, token: &str, kind: wire::EnrolKind) -> Invitation {
        Invitation {
            controller: self.address.clone(),
            root: self.root(),
            token: token.to_owned().into(),
            kind,
            display_name: "host-1".to_owned(),
        }
    }

    /// Enrols with this token.
    pub async fn enrol(
        &self,
        token: &str,
        kind: wire::EnrolKind,
    ) -> Result<Credentials, EnrolError> {
        enrol(self.invitation(token, kind)).await
    }

    /// A node that has enrolled.
    pub async fn enrolled_node(&self) -> anyhow::Result<Credentials> {
        let token = self.node_token(0).await?;
        self.enrol(&token, wire::EnrolKind::Node).await.context("a node enrols")
    }

    /// A person that has enrolled.
    pub async fn enrolled_user(&self, name: &str, role: &str) -> anyhow::Result<Credentials> {
        let token = self.invite(name, role).await?;
        self.enrol(&token, wire::EnrolKind::User).await.context("a person enrols")
    }
}

/// The enrolment port with bounds of the test's own.
fn enrolments(
    listener: TcpListener,
    certificates: &Certificates,
    access: AccessLayer,
    service: EnrolmentService,
) -> impl Future<Output = ()> + Send + 'static {
    let limits = AcceptLimits {
        pending_per_source: 128,
        connections_per_source: 128,
        ..AcceptLimits::enrolment()
    };
    let connections = incoming(listener, certificates.open.clone(), limits);
    let service = wire::enrolment_server::EnrolmentServer::new(service);
    let serving = server_builder(Plane::Enrolment)
        .layer(access)
        .add_service(service)
        .serve_with_incoming(connections);
    async move { drop(serving.await) }
}

/// A request id that was never used.
#[must_use]
pub fn fresh_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// How long anything may take that is over in a moment on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
