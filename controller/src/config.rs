//! Every setting of the controller, with its default and its reason. Read once, at the start, from TOML
//! (`/etc/hone/controller.toml`) and from `HONE_CONTROLLER_*`.

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hone_proto::quantity::Bytes;
use serde::Deserialize;

use crate::core::Settings;
use crate::identity::Lifetimes;

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

/// The settings of `hone serve`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// How long things may take.
    pub timing: Timing,
    /// How long certificates last.
    pub certificates: Certificates,
    /// The store's own care.
    pub store: StoreCare,
    /// Traces.
    pub telemetry: Telemetry,
}

/// Where the controller listens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Address of all three ports. All of the machine's, since agents dial in from elsewhere.
    pub ip: IpAddr,
}

impl Default for Listen {
    fn default() -> Self {
        Self { ip: IpAddr::V6(Ipv6Addr::UNSPECIFIED) }
    }
}

/// How long things may take.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// How long a silent node is believed, in milliseconds.
    pub lease_ms: u64,
    /// How often an agent says that it is alive, in milliseconds. One second: the samples are live.
    pub heartbeat_ms: u64,
    /// First pause after a failed attempt, in milliseconds; doubles.
    pub retry_ms: u64,
    /// How often the core looks at the time, in milliseconds.
    pub tick_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        let core = Settings::default();
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self {
            lease_ms: millis(core.lease),
            heartbeat_ms: 1000,
            retry_ms: millis(core.retry_base),
            tick_ms: 1000,
        }
    }
}

/// How long certificates last, in seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Certificates {
    /// Of a node.
    pub node_seconds: u64,
    /// Of a person.
    pub user_seconds: u64,
    /// Of the controller itself.
    pub controller_seconds: u64,
}

impl Default for Certificates {
    fn default() -> Self {
        let lifetimes = Lifetimes::default();
        Self {
            node_seconds: lifetimes.node.as_secs(),
            user_seconds: lifetimes.user.as_secs(),
            controller_seconds: lifetimes.controller.as_secs(),
        }
    }
}

/// The store's own care.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreCare {
    /// How often a verified export is written, in seconds. An hour: what a lost disk costs.
    pub export_seconds: u64,
    /// What chunks leave free on the disk, so that the state can always be written.
    pub keep_free: Bytes,
}

impl Default for StoreCare {
    fn default() -> Self {
        Self { export_seconds: 3600, keep_free: crate::chunks::KEEP_FREE }
    }
}

/// Traces.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Where spans go over OTLP, such as `http://127.0.0.1:4317`; absent is nowhere.
    pub otlp_endpoint: Option<String>,
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

    /// The core's settings.
    #[must_use]
    pub fn core(&self) -> Settings {
        Settings {
            lease: Duration::from_millis(self.timing.lease_ms),
            retry_base: Duration::from_millis(self.timing.retry_ms),
            ..Settings::default()
        }
    }

    /// The issuer's lifetimes.
    #[must_use]
    pub fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            node: Duration::from_secs(self.certificates.node_seconds),
            user: Duration::from_secs(self.certificates.user_seconds),
            controller: Duration::from_secs(self.certificates.controller_seconds),
            ..Lifetimes::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_defaults_and_a_typo_is_named() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("controller.toml");
        assert!(Config::read(&path, false).is_ok());
        assert!(matches!(Config::read(&path, true), Err(ConfigError::Read { .. })));
        std::fs::write(&path, "[timing]\nlease_ms = 2000\n").expect("written");
        let config = Config::read(&path, true).expect("it is valid");
        assert_eq!(config.core().lease, Duration::from_secs(2));
        std::fs::write(&path, "[timing]\nleese_ms = 2000\n").expect("written");
        let error = Config::read(&path, true).expect_err("a typo").to_string();
        assert!(error.contains("leese_ms") && error.contains("line 2"), "{error}");
    }
}
