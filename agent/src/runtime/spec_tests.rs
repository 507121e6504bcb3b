//! The rules for container specs, broken one at a time.

use hone_proto::id::{Attempt, Generation, JobId, Token};

use super::*;

/// A spec that passes; each test spoils one thing.
pub(crate) fn good() -> ContainerSpec {
    ContainerSpec {
        attempt: AttemptId {
            job: JobId::new(7),
            token: Token { generation: Generation::new(1), attempt: Attempt::new(2) },
        },
        name: "hone-7-1-2".to_owned(),
        image: format!("sha256:{}", "0".repeat(64)).parse().expect("an image"),
        entrypoint: None,
        command: None,
        workdir: None,
        user_env: Vec::new(),
        env: Vec::new(),
        mounts: vec![Mount {
            source: "/srv/attempt/output".into(),
            target: "/hone/output".into(),
            read_only: false,
        }],
        tmpfs: vec![Tmpfs { target: "/tmp".into(), size: Bytes::mib(64), exec: false }],
        user: User::Attempt(200_000),
        memory: Bytes::mib(256),
        cpus: MilliCpu::cores(1),
        cpuset: None,
        pids: 64,
        shm: Bytes::mib(16),
        open_files: None,
        gpus: Vec::new(),
        network: Network::None,
        stop_grace: Duration::from_secs(60),
        log: LogLimit::default(),
    }
}

fn var(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: value.to_owned() }
}

#[test]
fn a_good_spec_passes_and_hides_its_values() {
    let mut spec = good();
    spec.user_env = vec![var("TOKEN", "hunter2")];
    assert_eq!(spec.check(), Ok(()));
    assert!(!format!("{spec:?}").contains("hunter2"));
}

#[test]
fn a_job_cannot_set_the_loader_the_devices_or_the_contract() {
    for name in [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "LD_AUDIT",
        "GLIBC_TUNABLES",
        "NVIDIA_VISIBLE_DEVICES",
        "HONE_SPEC",
    ] {
        let spec = ContainerSpec { user_env: vec![var(name, "x")], ..good() };
        assert_eq!(spec.check(), Err(SpecError::DeniedVariable { name: name.to_owned() }));
    }
    for (name, value) in [("", "x"), ("A=B", "x"), ("A B", "x"), ("A", "x\0"), ("A\0", "")] {
        let spec = ContainerSpec { user_env: vec![var(name, value)], ..good() };
        assert!(
            matches!(spec.check(), Err(SpecError::BadVariable { .. })),
            "{name:?} was accepted"
        );
    }
}

#[test]
fn hones_variables_win_and_devices_are_always_named() {
    let spec = ContainerSpec {
        user_env: vec![var("MODE", "user"), var("HOME", "/home/me")],
        env: vec![var("MODE", "hone")],
        ..good()
    };
    let env = spec.environment().expect("an environment");
    assert_eq!(env["MODE"], "hone");
    assert_eq!(env["HOME"], "/home/me");
    assert_eq!((env["USER"].as_str(), env["LOGNAME"].as_str()), ("hone", "hone"));
    assert_eq!(env["NVIDIA_VISIBLE_DEVICES"], "void");
    let gpu: GpuId = "GPU-5e9a0a35-1f2b-4c3d-8e4f-000000000001".parse().expect("a UUID");
    let env =
        ContainerSpec { gpus: vec![gpu.clone()], ..good() }.environment().expect("an environment");
    assert_eq!(env["NVIDIA_VISIBLE_DEVICES"], gpu.as_str());
    for bad in ["0", "all", "void", "none"] {
        let spec = ContainerSpec { gpus: vec![bad.parse().expect("an id")], ..good() };
        assert!(matches!(spec.check(), Err(SpecError::BadGpu { .. })), "{bad:?} was accepted");
    }
}

#[test]
fn the_host_stays_out_of_the_container() {
    for source in [
        "/",
        "/proc/1/root",
        "/sys",
        "/dev/sda",
        "/run/docker.sock",
        "/var/run",
        "/etc",
        "relative",
        "/srv/../etc",
        "/srv//x",
        "/srv/x/",
        "/srv/engine.sock",
    ] {
        let mount = Mount { source: source.into(), target: "/hone/output".into(), read_only: true };
        let spec = ContainerSpec { mounts: vec![mount], ..good() };
        assert!(matches!(spec.check(), Err(SpecError::BadMount { .. })), "{source} was accepted");
    }
    for target in ["/", "hone", "/proc", "/dev/shm", "/hone/../etc", "/a,b", "/a:b"] {
        let mount = Mount { source: "/srv/x".into(), target: target.into(), read_only: true };
        let spec = ContainerSpec { mounts: vec![mount], ..good() };
        assert!(matches!(spec.check(), Err(SpecError::BadMount { .. })), "{target} was accepted");
        let tmpfs = Tmpfs { target: target.into(), size: Bytes::mib(1), exec: false };
        let spec = ContainerSpec { tmpfs: vec![tmpfs], ..good() };
        assert!(
            matches!(spec.check(), Err(SpecError::BadMount { .. })),
            "tmpfs {target} was accepted"
        );
    }
}

#[test]
fn absurd_figures_are_refused() {
    let bad = [
        ContainerSpec { memory: Bytes::ZERO, ..good() },
        ContainerSpec { memory: Bytes::new(u64::MAX), ..good() },
        ContainerSpec { cpus: MilliCpu::new(0), ..good() },
        ContainerSpec { pids: 0, ..good() },
        ContainerSpec { shm: Bytes::gib(1), ..good() },
        ContainerSpec { shm: Bytes::ZERO, ..good() },
        ContainerSpec { user: User::Attempt(0), ..good() },
        ContainerSpec { log: LogLimit { file_size: Bytes::mib(1), files: 1 }, ..good() },
        ContainerSpec { command: Some(vec!["a\0".to_owned()]), ..good() },
        ContainerSpec { command: Some(vec![String::new(); 5000]), ..good() },
        ContainerSpec {
            tmpfs: vec![Tmpfs { target: "/tmp".into(), size: Bytes::gib(2), exec: false }],
            ..good()
        },
    ];
    for spec in bad {
        assert!(matches!(spec.check(), Err(SpecError::BadFigure { .. })), "{spec:?} was accepted");
    }
}
