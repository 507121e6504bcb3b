//! Questions to one GPU. Each figure may be missing by itself; only what says that the GPU as a whole is out of order
//! becomes its state.

use hone_proto::inventory::{ComputeCapability, Gpu, GpuId, Nvml, Pcie, SilentGpu};
use hone_proto::quantity::Bytes;
use hone_proto::sample::{GpuProcess, GpuSample, GpuState, ThrottleReasons};
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::{Bits, NvmlError};
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml as Library, cuda_driver_version_major, cuda_driver_version_minor};

/// Most processes that are told of one GPU.
const MAX_PROCESSES: usize = 256;

/// A GPU that is out of order.
struct Broken(GpuState);

/// Driver and CUDA version.
pub(super) fn versions(library: &Library) -> Nvml {
    let cuda = library.sys_cuda_driver_version().ok().map(|version| {
        format!("{}.{}", cuda_driver_version_major(version), cuda_driver_version_minor(version))
    });
    Nvml::Present { driver: library.sys_driver_version().ok(), cuda }
}

/// What is wrong with a GPU that answered so.
pub(super) fn trouble(error: &NvmlError) -> GpuState {
    match error {
        NvmlError::GpuLost => GpuState::Lost,
        NvmlError::ResetRequired => GpuState::NeedsReset,
        NvmlError::Timeout => GpuState::NoAnswer,
        other => GpuState::Failed { why: other.to_string() },
    }
}

/// A GPU that does not tell who it is.
pub(super) fn silent(index: u32, error: &NvmlError) -> SilentGpu {
    SilentGpu { index, state: trouble(error) }
}

/// What a GPU is. Fails only when it does not tell its id.
pub(super) fn gpu(index: u32, device: &Device<'_>) -> Result<Gpu, NvmlError> {
    let uuid = device.uuid()?;
    let id = uuid.parse::<GpuId>().map_err(|_| NvmlError::NotFound)?;
    let mut gpu = Gpu {
        index,
        id,
        state: GpuState::Ok,
        name: None,
        serial: None,
        vram: None,
        compute_capability: None,
        power_limit_mw: None,
        pcie: None,
    };
    if let Err(Broken(state)) = describe(device, &mut gpu) {
        gpu.state = state;
    }
    Ok(gpu)
}

fn describe(device: &Device<'_>, gpu: &mut Gpu) -> Result<(), Broken> {
    gpu.name = figure(device.name())?;
    gpu.serial = figure(device.serial())?;
    gpu.vram = essential(device.memory_info())?.map(|memory| Bytes::new(memory.total));
    gpu.compute_capability = figure(device.cuda_compute_capability())?.and_then(|version| {
        let part = |number| u32::try_from(number).ok();
        Some(ComputeCapability { major: part(version.major)?, minor: part(version.minor)? })
    });
    gpu.power_limit_mw = figure(device.enforced_power_limit())?;
    if let Some(pci) = figure(device.pci_info())? {
        gpu.pcie = Some(Pcie {
            bus_id: pci.bus_id,
            max_generation: figure(device.max_pcie_link_gen())?,
            max_lanes: figure(device.max_pcie_link_width())?,
        });
    }
    Ok(())
}

/// What a GPU does now.
pub(super) fn sample(id: &GpuId, index: u32, device: &Device<'_>) -> GpuSample {
    let mut sample = GpuSample::without_figures(id.clone(), index, GpuState::Ok);
    if let Err(Broken(state)) = measure(device, &mut sample) {
        // Figures of before and after a failure do not belong together.
        return GpuSample::without_figures(id.clone(), index, state);
    }
    sample
}

fn measure(device: &Device<'_>, sample: &mut GpuSample) -> Result<(), Broken> {
    if let Some(memory) = essential(device.memory_info())? {
        sample.memory_total = Some(Bytes::new(memory.total));
        sample.memory_used = Some(Bytes::new(memory.used));
        sample.memory_free = Some(Bytes::new(memory.free));
    }
    if let Some(rates) = figure(device.utilization_rates())? {
        sample.utilisation_percent = Some(rates.gpu);
        sample.memory_utilisation_percent = Some(rates.memory);
    }
    sample.temperature_celsius = figure(device.temperature(TemperatureSensor::Gpu))?;
    sample.power_mw = figure(device.power_usage())?;
    sample.power_limit_mw = figure(device.enforced_power_limit())?;
    sample.sm_clock_mhz = figure(device.clock_info(Clock::SM))?;
    sample.memory_clock_mhz = figure(device.clock_info(Clock::Memory))?;
    sample.throttle = match device.current_throttle_reasons_strict() {
        Ok(reasons) => Some(ThrottleReasons::from_bits(reasons.bits())),
        // A bit that is newer than the wrapper is a reason too.
        Err(NvmlError::IncorrectBits(Bits::U64(bits))) => Some(ThrottleReasons::from_bits(bits)),
        Err(error) => figure(Err(error))?,
    };
    let compute = figure(device.running_compute_processes())?;
    let graphics = figure(device.running_graphics_processes())?;
    sample.processes = match (compute, graphics) {
        (None, None) => None,
        (compute, graphics) => Some(processes(compute.into_iter().chain(graphics).flatten())),
    };
    Ok(())
}

/// A process that computes and draws is listed twice, with the same memory.
fn processes(listed: impl Iterator<Item = ProcessInfo>) -> Vec<GpuProcess> {
    let mut found: Vec<GpuProcess> = Vec::new();
    for process in listed {
        let memory = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(Bytes::new(bytes)),
            UsedGpuMemory::Unavailable => None,
        };
        if let Some(known) = found.iter_mut().find(|known| known.pid == process.pid) {
            known.memory = known.memory.max(memory);
        } else if found.len() < MAX_PROCESSES {
            found.push(GpuProcess { pid: process.pid, memory, name: None, owner: None });
        }
    }
    found
}

/// A figure that a GPU may well not have; other trouble with it says nothing about the GPU.
fn figure<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, Broken> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error @ (NvmlError::GpuLost | NvmlError::ResetRequired)) => {
            Err(Broken(trouble(&error)))
        }
        Err(_) => Ok(None),
    }
}

/// A figure without which nothing can run there: only "not told" is harmless.
fn essential<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, Broken> {
    match answer {
        Err(
            error @ (NvmlError::NotSupported
            | NvmlError::NoPermission
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_)),
        ) => figure(Err(error)),
        Err(error) => Err(Broken(trouble(&error))),
        answer => figure(answer),
    }
}
