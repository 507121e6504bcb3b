//! `hone serve`: opens what is kept, starts the fleet's thread, and serves the three ports until told to stop.

pub mod certificate;
pub mod ports;

use std::sync::Arc;
use std::time::Duration;

use hone_proto::time::Now;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::operator::Facts;
use crate::backup::{self, Exporter};
use crate::chunks::{ChunkError, ChunkStore};
use crate::config::Config;
use crate::core::keys::RecordError;
use crate::core::{Fleet, Input};
use crate::driver::{Driver, DriverError, Handle, Journal, JournalError};
use crate::identity::{AccessLayer, Authority, AuthorityError, Issuer};
use crate::renewal::Renewals;
use crate::restore::{self, BeginError};
use crate::setup::{DataDir, SetupError};
use crate::store::{Origin, SledStore, Store as _, StoreError};

/// How long open calls may go on after the stop was asked for.
const DRAIN: Duration = Duration::from_secs(3);

/// Why the controller cannot serve, or no longer does.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no controller in the folder.
    #[error(transparent)]
    SetUp(#[from] SetupError),
    /// The authority cannot be opened.
    #[error("the certificate authority cannot be used")]
    Authority(#[from] AuthorityError),
    /// The state cannot be opened.
    #[error("the state cannot be opened")]
    Store(#[from] StoreError),
    /// A record of the state cannot be read.
    #[error("the state cannot be read")]
    Record(#[from] RecordError),
    /// The files of events cannot be opened.
    #[error("the files of events cannot be opened")]
    Journal(#[from] JournalError),
    /// The first start after a restore cannot begin.
    #[error("the restored state cannot be used")]
    Restored(#[from] BeginError),
    /// The chunk store cannot be opened.
    #[error("the chunk store cannot be opened")]
    Chunks(#[from] ChunkError),
    /// A certificate or key cannot be used.
    #[error("TLS cannot be set up")]
    Identity(#[from] hone_proto::identity::IdentityError),
    /// A port is taken, or may not be used.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A server ended.
    #[error("a port ended")]
    Transport(#[from] tonic::transport::Error),
    /// The fleet's thread cannot be started.
    #[error("the fleet's thread cannot be started")]
    Thread(#[source] std::io::Error),
    /// The fleet's thread ended.
    #[error("the controller cannot go on")]
    Driver(#[from] DriverError),
}

/// Serves the controller in `dir` until `shutdown` resolves. `ready` is called once all ports listen.
pub async fn serve(
    config: &Config,
    dir: &DataDir,
    ready: impl FnOnce(&str),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let address = dir.address()?;
    let now = Now::read();
    let authority = Authority::open(&dir.authority(), now.wall)?;
    let issuer = Arc::new(Issuer { authority, lifetimes: config.lifetimes() });
    let chunks = Arc::new(ChunkStore::open(&dir.chunks(), config.store.keep_free)?);
    let every = Duration::from_secs(config.store.export_seconds.max(60));
    let (exports, exporter) = backup::exports(dir, every, now);
    let (driver, fleet) = open_fleet(config, dir, now, exporter)?;
    let renewals = Renewals::new(Arc::clone(&issuer), fleet.clone());
    let facts = Arc::new(Facts {
        journal: dir.series(),
        issuer: Arc::clone(&issuer),
        root_fingerprint: issuer.authority.root_fingerprint().to_string(),
        address: address.host.clone(),
        control_port: address.control_port,
        tokens: config.bounds.tokens(),
        exports,
    });
    let (stop, stopping) = watch::channel(false);
    let (certificates, renewing) = certificate::keep_current(Arc::clone(&issuer), fleet.access())?;
    let ports = ports::Ports {
        ip: config.listen.ip,
        fleet: fleet.clone(),
        certificates,
        access: AccessLayer::new(fleet.access()),
        stopping,
        heartbeat_ms: config.timing.heartbeat_ms,
        bounds: config.bounds.clone(),
    };
    let mut tasks = JoinSet::new();
    let control = ports.listen(address.control_port).await?;
    let bulk = ports.listen(address.bulk_port).await?;
    let enrolment = ports.listen(address.enrolment_port).await?;
    tasks.spawn(ports.clone().control(control, facts, renewals.clone()));
    tasks.spawn(ports.clone().bulk(bulk, chunks));
    tasks.spawn(ports.clone().enrolment(enrolment, issuer, renewals));
    let ticking = tokio::spawn(tick(fleet, Duration::from_millis(config.timing.tick_ms.max(1))));
    ready(&format!(
        "{} ports {}, {}, {}",
        config.listen.ip, address.control_port, address.bulk_port, address.enrolment_port
    ));
    tracing::info!(
        control = address.control_port,
        bulk = address.bulk_port,
        enrolment = address.enrolment_port,
        "the controller serves"
    );
    let ended = tokio::select! {
        () = shutdown => Ok(()),
        first = tasks.join_next() => flatten(first),
        () = driver_ends(&driver) => Ok(()),
    };
    tracing::info!("the controller stops");
    stop.send_replace(true);
    ticking.abort();
    renewing.abort();
    let stopped = driver.stop().await;
    // A call that is still open after this is asked again by its caller.
    if tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} })
        .await
        .is_err()
    {
        tracing::warn!(open = tasks.len(), "ports were closed with calls still open");
    }
    tasks.abort_all();
    stopped?;
    ended
}

type Joined = Option<Result<Result<(), ServeError>, tokio::task::JoinError>>;

fn flatten(joined: Joined) -> Result<(), ServeError> {
    match joined {
        Some(Ok(result)) => result,
        Some(Err(_)) => Err(DriverError::Panicked.into()),
        None => Ok(()),
    }
}

/// Resolves when the fleet's thread has ended by itself, which it does when nothing can be made durable any more.
async fn driver_ends(driver: &Driver) {
    let mut look = tokio::time::interval(Duration::from_millis(200));
    while !driver.ended() {
        look.tick().await;
    }
}

async fn tick(fleet: Handle, every: Duration) {
    let mut clock = tokio::time::interval(every);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        if fleet.tell(Input::Tick).await.is_err() {
            return;
        }
    }
}

fn open_fleet(
    config: &Config,
    dir: &DataDir,
    now: Now,
    mut exporter: Exporter,
) -> Result<(Driver, Handle), ServeError> {
    let store = SledStore::open(dir.store())?;
    let mut records = Vec::new();
    let mut lengths = Vec::new();
    for (key, value) in store.scan(b"")? {
        let key = String::from_utf8(key).map_err(|error| RecordError {
            key: String::from_utf8_lossy(error.as_bytes()).into_owned(),
            why: "its key is not text".to_owned(),
        })?;
        let list = if key.starts_with("length/") { &mut lengths } else { &mut records };
        list.push((key, value));
    }
    let mut fleet = Fleet::load(config.core(), records)?;
    let mut journal = Journal::open(&dir.series(), lengths)?;
    let founding = match store.origin() {
        // What a former life granted after the export was written is not known here: none of it may count.
        Origin::Restored => restore::begin(dir, &mut fleet, &mut journal, now)?,
        Origin::Created | Origin::Existing => Vec::new(),
    };
    let journal = journal.keeping_of_nodes(config.bounds.node_history);
    let care = move |store: &SledStore| exporter.care(store);
    Driver::start(fleet, founding, store, journal, care).map_err(ServeError::Thread)
}
