//! The functions of NVML, as C sees them. A device handle is the device's index plus one.
#![expect(unsafe_code, reason = "a C library writes through its caller's pointers")]

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};
use std::thread;
use std::time::Duration;

use nvml_wrapper_sys::bindings::{
    nvmlClockType_enum_NVML_CLOCK_MEM as CLOCK_MEM, nvmlClockType_enum_NVML_CLOCK_SM as CLOCK_SM,
    nvmlDevice_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlPciInfo_t, nvmlProcessInfo_t,
    nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED as DRIVER_NOT_LOADED,
    nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST as GPU_IS_LOST,
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t, nvmlUtilization_t,
};

use crate::script::{FakeGpu, FakeProcess, Script};

/// How often a function that hangs looks whether it still shall.
const HANG_POLL: Duration = Duration::from_millis(5);

/// What NVML writes where a driver does not know the memory of a process, and for "no such instance".
const NOT_AVAILABLE: u64 = u64::MAX;

/// The script, once `function` no longer hangs.
fn script(function: &str) -> Result<Script, nvmlReturn_t> {
    loop {
        let script = Script::read().map_err(|_| DRIVER_NOT_LOADED)?;
        if !script.hang.iter().any(|hanging| hanging == function) {
            return Ok(script);
        }
        thread::sleep(HANG_POLL);
    }
}

/// What `ask` finds in the script goes to `out`.
fn system<T>(function: &str, out: *mut T, ask: impl FnOnce(Script) -> Option<T>) -> nvmlReturn_t {
    let answer = script(function).and_then(|script| ask(script).ok_or(NOT_SUPPORTED));
    give(answer, out)
}

/// What `ask` finds in the script of one GPU goes to `out`.
fn device<T>(
    function: &str,
    device: nvmlDevice_t,
    out: *mut T,
    ask: impl FnOnce(FakeGpu) -> Option<T>,
) -> nvmlReturn_t {
    give(gpu(function, device).and_then(|gpu| ask(gpu).ok_or(NOT_SUPPORTED)), out)
}

fn gpu(function: &str, device: nvmlDevice_t) -> Result<FakeGpu, nvmlReturn_t> {
    let index = device.addr().checked_sub(1).ok_or(INVALID_ARGUMENT)?;
    let mut gpus = script(function)?.gpus;
    if index >= gpus.len() {
        return Err(GPU_IS_LOST);
    }
    let gpu = gpus.swap_remove(index);
    match gpu.errors.get(function) {
        Some(code) => Err(*code),
        None if gpu.lost => Err(GPU_IS_LOST),
        None => Ok(gpu),
    }
}

fn give<T>(answer: Result<T, nvmlReturn_t>, out: *mut T) -> nvmlReturn_t {
    match answer {
        Err(code) => code,
        Ok(_) if out.is_null() => INVALID_ARGUMENT,
        Ok(value) => {
            // SAFETY: NVML's contract: `out` points to room for one `T`; it was checked for null.
            unsafe { out.write(value) };
            SUCCESS
        }
    }
}

/// Text with a terminating zero into the caller's buffer.
fn give_text(answer: Result<String, nvmlReturn_t>, out: *mut c_char, room: c_uint) -> nvmlReturn_t {
    let text = match answer {
        Ok(text) => text,
        Err(code) => return code,
    };
    if out.is_null() {
        return INVALID_ARGUMENT;
    }
    if text.len() >= room as usize {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: NVML's contract: `out` has `room` bytes, and the text with its zero fits.
    unsafe {
        out.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        out.add(text.len()).write(0);
    }
    SUCCESS
}

fn device_text(
    function: &str,
    device: nvmlDevice_t,
    out: *mut c_char,
    room: c_uint,
    ask: impl FnOnce(FakeGpu) -> Option<String>,
) -> nvmlReturn_t {
    let answer = gpu(function, device).and_then(|gpu| ask(gpu).ok_or(NOT_SUPPORTED));
    give_text(answer, out, room)
}

/// NVML's way to return a list: `count` says the room on entry and what is needed on return.
fn give_processes(
    answer: Result<Option<Vec<FakeProcess>>, nvmlReturn_t>,
    count: *mut c_uint,
    out: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let processes = match answer {
        Ok(Some(processes)) => processes,
        Ok(None) => return NOT_SUPPORTED,
        Err(code) => return code,
    };
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    let needed = c_uint::try_from(processes.len()).unwrap_or(c_uint::MAX);
    // SAFETY: NVML's contract: `count` points to one number, and `out` has room for as many entries as it says.
    unsafe {
        let room = count.replace(needed);
        if room < needed || (out.is_null() && needed > 0) {
            return INSUFFICIENT_SIZE;
        }
        for (at, process) in processes.iter().enumerate() {
            out.add(at).write(nvmlProcessInfo_t {
                pid: process.pid,
                usedGpuMemory: process.memory.unwrap_or(NOT_AVAILABLE),
                gpuInstanceId: c_uint::MAX,
                computeInstanceId: c_uint::MAX,
            });
        }
    }
    SUCCESS
}

fn init(function: &str) -> nvmlReturn_t {
    script(function).map_or_else(|code| code, |script| script.init_error.unwrap_or(SUCCESS))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    init("nvmlInit_v2")
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    init("nvmlInitWithFlags")
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetDriverVersion(out: *mut c_char, room: c_uint) -> nvmlReturn_t {
    let answer = script("nvmlSystemGetDriverVersion");
    give_text(answer.and_then(|script| script.driver.ok_or(NOT_SUPPORTED)), out, room)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetCudaDriverVersion_v2(out: *mut c_int) -> nvmlReturn_t {
    system("nvmlSystemGetCudaDriverVersion_v2", out, |script| script.cuda)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCount_v2(out: *mut c_uint) -> nvmlReturn_t {
    system("nvmlDeviceGetCount_v2", out, |script| c_uint::try_from(script.gpus.len()).ok())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, out: *mut nvmlDevice_t) -> nvmlReturn_t {
    let handle: nvmlDevice_t = std::ptr::without_provenance_mut(index as usize + 1);
    device("nvmlDeviceGetHandleByIndex_v2", handle, out, |_| Some(handle))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetUUID(gpu: nvmlDevice_t, out: *mut c_char, room: c_uint) -> nvmlReturn_t {
    device_text("nvmlDeviceGetUUID", gpu, out, room, |gpu| gpu.uuid)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetName(gpu: nvmlDevice_t, out: *mut c_char, room: c_uint) -> nvmlReturn_t {
    device_text("nvmlDeviceGetName", gpu, out, room, |gpu| gpu.name)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetSerial(
    gpu: nvmlDevice_t,
    out: *mut c_char,
    room: c_uint,
) -> nvmlReturn_t {
    device_text("nvmlDeviceGetSerial", gpu, out, room, |gpu| gpu.serial)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: nvmlDevice_t,
    major: *mut c_int,
    minor: *mut c_int,
) -> nvmlReturn_t {
    let answer = gpu("nvmlDeviceGetCudaComputeCapability", device)
        .and_then(|gpu| gpu.compute_capability.ok_or(NOT_SUPPORTED));
    match answer {
        Ok((first, second)) => give(Ok(first), major).max(give(Ok(second), minor)),
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetPciInfo_v3(gpu: nvmlDevice_t, out: *mut nvmlPciInfo_t) -> nvmlReturn_t {
    device("nvmlDeviceGetPciInfo_v3", gpu, out, |gpu| {
        let mut info = nvmlPciInfo_t {
            busIdLegacy: [0; 16],
            domain: 0,
            bus: 0,
            device: 0,
            pciDeviceId: 0,
            pciSubSystemId: 0,
            busId: [0; 32],
        };
        let room = info.busId.len() - 1;
        for (to, from) in info.busId[..room].iter_mut().zip(gpu.pcie?.bus_id.bytes()) {
            *to = from.cast_signed();
        }
        Some(info)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMaxPcieLinkGeneration(
    gpu: nvmlDevice_t,
    out: *mut c_uint,
) -> nvmlReturn_t {
    device("nvmlDeviceGetMaxPcieLinkGeneration", gpu, out, |gpu| gpu.pcie?.max_generation)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMaxPcieLinkWidth(gpu: nvmlDevice_t, out: *mut c_uint) -> nvmlReturn_t {
    device("nvmlDeviceGetMaxPcieLinkWidth", gpu, out, |gpu| gpu.pcie?.max_lanes)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMemoryInfo(gpu: nvmlDevice_t, out: *mut nvmlMemory_t) -> nvmlReturn_t {
    device("nvmlDeviceGetMemoryInfo", gpu, out, |gpu| {
        let memory = gpu.memory?;
        // The first version counts what the driver keeps as used.
        let used = memory.used + memory.reserved;
        Some(nvmlMemory_t { total: memory.total, free: memory.free, used })
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    gpu: nvmlDevice_t,
    out: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    device("nvmlDeviceGetMemoryInfo_v2", gpu, out, |gpu| {
        let memory = gpu.memory?;
        Some(nvmlMemory_v2_t {
            version: 2,
            total: memory.total,
            reserved: memory.reserved,
            free: memory.free,
            used: memory.used,
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetUtilizationRates(
    gpu: nvmlDevice_t,
    out: *mut nvmlUtilization_t,
) -> nvmlReturn_t {
    device("nvmlDeviceGetUtilizationRates", gpu, out, |gpu| {
        gpu.utilisation.map(|(gpu, memory)| nvmlUtilization_t { gpu, memory })
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTemperature(
    gpu: nvmlDevice_t,
    _sensor: c_uint,
    out: *mut c_uint,
) -> nvmlReturn_t {
    device("nvmlDeviceGetTemperature", gpu, out, |gpu| gpu.temperature)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetPowerUsage(gpu: nvmlDevice_t, out: *mut c_uint) -> nvmlReturn_t {
    device("nvmlDeviceGetPowerUsage", gpu, out, |gpu| gpu.power)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetEnforcedPowerLimit(gpu: nvmlDevice_t, out: *mut c_uint) -> nvmlReturn_t {
    device("nvmlDeviceGetEnforcedPowerLimit", gpu, out, |gpu| gpu.power_limit)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetClockInfo(
    gpu: nvmlDevice_t,
    clock: c_uint,
    out: *mut c_uint,
) -> nvmlReturn_t {
    device("nvmlDeviceGetClockInfo", gpu, out, |gpu| match clock {
        CLOCK_SM => gpu.sm_clock,
        CLOCK_MEM => gpu.memory_clock,
        _ => None,
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    gpu: nvmlDevice_t,
    out: *mut c_ulonglong,
) -> nvmlReturn_t {
    device("nvmlDeviceGetCurrentClocksThrottleReasons", gpu, out, |gpu| gpu.throttle)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCurrentClocksEventReasons(
    gpu: nvmlDevice_t,
    out: *mut c_ulonglong,
) -> nvmlReturn_t {
    device("nvmlDeviceGetCurrentClocksEventReasons", gpu, out, |gpu| gpu.throttle)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    out: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let answer = gpu("nvmlDeviceGetComputeRunningProcesses_v3", device);
    give_processes(answer.map(|gpu| gpu.compute_processes), count, out)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    out: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let answer = gpu("nvmlDeviceGetGraphicsRunningProcesses_v3", device);
    give_processes(answer.map(|gpu| gpu.graphics_processes), count, out)
}
