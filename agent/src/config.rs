//! Every setting of the agent, with its default and its reason. Read once, at the start, from TOML
//! (`/etc/hone/agent.toml`). The policy is the machine owner's word: it wins over what a controller asks for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hone_proto::assignment::Relaxation;
use hone_proto::inventory::{GpuId, Limits};
use hone_proto::quantity::{Bytes, MilliCpu};
use serde::{Deserialize, Deserializer};

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{} is not valid: {why}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Line, column and reason.
        why: String,
    },
}

/// The settings of `hone-agent run`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The container engine.
    pub engine: Engine,
    /// GPUs.
    pub gpu: Gpu,
    /// What the machine's owner allows.
    pub policy: Policy,
    /// Traces.
    pub telemetry: Telemetry,
}

/// The container engine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// Its socket.
    pub socket: PathBuf,
}

impl Default for Engine {
    fn default() -> Self {
        Self { socket: PathBuf::from("/var/run/docker.sock") }
    }
}

/// GPUs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpu {
    /// The NVML library; absent is the driver's own name for it.
    pub nvml: Option<PathBuf>,
}

/// What the machine's owner allows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Memory that is never promised. 1 GiB: the system, its engine and this agent.
    #[serde(deserialize_with = "size")]
    pub reserve_memory: Bytes,
    /// Disk that is never promised. 5 GiB: logs, and room to clean up in.
    #[serde(deserialize_with = "size")]
    pub reserve_disk: Bytes,
    /// VRAM that is never promised on each GPU.
    #[serde(deserialize_with = "size")]
    pub reserve_vram: Bytes,
    /// At most this much memory is promised.
    #[serde(deserialize_with = "some_size")]
    pub max_memory: Option<Bytes>,
    /// At most this much disk is promised.
    #[serde(deserialize_with = "some_size")]
    pub max_disk: Option<Bytes>,
    /// At most so many cores are promised.
    pub max_cpu: Option<f64>,
    /// Only these GPUs are promised.
    pub gpus: Option<BTreeSet<GpuId>>,
    /// Relaxations of the closed container that a job may ask for, by their names. None by default.
    pub allow: BTreeSet<String>,
    /// Images must begin with one of these; empty allows every image that is named by digest.
    pub images: Vec<String>,
    /// Attempts run under uids from here on, one each; far above what distributions give to people.
    pub first_uid: u32,
    /// So many uids.
    pub uids: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            reserve_memory: Bytes::gib(1),
            reserve_disk: Bytes::gib(5),
            reserve_vram: Bytes::ZERO,
            max_memory: None,
            max_disk: None,
            max_cpu: None,
            gpus: None,
            allow: BTreeSet::new(),
            images: Vec::new(),
            first_uid: 2_000_000,
            uids: 60_000,
        }
    }
}

/// Traces.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Where spans go over OTLP; absent is nowhere.
    pub otlp_endpoint: Option<String>,
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn some_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Bytes>, D::Error> {
    size(from).map(Some)
}

impl Config {
    /// Reads a file. One that was named must be there; the default place may be empty.
    pub fn read(path: &Path, named: bool) -> Result<Self, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => String::new(),
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        toml::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), why: error.to_string() })
    }
}

impl Policy {
    /// What placement may count on at most.
    #[must_use]
    pub fn limits(&self) -> Limits {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to what fits"
        )]
        let cores = |n: f64| MilliCpu::new((n * 1000.0).clamp(0.0, f64::from(u32::MAX)) as u32);
        Limits {
            reserve_ram: self.reserve_memory,
            reserve_disk: self.reserve_disk,
            reserve_vram: self.reserve_vram,
            max_cpu: self.max_cpu.map(cores),
            max_ram: self.max_memory,
            max_disk: self.max_disk,
            gpus: self.gpus.clone(),
            ..Limits::default()
        }
    }

    /// The uid of an attempt, from its place in the range.
    #[must_use]
    pub fn uid(&self, place: u32) -> u32 {
        self.first_uid + place % self.uids.max(1)
    }

    /// Whether a job may have these relaxations and this image; the first thing that it may not.
    pub fn admit(&self, image: &str, relaxations: &[Relaxation]) -> Result<(), String> {
        if let Some(no) = relaxations.iter().find(|r| !self.allow.contains(r.name())) {
            return Err(format!(
                "this node's policy does not allow `{}`; its owner can add it to policy.allow",
                no.name()
            ));
        }
        let by_id = image.starts_with("sha256:");
        let listed = self.images.iter().any(|prefix| image.starts_with(prefix.as_str()));
        if !self.images.is_empty() && !by_id && !listed {
            return Err(format!("this node's policy does not allow the image {image}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owners_word_is_read_with_units_and_typos_are_named() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("agent.toml");
        assert!(Config::read(&path, false).is_ok());
        std::fs::write(&path, "[policy]\nmax_memory = \"4GiB\"\nallow = [\"network: egress\"]\n")
            .expect("written");
        let policy = Config::read(&path, true).expect("valid").policy;
        assert_eq!(policy.limits().max_ram, Some(Bytes::gib(4)));
        assert!(policy.admit("sha256:ab", &[Relaxation::NetworkEgress]).is_ok());
        let no = policy.admit("sha256:ab", &[Relaxation::UserImage]).expect_err("not allowed");
        assert!(no.contains("container.user: image"), "{no}");
        std::fs::write(&path, "[policy]\nmax_memory = 4\n").expect("written");
        assert!(Config::read(&path, true).is_err(), "a size needs a unit");
    }
}
