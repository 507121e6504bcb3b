//! From the engine's answers to plain values. Pure: what an engine can say is tested without one.

use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerInspectResponse, ContainerState as EngineState, ContainerStateStatusEnum as Status,
    SystemInfo, SystemInfoCgroupVersionEnum, SystemVersion,
};
use hone_proto::inventory::{CgroupVersion, EngineFacts, GpuSupport};
use hone_proto::time::WallNanos;

use crate::runtime::{ContainerId, ContainerState, Observed};

use super::fault::clean;
use super::labels::{Owner, attempt_of};

/// A container as inspected, if it is ours.
pub(super) fn observed(owner: &Owner, inspected: ContainerInspectResponse) -> Option<Observed> {
    let labels = inspected.config.and_then(|config| config.labels).unwrap_or_default();
    if !owner.owns(&labels) {
        return None;
    }
    Some(Observed {
        id: ContainerId::new(inspected.id?),
        attempt: attempt_of(&labels),
        state: state(inspected.state.unwrap_or_default()),
        log_path: inspected.log_path.filter(|path| !path.is_empty()).map(PathBuf::from),
        image: inspected.image.and_then(|image| image.parse().ok()),
    })
}

fn state(state: EngineState) -> ContainerState {
    let pid = state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    match (state.status, pid) {
        (Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING), Some(pid)) => {
            ContainerState::Running { pid, started: time(state.started_at.as_deref()) }
        }
        (Some(Status::REMOVING | Status::DEAD), _) => ContainerState::Removing,
        (Some(Status::CREATED), _) => ContainerState::Created {
            start_error: state.error.filter(|error| !error.is_empty()).map(|error| clean(&error)),
        },
        // Also "running" without a process: it ended between two looks of the engine.
        _ => ContainerState::Exited {
            code: state.exit_code.unwrap_or(-1),
            oom_killed: state.oom_killed.unwrap_or(false),
            finished: time(state.finished_at.as_deref()),
        },
    }
}

/// A time as the engine writes it; it says "never" with the year 1.
fn time(text: Option<&str>) -> Option<WallNanos> {
    let parsed: jiff::Timestamp = text?.parse().ok()?;
    u64::try_from(parsed.as_nanosecond()).ok().filter(|nanos| *nanos > 0).map(WallNanos::new)
}

/// The engine's description of itself, with what the host's files add about GPUs.
pub(super) fn facts(version: SystemVersion, api_version: String, info: SystemInfo) -> EngineFacts {
    let gpu = gpu_support(&info, has_nvidia_description);
    let seccomp = info
        .security_options
        .iter()
        .flatten()
        .any(|option| option.contains("name=seccomp") && !option.contains("unconfined"));
    EngineFacts {
        name: "docker".to_owned(),
        version: version.version.or(info.server_version).unwrap_or_default(),
        api_version,
        storage_driver: info.driver.unwrap_or_default(),
        cgroup_version: info.cgroup_version.and_then(|version| match version {
            SystemInfoCgroupVersionEnum::_1 => Some(CgroupVersion::V1),
            SystemInfoCgroupVersionEnum::_2 => Some(CgroupVersion::V2),
            SystemInfoCgroupVersionEnum::EMPTY => None,
        }),
        cgroup_driver: info.cgroup_driver.map(|driver| driver.to_string()).unwrap_or_default(),
        gpu,
        cdi_dirs: info.cdi_spec_dirs.unwrap_or_default().into_iter().map(PathBuf::from).collect(),
        root_dir: info.docker_root_dir.unwrap_or_default().into(),
        live_restore: info.live_restore_enabled.unwrap_or(false),
        seccomp,
        cpus: info.ncpu.and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
    }
}

/// How this engine hands out GPUs. Newer engines list the devices they discovered; older ones only say where they
/// look, so that the files there decide.
fn gpu_support(info: &SystemInfo, describes_nvidia: impl Fn(&Path) -> bool) -> GpuSupport {
    let discovered = info
        .discovered_devices
        .iter()
        .flatten()
        .any(|device| device.id.as_deref().is_some_and(|id| id.starts_with("nvidia.com/gpu")));
    let described =
        || info.cdi_spec_dirs.iter().flatten().any(|dir| describes_nvidia(Path::new(dir)));
    if discovered || described() {
        GpuSupport::Cdi
    } else if info.runtimes.as_ref().is_some_and(|runtimes| runtimes.contains_key("nvidia")) {
        GpuSupport::Nvidia
    } else {
        GpuSupport::None
    }
}

/// Whether a directory holds a CDI description that NVIDIA's tool wrote (it names the file after the vendor).
fn has_nvidia_description(dir: &Path) -> bool {
    let Ok(entries) = dir.read_dir() else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.contains("nvidia") && (name.ends_with(".yaml") || name.ends_with(".json"))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard::models::{ContainerConfig, DeviceInfo, Runtime};

    use super::*;

    fn inspected(labels: &[(&str, &str)], state: EngineState) -> ContainerInspectResponse {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ContainerInspectResponse {
            id: Some("c1".to_owned()),
            state: Some(state),
            config: Some(ContainerConfig { labels: Some(labels), ..Default::default() }),
            ..Default::default()
        }
    }

    fn owner() -> Owner {
        Owner::new("f".parse().expect("a fleet"), "n".parse().expect("a node"))
    }

    #[test]
    fn a_container_without_both_labels_is_nobody_of_ours() {
        for labels in [
            &[("hone.fleet", "f")][..],
            &[("hone.node", "n")],
            &[],
            &[("hone.fleet", "f"), ("hone.node", "m")],
        ] {
            assert_eq!(observed(&owner(), inspected(labels, EngineState::default())), None);
        }
    }

    #[test]
    fn one_with_unreadable_labels_is_ours_to_sweep() {
        let labels = [("hone.fleet", "f"), ("hone.node", "n"), ("hone.job", "seven")];
        let seen = observed(&owner(), inspected(&labels, EngineState::default())).expect("ours");
        assert_eq!(seen.attempt, None);
        assert_eq!(seen.id.as_str(), "c1");
    }

    #[test]
    fn states_carry_what_is_true_in_them() {
        let running = EngineState {
            status: Some(Status::RUNNING),
            pid: Some(42),
            started_at: Some("2024-05-01T10:00:00.000000001Z".to_owned()),
            ..Default::default()
        };
        let started = Some(WallNanos::new(1_714_557_600_000_000_001));
        assert_eq!(state(running), ContainerState::Running { pid: 42, started });
        let exited = EngineState {
            status: Some(Status::EXITED),
            exit_code: Some(137),
            oom_killed: Some(true),
            finished_at: Some("0001-01-01T00:00:00Z".to_owned()),
            ..Default::default()
        };
        assert_eq!(
            state(exited),
            ContainerState::Exited { code: 137, oom_killed: true, finished: None }
        );
        let failed = EngineState {
            status: Some(Status::CREATED),
            exit_code: Some(127),
            error: Some("no such\nprogram".to_owned()),
            ..Default::default()
        };
        let start_error = Some("no such program".to_owned());
        assert_eq!(state(failed), ContainerState::Created { start_error });
        let lost =
            EngineState { status: Some(Status::RUNNING), pid: Some(0), ..Default::default() };
        assert!(matches!(state(lost), ContainerState::Exited { code: -1, .. }));
    }

    #[test]
    fn gpu_support_prefers_device_names() {
        let nvidia = HashMap::from([("nvidia".to_owned(), Runtime::default())]);
        let none = |_: &Path| false;
        assert_eq!(gpu_support(&SystemInfo::default(), none), GpuSupport::None);
        let hook = SystemInfo {
            runtimes: Some(nvidia),
            cdi_spec_dirs: Some(vec!["/etc/cdi".to_owned()]),
            ..Default::default()
        };
        assert_eq!(gpu_support(&hook, none), GpuSupport::Nvidia);
        assert_eq!(gpu_support(&hook, |dir| dir == Path::new("/etc/cdi")), GpuSupport::Cdi);
        let device = DeviceInfo { id: Some("nvidia.com/gpu=0".to_owned()), ..Default::default() };
        let listed = SystemInfo { discovered_devices: Some(vec![device]), ..Default::default() };
        assert_eq!(gpu_support(&listed, none), GpuSupport::Cdi);
    }

    #[test]
    fn a_cdi_directory_counts_only_with_nvidias_file() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!has_nvidia_description(dir.path()));
        std::fs::write(dir.path().join("other.yaml"), "").expect("written");
        assert!(!has_nvidia_description(dir.path()));
        std::fs::write(dir.path().join("nvidia.yaml"), "").expect("written");
        assert!(has_nvidia_description(dir.path()));
        assert!(!has_nvidia_description(&dir.path().join("absent")));
    }
}
