//! There and back without loss, and refusals.

use super::*;
use crate::inventory::Nvml;
use prost::Message as _;

fn inventory(nvml: Nvml, state: GpuState) -> Inventory {
    Inventory {
        hostname: "n1".to_owned(),
        kernel: "6.1".to_owned(),
        os: "Debian".to_owned(),
        arch: "x86_64".to_owned(),
        boot: Some("3f0f7a2e".parse().expect("a boot id")),
        agent_version: "0.1.0".to_owned(),
        cpu: Cpu { model: "CPU".to_owned(), logical_cores: 8, physical_cores: Some(4) },
        ram: Bytes::gib(64),
        swap: Bytes::gib(1),
        disks: DiskKind::ALL
            .into_iter()
            .map(|kind| Disk {
                mount: format!("/{}", kind.name()),
                device: "vda".to_owned(),
                file_system: "ext4".to_owned(),
                total: Bytes::gib(9),
                free: Bytes::gib(7),
                kind,
                holds_state: kind == DiskKind::Nvme,
                holds_engine: kind == DiskKind::Ssd,
                measured: (kind == DiskKind::Nvme).then_some(DiskSpeed {
                    read_per_second: Bytes::new(1),
                    write_per_second: Bytes::new(2),
                    read_latency_us: 3,
                    write_latency_us: 4,
                    direct: true,
                }),
            })
            .collect(),
        gpus: vec![Gpu {
            index: 3,
            id: "GPU-a".parse().expect("a GPU id"),
            state: state.clone(),
            name: Some("NVIDIA".to_owned()),
            serial: None,
            vram: Some(Bytes::gib(24)),
            compute_capability: Some(ComputeCapability { major: 9, minor: 0 }),
            power_limit_mw: Some(700_000),
            pcie: Some(Pcie { bus_id: "0:1".to_owned(), max_generation: Some(5), max_lanes: None }),
        }],
        silent_gpus: vec![SilentGpu { index: 4, state }],
        nvml,
        engine: EngineFacts {
            name: "docker".to_owned(),
            version: "28".to_owned(),
            api_version: "1.51".to_owned(),
            storage_driver: "overlay2".to_owned(),
            cgroup_version: Some(CgroupVersion::V2),
            cgroup_driver: "systemd".to_owned(),
            gpu: GpuSupport::Cdi,
            cdi_dirs: vec!["/etc/cdi".into()],
            root_dir: "/var/lib/docker".into(),
            live_restore: true,
            seccomp: true,
            cpus: 8,
        },
    }
}

fn there_and_back(inventory: Inventory) -> Inventory {
    let bytes = wire::Inventory::from(inventory).encode_to_vec();
    let wire = wire::Inventory::decode(bytes.as_slice()).expect("it decodes");
    wire.try_into().expect("it is taken")
}

#[test]
fn an_inventory_survives_the_wire() {
    let present = Nvml::Present { driver: Some("580".to_owned()), cuda: None };
    let states = [
        GpuState::Ok,
        GpuState::Lost,
        GpuState::NeedsReset,
        GpuState::NoAnswer,
        GpuState::Failed { why: "odd".to_owned() },
    ];
    for state in states {
        let full = inventory(present.clone(), state);
        assert_eq!(there_and_back(full.clone()), full);
    }
    let mut bare = inventory(Nvml::Absent { why: "no library".to_owned() }, GpuState::Ok);
    bare.boot = None;
    bare.engine.cgroup_version = None;
    bare.cpu.physical_cores = None;
    assert_eq!(there_and_back(bare.clone()), bare);
}

#[test]
fn words_newer_than_this_release_are_taken_for_the_vaguest() {
    let mut wire =
        wire::Inventory::from(inventory(Nvml::Absent { why: String::new() }, GpuState::Ok));
    "holographic".clone_into(&mut wire.disks[0].kind);
    "melted".clone_into(&mut wire.gpus[0].state);
    if let Some(engine) = &mut wire.engine {
        "telepathy".clone_into(&mut engine.gpu_support);
        engine.cgroup_version = Some(3);
    }
    let inventory = Inventory::try_from(wire).expect("it is taken");
    assert_eq!(inventory.disks[0].kind, DiskKind::Unknown);
    assert!(matches!(&inventory.gpus[0].state, GpuState::Failed { why } if why.contains("melted")));
    assert_eq!((inventory.engine.gpu, inventory.engine.cgroup_version), (GpuSupport::None, None));
}

#[test]
fn what_is_malformed_is_refused_by_its_field() {
    let good =
        || wire::Inventory::from(inventory(Nvml::Absent { why: String::new() }, GpuState::Ok));
    let refused = |change: fn(&mut wire::Inventory)| {
        let mut wire = good();
        change(&mut wire);
        Inventory::try_from(wire).expect_err("it is malformed").field
    };
    assert_eq!(refused(|wire| wire.gpus[0].uuid = "a b".to_owned()), "gpu.uuid");
    assert_eq!(refused(|wire| wire.boot_id = Some("A/".to_owned())), "inventory.boot_id");
    assert_eq!(
        refused(|wire| wire.gpus[0].compute_capability = Some("nine".to_owned())),
        "gpu.compute_capability"
    );
    assert_eq!(refused(|wire| wire.cpu = None), "inventory.cpu");
}
