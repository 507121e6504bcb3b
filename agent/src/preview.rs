//! What hone sees of this machine and would offer of it: `hone-agent inventory`, before or after joining, while the
//! agent runs or not. It looks and touches nothing. What is absent is a fact with a sentence, never an error.

mod text;

use std::path::PathBuf;
use std::time::Duration;

use hone_proto::id::{FleetId, NodeId};
use hone_proto::identity::{IdentityDir, Peer};
use hone_proto::inventory::{Allocatable, EngineFacts, Foreign, Inventory, Limits};
use hone_proto::time::Now;
use hone_proto::wire;
use serde::{Serialize, Serializer};
use tokio::task::JoinError;

use crate::config::{Config, Policy};
use crate::host::HostRoots;
use crate::inventory::Collector;
use crate::layout::Layout;
use crate::observe::cgroup::{Place, Process};
use crate::observe::foreign::disk_of_others;
use crate::observe::gpu::{GpuSettings, Gpus};
use crate::observe::{ContainerRef, Sampler, SamplerSettings};
use crate::offer::Offer;
use crate::runtime::docker::{Docker, DockerConfig};
use crate::runtime::{ContainerState, Observed, Runtime};
use crate::state::StateFile;

pub use text::render;

/// How long the engine may take to say what it is; somebody waits at a keyboard.
const PATIENCE: Duration = Duration::from_secs(5);

/// What this machine has, and what would be offered of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// The name under which it has joined a fleet.
    pub joined_as: Option<String>,
    /// Everything it has; as JSON in the words of `hone node show`.
    #[serde(serialize_with = "inventory_on_the_wire")]
    pub inventory: Inventory,
    /// Why the container engine does not say what it is, when it does not.
    pub engine_absent: Option<String>,
    /// What its owner's policy keeps back.
    pub limits: Limits,
    /// Images that its owner allows, by their beginning; empty is every image.
    pub images: Vec<String>,
    /// Relaxations of the closed container that its owner allows.
    pub allow: Vec<String>,
    /// What others than hone use now.
    pub used_by_others: Foreign,
    /// What placement may count on now; as JSON in the words of `hone node show`.
    #[serde(serialize_with = "allocatable_on_the_wire")]
    pub allocatable: Allocatable,
}

fn inventory_on_the_wire<S: Serializer>(has: &Inventory, to: S) -> Result<S::Ok, S::Error> {
    wire::Inventory::from(has.clone()).serialize(to)
}

fn allocatable_on_the_wire<S: Serializer>(offer: &Allocatable, to: S) -> Result<S::Ok, S::Error> {
    wire::Allocatable::from(offer.clone()).serialize(to)
}

/// Looks at this machine.
pub async fn look(config: &Config, state_dir: PathBuf) -> Result<Preview, JoinError> {
    let layout = Layout::new(state_dir);
    let identity = IdentityDir::new(layout.identity()).load().ok();
    let id = identity.map(|(credentials, _)| credentials.certificate().id.clone());
    let node = id.as_ref().and_then(|id| match &id.peer {
        Peer::Node(node) => Some((id.fleet.clone(), node.clone())),
        Peer::Controller | Peer::User(_) => None,
    });
    let joined_as = node.as_ref().and(id.as_ref()).map(ToString::to_string);
    let (facts, containers) = ask_engine(config, node).await;
    let (policy, nvml) = (config.policy.clone(), config.gpu.nvml.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let gpus = Gpus::start(GpuSettings { library: nvml, ..GpuSettings::default() });
        measure(&layout, HostRoots::default(), gpus, &policy, facts, &containers)
    });
    Ok(Preview { joined_as, ..looked.await? })
}

/// What the engine is, or why it does not say so; and the containers that this node's agent runs there.
async fn ask_engine(
    config: &Config,
    node: Option<(FleetId, NodeId)>,
) -> (Result<EngineFacts, String>, Vec<ContainerRef>) {
    let nobody = || Some(("none".parse().ok()?, "none".parse().ok()?));
    // Facts are asked of the engine as a whole; a machine that has not joined has no containers.
    let Some((fleet, node)) = node.or_else(nobody) else {
        return (Err("it was not asked".to_owned()), Vec::new());
    };
    let socket = config.engine.socket.clone();
    let docker = Docker::new(DockerConfig { socket, fleet, node, deadlines: Default::default() });
    let late = |_| Err(format!("it did not answer within {} s", PATIENCE.as_secs()));
    let facts = tokio::time::timeout(PATIENCE, docker.facts()).await;
    let facts = facts.map_or_else(late, |facts| facts.map_err(|error| error.to_string()));
    let listed = tokio::time::timeout(PATIENCE, docker.list()).await;
    let listed = listed.ok().and_then(Result::ok).unwrap_or_default();
    (facts, listed.iter().filter_map(running).collect())
}

fn running(seen: &Observed) -> Option<ContainerRef> {
    match (seen.attempt, &seen.state) {
        (Some(attempt), ContainerState::Running { pid, .. }) => {
            let init = Process::of(&HostRoots::default(), *pid)?;
            Some(ContainerRef { attempt, place: Place::Init(init) })
        }
        _ => None,
    }
}

fn measure(
    layout: &Layout,
    roots: HostRoots,
    gpus: Gpus,
    policy: &Policy,
    facts: Result<EngineFacts, String>,
    containers: &[ContainerRef],
) -> Preview {
    let (facts, engine_absent) = match facts {
        Ok(facts) => (facts, None),
        Err(why) => (EngineFacts::default(), Some(why)),
    };
    let collector = Collector::new(roots.clone(), layout.root().to_owned(), gpus.clone());
    let mut offer = Offer::new(collector.look(&facts), policy.limits());
    let mut sampler = Sampler::new(
        SamplerSettings {
            roots,
            cgroup_version: facts.cgroup_version,
            state_dir: Some(layout.root().to_owned()),
            engine_root: Some(facts.root_dir),
        },
        gpus,
    );
    let sample = sampler.sample(Now::read(), containers);
    // What the agent would hold when it starts.
    let state = StateFile::new(layout.state()).load().unwrap_or_default();
    let held: Vec<_> = state.attempts.into_keys().collect();
    offer.follow(&sample, disk_of_others(layout, &held));
    Preview {
        joined_as: None,
        inventory: offer.inventory().clone(),
        engine_absent,
        limits: policy.limits(),
        images: policy.images.clone(),
        allow: policy.allow.iter().map(|one| one.name().to_owned()).collect(),
        used_by_others: offer.foreign().clone(),
        allocatable: offer.allocatable(),
    }
}

#[cfg(test)]
#[path = "preview_tests.rs"]
mod tests;
