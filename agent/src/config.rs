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
    /// Events that the controller has not acknowledged.
    pub spool: Spool,
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
    /// Running jobs stop, the largest writer first, when less disk than this is free. 1 GiB: far below the reserve, so
    /// that only an unforeseen growth gets there, and enough for the engine and the spool to end in order.
    #[serde(deserialize_with = "size")]
    pub least_free_disk: Bytes,
    /// At most this much memory is promised.
    #[serde(deserialize_with = "some_size")]
    pub max_memory: Option<Bytes>,
    /// At most this much disk is promised.
    #[serde(deserialize_with = "some_size")]
    pub max_disk: Option<Bytes>,
    /// At most so many cores are promised.
    #[serde(deserialize_with = "cores")]
    pub max_cpu: Option<f64>,
    /// Only these GPUs are promised.
    pub gpus: Option<BTreeSet<GpuId>>,
    /// Relaxations of the closed container that a job may ask for, by their names. None by default.
    #[serde(deserialize_with = "relaxations")]
    pub allow: BTreeSet<Relaxation>,
    /// Only these images may run; empty allows every image that is named by its content. An entry is a registry or a
    /// repository, which also allows what lies below it (`registry.example/team` allows `registry.example/team/trainer`,
    /// not `registry.example/team-of-others`), or the whole id of an image, `sha256:…`. An image that hone carries has
    /// nothing but its id: it needs an entry of its own, wherever else its bytes could be had.
    pub images: Vec<String>,
    /// Attempts run under uids from here on, one each; far above what distributions give to people.
    #[serde(deserialize_with = "uid_of_nobody")]
    pub first_uid: u32,
    /// So many uids.
    #[serde(deserialize_with = "some_uids")]
    pub uids: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            reserve_memory: Bytes::gib(1),
            reserve_disk: Bytes::gib(5),
            reserve_vram: Bytes::ZERO,
            least_free_disk: Bytes::gib(1),
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

/// How much the spool takes on disk unless somebody says otherwise. A tenth of the disk that is never promised, and
/// enough for more than a week without a link: a job that reports each second writes some 30 MiB of metrics a day.
pub const SPOOL: Bytes = Bytes::mib(512);

/// The least that it may be given. What is acknowledged goes in whole segments of 1 MiB and a last batch, of which each
/// of the four streams keeps one.
pub const LEAST_SPOOL: Bytes = Bytes::mib(32);

/// Events that the controller has not acknowledged.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spool {
    /// Most that they take on disk. When it is reached, the oldest hardware samples are dropped, then the oldest logs,
    /// and the gap is told; when states and training metrics alone fill it, trainers' files are read no further until
    /// the controller is heard, and nothing is lost.
    #[serde(deserialize_with = "spool_size")]
    pub max: Bytes,
}

impl Default for Spool {
    fn default() -> Self {
        Self { max: SPOOL }
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

fn spool_size<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    let max = size(from)?;
    if max < LEAST_SPOOL {
        let why = format!("{max} is too little for a spool; it needs at least {LEAST_SPOOL}");
        return Err(serde::de::Error::custom(why));
    }
    Ok(max)
}

fn some_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Bytes>, D::Error> {
    size(from).map(Some)
}

/// Below it distributions have their own users, root among them.
const LEAST_UID: u32 = 1000;

fn uid_of_nobody<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let uid = u32::deserialize(from)?;
    if uid < LEAST_UID {
        let why = format!(
            "first_uid = {uid}: it must be at least {LEAST_UID}: jobs would run as users of the system"
        );
        return Err(serde::de::Error::custom(why));
    }
    Ok(uid)
}

fn some_uids<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let uids = u32::deserialize(from)?;
    if uids == 0 {
        let why = "uids = 0: it must be at least 1: each attempt runs under a uid of its own";
        return Err(serde::de::Error::custom(why));
    }
    Ok(uids)
}

fn cores<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let cores = f64::deserialize(from)?;
    if !cores.is_finite() || cores <= 0.0 {
        let why =
            format!("max_cpu = {cores}: it must be a number of cores above 0, such as 6 or 1.5");
        return Err(serde::de::Error::custom(why));
    }
    Ok(Some(cores))
}

fn relaxations<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<Relaxation>, D::Error> {
    let named = |name: String| {
        Relaxation::from_name(&name).ok_or_else(|| {
            let known: Vec<_> = Relaxation::ALL.iter().map(|r| format!("{:?}", r.name())).collect();
            let why =
                format!("allow: there is no relaxation {name:?}; there is {}", known.join(" and "));
            serde::de::Error::custom(why)
        })
    };
    Vec::<String>::deserialize(from)?.into_iter().map(named).collect()
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
        let config: Self = toml::from_str(&text).map_err(|error| bad(error.to_string()))?;
        let (first, uids) = (config.policy.first_uid, config.policy.uids);
        // The last uid means "none" to the system.
        if first.checked_add(uids).is_none() {
            return Err(bad(format!(
                "policy.first_uid = {first} and policy.uids = {uids}: together they must stay below {}",
                u32::MAX
            )));
        }
        Ok(config)
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
        if let Some(no) = relaxations.iter().find(|r| !self.allow.contains(r)) {
            return Err(format!(
                "this node's policy does not allow `{}`; its owner can add it to policy.allow",
                no.name()
            ));
        }
        if self.images.is_empty() || self.images.iter().any(|entry| covers(entry, image)) {
            return Ok(());
        }
        Err(format!(
            "this node's policy does not allow the image {image}; its owner can add it to policy.images"
        ))
    }
}

/// Whether an entry of the list of images names this image or something above it.
fn covers(entry: &str, image: &str) -> bool {
    let Some(rest) = image.strip_prefix(entry) else { return false };
    if rest.is_empty() {
        return true;
    }
    // An id is one word, of which no part means anything.
    if image.starts_with("sha256:") || entry.is_empty() {
        return false;
    }
    // A colon ends a repository in front of a tag. In front of a port it would be another registry of the same host.
    let is_tag = rest.starts_with(':') && !rest.contains('/');
    entry.ends_with('/') || rest.starts_with(['/', '@']) || is_tag
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
        std::fs::write(&path, "[spool]\nmax = \"1GiB\"\n").expect("written");
        assert_eq!(Config::read(&path, true).expect("valid").spool.max, Bytes::gib(1));
        std::fs::write(&path, "[spool]\nmax = \"1MiB\"\n").expect("written");
        let no = Config::read(&path, true).expect_err("too little").to_string();
        assert!(no.contains("at least 32.0 MiB"), "{no}");
        std::fs::write(&path, "[policy]\nmax_memory = 4\n").expect("written");
        assert!(Config::read(&path, true).is_err(), "a size needs a unit");
    }

    #[test]
    fn a_policy_that_cannot_be_meant_is_refused_with_its_key_and_what_is_allowed() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("agent.toml");
        for (line, words) in [
            ("max_cpu = -3", "max_cpu = -3: it must be a number of cores above 0"),
            ("max_cpu = 0.0", "max_cpu = 0: it must be"),
            ("max_cpu = nan", "max_cpu = NaN: it must be"),
            ("allow = [\"network\"]", "\"network: egress\" and \"container.user: image\""),
            ("first_uid = 0", "at least 1000"),
            ("uids = 0", "uids = 0: it must be at least 1"),
            ("first_uid = 4294967295", "policy.first_uid = 4294967295 and policy.uids = 60000"),
        ] {
            std::fs::write(&path, format!("[policy]\n{line}\n")).expect("written");
            let no = Config::read(&path, true).expect_err(line).to_string();
            assert!(no.contains(words), "{no}");
        }
        std::fs::write(&path, "[policy]\nmax_cpu = 6\n").expect("written");
        assert_eq!(Config::read(&path, true).expect("valid").policy.max_cpu, Some(6.0));
    }

    #[test]
    fn an_entry_of_the_image_list_ends_where_a_part_of_the_name_ends() {
        let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let other = "sha256:ffffffffffffffff0123456789abcdef0123456789abcdef0123456789abcdef";
        let admits = |entry: &str, image: &str| {
            let policy = Policy { images: vec![entry.to_owned()], ..Policy::default() };
            policy.admit(image, &[]).is_ok()
        };
        let of = |repository: &str| format!("{repository}@{digest}");
        for image in ["reg.example/team", "reg.example/team/x", "reg.example/team:v1"] {
            assert!(admits("reg.example/team", &of(image)), "{image}");
        }
        assert!(admits("reg.example", &of("reg.example/team/x")));
        assert!(admits("reg.example/", &of("reg.example/team/x")));
        assert!(admits(&of("reg.example/team"), &of("reg.example/team")));
        for image in ["reg.example/team-evil/x", "reg.example/teams", "evil/reg.example/team"] {
            assert!(!admits("reg.example/team", &of(image)), "{image}");
        }
        assert!(!admits("reg.example", &of("reg.example:5000/team")), "another registry");
        assert!(!admits("reg.example", &of("reg.example.evil/team")));
        assert!(!admits("", &of("reg.example/team")));
        assert!(!admits("reg.example/team@sha256:0123", &of("reg.example/team")), "half a digest");
        // What is carried has only its id.
        assert!(!admits("reg.example/team", digest), "by id it went around the list");
        assert!(!admits("sha256", digest) && !admits("sha256:", digest));
        assert!(!admits("sha256:0123", digest) && !admits(other, digest));
        assert!(admits(digest, digest));
        assert!(Policy::default().admit(digest, &[]).is_ok(), "without a list all may run");
    }
}
