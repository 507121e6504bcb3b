//! `hone-agent run`: puts the parts together, and takes them apart on SIGTERM. Containers are never touched by that.

mod machine;

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hone_proto::enrol::ask_renewal;
use hone_proto::identity::renew::Renewer;
use hone_proto::identity::{ClientIdentity, Connector, IdentityDir, IdentityError, Peer};
use hone_proto::time::Now;
use rustix::fs::FlockOperation;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::core::{Agent, Input, Seen, SeenState, Settings};
use crate::driver::{Driver, DriverError, Handle, tick};
use crate::host::HostRoots;
use crate::inventory::boot_id;
use crate::layout::Layout;
use crate::link::{Link, SharedMachine};
use crate::perform::{InputCache, KEEP_UNUSED, Performer};
use crate::runtime::docker::{Docker, DockerConfig};
use crate::runtime::{ContainerState, Observed, Runtime};
use crate::spool::{Bounds, Spool, SpoolError};
use crate::state::{StateError, StateFile};
use crate::watch::{Traces, Watcher};

/// How often containers are listed, besides after each event of the engine.
const LIST_EVERY: Duration = Duration::from_secs(2);

/// So much of the node's random id tells its containers' names from those of other agents at the same engine.
const NAME_PART: usize = 12;

/// Why the agent cannot run, or no longer does.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It has not joined, or its identity is damaged.
    #[error("the agent's identity cannot be used")]
    Identity(#[from] IdentityError),
    /// Another agent uses the folder.
    #[error("another agent runs in {}", .0.display())]
    Busy(PathBuf),
    /// The identity is not a node's.
    #[error("the identity in {} is {who}, not a node's", path.display())]
    NotANode {
        /// Where.
        path: PathBuf,
        /// Whose.
        who: String,
    },
    /// The machine does not tell its boot id.
    #[error("/proc/sys/kernel/random/boot_id cannot be read")]
    BootId,
    /// The spool.
    #[error("the spool cannot be opened")]
    Spool(#[from] SpoolError),
    /// The state.
    #[error("the state cannot be read")]
    State(#[from] StateError),
    /// A thread or folder cannot be made.
    #[error("cannot start")]
    Start(#[source] std::io::Error),
    /// The driver ended.
    #[error("the agent cannot go on")]
    Driver(#[from] DriverError),
}

/// Runs the agent in `state_dir` until `shutdown` resolves. `ready` is called once it has begun.
pub async fn run(
    config: &Config,
    state_dir: PathBuf,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let layout = Layout::new(state_dir);
    let _alone = prepare(&layout)?;
    let identity = IdentityDir::new(layout.identity());
    let (credentials, record) = identity.load()?;
    let id = credentials.certificate().id.clone();
    let Peer::Node(node) = id.peer.clone() else {
        let (path, who) = (layout.identity(), id.to_string());
        return Err(RunError::NotANode { path, who });
    };
    let boot = boot_id(&HostRoots::default()).ok_or(RunError::BootId)?;
    let nameless = Arc::new(ClientIdentity::nameless(&credentials)?);
    let (renewer, newest) = Renewer::new(identity, credentials)?;
    let connector = Connector::new(newest);
    let spool = Spool::open(&layout.spool(), Bounds::default())?;
    let file = StateFile::new(layout.state());
    let agent = Agent::new(Settings::default(), file.load()?, boot.clone());
    let (driver, handle, effects) =
        Driver::start(agent, spool, file, boot.clone()).map_err(RunError::Start)?;
    let watcher = Watcher::start(layout.clone(), handle.clone()).map_err(RunError::Start)?;
    let prefix = format!("hone-{}", node.as_str().chars().take(NAME_PART).collect::<String>());
    let docker = Docker::new(DockerConfig {
        socket: config.engine.socket.clone(),
        fleet: id.fleet.clone(),
        node,
        deadlines: Default::default(),
    });
    let machine = SharedMachine::default();
    let performer = Performer {
        runtime: docker.clone(),
        layout: layout.clone(),
        policy: config.policy.clone(),
        driver: handle.clone(),
        watcher: watcher.clone(),
        connector: connector.clone(),
        controller: record.controller.clone(),
        cache: InputCache::new(layout.clone(), KEEP_UNUSED),
        prefix,
    };
    let link = Link {
        driver: handle.clone(),
        connector: connector.clone(),
        controller: record.controller.clone(),
        machine: Arc::clone(&machine),
        boot,
    };
    let mut tasks = JoinSet::new();
    let measured = machine::start(config, &layout, docker.clone(), &machine, &watcher, &handle);
    tasks.spawn(async move {
        // The first hello tells what the machine has.
        measured.await;
        link.run().await;
    });
    tasks.spawn_local(Arc::new(performer).run(effects));
    tasks.spawn(observe(docker, handle.clone(), watcher));
    tasks.spawn(tick(handle));
    tasks.spawn(renewer.run(move |renewal| {
        let (connector, nameless) = (connector.clone(), Arc::clone(&nameless));
        ask_renewal(connector, nameless, record.controller.clone(), renewal)
    }));
    ready();
    tokio::select! {
        () = shutdown => {}
        () = ends(&driver) => {}
    }
    tracing::info!("the agent stops; its containers go on");
    // The driver first: whatever it has accepted is durable before anything is dropped.
    let stopped = driver.stop().await;
    tasks.abort_all();
    Ok(stopped?)
}

/// Makes the folders, private to the agent, and takes them for itself until the file is dropped.
fn prepare(layout: &Layout) -> Result<File, RunError> {
    std::fs::create_dir_all(layout.attempts()).map_err(RunError::Start)?;
    // Containers get their mounts from the engine; nobody else has any business here.
    let private = Permissions::from_mode(0o700);
    std::fs::set_permissions(layout.root(), private).map_err(RunError::Start)?;
    let lock = File::create(layout.lock()).map_err(RunError::Start)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(RunError::Busy(layout.root().to_owned())),
        Err(errno) => Err(RunError::Start(errno.into())),
    }
}

async fn ends(driver: &Driver) {
    let mut look = tokio::time::interval(Duration::from_millis(500));
    while !driver.ended() {
        look.tick().await;
    }
}

/// Tells the reconciler which containers there are: now and then, and whenever the engine says that something changed.
async fn observe(docker: Docker, driver: Handle, watcher: Watcher) {
    let mut events = docker.events();
    let mut clock = tokio::time::interval(LIST_EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut down = false;
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            event = events.recv() => if event.is_none() { events = docker.events(); },
        }
        let asked = Now::read().boot;
        match docker.list().await {
            Ok(all) => {
                down = false;
                for seen in &all {
                    note(&watcher, seen);
                }
                watcher.listed();
                let containers = all.into_iter().filter_map(seen).collect();
                if driver.tell(Input::Observed { containers, asked }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut down, true) {
                    tracing::warn!("the container engine does not answer: {error}");
                }
            }
        }
    }
}

/// Where the container's traces are, for those who read them.
fn note(watcher: &Watcher, seen: &Observed) {
    if let (Some(attempt), Some(log)) = (seen.attempt, &seen.log_path) {
        let pid = match seen.state {
            ContainerState::Running { pid, .. } => Some(pid),
            ContainerState::Created { .. }
            | ContainerState::Exited { .. }
            | ContainerState::Removing => None,
        };
        watcher.found(attempt, Traces { log: log.clone(), pid });
    }
}

fn seen(container: Observed) -> Option<Seen> {
    let state = match container.state {
        ContainerState::Created { .. } => SeenState::Created,
        ContainerState::Running { .. } => SeenState::Running,
        ContainerState::Exited { code, oom_killed, .. } => {
            SeenState::Exited { code, oom: oom_killed }
        }
        ContainerState::Removing => return None,
    };
    Some(Seen { id: container.id.as_str().to_owned(), attempt: container.attempt, state })
}
