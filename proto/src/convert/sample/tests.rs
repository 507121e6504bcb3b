//! There and back without loss: of a sample in which everything is known, of one in which nothing is, and of what an
//! aggregator makes of them.

use super::*;
use crate::sample::GpuState;
use crate::sample::rollup::{Aggregator, NodeRollup};
use prost::Message as _;

const ATTEMPT: AttemptId = AttemptId {
    job: JobId::new(12),
    token: Token { generation: Generation::new(3), attempt: Attempt::new(2) },
};

/// Every figure known and different from every other.
fn full() -> NodeSample {
    let mut count = 0_u32;
    let mut next = || {
        count += 1;
        count
    };
    let mut size = || Some(Bytes::new(u64::from(next()) << 33));
    let memory =
        MemorySample { total: size(), available: size(), swap_total: size(), swap_used: size() };
    let mut gpu = GpuSample {
        memory_total: size(),
        memory_used: size(),
        memory_free: size(),
        ..GpuSample::without_figures("GPU-a".parse().expect("an id"), 5, GpuState::Ok)
    };
    let mut disk = DiskSample {
        mount: "/".to_owned(),
        device: "vda".to_owned(),
        total: size(),
        free: size(),
        read_per_second: size(),
        write_per_second: size(),
        ..DiskSample::default()
    };
    let network = NetworkSample {
        interface: "eth0".to_owned(),
        receive_per_second: size(),
        transmit_per_second: size(),
    };
    let mut container = ContainerSample {
        ram: size(),
        ram_limit: size(),
        read_per_second: size(),
        write_per_second: size(),
        gpu_memory: vec![(gpu.id.clone(), Bytes::new(1 << 40))],
        ..ContainerSample::unknown(ATTEMPT)
    };
    gpu.utilisation_percent = Some(next());
    gpu.memory_utilisation_percent = Some(next());
    gpu.temperature_celsius = Some(next());
    gpu.power_mw = Some(next());
    gpu.power_limit_mw = Some(next());
    gpu.sm_clock_mhz = Some(next());
    gpu.memory_clock_mhz = Some(next());
    gpu.throttle = Some(ThrottleReasons::from_bits(0x44 | (1 << 63)));
    let process = GpuProcess { pid: next(), memory: None, name: None, owner: None };
    let own = GpuProcess {
        memory: Some(Bytes::new(7)),
        name: Some("python3".to_owned()),
        owner: Some(ATTEMPT),
        ..process
    };
    gpu.processes = Some(vec![process, own]);
    let mut part = || Some(f32::from(u8::try_from(next()).expect("few figures")) + 0.5);
    disk.reads_per_second = part();
    disk.writes_per_second = part();
    disk.read_latency_ms = part();
    disk.write_latency_ms = part();
    disk.busy_percent = part();
    let cpu = CpuSample {
        busy_percent: part(),
        steal_percent: part(),
        io_wait_percent: part(),
        cores_busy_percent: vec![1.5, 0.0],
        load: Some([0.1, 0.2, 0.3]),
    };
    container.cpu = Some(MilliCpu::new(next()));
    container.oom_kills = Some(u64::from(next()));
    NodeSample {
        at: Now { wall: WallNanos::new(1 << 60), boot: BootNanos::new(1 << 50) },
        cpu,
        memory,
        gpus: vec![gpu],
        disks: vec![disk],
        networks: vec![network],
        containers: vec![container],
    }
}

/// Everything there, and nothing known of it.
fn unknown() -> NodeSample {
    let id = "GPU-a".parse().expect("an id");
    NodeSample {
        gpus: vec![
            GpuSample::without_figures(id, 0, GpuState::NoAnswer),
            GpuSample {
                processes: Some(Vec::new()),
                ..GpuSample::without_figures("GPU-b".parse().expect("an id"), 1, GpuState::Ok)
            },
        ],
        disks: vec![DiskSample::default()],
        networks: vec![NetworkSample::default()],
        containers: vec![ContainerSample::unknown(ATTEMPT)],
        ..NodeSample::default()
    }
}

#[test]
fn a_sample_survives_the_wire() {
    for sample in [full(), unknown(), NodeSample::default()] {
        let bytes = wire::NodeSample::from(sample.clone()).encode_to_vec();
        let wire = wire::NodeSample::decode(bytes.as_slice()).expect("it decodes");
        assert_eq!(NodeSample::try_from(wire), Ok(sample));
    }
}

#[test]
fn a_rollup_survives_the_wire() {
    let mut aggregator = Aggregator::default();
    assert_eq!(aggregator.push(&full()), None);
    let mut lost = full();
    lost.gpus[0].state = GpuState::Failed { why: "odd".to_owned() };
    assert_eq!(aggregator.push(&lost), None);
    let rollup = aggregator.flush().expect("a window");
    assert!(rollup.subjects.len() >= 7, "{rollup:?}");
    let bytes = wire::NodeRollup::from(rollup.clone()).encode_to_vec();
    let wire = wire::NodeRollup::decode(bytes.as_slice()).expect("it decodes");
    assert_eq!(NodeRollup::try_from(wire), Ok(rollup));
}

#[test]
fn a_malformed_id_is_refused_wherever_it_stands() {
    let refused = |change: fn(&mut wire::NodeSample)| {
        let mut wire = wire::NodeSample::from(full());
        change(&mut wire);
        NodeSample::try_from(wire).expect_err("it is malformed").field
    };
    assert_eq!(refused(|wire| wire.gpus[0].uuid.clear()), "gpu.uuid");
    assert_eq!(refused(|wire| wire.containers[0].container = None), "sample.container");
    let field = refused(|wire| wire.containers[0].gpu_memory[0].uuid.push(' '));
    assert_eq!(field, "sample.container.gpu");
}

#[test]
fn a_sample_prints_as_json_with_units_in_its_keys() {
    let json = serde_json::to_value(wire::NodeSample::from(full())).expect("it serialises");
    assert_eq!(json["gpus"][0]["throttle_reasons"][0], "sw_power_cap");
    assert_eq!(json["gpus"][0]["processes"][1]["owner"]["job"], 12);
    assert!(json["memory"]["available_bytes"].is_u64());
}
