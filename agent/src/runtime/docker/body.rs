//! From a [`ContainerSpec`] to the engine's request. Pure; the whole hardening is readable here in one place.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig, Mount as EngineMount, MountBindOptions, MountBindOptionsPropagationEnum,
    MountType, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use hone_proto::inventory::{GpuId, GpuSupport};
use hone_proto::quantity::Bytes;

use crate::runtime::{ContainerSpec, Mount, Network, SpecError, Tmpfs, User};

use super::labels::Owner;

/// Size of the memory that stands in for a volume which the image declares. Such volumes are writable host disk
/// without any limit, in spite of the read-only root; the contract gives jobs `/hone/output` instead.
pub(super) const IMAGE_VOLUME_SIZE: Bytes = Bytes::mib(64);

/// Jobs die before the agent and the engine when the whole machine runs out of memory.
const OOM_SCORE_ADJUST: i64 = 500;

/// The request for one container.
pub(super) fn create_body(
    spec: &ContainerSpec,
    owner: &Owner,
    gpu: GpuSupport,
    image_volumes: &[String],
) -> Result<ContainerCreateBody, SpecError> {
    spec.check()?;
    Ok(ContainerCreateBody {
        image: Some(spec.image.to_string()),
        user: Some(match spec.user {
            User::Attempt(uid) => format!("{uid}:{uid}"),
            User::Image => "0:0".to_owned(),
        }),
        labels: Some(owner.labels_of(spec.attempt)),
        entrypoint: spec.entrypoint.clone(),
        cmd: spec.command.clone(),
        working_dir: spec.workdir.as_ref().map(|dir| dir.display().to_string()),
        env: Some(environment(spec)?),
        // The image's own health check would be a process that nobody asked for.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..Default::default()
        }),
        stop_signal: Some("SIGTERM".to_owned()),
        stop_timeout: Some(i64::try_from(spec.stop_grace.as_secs()).unwrap_or(i64::MAX)),
        tty: Some(false),
        open_stdin: Some(false),
        host_config: Some(host_config(spec, gpu, image_volumes)),
        ..Default::default()
    })
}

fn environment(spec: &ContainerSpec) -> Result<Vec<String>, SpecError> {
    let mut env: Vec<String> =
        spec.environment()?.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    // A name without '=' takes the image's own setting away: what an image brings to the loader would also be heard
    // by the hooks that set up its GPUs (CVE-2025-23266).
    env.extend(["LD_PRELOAD", "LD_AUDIT"].map(str::to_owned));
    Ok(env)
}

fn host_config(spec: &ContainerSpec, gpu: GpuSupport, image_volumes: &[String]) -> HostConfig {
    let memory = signed(spec.memory);
    HostConfig {
        // The image cannot be changed, and what can be written has a size.
        readonly_rootfs: Some(true),
        mounts: Some(spec.mounts.iter().map(bind).collect()),
        tmpfs: Some(tmpfs(spec, image_volumes)),
        // No privileges, none to gain; seccomp and AppArmor stay at the engine's default by not being named.
        privileged: Some(false),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        // No sight of the host.
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        network_mode: Some(
            match spec.network {
                Network::None => "none",
                Network::Bridge => "bridge",
            }
            .to_owned(),
        ),
        publish_all_ports: Some(false),
        // Limits.
        memory: Some(memory),
        memory_swap: Some(memory),
        nano_cpus: Some(i64::from(spec.cpus.get()) * 1_000_000),
        cpuset_cpus: spec.cpuset.clone(),
        pids_limit: Some(i64::from(spec.pids)),
        shm_size: Some(signed(spec.shm)),
        ulimits: Some(ulimits(spec)),
        oom_score_adj: Some(OOM_SCORE_ADJUST),
        oom_kill_disable: Some(false),
        device_requests: device_requests(&spec.gpus, gpu),
        // Life: an init reaps zombies and forwards signals; restarting and removing are hone's decisions.
        init: Some(true),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        auto_remove: Some(false),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), spec.log.file_size.get().to_string()),
                ("max-file".to_owned(), spec.log.files.to_string()),
                ("compress".to_owned(), "false".to_owned()),
            ])),
        }),
        ..Default::default()
    }
}

fn signed(size: Bytes) -> i64 {
    i64::try_from(size.get()).unwrap_or(i64::MAX)
}

fn ulimits(spec: &ContainerSpec) -> Vec<ResourcesUlimits> {
    let limit = |name: &str, value: i64| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(value),
        hard: Some(value),
    };
    // A core dump holds the weights and the data, and lands wherever the host's kernel is told to put it.
    let mut limits = vec![limit("core", 0)];
    limits.extend(spec.open_files.map(|files| limit("nofile", i64::from(files))));
    limits
}

fn bind(mount: &Mount) -> EngineMount {
    EngineMount {
        typ: Some(MountType::BIND),
        source: Some(mount.source.display().to_string()),
        target: Some(mount.target.display().to_string()),
        read_only: Some(mount.read_only),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::PRIVATE),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn tmpfs(spec: &ContainerSpec, image_volumes: &[String]) -> HashMap<String, String> {
    let options = |size: Bytes, exec: bool| {
        let run = if exec { "exec" } else { "noexec" };
        format!("rw,nosuid,nodev,{run},mode=1777,size={}", size.get())
    };
    let declared = image_volumes
        .iter()
        .map(|volume| volume.trim_end_matches('/'))
        .filter(|volume| !volume.is_empty() && !is_mounted(spec, volume))
        .map(|volume| (volume.to_owned(), options(IMAGE_VOLUME_SIZE.min(spec.memory), false)));
    let wanted = spec
        .tmpfs
        .iter()
        .map(|Tmpfs { target, size, exec }| (target.display().to_string(), options(*size, *exec)));
    declared.chain(wanted).collect()
}

fn is_mounted(spec: &ContainerSpec, place: &str) -> bool {
    spec.mounts.iter().any(|mount| mount.target.as_os_str() == place)
}

fn device_requests(gpus: &[GpuId], support: GpuSupport) -> Option<Vec<DeviceRequest>> {
    if gpus.is_empty() {
        return None;
    }
    let uuids = gpus.iter().map(|gpu| gpu.as_str().to_owned());
    Some(vec![match support {
        GpuSupport::Cdi => DeviceRequest {
            driver: Some("cdi".to_owned()),
            device_ids: Some(uuids.map(|uuid| format!("nvidia.com/gpu={uuid}")).collect()),
            ..Default::default()
        },
        GpuSupport::Nvidia | GpuSupport::None => DeviceRequest {
            driver: Some("nvidia".to_owned()),
            device_ids: Some(uuids.collect()),
            capabilities: Some(vec![vec![
                "gpu".to_owned(),
                "compute".to_owned(),
                "utility".to_owned(),
            ]]),
            ..Default::default()
        },
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::spec::tests::good;

    fn owner() -> Owner {
        Owner::new("f1".parse().expect("a fleet"), "n1".parse().expect("a node"))
    }

    fn host(spec: &ContainerSpec, gpu: GpuSupport, volumes: &[String]) -> HostConfig {
        create_body(spec, &owner(), gpu, volumes)
            .expect("a body")
            .host_config
            .expect("a host config")
    }

    #[test]
    fn gpus_go_by_uuid_through_either_door_and_not_at_all_otherwise() {
        let gpu: GpuId = "GPU-5e9a0a35-1f2b-4c3d-8e4f-000000000001".parse().expect("a UUID");
        let spec = ContainerSpec { gpus: vec![gpu], ..good() };
        let request =
            |support| host(&spec, support, &[]).device_requests.expect("a request").remove(0);
        let cdi = request(GpuSupport::Cdi);
        assert_eq!(cdi.driver.as_deref(), Some("cdi"));
        assert_eq!(
            cdi.device_ids,
            Some(vec!["nvidia.com/gpu=GPU-5e9a0a35-1f2b-4c3d-8e4f-000000000001".to_owned()])
        );
        let nvidia = request(GpuSupport::Nvidia);
        assert_eq!(nvidia.driver.as_deref(), Some("nvidia"));
        assert_eq!(nvidia.count, None);
        assert_eq!(host(&good(), GpuSupport::Cdi, &[]).device_requests, None);
    }

    #[test]
    fn a_volume_of_the_image_becomes_bounded_memory_unless_it_is_mounted() {
        let volumes = ["/data/".to_owned(), "/hone/output".to_owned(), "/".to_owned()];
        let tmpfs = host(&good(), GpuSupport::None, &volumes).tmpfs.expect("tmpfs");
        assert!(tmpfs["/data"].contains(&format!("size={}", IMAGE_VOLUME_SIZE.get())));
        assert!(!tmpfs.contains_key("/hone/output") && !tmpfs.contains_key("/"));
        assert!(tmpfs["/tmp"].contains("nosuid,nodev,noexec"));
    }

    #[test]
    fn the_loader_settings_of_an_image_are_taken_away() {
        let body = create_body(&good(), &owner(), GpuSupport::None, &[]).expect("a body");
        let env = body.env.expect("an environment");
        assert!(env.contains(&"LD_PRELOAD".to_owned()) && env.contains(&"LD_AUDIT".to_owned()));
    }

    #[test]
    fn a_bad_spec_makes_no_request() {
        let spec = ContainerSpec { pids: 0, ..good() };
        assert!(create_body(&spec, &owner(), GpuSupport::None, &[]).is_err());
    }
}
