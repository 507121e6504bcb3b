//! Containers are closed: as the engine reports it, and as the process inside finds it.

use hone_agent::runtime::docker::Docker;
use hone_agent::runtime::{
    ContainerId, ContainerSpec, EnvVar, LogLimit, Mount, Network, Refusal, Runtime, RuntimeError,
    User,
};
use hone_proto::inventory::GpuId;
use hone_proto::quantity::Bytes;
use hone_tests::docker::{TestNode, docker};
use serde_json::Value;

use super::{config, finished, run, spec};

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

fn inspect(id: &ContainerId) -> Value {
    let text = docker(&["inspect", id.as_str()]).expect("inspected");
    let mut all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    all.remove(0)
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
async fn a_gpu_without_a_runtime_is_refused_with_a_hint() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let engine = Docker::new(config(&test));
    let gpu: GpuId = "GPU-00000000-0000-0000-0000-000000000001".parse().expect("a UUID");
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
