//! A controller within the test: the production fleet, services and ports, on ports that the system chose.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hone_controller::api::enrolment::EnrolmentService;
use hone_controller::api::operator::{Facts, TokenLives};
use hone_controller::backup::exports;
use hone_controller::chunks::ChunkStore;
use hone_controller::config::Bounds;
use hone_controller::core::{Fleet, Settings};
use hone_controller::driver::{Driver, Handle, Journal};
use hone_controller::identity::joins::Joins;
use hone_controller::identity::{AccessLayer, Lifetimes};
use hone_controller::renewal::Renewals;
use hone_controller::serve::certificate::{Certificates, keep_current};
use hone_controller::serve::ports::Ports;
use hone_controller::setup::DataDir;
use hone_controller::store::SledStore;
use hone_proto::identity::{AcceptLimits, ControllerAddress, Plane, incoming, server_builder};
use hone_proto::quantity::Bytes;
use hone_proto::time::Now;
use hone_proto::wire;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::identities::{Identities, user};
use crate::reach::{ADMIN, PATIENCE, Reach};

/// A running controller. Ends when dropped.
pub struct InProcess {
    /// Where it is, and for whom.
    pub reach: Reach,
    /// Its fleet.
    pub fleet: Handle,
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
        let store = SledStore::open(&scratch.path().join("state"))?;
        let (exports, mut exporter) = exports(&DataDir::new(scratch.path()), PATIENCE, now);
        let (driver, fleet) =
            Driver::start(state, founding, store, journal, move |store| exporter.care(store))?;
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
            bounds: Bounds::default(),
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
            tokens: TokenLives::default(),
            exports,
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
            reach: Reach { identities, address, admin },
            fleet,
            _driver: driver,
            _stop: stop,
            _tasks: tasks,
            _scratch: scratch,
        })
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
