//! An engine that hangs, goes away and comes back.

use std::path::Path;
use std::time::Duration;

use hone_agent::runtime::docker::{DEFAULT_SOCKET, Deadlines, Docker, DockerConfig};
use hone_agent::runtime::{ContainerState, EngineEvent, Observed, Runtime, Signal};
use hone_tests::docker::{TestNode, docker};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{PATIENCE, config, run, spec};

async fn next(events: &mut tokio::sync::mpsc::Receiver<EngineEvent>) -> EngineEvent {
    timeout(PATIENCE, events.recv()).await.expect("an event in time").expect("an open subscription")
}

#[tokio::test]
async fn events_nudge_for_own_containers() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let engine = Docker::new(config(&test));
    let mut events = engine.events();
    assert_eq!(next(&mut events).await, EngineEvent::Subscribed);
    docker(&["run", "--rm", &image, "exit", "0"]).expect("a container of somebody else");
    let id = run(&engine, &spec(&test, &image, &["exit", "3"])).await;
    assert_eq!(next(&mut events).await, EngineEvent::Changed(id.clone()));
    assert_eq!(next(&mut events).await, EngineEvent::Changed(id));
}

#[tokio::test]
async fn an_engine_that_hangs_or_is_absent_is_unavailable() {
    let test = TestNode::new().expect("an engine");
    let socket = test.temp.path().join("hung.sock");
    // Accepts into its backlog and never answers.
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let deadlines = Deadlines { ask: Duration::from_millis(300), ..Deadlines::default() };
    for socket in [socket, test.temp.path().join("absent.sock")] {
        let engine = Docker::new(DockerConfig { socket, deadlines, ..config(&test) });
        let failed = timeout(PATIENCE, engine.list()).await.expect("an answer in time");
        assert!(failed.is_err_and(|error| error.is_retryable()));
        let mut events = engine.events();
        assert_eq!(next(&mut events).await, EngineEvent::Lost);
    }
}

/// Passes connections on to the engine until it is dropped, and with it every connection.
fn passage(socket: &Path) -> JoinSet<()> {
    let listener = UnixListener::bind(socket).expect("a socket");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut far = UnixStream::connect(DEFAULT_SOCKET).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    tasks
}

#[tokio::test]
async fn an_engine_that_comes_back_is_found_again_and_nothing_was_touched() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let socket = test.temp.path().join("engine.sock");
    let engine = Docker::new(DockerConfig { socket: socket.clone(), ..config(&test) });
    let open = passage(&socket);
    let mut events = engine.events();
    assert_eq!(next(&mut events).await, EngineEvent::Subscribed);
    let id = run(&engine, &spec(&test, &image, &["sleep"])).await;
    assert_eq!(next(&mut events).await, EngineEvent::Changed(id.clone()));

    drop(open);
    assert_eq!(next(&mut events).await, EngineEvent::Lost);
    assert!(engine.list().await.is_err_and(|error| error.is_retryable()));
    assert!(engine.signal(&id, Signal::Term).await.is_err_and(|error| error.is_retryable()));

    std::fs::remove_file(&socket).expect("removed");
    let _open = passage(&socket);
    while next(&mut events).await != EngineEvent::Subscribed {}
    let listed = engine.list().await.expect("listed");
    assert!(
        matches!(&listed[..], [Observed { state: ContainerState::Running { .. }, .. }]),
        "{listed:?}"
    );
}
