//! What the core keeps. Stored: facts that nobody else can supply (what was asked for, what was decided, what was
//! acknowledged). Not stored: leases, sessions, samples and everything that an agent repeats when it connects.

mod attempt;
mod job;

use std::collections::BTreeMap;

use hone_proto::event::Stream;
use hone_proto::id::{
    Attempt, BootId, Digest, FleetId, Generation, JobId, NodeId, Revision, Seq, SpoolId, UserName,
};
pub use hone_proto::identity::Role;
use hone_proto::quantity::Bytes;
use hone_proto::time::WallNanos;
use serde::{Deserialize, Serialize};

pub use self::attempt::{AttemptRecord, AttemptState, StopWhy};
pub use self::job::{
    End, Evaluation, JobRecord, JobState, OnDisconnect, Progress, Saved, SavedKind, Wish,
};
use crate::placement::Capacity;

/// Facts of the fleet as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The fleet.
    pub fleet: FleetId,
    /// This life of the state.
    pub generation: Generation,
    /// The last job number given.
    pub last_job: JobId,
    /// The last event number given.
    pub last_event: u64,
}

/// One enrolled machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id.
    pub id: NodeId,
    /// Its host name, for listings.
    pub hostname: String,
    /// Who made the token that it spent.
    pub enrolled_by: UserName,
    /// When.
    pub enrolled_at: WallNanos,
    /// What people decided about it.
    pub admin: NodeAdmin,
    /// The newest certificate that was issued to it.
    pub certificate: Option<CertificateRecord>,
    /// Earlier ones whose keys may still renew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<CertificateRecord>,
    /// The boot in which it last said hello.
    pub boot: Option<BootId>,
    /// What it last offered.
    pub capacity: Option<Capacity>,
    /// Version of its agent.
    pub agent_version: String,
    /// When it last said hello.
    pub last_hello: Option<WallNanos>,
    /// Raised with each change of its desired set.
    pub revision: Revision,
}

/// What people decided about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeAdmin {
    /// Jobs may be placed on it.
    Ready,
    /// Nothing more is placed on it.
    Drained,
    /// It may not speak any more.
    Revoked,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// SHA-256 of its public key, hexadecimal: how an expired but known key is recognised.
    pub key: String,
    /// When it ends.
    pub not_after: WallNanos,
    /// The key with which it was asked for, where that was another one and nothing shows yet that this one arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
}

/// How much of a node's spool is durable here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    /// The spool.
    pub spool: SpoolId,
    /// The last durable event of each stream.
    pub seqs: BTreeMap<Stream, Seq>,
}

/// One person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Their name.
    pub name: UserName,
    /// What they may do.
    pub role: Role,
    /// Who invited them; `None` is the first operator.
    pub invited_by: Option<UserName>,
    /// The newest certificate that was issued to them; `None` until the invitation is spent.
    pub certificate: Option<CertificateRecord>,
    /// Those of their other machines, and earlier ones whose keys may still renew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<CertificateRecord>,
    /// Set once and for ever.
    pub revoked: bool,
}

/// One enrolment token, by the hash of its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Public part, by which it is found.
    pub public_id: String,
    /// Keyed hash of the secret part, hexadecimal.
    pub hash: String,
    /// What it is good for.
    pub purpose: TokenPurpose,
    /// Who made it.
    pub made_by: UserName,
    /// When it ends.
    pub expires: WallNanos,
    /// Set when it has been spent.
    pub spent: bool,
}

/// What a token enrols.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenPurpose {
    /// A machine.
    Node,
    /// This person.
    User(UserName),
}

/// The kept result of a mutating request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// When it was answered.
    pub at: WallNanos,
    /// What it was, so that the same id with another content is a conflict.
    pub content: Digest,
    /// The job that it made or changed.
    pub job: Option<JobId>,
}

/// Bulk data that a user committed: an input or an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Who.
    pub by: UserName,
    /// When.
    pub at: WallNanos,
    /// Sum of its files.
    pub bytes: Bytes,
}

/// One line of the fleet's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetEvent {
    /// Its number, from 1.
    pub number: u64,
    /// When.
    pub at: WallNanos,
    /// Stable word.
    pub kind: String,
    /// About which job.
    pub job: Option<JobId>,
    /// About which attempt.
    pub attempt: Option<Attempt>,
    /// About which node.
    pub node: Option<NodeId>,
    /// Who did it; `None` is the fleet itself.
    pub actor: Option<UserName>,
    /// For people.
    pub text: String,
}
