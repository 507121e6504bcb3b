//! The agent's Docker adapter and log reader against the real engine. A missing engine is a failure.

use std::time::Duration;

use hone_agent::runtime::docker::{DEFAULT_SOCKET, Deadlines, Docker, DockerConfig};
use hone_agent::runtime::{
    ContainerId, ContainerSpec, ContainerState, LogLimit, Network, Observed, Runtime, Tmpfs, User,
};
use hone_proto::id::{Attempt, AttemptId, Generation, JobId, Token};
use hone_proto::quantity::{Bytes, MilliCpu};
use hone_tests::docker::TestNode;
use tokio::time::timeout;

mod availability;
mod hardening;
mod images;
mod launch;
mod life;
mod logs;

/// How long the engine may take for what it does in a second when the machine is quiet.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(test: &TestNode) -> DockerConfig {
    DockerConfig {
        socket: DEFAULT_SOCKET.into(),
        fleet: test.fleet.parse().expect("a fleet id"),
        node: test.node.parse().expect("a node id"),
        deadlines: Deadlines::default(),
    }
}

fn attempt(number: u32) -> AttemptId {
    let token = Token { generation: Generation::new(1), attempt: Attempt::new(number) };
    AttemptId { job: JobId::new(7), token }
}

fn spec(test: &TestNode, image: &str, command: &[&str]) -> ContainerSpec {
    ContainerSpec {
        attempt: attempt(1),
        name: format!("{}-7-1-1", test.fleet),
        image: image.parse().expect("an image"),
        entrypoint: None,
        command: Some(command.iter().map(|arg| (*arg).to_owned()).collect()),
        workdir: None,
        user_env: Vec::new(),
        env: Vec::new(),
        mounts: Vec::new(),
        tmpfs: vec![Tmpfs { target: "/tmp".into(), size: Bytes::mib(8), exec: false }],
        user: User::Attempt(54_321),
        memory: Bytes::mib(64),
        cpus: MilliCpu::new(500),
        cpuset: None,
        pids: 32,
        shm: Bytes::mib(4),
        open_files: None,
        gpus: Vec::new(),
        network: Network::None,
        stop_grace: Duration::from_secs(90),
        log: LogLimit::default(),
    }
}

/// A started container's state once it satisfies `wanted`.
async fn until(
    engine: &Docker,
    id: &ContainerId,
    wanted: impl Fn(&ContainerState) -> bool,
) -> Observed {
    let watching = async {
        loop {
            let seen = engine.observe(id).await.expect("observed").expect("present");
            if wanted(&seen.state) {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, watching).await.expect("the container gets there in time")
}

async fn finished(engine: &Docker, id: &ContainerId) -> Observed {
    until(engine, id, |state| matches!(state, ContainerState::Exited { .. })).await
}

/// A created and started container.
async fn run(engine: &Docker, spec: &ContainerSpec) -> ContainerId {
    let id = engine.create(spec).await.expect("created");
    engine.start(&id).await.expect("started");
    id
}
