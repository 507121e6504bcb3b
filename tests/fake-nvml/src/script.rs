//! What the fake driver says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{env, fs, io};

use serde::{Deserialize, Serialize};

/// The environment variable that names the script.
pub const ENV: &str = "FAKE_NVML";

/// Everything that the fake driver says. What is absent is answered with "not supported".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// Driver version.
    pub driver: Option<String>,
    /// CUDA version as NVML writes it: 13000 is 13.0.
    pub cuda: Option<i32>,
    /// NVML's return code for initialisation, when it shall fail.
    pub init_error: Option<u32>,
    /// The GPUs by index.
    pub gpus: Vec<FakeGpu>,
    /// Functions that do not return while they are listed here.
    pub hang: Vec<String>,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FakeGpu {
    /// It fell off the bus: every question about it fails so.
    pub lost: bool,
    /// Functions that fail on this GPU, with NVML's return code.
    pub errors: BTreeMap<String, u32>,
    /// UUID.
    pub uuid: Option<String>,
    /// Product name.
    pub name: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Memory.
    pub memory: Option<FakeMemory>,
    /// CUDA compute capability, major and minor.
    pub compute_capability: Option<(i32, i32)>,
    /// PCI Express.
    pub pcie: Option<FakePcie>,
    /// Utilisation of the multiprocessors and of the memory, in percent.
    pub utilisation: Option<(u32, u32)>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// Milliwatts drawn.
    pub power: Option<u32>,
    /// Milliwatts at which it throttles itself.
    pub power_limit: Option<u32>,
    /// Clock of the multiprocessors, in megahertz.
    pub sm_clock: Option<u32>,
    /// Clock of the memory, in megahertz.
    pub memory_clock: Option<u32>,
    /// Throttle reasons, as NVML's bits.
    pub throttle: Option<u64>,
    /// Processes that compute on it.
    pub compute_processes: Option<Vec<FakeProcess>>,
    /// Processes that draw on it.
    pub graphics_processes: Option<Vec<FakeProcess>>,
}

/// Memory of a GPU, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FakeMemory {
    /// All of it.
    pub total: u64,
    /// Kept by the driver.
    pub reserved: u64,
    /// In use.
    pub used: u64,
    /// Free.
    pub free: u64,
}

/// How a GPU is plugged in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FakePcie {
    /// Bus address, at most 31 characters.
    pub bus_id: String,
    /// Highest generation.
    pub max_generation: Option<u32>,
    /// Most lanes.
    pub max_lanes: Option<u32>,
}

/// A process that holds memory on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FakeProcess {
    /// Process id.
    pub pid: u32,
    /// Bytes held; `None` is NVML's "not available".
    pub memory: Option<u64>,
}

impl Script {
    /// What the driver says at this moment.
    pub(crate) fn read() -> io::Result<Self> {
        let path = env::var_os(ENV).map(PathBuf::from).map_or_else(beside_library, Ok)?;
        serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
    }
}

/// The script's place beside the library that holds this very code.
fn beside_library() -> io::Result<PathBuf> {
    static HERE: u8 = 0;
    let address = std::ptr::from_ref(&HERE).addr();
    let maps = fs::read_to_string("/proc/self/maps")?;
    let library = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let path = &rest[rest.find('/')?..];
        (start..end).contains(&address).then(|| PathBuf::from(format!("{path}.json")))
    });
    library.ok_or_else(|| io::Error::other("this code lies in no mapped file"))
}
