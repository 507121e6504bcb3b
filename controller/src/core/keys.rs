//! The names under which records are stored, and how they are read back.
//!
//! ```text
//! meta                          Meta                 event/<number>       FleetEvent
//! node/<id>                     NodeRecord           user/<name>          UserRecord
//! inventory/<node>              wire::Inventory      token/<public id>    TokenRecord
//! positions/<node>              Positions            request/<user>/<id>  RequestRecord
//! job/<id>                      JobRecord            object/<project>/<digest>  ObjectRecord
//! attempt/<job>/<number>        AttemptRecord        saved/<job>/<order>  Saved
//! spec/<job>                    the user's text      progress/<job>       Progress
//! ```
//! Of what grows, each item is a record of its own, written when it changes; the bounds are in [`super::Settings`] and
//! `bounds`. Records are JSON; one whose form has changed carries a version (`docs/adr/0005-records-that-grow.md`).

use hone_proto::id::{Attempt, Digest, JobId, NodeId, ProjectName, RequestId, UserName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Fleet;
use super::record::{AttemptRecord, JobRecord, Meta, Positions};

/// The name of one record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Facts of the fleet.
    Meta,
    /// A machine.
    Node(NodeId),
    /// What a machine has.
    Inventory(NodeId),
    /// How far its spool is durable.
    Positions(NodeId),
    /// A job.
    Job(JobId),
    /// One of its placements.
    Attempt(JobId, Attempt),
    /// A job's text.
    Spec(JobId),
    /// How far a run is.
    Progress(JobId),
    /// The nth thing that a job committed.
    Saved(JobId, u32),
    /// A person.
    User(UserName),
    /// A token.
    Token(String),
    /// The result of a request.
    Request(UserName, RequestId),
    /// Bulk data of a user.
    Object(ProjectName, Digest),
    /// A line of history.
    Event(u64),
}

impl std::fmt::Display for Key {
    /// Numbers are padded, so that a scan is in their order.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Meta => f.write_str("meta"),
            Self::Node(id) => write!(f, "node/{id}"),
            Self::Inventory(id) => write!(f, "inventory/{id}"),
            Self::Positions(id) => write!(f, "positions/{id}"),
            Self::Job(id) => write!(f, "job/{:020}", id.get()),
            Self::Attempt(id, n) => write!(f, "attempt/{:020}/{:010}", id.get(), n.get()),
            Self::Spec(id) => write!(f, "spec/{:020}", id.get()),
            Self::Progress(id) => write!(f, "progress/{:020}", id.get()),
            Self::Saved(id, n) => write!(f, "saved/{:020}/{n:010}", id.get()),
            Self::User(name) => write!(f, "user/{name}"),
            Self::Token(id) => write!(f, "token/{id}"),
            Self::Request(user, id) => write!(f, "request/{user}/{id}"),
            Self::Object(project, digest) => write!(f, "object/{project}/{digest}"),
            Self::Event(number) => write!(f, "event/{number:020}"),
        }
    }
}

/// A stored record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {key:?}: {why}")]
pub struct RecordError {
    /// Which.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
}

impl RecordError {
    fn new(key: &str, why: impl ToString) -> Self {
        Self { key: key.to_owned(), why: why.to_string() }
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    // Records are plain data with text keys and finite numbers; they always have a JSON form.
    serde_json::to_vec(value).unwrap_or_default()
}

/// How long the stored form of a record is.
pub(super) fn stored_len<T: Serialize>(value: &T) -> usize {
    json(value).len()
}

fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, RecordError> {
    serde_json::from_slice(value).map_err(|error| RecordError::new(key, error))
}

/// Version of the records of jobs and attempts that this release writes. In version 1 a job's record held its attempts.
const VERSION: u16 = 2;

/// A record with the version of its form. One without was written before there were versions.
#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u16,
    #[serde(flatten)]
    record: &'a T,
}

impl<'a, T> Versioned<'a, T> {
    const fn now(record: &'a T) -> Self {
        Self { version: VERSION, record }
    }
}

/// The version of a stored record, if this release knows it.
fn version(key: &str, value: &[u8]) -> Result<u16, RecordError> {
    #[derive(Deserialize)]
    struct Form {
        #[serde(default)]
        version: Option<u16>,
    }
    let found = read::<Form>(key, value)?.version.unwrap_or(1);
    if found > VERSION {
        let why = format!("it has version {found}; this release knows up to {VERSION}");
        return Err(RecordError::new(key, why));
    }
    Ok(found)
}

impl Fleet {
    /// The stored form of a record, or `None` when it is gone.
    pub(super) fn encode(&self, key: &Key) -> Option<Vec<u8>> {
        match key {
            Key::Meta => Some(json(&self.meta)),
            Key::Node(id) => self.nodes.get(id).map(|node| json(&node.record)),
            Key::Inventory(id) => self.nodes.get(id).map(|node| node.inventory.clone()),
            Key::Positions(id) => self.nodes.get(id)?.positions.as_ref().map(json),
            Key::Job(id) => self.jobs.get(id).map(|job| json(&Versioned::now(&job.record))),
            Key::Attempt(id, number) => {
                let attempt = self.jobs.get(id)?.attempts.by_number(*number)?;
                Some(json(&Versioned::now(attempt)))
            }
            Key::Spec(id) => self.jobs.get(id).map(|job| job.spec_yaml.clone().into_bytes()),
            Key::Progress(id) => self.jobs.get(id).map(|job| json(&job.progress)),
            Key::Saved(id, n) => self.jobs.get(id)?.saved.get(n).map(json),
            Key::User(name) => self.users.get(name).map(json),
            Key::Token(id) => self.tokens.get(id).map(json),
            Key::Request(user, id) => self.requests.get(&(user.clone(), id.clone())).map(json),
            Key::Object(project, digest) => self.objects.get(&(project.clone(), *digest)).map(json),
            Key::Event(number) => self.history.lines().get(number).map(json),
        }
    }

    /// Rebuilds the fleet from its records, in the order in which a scan yields them.
    pub fn load(
        settings: super::Settings,
        records: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> Result<Self, RecordError> {
        let records: Vec<_> = records.into_iter().collect();
        let meta = records.iter().find(|(key, _)| key == "meta").ok_or_else(|| {
            RecordError::new("meta", "it is missing: this is no controller's state")
        })?;
        let mut fleet = Self::empty(settings, read::<Meta>("meta", &meta.1)?);
        // Jobs and nodes first: the records that hang on them find their place then.
        for pass in [true, false] {
            for (key, value) in &records {
                let (kind, rest) = key.split_once('/').unwrap_or((key, ""));
                if pass == matches!(kind, "node" | "job") {
                    fleet.take(kind, rest, key, value)?;
                }
            }
        }
        Ok(fleet)
    }

    fn take(&mut self, kind: &str, rest: &str, key: &str, value: &[u8]) -> Result<(), RecordError> {
        let orphan = || RecordError::new(key, "what it belongs to is missing");
        match kind {
            "meta" => {}
            "node" => self.add_node(read(key, value)?),
            "job" => self.take_job(key, value)?,
            "inventory" => {
                let node = self.nodes.iter_mut().find(|(id, _)| id.as_str() == rest);
                node.ok_or_else(orphan)?.1.inventory = value.to_vec();
            }
            "positions" => {
                let node = self.nodes.iter_mut().find(|(id, _)| id.as_str() == rest);
                node.ok_or_else(orphan)?.1.positions = Some(read::<Positions>(key, value)?);
            }
            "spec" | "progress" | "saved" | "attempt" => {
                let (number, place) = rest.split_once('/').unwrap_or((rest, ""));
                let id: JobId = number.parse().map_err(|e| RecordError::new(key, e))?;
                let job = self.jobs.get_mut(&id).ok_or_else(orphan)?;
                match kind {
                    "spec" => job.spec_yaml = String::from_utf8_lossy(value).into_owned(),
                    "progress" => job.progress = read(key, value)?,
                    "attempt" => {
                        version(key, value)?;
                        job.attempts.add(read(key, value)?);
                    }
                    _ => {
                        let place = place.parse().map_err(|e| RecordError::new(key, e))?;
                        job.saved.insert(place, read(key, value)?);
                    }
                }
            }
            "user" => {
                let user: super::record::UserRecord = read(key, value)?;
                self.users.insert(user.name.clone(), user);
            }
            "token" => {
                let token: super::record::TokenRecord = read(key, value)?;
                self.tokens.insert(token.public_id.clone(), token);
            }
            "request" => {
                let (user, id) = rest.split_once('/').ok_or_else(orphan)?;
                let user = user.parse().map_err(|e| RecordError::new(key, e))?;
                let id = id.parse().map_err(|e| RecordError::new(key, e))?;
                self.requests.insert((user, id), read(key, value)?);
            }
            "object" => {
                let (project, digest) = rest.split_once('/').ok_or_else(orphan)?;
                let project = project.parse().map_err(|e| RecordError::new(key, e))?;
                let digest = digest.parse().map_err(|e| RecordError::new(key, e))?;
                self.objects.insert((project, digest), read(key, value)?);
            }
            "event" => {
                let event: super::record::FleetEvent = read(key, value)?;
                self.history.add(event, u64::MAX);
            }
            // File lengths belong to the driver.
            "length" => {}
            _ => return Err(RecordError::new(key, "this release does not know it")),
        }
        Ok(())
    }

    fn take_job(&mut self, key: &str, value: &[u8]) -> Result<(), RecordError> {
        /// What a job's record held besides in version 1.
        #[derive(Deserialize)]
        struct Version1 {
            attempts: Vec<AttemptRecord>,
        }
        let record: JobRecord = read(key, value)?;
        let id = record.id;
        self.add_job(record);
        if version(key, value)? == 1
            && let Some(job) = self.jobs.get_mut(&id)
        {
            for attempt in read::<Version1>(key, value)?.attempts {
                job.attempts.add(attempt);
            }
            job.attempts_inside = true;
        }
        Ok(())
    }
}
