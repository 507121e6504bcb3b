//! What the fake driver says, step by step, and what the controller must then show.

use anyhow::{Context as _, Result};
use fake_nvml::{FakeGpu, FakeMemory, FakeProcess, Script};
use hone_proto::sample::ThrottleReasons;
use serde_json::{Value, json};

/// Steps that are played.
pub(crate) const STEPS: u32 = 24;
/// The step in which the second GPU is off the bus; in the next it is back.
const LOST: u32 = 7;
/// The step in which the second GPU is not even counted.
const GONE: u32 = 15;
/// The step in which the first GPU tells nothing but who it is.
const SILENT: u32 = 11;
/// The step in which the second GPU wants a reset.
const RESET: u32 = 19;

/// NVML's code for a GPU that wants a reset.
const RESET_REQUIRED: u32 = 16;

/// A number that no process has: far above the kernel's limit.
const NOBODY: u32 = 1 << 30;

/// Throttle reasons: none, each kind, several, and one that has no name yet.
const THROTTLE: [u64; 8] = [0, 0x1, 0x4, 0x8, 0x20, 0x40 | 0x4, 0x80, 0x1_0000_0000_0001];

fn uuid(gpu: u32) -> String {
    format!("GPU-5ca1ab1e-0000-0000-0000-00000000000{gpu}")
}

/// Everything differs between steps and between GPUs; sizes are odd, so that no rounding goes unseen.
fn full(step: u32, gpu: u32) -> FakeGpu {
    let n = step * 2 + gpu;
    let total = 85_899_345_920;
    let reserved = 629_145_601;
    let used = u64::from(n) * 1_610_612_741;
    FakeGpu {
        uuid: Some(uuid(gpu)),
        name: Some("NVIDIA Test".to_owned()),
        memory: Some(FakeMemory { total, reserved, used, free: total - reserved - used }),
        utilisation: Some((n * 2 % 101, n * 7 % 101)),
        temperature: Some(30 + n),
        power: Some(50_001 + n * 7_001),
        power_limit: Some(400_000 + n),
        sm_clock: Some(210 + n * 31),
        memory_clock: Some(405 + n * 41),
        throttle: THROTTLE.get(n as usize % THROTTLE.len()).copied(),
        compute_processes: Some(match step % 4 {
            0 => Vec::new(),
            1 => vec![FakeProcess { pid: NOBODY + n, memory: Some(used) }],
            _ => vec![
                FakeProcess { pid: std::process::id(), memory: Some(used / 3) },
                FakeProcess { pid: NOBODY + n, memory: None },
            ],
        }),
        graphics_processes: (step % 4 == 3)
            .then(|| vec![FakeProcess { pid: NOBODY + 100 + n, memory: Some(17) }]),
        ..FakeGpu::default()
    }
}

/// What the driver says in a step.
pub(crate) fn script(step: u32) -> Script {
    let mut gpus = vec![full(step, 0), full(step, 1)];
    match step {
        LOST => gpus[1].lost = true,
        GONE => drop(gpus.pop()),
        SILENT => gpus[0] = FakeGpu { uuid: Some(uuid(0)), ..FakeGpu::default() },
        RESET => {
            gpus[1].errors.insert("nvmlDeviceGetTemperature".to_owned(), RESET_REQUIRED);
        }
        _ => {}
    }
    Script { driver: Some("580.65.06".to_owned()), cuda: Some(13_000), gpus, ..Script::default() }
}

/// The two GPUs as JSON of a sample, field by field.
pub(crate) fn expected(step: u32) -> Result<Value> {
    let script = script(step);
    let state = |gpu: u32| match (gpu, step) {
        (1, LOST | GONE) => "lost",
        (1, RESET) => "needs_reset",
        _ => "ok",
    };
    let mut both = Vec::new();
    for gpu in 0..2 {
        let told = script.gpus.get(gpu as usize).filter(|_| state(gpu) == "ok");
        both.push(shown(gpu, state(gpu), told)?);
    }
    Ok(Value::Array(both))
}

fn shown(number: u32, state: &str, told: Option<&FakeGpu>) -> Result<Value> {
    let nothing = FakeGpu::default();
    let gpu = told.unwrap_or(&nothing);
    let listed = [&gpu.compute_processes, &gpu.graphics_processes];
    let known = listed.iter().any(|list| list.is_some());
    let mut processes = Vec::new();
    for process in listed.into_iter().flatten().flatten() {
        let name = match process.pid == std::process::id() {
            true => {
                let comm = std::fs::read_to_string("/proc/self/comm").context("my own name")?;
                Some(comm.trim_end().to_owned())
            }
            false => None,
        };
        processes.push(json!({
            "pid": process.pid, "memory_bytes": process.memory, "name": name, "owner": null,
        }));
    }
    let reasons = gpu.throttle.map(|bits| ThrottleReasons::from_bits(bits).names());
    Ok(json!({
        "uuid": uuid(number),
        "index": number,
        "state": state,
        "state_detail": "",
        "memory_total_bytes": gpu.memory.map(|memory| memory.total),
        "memory_used_bytes": gpu.memory.map(|memory| memory.used),
        "memory_free_bytes": gpu.memory.map(|memory| memory.free),
        "utilisation_percent": gpu.utilisation.map(|(gpu, _)| gpu),
        "memory_utilisation_percent": gpu.utilisation.map(|(_, memory)| memory),
        "temperature_celsius": gpu.temperature,
        "power_mw": gpu.power,
        "power_limit_mw": gpu.power_limit,
        "sm_clock_mhz": gpu.sm_clock,
        "memory_clock_mhz": gpu.memory_clock,
        "throttle_bits": gpu.throttle,
        "throttle_reasons": reasons.unwrap_or_default(),
        "processes_known": known,
        "processes": processes,
    }))
}
