//! `hone-agent run`: puts the parts together, and takes them apart on SIGTERM. Containers are never touched by that.

mod beat;
mod join;
mod machine;

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hone_proto::enrol::{EnrolError, ask_renewal};
use hone_proto::error::Refusal;
use hone_proto::id::{AttemptId, BootId, NodeId};
use hone_proto::identity::renew::Renewer;
use hone_proto::identity::{
    ClientIdentity, Connector, Credentials, IdentityDir, IdentityError, Peer, SpiffeId,
};
use hone_proto::time::Now;
use rustix::fs::FlockOperation;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

pub use self::join::Vacant;
use crate::adapters::push::Pushes;
use crate::config::Config;
use crate::core::{Agent, Effect, Input, Seen, SeenState, Settings};
use crate::driver::{Driver, DriverError, Handle, Marks, Room, tick};
use crate::host::HostRoots;
use crate::instance::{Begun, InstanceError, Loss, accept_loss, begin};
use crate::inventory::boot_id;
use crate::layout::Layout;
use crate::link::{End, Link, SharedMachine};
use crate::perform::{InputCache, KEEP_UNUSED, Performer};
use crate::runtime::docker::{Docker, DockerConfig};
use crate::runtime::{ContainerState, Observed, Runtime, may_enter};
use crate::spool::Bounds;
use crate::watch::{Traces, Watcher};

/// How often containers are listed, besides after each event of the engine.
const LIST_EVERY: Duration = Duration::from_secs(2);

/// So much of the node's random id tells its containers' names from those of other agents at the same engine.
const NAME_PART: usize = 12;

/// Why the agent cannot run, or no longer does.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It has not joined.
    #[error("this machine has not joined a fleet: {} holds no identity", .0.display())]
    NotJoined(PathBuf),
    /// It has joined, and its identity still works.
    #[error("{} is {node} already", path.display())]
    Joined {
        /// The state directory.
        path: PathBuf,
        /// Whose it is.
        node: String,
    },
    /// It did not join.
    #[error("cannot join")]
    Join(#[source] EnrolError),
    /// Its identity is damaged, or cannot be read.
    #[error("the agent's identity cannot be used")]
    Identity(#[from] IdentityError),
    /// Another agent uses the folder.
    #[error("another agent runs in {}", .0.display())]
    Busy(PathBuf),
    /// The folders of jobs would lie where nothing is mounted from.
    #[error("{} lies in a part of the host that never enters a container", .0.display())]
    Place(PathBuf),
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
    /// What it has kept is not there, or not usable.
    #[error("the agent does not begin")]
    Instance(#[from] InstanceError),
    /// A thread or folder cannot be made.
    #[error("cannot start")]
    Start(#[source] std::io::Error),
    /// The controller will never talk to this node again; its jobs were stopped.
    #[error("this node was revoked: {0}")]
    Revoked(String),
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
    let identity = identity_in(&layout)?;
    let (credentials, record) = identity.load()?;
    let (id, node) = node_of(&layout, &credentials)?;
    let boot = boot_id(&HostRoots::default()).ok_or(RunError::BootId)?;
    let nameless = Arc::new(ClientIdentity::nameless(&credentials)?);
    let (renewer, newest) = Renewer::new(identity, credentials)?;
    let connector = Connector::new(newest);
    let cache = InputCache::new(layout.clone(), KEEP_UNUSED, config.policy.least_free_disk);
    let (driver, handle, effects) = drive(config, &layout, &id, &cache, boot.clone())?;
    let pushes = Pushes::new(layout.clone());
    let watcher =
        Watcher::start(layout.clone(), handle.clone(), pushes.clone(), cache.guard(&handle))
            .map_err(RunError::Start)?;
    let prefix = name_prefix(&node);
    let docker = engine(config, &id, node);
    let machine = SharedMachine::default();
    let performer = Performer {
        runtime: docker.clone(),
        layout: layout.clone(),
        policy: config.policy.clone(),
        driver: handle.clone(),
        watcher: watcher.clone(),
        connector: connector.clone(),
        controller: record.controller.clone(),
        cache,
        prefix,
        versions: Default::default(),
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
    let (revoked, revocation) = oneshot::channel();
    let own = handle.clone();
    tasks.spawn(keep_linked(link, measured, revoked));
    tasks.spawn_local(Arc::new(performer).run(effects));
    tasks.spawn(observe(docker, handle.clone(), watcher, pushes));
    tasks.spawn(tick(handle));
    tasks.spawn(renewer.run(move |renewal| {
        let (connector, nameless) = (connector.clone(), Arc::clone(&nameless));
        ask_renewal(connector, nameless, record.controller.clone(), renewal)
    }));
    ready();
    let end = tokio::select! {
        () = shutdown => Ok(()),
        () = ends(&driver) => Ok(()),
        why = dismissed(&own, revocation) => Err(RunError::Revoked(why.to_string())),
    };
    match &end {
        Err(RunError::Revoked(_)) => {
            tracing::info!("the agent ends; none of its jobs runs any more");
        }
        _ => tracing::info!("the agent stops; its containers go on"),
    }
    stop(driver, tasks).await?;
    end
}

/// The driver first: whatever it has accepted is durable before anything is dropped.
async fn stop(driver: Driver, mut tasks: JoinSet<()>) -> Result<(), DriverError> {
    let stopped = driver.stop().await;
    tasks.abort_all();
    stopped
}

fn engine(config: &Config, id: &SpiffeId, node: NodeId) -> Docker {
    Docker::new(DockerConfig {
        socket: config.engine.socket.clone(),
        fleet: id.fleet.clone(),
        node,
        deadlines: Default::default(),
    })
}

/// Starts the driver with what was kept.
fn drive(
    config: &Config,
    layout: &Layout,
    id: &SpiffeId,
    cache: &InputCache,
    boot: BootId,
) -> Result<(Driver, Handle, mpsc::Receiver<Effect>), RunError> {
    let bounds = Bounds { total: config.spool.max, ..Bounds::default() };
    let Begun { spool, file, state } = begin(layout, id, bounds)?;
    let least_free_disk = config.policy.least_free_disk;
    let settings = Settings { least_free_disk, ..Settings::default() };
    let agent = Agent::new(settings, state, boot.clone());
    let room = Room::on(layout, Marks::default()).evicting(cache.evictor());
    Driver::start(agent, spool, file, boot, room).map_err(RunError::Start)
}

/// Begins the names of this agent's containers.
fn name_prefix(node: &NodeId) -> String {
    format!("hone-{}", node.as_str().chars().take(NAME_PART).collect::<String>())
}

/// Keeps the link up, and tells when the node was revoked.
async fn keep_linked(
    link: Link,
    measured: impl Future<Output = ()>,
    revoked: oneshot::Sender<Refusal>,
) {
    // The first hello tells what the machine has.
    measured.await;
    if let End::Revoked(why) = link.run().await {
        // Nobody listens when the agent is shutting down already.
        let _ = revoked.send(why);
    }
}

/// Resolves when the node was revoked and nothing of it runs any more. What was not uploaded stays on the disk.
async fn dismissed(driver: &Handle, revocation: oneshot::Receiver<Refusal>) -> Refusal {
    let Ok(why) = revocation.await else { return std::future::pending().await };
    tracing::error!("this node's jobs are stopped, and then its agent ends: {why}");
    let told = driver.tell(Input::Dismissed { why: "the node was revoked".to_owned() }).await;
    // A driver that is gone ends the agent by itself.
    if told.is_err() || driver.view().wait_for(|view| !view.at_work).await.is_err() {
        return std::future::pending().await;
    }
    why
}

/// `hone-agent accept-loss`: gives up what is gone, once, so that the next start is an ordinary one.
pub fn forgo(state_dir: PathBuf) -> Result<Loss, RunError> {
    let layout = Layout::new(state_dir);
    let _alone = prepare(&layout)?;
    let (credentials, _) = identity_in(&layout)?.load()?;
    let (id, _) = node_of(&layout, &credentials)?;
    Ok(accept_loss(&layout, &id, rand::random())?)
}

fn identity_in(layout: &Layout) -> Result<IdentityDir, RunError> {
    let dir = IdentityDir::new(layout.identity());
    if dir.exists() { Ok(dir) } else { Err(RunError::NotJoined(layout.root().to_owned())) }
}

fn node_of(layout: &Layout, credentials: &Credentials) -> Result<(SpiffeId, NodeId), RunError> {
    let id = credentials.certificate().id.clone();
    match id.peer.clone() {
        Peer::Node(node) => Ok((id, node)),
        Peer::Controller | Peer::User(_) => {
            Err(RunError::NotANode { path: layout.identity(), who: id.to_string() })
        }
    }
}

/// Makes the folders, private to the agent, and takes them for itself until the file is dropped.
fn prepare(layout: &Layout) -> Result<File, RunError> {
    let root = std::path::absolute(layout.root()).map_err(RunError::Start)?;
    if !may_enter(&root) {
        return Err(RunError::Place(root));
    }
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
async fn observe(docker: Docker, driver: Handle, watcher: Watcher, pushes: Pushes) {
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
                let held = driver.view().borrow().held.clone();
                watcher.listed(all.iter().filter_map(traces).collect(), &held);
                pushes.listen_in(&watcher.running());
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
fn traces(seen: &Observed) -> Option<(AttemptId, Traces)> {
    let (pid, exit) = match seen.state {
        ContainerState::Running { pid, .. } => (Some(pid), None),
        ContainerState::Exited { code, .. } => (None, Some(code)),
        ContainerState::Created { .. } | ContainerState::Removing => (None, None),
    };
    Some((seen.attempt?, Traces { log: seen.log_path.clone()?, pid, exit }))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every job was refused there, one attempt after another, and only the agent's log said why.
    #[test]
    fn a_place_whose_files_enter_no_container_is_refused_at_the_start_and_untouched() {
        let dir = PathBuf::from("/root/no-agent-lives-here");
        let refused = forgo(dir.clone()).expect_err("refused");
        assert!(matches!(refused, RunError::Place(place) if place == dir));
        assert!(!dir.exists());
    }
}
