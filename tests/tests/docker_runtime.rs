//! The agent's Docker adapter against the real engine: hardening as the engine itself reports it, states, errors, images.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes as Buf;
use futures_util::StreamExt;
use futures_util::stream;
use hone_agent::runtime::docker::{DEFAULT_SOCKET, Deadlines, Docker, DockerConfig};
use hone_agent::runtime::{
    ContainerId, ContainerSpec, ContainerState, EngineEvent, EnvVar, GpuUuid, ImageId, ImageName,
    LogLimit, Mount, Network, Observed, Refusal, Runtime, RuntimeError, Signal, Tmpfs, Transfer,
    User,
};
use hone_proto::id::{Attempt, AttemptId, Generation, JobId, Token};
use hone_proto::quantity::{Bytes, MilliCpu};
use hone_tests::docker::{TestNode, docker, guest};
use hone_tests::registry::Registry;
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

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

async fn run(engine: &Docker, spec: &ContainerSpec) -> ContainerId {
    let id = engine.create(spec).await.expect("created");
    engine.start(&id).await.expect("started");
    id
}

fn inspect(id: &ContainerId) -> Value {
    let text = docker(&["inspect", id.as_str()]).expect("inspected");
    let mut all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    all.remove(0)
}

/// Where `inspect` shows each item, and what it must show.
fn hardening(fleet: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("/Config/User", Value::from("54321:54321")),
        ("/Config/Tty", false.into()),
        ("/Config/OpenStdin", false.into()),
        ("/Config/StopSignal", "SIGTERM".into()),
        ("/Config/StopTimeout", 90.into()),
        ("/Config/Healthcheck/Test", serde_json::json!(["NONE"])),
        ("/Config/Labels/hone.fleet", fleet.into()),
        ("/Config/Labels/hone.node", "n1".into()),
        ("/Config/Labels/hone.job", "7".into()),
        ("/Config/Labels/hone.generation", "1".into()),
        ("/Config/Labels/hone.attempt", "1".into()),
        ("/HostConfig/Privileged", false.into()),
        ("/HostConfig/CapDrop", serde_json::json!(["ALL"])),
        ("/HostConfig/SecurityOpt", serde_json::json!(["no-new-privileges"])),
        ("/HostConfig/ReadonlyRootfs", true.into()),
        ("/HostConfig/NetworkMode", "none".into()),
        ("/HostConfig/IpcMode", "private".into()),
        ("/HostConfig/PidMode", "".into()),
        ("/HostConfig/UTSMode", "".into()),
        ("/HostConfig/UsernsMode", "".into()),
        ("/HostConfig/CgroupnsMode", "private".into()),
        ("/HostConfig/PublishAllPorts", false.into()),
        ("/HostConfig/AutoRemove", false.into()),
        ("/HostConfig/Init", true.into()),
        ("/HostConfig/RestartPolicy/Name", "no".into()),
        ("/HostConfig/Memory", (64_u64 << 20).into()),
        ("/HostConfig/MemorySwap", (64_u64 << 20).into()),
        ("/HostConfig/NanoCpus", 500_000_000.into()),
        ("/HostConfig/CpusetCpus", "0".into()),
        ("/HostConfig/PidsLimit", 32.into()),
        ("/HostConfig/ShmSize", (4 << 20).into()),
        ("/HostConfig/OomScoreAdj", 500.into()),
        ("/HostConfig/LogConfig/Type", "json-file".into()),
        ("/HostConfig/LogConfig/Config/max-size", "100000".into()),
        ("/HostConfig/LogConfig/Config/max-file", "3".into()),
        ("/HostConfig/LogConfig/Config/compress", "false".into()),
        ("/State/Health", Value::Null),
    ]
}

#[tokio::test]
async fn every_hardening_item_is_what_the_engine_reports() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&["VOLUME /volume", "HEALTHCHECK CMD /guest"]).expect("an image");
    let engine = Docker::new(config(&test));
    let output = test.shared_dir("output").expect("a directory");
    let mount = |target: &str, read_only| Mount {
        source: output.clone(),
        target: target.into(),
        read_only,
    };
    let spec = ContainerSpec {
        mounts: vec![mount("/hone/output", false), mount("/hone/input", true)],
        cpuset: Some("0".to_owned()),
        open_files: Some(1024),
        log: LogLimit { file_size: Bytes::new(100_000), files: 3 },
        ..spec(&test, &image, &["sleep"])
    };
    let id = run(&engine, &spec).await;
    let seen = inspect(&id);
    let host = &seen["HostConfig"];
    for (place, value) in hardening(&test.fleet) {
        assert_eq!(seen.pointer(place).unwrap_or(&Value::Null), &value, "{place}");
    }
    for absent in
        ["CapAdd", "Devices", "DeviceRequests", "PortBindings", "VolumesFrom", "Binds", "GroupAdd"]
    {
        let value = &host[absent];
        let empty = value.is_null()
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        assert!(empty, "{absent} is {value}");
    }
    let limits = host["Ulimits"].as_array().expect("limits");
    for (name, value) in [("core", 0), ("nofile", 1024)] {
        let limit = serde_json::json!({"Name": name, "Soft": value, "Hard": value});
        assert!(limits.contains(&limit), "{limits:?}");
    }
    let tmpfs = host["Tmpfs"].as_object().expect("memory file systems");
    assert!(tmpfs.contains_key("/tmp") && tmpfs.contains_key("/volume"), "{tmpfs:?}");
    assert!(
        tmpfs
            .values()
            .all(|v| v.as_str().is_some_and(|v| v.contains("nosuid,nodev") && v.contains("size=")))
    );
    let mounts = seen["Mounts"].as_array().expect("mounts");
    assert_eq!(mounts.len(), 2, "an anonymous volume slipped in: {mounts:?}");
    assert!(
        mounts.iter().all(|mount| mount["Type"] == "bind" && mount["Propagation"] == "private")
    );
    let writable: Vec<_> =
        mounts.iter().filter(|m| m["RW"] == true).map(|m| &m["Destination"]).collect();
    assert_eq!(writable, ["/hone/output"]);
}

/// What the guest's probe printed.
fn probe(id: &ContainerId) -> Vec<String> {
    docker(&["logs", id.as_str()]).expect("logs").lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_process_inside_finds_itself_closed_in() {
    let mut test = TestNode::new().expect("an engine");
    let image = test
        .import_guest(&[
            "VOLUME /volume",
            "ENV LD_PRELOAD=/evil.so NVIDIA_VISIBLE_DEVICES=all KEEP=1",
        ])
        .expect("an image");
    let engine = Docker::new(config(&test));
    let output = test.shared_dir("output").expect("a directory");
    let mount = |target: &str, read_only| Mount {
        source: output.clone(),
        target: target.into(),
        read_only,
    };
    let var = |name: &str, value: &str| EnvVar { name: name.to_owned(), value: value.to_owned() };
    let spec = ContainerSpec {
        mounts: vec![mount("/hone/output", false), mount("/hone/input", true)],
        user_env: vec![var("MINE", "yes")],
        env: vec![var("HONE_ATTEMPT", "1")],
        ..spec(&test, &image, &["probe"])
    };
    let id = run(&engine, &spec).await;
    finished(&engine, &id).await;
    let lines = probe(&id);
    for expected in [
        "CapEff=0000000000000000",
        "CapPrm=0000000000000000",
        "CapBnd=0000000000000000",
        "NoNewPrivs=1",
        "Seccomp=2",
        "Uid=54321 54321 54321 54321",
        "Gid=54321 54321 54321 54321",
        "core=0 0",
        "write /x=false",
        "write /etc/x=false",
        "write /tmp/x=true",
        "write /volume/x=true",
        "write /hone/output/x=true",
        "write /hone/input/x=false",
        "loopback=true",
        "interfaces=1",
        "socket=false",
        "env NVIDIA_VISIBLE_DEVICES=void",
        "env HOME=/tmp",
        "env USER=hone",
        "env LOGNAME=hone",
        "env MINE=yes",
        "env HONE_ATTEMPT=1",
        "env KEEP=1",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} is missing in {lines:#?}");
    }
    assert!(!lines.iter().any(|line| line.starts_with("env LD_PRELOAD")), "{lines:#?}");
    assert!(
        lines.iter().any(|line| line.starts_with("first=") && line.contains("init")),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn the_relaxation_gives_uid_0_and_no_capability() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let engine = Docker::new(config(&test));
    let spec = ContainerSpec {
        user: User::Image,
        network: Network::Bridge,
        ..spec(&test, &image, &["probe"])
    };
    let id = run(&engine, &spec).await;
    finished(&engine, &id).await;
    let lines = probe(&id);
    for expected in
        ["Uid=0 0 0 0", "CapBnd=0000000000000000", "CapEff=0000000000000000", "interfaces=2"]
    {
        assert!(lines.iter().any(|line| line == expected), "{expected} is missing in {lines:#?}");
    }
}

#[tokio::test]
async fn a_life_is_seen_from_birth_to_removal_and_every_call_can_be_repeated() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let engine = Docker::new(config(&test));
    let spec = spec(&test, &image, &["sleep"]);
    let id = engine.create(&spec).await.expect("created");
    assert_eq!(engine.create(&spec).await.expect("the same"), id);
    let listed = engine.list().await.expect("listed");
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].attempt, &listed[0].id), (Some(attempt(1)), &id));
    assert_eq!(listed[0].state, ContainerState::Created { start_error: None });
    assert_eq!(listed[0].image, Some(image.parse().expect("an id")));

    engine.start(&id).await.expect("started");
    engine.start(&id).await.expect("started already");
    let running =
        until(&engine, &id, |state| matches!(state, ContainerState::Running { .. })).await;
    let ContainerState::Running { pid, started } = running.state else { panic!("not running") };
    assert!(Path::new(&format!("/proc/{pid}/cgroup")).exists());
    assert!(started.is_some());
    assert!(running.log_path.is_some_and(|path| path.is_file()));
    assert!(matches!(engine.create(&spec).await, Err(RuntimeError::NameTaken { .. })));
    let refused = engine.remove(&id).await;
    assert!(
        matches!(refused, Err(RuntimeError::Refused { refusal: Refusal::Running, .. })),
        "{refused:?}"
    );

    assert!(engine.signal(&id, Signal::Term).await.expect("sent"));
    let ended = finished(&engine, &id).await;
    let ContainerState::Exited { code, oom_killed, finished } = ended.state else {
        panic!("not ended")
    };
    assert_eq!((code, oom_killed, finished.is_some()), (143, false, true));
    assert!(!engine.signal(&id, Signal::Kill).await.expect("nobody took it"));
    engine.remove(&id).await.expect("removed");
    engine.remove(&id).await.expect("removed already");
    assert_eq!(engine.observe(&id).await.expect("asked"), None);
    assert!(!engine.signal(&id, Signal::Kill).await.expect("nobody is there"));
    assert!(matches!(engine.start(&id).await, Err(RuntimeError::NoSuchContainer(_))));
    assert_eq!(engine.list().await.expect("listed"), []);
}

#[tokio::test]
async fn only_own_containers_are_seen_and_unreadable_ones_are_named() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let engine = Docker::new(config(&test));
    let fleet = format!("hone.fleet={}", test.fleet);
    let make = |labels: &[&str]| {
        let mut args = vec!["create"];
        labels.iter().for_each(|label| args.extend(["--label", *label]));
        docker(&[&args[..], &[&image, "sleep"]].concat()).expect("created")
    };
    let broken = make(&[&fleet, "hone.node=n1", "hone.job=seven"]);
    let other_node =
        make(&[&fleet, "hone.node=n2", "hone.job=7", "hone.generation=1", "hone.attempt=1"]);
    make(&[&fleet]);
    let listed = engine.list().await.expect("listed");
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((listed[0].id.as_str(), listed[0].attempt), (broken.as_str(), None));
    assert_eq!(engine.observe(&ContainerId::new(other_node)).await.expect("asked"), None);
}

#[tokio::test]
async fn running_out_of_memory_and_a_missing_program_are_told() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let engine = Docker::new(config(&test));
    let id = run(&engine, &spec(&test, &image, &["eat", "256"])).await;
    let ended = finished(&engine, &id).await;
    assert!(
        matches!(ended.state, ContainerState::Exited { code: 137, oom_killed: true, .. }),
        "{ended:?}"
    );
    engine.remove(&id).await.expect("removed");

    let missing =
        ContainerSpec { entrypoint: Some(vec!["/no-such".to_owned()]), ..spec(&test, &image, &[]) };
    let id = engine.create(&missing).await.expect("created");
    match engine.start(&id).await {
        Err(RuntimeError::Refused { refusal: Refusal::NoSuchProgram, .. }) => {
            let seen = engine.observe(&id).await.expect("observed").expect("present");
            let ContainerState::Created { start_error } = seen.state else { panic!("{seen:?}") };
            assert!(start_error.is_some_and(|error| error.contains("no-such")));
        }
        // With an init process some engines start it, and the init says that there is no such program.
        Ok(()) => {
            let ended = finished(&engine, &id).await;
            assert!(matches!(ended.state, ContainerState::Exited { code: 127, .. }), "{ended:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_gpu_without_a_runtime_is_refused_with_a_hint() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let engine = Docker::new(config(&test));
    let gpu: GpuUuid = "GPU-00000000-0000-0000-0000-000000000001".parse().expect("a UUID");
    let spec = ContainerSpec { gpus: vec![gpu], ..spec(&test, &image, &["exit", "0"]) };
    let refused = match engine.create(&spec).await {
        Ok(id) => engine.start(&id).await.expect_err("there is no such GPU"),
        Err(error) => error,
    };
    assert!(
        matches!(refused, RuntimeError::Refused { refusal: Refusal::NoGpuRuntime, .. }),
        "{refused:?}"
    );
    assert!(refused.hint().is_some_and(|hint| hint.contains("nvidia-container-toolkit")));
}

#[tokio::test]
async fn the_engine_describes_itself() {
    let test = TestNode::new().expect("an engine");
    let facts = Docker::new(config(&test)).facts().await.expect("facts");
    assert_eq!(
        facts.version,
        docker(&["version", "-f", "{{.Server.Version}}"]).expect("a version")
    );
    assert_eq!(facts.storage_driver, docker(&["info", "-f", "{{.Driver}}"]).expect("a driver"));
    assert!(facts.cgroup_version.is_some() && facts.seccomp && facts.cpus > 0);
    assert!(facts.root_dir.is_dir());
}

#[tokio::test]
async fn an_image_travels_as_its_saved_stream_and_a_wrong_one_does_not_stay() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let other = test.import_guest(&["ENV OTHER=1"]).expect("an image");
    let engine = Docker::new(config(&test));
    let file = test.temp.path().join("image.tar");
    let wrong = test.temp.path().join("other.tar");
    docker(&["save", "-o", &file.display().to_string(), &image]).expect("saved");
    docker(&["save", "-o", &wrong.display().to_string(), &other]).expect("saved");
    docker(&["rmi", &image, &other]).expect("removed");
    let wanted: ImageId = image.parse().expect("an id");
    let name = ImageName::Id(wanted.clone());
    assert_eq!(engine.has_image(&name).await.expect("asked"), None);
    assert!(matches!(
        engine.create(&spec(&test, &image, &["sleep"])).await,
        Err(RuntimeError::NoSuchImage(_))
    ));

    let pieces = |path: &Path| {
        let bytes = std::fs::read(path).expect("read");
        let pieces: Vec<_> =
            bytes.chunks(64 * 1024).map(|piece| Ok(Buf::copy_from_slice(piece))).collect();
        stream::iter(pieces).boxed()
    };
    let mismatch = engine.load_image(&wanted, pieces(&wrong)).await;
    assert!(matches!(&mismatch, Err(RuntimeError::ImageMismatch { .. })), "{mismatch:?}");
    assert!(docker(&["image", "inspect", &other]).is_err(), "the wrong image stayed");

    let broken = stream::iter(vec![
        Ok(Buf::from(std::fs::read(&file).expect("read")[..100_000].to_vec())),
        Err(std::io::Error::other("the link broke")),
    ]);
    let failed = engine.load_image(&wanted, broken.boxed()).await;
    assert!(matches!(failed, Err(RuntimeError::Source(_))), "{failed:?}");
    let garbage = engine
        .load_image(&wanted, stream::iter(vec![Ok(Buf::from_static(&[7; 9000]))]).boxed())
        .await;
    assert!(garbage.is_err_and(|error| !error.is_retryable()));
    assert_eq!(engine.has_image(&name).await.expect("asked"), None);

    engine.load_image(&wanted, pieces(&file)).await.expect("loaded");
    assert_eq!(engine.has_image(&name).await.expect("asked"), Some(wanted.clone()));
    engine.load_image(&wanted, pieces(&file)).await.expect("loaded again");
    assert_eq!(engine.has_image(&name).await.expect("asked"), Some(wanted));
}

#[tokio::test]
async fn an_image_is_pulled_by_digest_and_a_forged_one_is_refused() {
    let mut test = TestNode::new().expect("an engine");
    let engine = Docker::new(config(&test));
    let forged = Registry::serve(guest().expect("a guest"), true).expect("a registry");
    let registry = Registry::serve(guest().expect("a guest"), false).expect("a registry");
    let name = |registry: &Registry| -> ImageName {
        format!("{}@{}", registry.repository, registry.digest).parse().expect("a name")
    };
    let (progress, seen) = watch::channel(Transfer::default());
    let failed = engine.pull(&name(&forged), &progress).await;
    assert!(matches!(failed, Err(RuntimeError::Refused { .. })), "{failed:?}");
    assert_eq!(engine.has_image(&name(&forged)).await.expect("asked"), None);

    assert_eq!(engine.has_image(&name(&registry)).await.expect("asked"), None);
    test.will_remove(&registry.image_id);
    let id = engine.pull(&name(&registry), &progress).await.expect("pulled");
    assert_eq!(id.as_str(), registry.image_id);
    assert_eq!(engine.has_image(&name(&registry)).await.expect("asked"), Some(id));
    let seen = *seen.borrow();
    assert!(seen.done == seen.total && seen.total > Bytes::ZERO, "{seen:?}");
    let spec = spec(&test, &name(&registry).to_string(), &["exit", "5"]);
    let container = run(&engine, &spec).await;
    let ended = finished(&engine, &container).await;
    assert!(matches!(ended.state, ContainerState::Exited { code: 5, .. }), "{ended:?}");
}

#[tokio::test]
async fn a_pull_that_cannot_work_says_so() {
    let test = TestNode::new().expect("an engine");
    let engine = Docker::new(config(&test));
    let (progress, _) = watch::channel(Transfer::default());
    let digest = format!("sha256:{}", "0".repeat(64));
    // Nothing listens on port 1.
    let name: ImageName = format!("127.0.0.1:1/team/trainer@{digest}").parse().expect("a name");
    let failed = engine.pull(&name, &progress).await;
    assert!(
        matches!(failed, Err(RuntimeError::Refused { refusal: Refusal::Registry, .. })),
        "{failed:?}"
    );
    let by_id: ImageName = digest.parse().expect("a name");
    assert!(matches!(engine.pull(&by_id, &progress).await, Err(RuntimeError::BadReference { .. })));
}

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
