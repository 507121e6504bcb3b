//! What one GPU tells at one time.

use serde::{Deserialize, Serialize};

use crate::id::AttemptId;
use crate::inventory::GpuId;
use crate::quantity::Bytes;

/// One GPU at one time. Every figure is optional: a driver may not tell it, and a GPU that does not work tells none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuSample {
    /// Which.
    pub id: GpuId,
    /// The driver's number for it.
    pub index: u32,
    /// Whether it works.
    pub state: GpuState,
    /// All its memory.
    pub memory_total: Option<Bytes>,
    /// Memory in use, by anybody.
    pub memory_used: Option<Bytes>,
    /// Memory that can be had.
    pub memory_free: Option<Bytes>,
    /// Share of time in which a kernel ran on it.
    pub utilisation_percent: Option<u32>,
    /// Share of time in which its memory was read or written.
    pub memory_utilisation_percent: Option<u32>,
    /// Temperature of the chip.
    pub temperature_celsius: Option<u32>,
    /// Power drawn.
    pub power_mw: Option<u32>,
    /// Power at which it throttles itself.
    pub power_limit_mw: Option<u32>,
    /// Clock of the multiprocessors.
    pub sm_clock_mhz: Option<u32>,
    /// Clock of the memory.
    pub memory_clock_mhz: Option<u32>,
    /// Why it runs slower than it could.
    pub throttle: Option<ThrottleReasons>,
    /// Processes that hold memory on it, of anybody.
    pub processes: Option<Vec<GpuProcess>>,
}

impl GpuSample {
    /// A GPU of which only its state is known.
    #[must_use]
    pub const fn without_figures(id: GpuId, index: u32, state: GpuState) -> Self {
        Self {
            id,
            index,
            state,
            memory_total: None,
            memory_used: None,
            memory_free: None,
            utilisation_percent: None,
            memory_utilisation_percent: None,
            temperature_celsius: None,
            power_mw: None,
            power_limit_mw: None,
            sm_clock_mhz: None,
            memory_clock_mhz: None,
            throttle: None,
            processes: None,
        }
    }
}

/// Whether a GPU works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GpuState {
    /// It answers.
    Ok,
    /// It fell off the bus: the machine must be restarted.
    Lost,
    /// The driver wants it reset before it works again.
    NeedsReset,
    /// The driver did not answer in time; figures of others are not affected.
    NoAnswer,
    /// Something else.
    Failed {
        /// What the driver says, for people.
        why: String,
    },
}

/// A process that holds memory on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuProcess {
    /// Its id as the host sees it.
    pub pid: u32,
    /// What it holds; some drivers do not tell.
    pub memory: Option<Bytes>,
    /// Its short name.
    pub name: Option<String>,
    /// The attempt in whose container it runs; `None` when it is not hone's.
    pub owner: Option<AttemptId>,
}

/// Why a GPU runs slower than it could: a set, by NVML's bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ThrottleReasons(u64);

/// NVML's bits and our names for them.
const NAMED: [(u64, &str); 9] = [
    (0x1, "gpu_idle"),
    (0x2, "applications_clocks_setting"),
    (0x4, "sw_power_cap"),
    (0x8, "hw_slowdown"),
    (0x10, "sync_boost"),
    (0x20, "sw_thermal_slowdown"),
    (0x40, "hw_thermal_slowdown"),
    (0x80, "hw_power_brake"),
    (0x100, "display_clock_setting"),
];

/// Of these, the ones that tell of heat.
const THERMAL: u64 = 0x20 | 0x40;

impl ThrottleReasons {
    /// The set with these bits, also ones that have no name yet.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
    /// NVML's bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
    /// Reasons of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// It is too hot.
    #[must_use]
    pub const fn is_thermal(self) -> bool {
        self.0 & THERMAL != 0
    }
    /// The names of the reasons, in the order of their bits; bits without a name come last, as one `unknown_0x…`.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        let mut names: Vec<String> = NAMED
            .iter()
            .filter(|(bit, _)| self.0 & bit != 0)
            .map(|(_, name)| (*name).to_owned())
            .collect();
        let unnamed = self.0 & !NAMED.iter().map(|(bit, _)| bit).sum::<u64>();
        if unnamed != 0 {
            names.push(format!("unknown_{unnamed:#x}"));
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttle_reasons_have_names_and_lose_no_bit() {
        let hot = ThrottleReasons::from_bits(0x4 | 0x40 | 0x1000);
        assert_eq!(hot.names(), ["sw_power_cap", "hw_thermal_slowdown", "unknown_0x1000"]);
        assert!(hot.is_thermal());
        let idle = ThrottleReasons::from_bits(1);
        assert_eq!(idle.names(), ["gpu_idle"]);
        assert!(!idle.is_thermal());
        assert_eq!(hot.union(idle).bits(), 0x1045);
        assert!(ThrottleReasons::default().names().is_empty());
    }
}
