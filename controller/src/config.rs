//! Every setting of the controller, with its default and its reason. Read once, at the start, from TOML
//! (`/etc/hone/controller.toml`) and from `HONE_CONTROLLER_*`.

mod bounds;
mod sane;

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hone_proto::quantity::Bytes;
use serde::Deserialize;

pub use self::bounds::Bounds;
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
    /// How much of everything there may be.
    pub bounds: Bounds,
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
    /// What `on_disconnect: auto` waits where another node could hold the job, in seconds. Half an hour: links come back
    /// in minutes, and a machine that was lost is noticed within the hour.
    pub auto_wait_seconds: u64,
    /// How long the controller suspects itself after a mass loss, in seconds. An hour: time for somebody to look.
    pub mass_loss_hold_seconds: u64,
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
            auto_wait_seconds: core.auto_wait.as_secs(),
            mass_loss_hold_seconds: core.mass_loss_hold.as_secs(),
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
    #[serde(deserialize_with = "bounds::size")]
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
        let bad = |why: String| ConfigError::Parse { path: path.to_owned(), why };
        let config = toml::from_str(&text).map_err(|error| bad(error.to_string()))?;
        sane::check(&config).map_err(bad)?;
        Ok(config)
    }

    /// The core's settings.
    #[must_use]
    pub fn core(&self) -> Settings {
        Settings {
            lease: Duration::from_millis(self.timing.lease_ms),
            retry_base: Duration::from_millis(self.timing.retry_ms),
            auto_wait: Duration::from_secs(self.timing.auto_wait_seconds),
            mass_loss_hold: Duration::from_secs(self.timing.mass_loss_hold_seconds),
            keep_history: self.bounds.history.get(),
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
        let text = "[timing]\nauto_wait_seconds = 60\nmass_loss_hold_seconds = 61\n[bounds]\n\
                    joins_per_source = 1\nhistory = 7\ntoken_most_seconds = 60\n\
                    bulk_streams_per_peer = 2\nconnections = 9\nnode_history = \"16 MiB\"\n\
                    [store]\nkeep_free = \"2 GiB\"\n";
        std::fs::write(&path, text).expect("written");
        let config = Config::read(&path, true).expect("it is valid");
        let (core, bounds) = (config.core(), &config.bounds);
        assert_eq!((core.auto_wait.as_secs(), core.mass_loss_hold.as_secs()), (60, 61));
        assert_eq!((core.keep_history, bounds.tokens().most.as_secs()), (7, 60));
        assert_eq!((bounds.bulk().streams_per_peer, bounds.accept().connections), (2, 9));
        assert_eq!((bounds.node_history, config.store.keep_free), (Bytes::mib(16), Bytes::gib(2)));
        let joins = bounds.enrolment();
        let source = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let admitted = [(); 2].map(|()| joins.admit(source, Default::default()));
        assert_eq!(admitted, [true, false]);
        std::fs::write(&path, "[bounds]\nhistory = 0\n").expect("written");
        let error = Config::read(&path, true).expect_err("a bound of nothing").to_string();
        assert!(error.contains("history") && error.contains("nonzero"), "{error}");
        std::fs::write(&path, "[timing]\nlease_ms = 0\n").expect("written");
        let error = Config::read(&path, true).expect_err("no lease at all").to_string();
        assert!(error.contains("timing.lease_ms = 0: it must be at least"), "{error}");
        std::fs::write(&path, "[timing]\nleese_ms = 2000\n").expect("written");
        let error = Config::read(&path, true).expect_err("a typo").to_string();
        assert!(error.contains("leese_ms") && error.contains("line 2"), "{error}");
    }
}
