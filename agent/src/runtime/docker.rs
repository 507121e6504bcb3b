//! Docker behind [`Runtime`]: the only user of the engine's client library.
//!
//! Each call has a deadline by name, so that an engine that hangs is told from one that is slow. The connection is made
//! on first use and dropped whenever the engine was away: it may come back as another version.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error;
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, KillContainerOptions, ListContainersOptions,
    RemoveContainerOptions, StartContainerOptions,
};
use hone_proto::id::{FleetId, NodeId};
use hone_proto::inventory::EngineFacts;
use tokio::sync::{Mutex, mpsc, watch};

use super::{
    ContainerId, ContainerSpec, ContainerState, EngineEvent, ImageId, ImageName, ImageStream,
    Observed, Refusal, Runtime, RuntimeError, Signal, Transfer,
};

mod body;
mod events;
mod fault;
mod images;
mod labels;
mod observe;
mod question;

use labels::Owner;
pub use question::Answer;

/// Where an engine listens when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// How long each kind of call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Questions: list, inspect, version. An engine answers them from memory; 15 s is a hung one.
    pub ask: Duration,
    /// Changes: create, start, signal, remove. Disks under a training load are slow, and a start sets up GPUs.
    pub act: Duration,
    /// Transfers of images: the longest silence, neither a byte taken nor a word said. Unpacking a large layer on a
    /// slow disk is silent for minutes.
    pub stall: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            ask: Duration::from_secs(15),
            act: Duration::from_secs(120),
            stall: Duration::from_secs(600),
        }
    }
}

/// What the adapter needs to know.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// The engine's socket.
    pub socket: PathBuf,
    /// The fleet whose containers these are.
    pub fleet: FleetId,
    /// The node whose containers these are.
    pub node: NodeId,
    /// How long calls may take.
    pub deadlines: Deadlines,
}

/// The Docker engine of this node. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub struct Docker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    owner: Owner,
    deadlines: Deadlines,
    client: Mutex<Option<bollard::Docker>>,
}

impl Docker {
    /// Prepares the adapter; connects when first used, so that an agent starts before its engine does.
    #[must_use]
    pub fn new(config: DockerConfig) -> Self {
        let shared = Shared {
            socket: config.socket,
            owner: Owner::new(config.fleet, config.node),
            deadlines: config.deadlines,
            client: Mutex::new(None),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A connection whose API version was agreed with the engine.
    async fn client(&self, call: &'static str) -> Result<bollard::Docker, RuntimeError> {
        let mut slot = self.shared.client.lock().await;
        if let Some(client) = slot.as_ref() {
            return Ok(client.clone());
        }
        let socket = self.shared.socket.to_string_lossy();
        // The library's own timeout covers one request; ours, shorter, cover whole calls and have names.
        let longest = self.shared.deadlines.stall.max(self.shared.deadlines.act).as_secs() + 60;
        let connect = async {
            bollard::Docker::connect_with_unix(&socket, longest, bollard::API_DEFAULT_VERSION)?
                .negotiate_version()
                .await
        };
        let client = tokio::time::timeout(self.shared.deadlines.ask, connect)
            .await
            .map_err(|_| late(call, self.shared.deadlines.ask))?
            .map_err(|error| fault::classify(call, &error))?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// Makes the next call connect anew.
    async fn forget_client(&self) {
        *self.shared.client.lock().await = None;
    }

    /// Performs one call under its deadline. The engine's own error is kept apart, since its status often decides.
    async fn call<T, F, Fut>(
        &self,
        call: &'static str,
        deadline: Duration,
        perform: F,
    ) -> Result<Result<T, Error>, RuntimeError>
    where
        F: FnOnce(bollard::Docker) -> Fut + Send,
        Fut: Future<Output = Result<T, Error>> + Send,
    {
        let client = self.client(call).await?;
        let outcome = match tokio::time::timeout(deadline, perform(client)).await {
            Ok(Ok(value)) => return Ok(Ok(value)),
            Ok(Err(error)) => {
                let away =
                    matches!(fault::classify(call, &error), RuntimeError::Unavailable { .. });
                if !away {
                    return Ok(Err(error));
                }
                Err(fault::classify(call, &error))
            }
            Err(_) => Err(late(call, deadline)),
        };
        self.forget_client().await;
        outcome
    }

    async fn ask<T, F, Fut>(
        &self,
        call: &'static str,
        perform: F,
    ) -> Result<Result<T, Error>, RuntimeError>
    where
        F: FnOnce(bollard::Docker) -> Fut + Send,
        Fut: Future<Output = Result<T, Error>> + Send,
    {
        self.call(call, self.shared.deadlines.ask, perform).await
    }

    async fn act<T, F, Fut>(
        &self,
        call: &'static str,
        perform: F,
    ) -> Result<Result<T, Error>, RuntimeError>
    where
        F: FnOnce(bollard::Docker) -> Fut + Send,
        Fut: Future<Output = Result<T, Error>> + Send,
    {
        self.call(call, self.shared.deadlines.act, perform).await
    }

    /// Inspects by id or name; nothing when there is none or it is not ours.
    async fn look(&self, name: &str) -> Result<Option<Observed>, RuntimeError> {
        let inspected = self
            .ask("inspect a container", |client| {
                let name = name.to_owned();
                async move { client.inspect_container(&name, None::<InspectContainerOptions>).await }
            })
            .await?;
        match inspected {
            Ok(container) => Ok(observe::observed(&self.shared.owner, container)),
            Err(error) if fault::status(&error) == Some(404) => Ok(None),
            Err(error) => Err(fault::classify("inspect a container", &error)),
        }
    }

    /// After a name conflict: the id of our own container for the same attempt, if that is what holds the name.
    async fn already_created(&self, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError> {
        match self.look(&spec.name).await? {
            Some(Observed {
                id,
                attempt: Some(attempt),
                state: ContainerState::Created { .. },
                ..
            }) if attempt == spec.attempt => Ok(id),
            _ => Err(RuntimeError::NameTaken { name: spec.name.clone() }),
        }
    }
}

fn late(call: &'static str, deadline: Duration) -> RuntimeError {
    RuntimeError::Unavailable {
        call,
        why: format!("no answer within {} s", deadline.as_secs_f32()),
    }
}

impl Runtime for Docker {
    async fn facts(&self) -> Result<EngineFacts, RuntimeError> {
        const CALL: &str = "describe itself";
        let answer = self
            .ask(CALL, |client| async move {
                let version = client.version().await?;
                let info = client.info().await?;
                Ok((version, client.client_version(), info))
            })
            .await?;
        let (version, api, info) = answer.map_err(|error| fault::classify(CALL, &error))?;
        let api = format!("{}.{}", api.major_version, api.minor_version);
        Ok(observe::facts(version, api, info))
    }

    async fn list(&self) -> Result<Vec<Observed>, RuntimeError> {
        const CALL: &str = "list containers";
        let filters = Some(self.shared.owner.filter());
        let found = self
            .ask(CALL, |client| async move {
                let options = ListContainersOptions { all: true, filters, ..Default::default() };
                client.list_containers(Some(options)).await
            })
            .await?
            .map_err(|error| fault::classify(CALL, &error))?;
        let mut observed = Vec::with_capacity(found.len());
        for id in found.into_iter().filter_map(|container| container.id) {
            // Gone between the two questions: then it is not there.
            observed.extend(self.look(&id).await?);
        }
        Ok(observed)
    }

    async fn observe(&self, id: &ContainerId) -> Result<Option<Observed>, RuntimeError> {
        self.look(id.as_str()).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError> {
        const CALL: &str = "create a container";
        spec.check()?;
        let facts = self.facts().await?;
        let volumes = self.image_volumes(&spec.image).await?;
        let body = body::create_body(spec, &self.shared.owner, facts.gpu, &volumes)?;
        let options =
            CreateContainerOptions { name: Some(spec.name.clone()), platform: String::new() };
        let created = self
            .act(CALL, |client| async move { client.create_container(Some(options), body).await })
            .await?;
        match created {
            Ok(response) => {
                if !response.warnings.is_empty() {
                    tracing::warn!(name = %spec.name, warnings = ?response.warnings, "the engine ignored a setting");
                }
                Ok(ContainerId::new(response.id))
            }
            Err(error) => match fault::status(&error) {
                Some(404) => Err(RuntimeError::NoSuchImage(spec.image.to_string())),
                Some(409) => self.already_created(spec).await,
                _ => Err(fault::classify(CALL, &error)),
            },
        }
    }

    async fn start(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        const CALL: &str = "start a container";
        let name = id.as_str().to_owned();
        let started = self
            .act(CALL, |client| async move {
                client.start_container(&name, None::<StartContainerOptions>).await
            })
            .await?;
        started.map_err(|error| {
            let classified = fault::classify(CALL, &error);
            // An engine also says 404 when the program to run is missing in the image.
            let gone = fault::status(&error) == Some(404)
                && matches!(classified, RuntimeError::Refused { refusal: Refusal::Other, .. });
            if gone { RuntimeError::NoSuchContainer(id.clone()) } else { classified }
        })
    }

    async fn signal(&self, id: &ContainerId, signal: Signal) -> Result<bool, RuntimeError> {
        const CALL: &str = "signal a container";
        let name = id.as_str().to_owned();
        let sent = self
            .act(CALL, |client| async move {
                let options = KillContainerOptions { signal: signal.name().to_owned() };
                client.kill_container(&name, Some(options)).await
            })
            .await?;
        match sent {
            Ok(()) => Ok(true),
            // Gone, or not running any more.
            Err(error) if matches!(fault::status(&error), Some(404 | 409)) => Ok(false),
            Err(error) => Err(fault::classify(CALL, &error)),
        }
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        const CALL: &str = "remove a container";
        let name = id.as_str().to_owned();
        let removed = self
            .act(CALL, |client| async move {
                let options = RemoveContainerOptions { v: true, force: false, link: false };
                client.remove_container(&name, Some(options)).await
            })
            .await?;
        let Err(error) = removed else { return Ok(()) };
        let classified = fault::classify(CALL, &error);
        match (fault::status(&error), &classified) {
            (Some(404), _) => Ok(()),
            // "Removal is already in progress" is as good as done; running is not.
            (Some(409), RuntimeError::Refused { refusal, .. }) if *refusal != Refusal::Running => {
                Ok(())
            }
            _ => Err(classified),
        }
    }

    async fn has_image(&self, image: &ImageName) -> Result<Option<ImageId>, RuntimeError> {
        self.image_id(&image.to_string()).await
    }

    async fn load_image(&self, wanted: &ImageId, tar: ImageStream) -> Result<(), RuntimeError> {
        self.load(wanted, tar).await
    }

    async fn pull(
        &self,
        image: &ImageName,
        progress: &watch::Sender<Transfer>,
    ) -> Result<ImageId, RuntimeError> {
        self.pull_digest(image, progress).await
    }

    fn events(&self) -> mpsc::Receiver<EngineEvent> {
        events::subscribe(self.clone())
    }
}
