//! What the core is told, and what it answers: data only, so that both can be printed, compared and replayed.

use std::fmt;

use hone_proto::assignment::DesiredSet;
use hone_proto::error::Refusal;
use hone_proto::event::{Event, Position, Stream};
use hone_proto::id::{
    AttemptId, BootId, Digest, Generation, JobId, NodeId, ProjectName, RequestId, Revision,
    SpoolId, UserName,
};
use hone_proto::quantity::Bytes;
use hone_proto::time::{BootNanos, WallNanos};

use super::record::{CertificateRecord, Role, SavedKind, TokenPurpose, Wish};
use crate::placement::Capacity;

/// A caller waits for the answer with this number. Made by the driver, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One life of one node's stream. A later session replaces the earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Session(pub u64);

/// Who asks. The access table has already admitted the call; ownership is decided here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// By the certificate.
    pub user: UserName,
    /// By the store, at the time of the call.
    pub role: Role,
}

/// Something that the core is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Time passed.
    Tick,
    /// A node said hello.
    Hello(Box<Hello>),
    /// A node is alive.
    Heartbeat(Heartbeat),
    /// Things happened on a node.
    Events {
        /// Where.
        node: NodeId,
        /// In which spool.
        spool: SpoolId,
        /// In which stream.
        stream: Stream,
        /// In order.
        events: Vec<Event>,
    },
    /// A node's stream ended.
    Closed {
        /// Whose.
        node: NodeId,
        /// Which.
        session: Session,
    },
    /// Somebody asks for a change.
    Request {
        /// Who waits.
        ticket: Ticket,
        /// Who asks.
        caller: Caller,
        /// Client-made; a retry has one effect.
        request: RequestId,
        /// What.
        command: Box<Command>,
    },
    /// A node commits a checkpoint or a package whose chunks are all stored.
    Commit {
        /// Who waits.
        ticket: Ticket,
        /// Which node, by its certificate.
        node: NodeId,
        /// What.
        commit: Commit,
    },
    /// A user commits an input or an image whose chunks are all stored.
    CommitObject {
        /// Who waits.
        ticket: Ticket,
        /// Who, by the certificate.
        user: UserName,
        /// Where.
        project: ProjectName,
        /// Its manifest.
        manifest: Digest,
        /// Sum of its files.
        bytes: Bytes,
    },
    /// Somebody presents a token whose secret matches the stored hash.
    Spend {
        /// Who waits.
        ticket: Ticket,
        /// Public part of the token.
        public_id: String,
        /// The id that a node would get, random.
        fresh_node: NodeId,
        /// The name that a node would like in listings.
        display_name: String,
        /// What the peer believes it is for: `true` for a node.
        for_node: bool,
    },
    /// A certificate was issued and is about to be sent.
    Issued {
        /// Who waits.
        ticket: Ticket,
        /// To whom.
        subject: Subject,
        /// What.
        certificate: CertificateRecord,
        /// The key that the request was made with, hexadecimal: that of the certificate shown, or of the request itself.
        /// `None` at enrolment.
        with: Option<String>,
    },
}

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A machine.
    Node(NodeId),
    /// A person.
    User(UserName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node {id}"),
            Self::User(name) => write!(f, "user {name}"),
        }
    }
}

/// A node introduces itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    /// By its certificate.
    pub node: NodeId,
    /// Of this stream.
    pub session: Session,
    /// Of the machine.
    pub boot: BootId,
    /// When it was said, by the clock of that boot, where the agent says so.
    pub said: Option<BootNanos>,
    /// Its spool.
    pub spool: SpoolId,
    /// Attempts that it holds state for.
    pub attempts: Vec<AttemptId>,
    /// Highest generation that it ever saw.
    pub highest_generation: Generation,
    /// What it offers.
    pub capacity: Capacity,
    /// What it has, in wire form: the core never looks inside.
    pub inventory: Vec<u8>,
    /// For listings.
    pub hostname: String,
    /// Of the agent.
    pub version: String,
}

/// A node is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// By its certificate.
    pub node: NodeId,
    /// Of this stream.
    pub session: Session,
    /// Its number.
    pub number: u64,
    /// The desired set that it works on.
    pub revision: Revision,
    /// Attempts that it still holds.
    pub attempts: Vec<AttemptId>,
    /// What it offers, when that changed.
    pub capacity: Option<Capacity>,
}

/// A change that somebody asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Take a job.
    Submit {
        /// What.
        wish: Box<Wish>,
        /// As the user wrote it.
        spec_yaml: String,
    },
    /// End a job.
    Cancel(JobId),
    /// Place nothing more on a node.
    Drain {
        /// Which.
        node: NodeId,
        /// Let its jobs save and move.
        stop_jobs: bool,
    },
    /// Take back drain.
    Resume(NodeId),
    /// End a node's certificate for ever.
    RevokeNode(NodeId),
    /// State that a node is gone.
    Lose(NodeId),
    /// Keep a new token.
    MakeToken {
        /// Public part.
        public_id: String,
        /// Keyed hash of the secret part.
        hash: String,
        /// What it is good for.
        purpose: TokenPurpose,
        /// What an invited person may do.
        role: Option<Role>,
        /// When it ends.
        expires: WallNanos,
    },
    /// End a person's certificates for ever.
    RevokeUser(UserName),
}

/// Something that an attempt commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Which attempt.
    pub attempt: AttemptId,
    /// Checkpoint, or package.
    pub kind: SavedKind,
    /// The step that it holds.
    pub step: hone_proto::id::Step,
    /// Its manifest.
    pub manifest: Digest,
    /// Sum of its files.
    pub bytes: Bytes,
    /// Number of its files.
    pub files: u64,
}

/// What the driver does after a turn. Writes first, all of them durable; then the rest.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Store a record.
    Put(String, Vec<u8>),
    /// Remove a record.
    Delete(String),
    /// Append an event to a job's file; durable in the same turn.
    Append {
        /// Whose.
        job: JobId,
        /// `Series` or `Logs`.
        stream: Stream,
        /// The event.
        event: Box<Event>,
    },
    /// Append a hardware rollup to a node's file; durable in the same turn.
    AppendNode {
        /// Whose.
        node: NodeId,
        /// The event.
        event: Box<Event>,
    },
    /// Say something to a node, if its session lasts.
    Send(NodeId, Session, ToAgent),
    /// End a node's session.
    Close(NodeId, Session, Refusal),
    /// Answer a caller.
    Reply(Ticket, Result<Reply, Refusal>),
    /// Who may speak has changed.
    AccessChanged,
    /// A job has changed; those who watch it look again.
    JobChanged(JobId),
    /// An attempt was placed: for those who trace.
    Placed {
        /// Which.
        attempt: AttemptId,
        /// Where.
        node: NodeId,
        /// The trace of its submit.
        traceparent: String,
    },
}

impl Input {
    /// Whether it may use the last room of a disk that is full: it is small, and stops work, keeps somebody out, or keeps
    /// somebody in.
    #[must_use]
    pub fn may_use_the_last_room(&self) -> bool {
        match self {
            Self::Hello(_) | Self::Heartbeat(_) | Self::Closed { .. } | Self::Issued { .. } => true,
            Self::Request { command, .. } => match **command {
                Command::Cancel(_)
                | Command::Drain { .. }
                | Command::RevokeNode(_)
                | Command::RevokeUser(_)
                | Command::Lose(_) => true,
                Command::Submit { .. } | Command::Resume(_) | Command::MakeToken { .. } => false,
            },
            Self::Tick
            | Self::Events { .. }
            | Self::Commit { .. }
            | Self::CommitObject { .. }
            | Self::Spend { .. } => false,
        }
    }
}

impl Effect {
    /// Whether it has to be made durable.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        match self {
            Self::Put(..) | Self::Delete(_) | Self::Append { .. } | Self::AppendNode { .. } => true,
            Self::Send(..)
            | Self::Close(..)
            | Self::Reply(..)
            | Self::AccessChanged
            | Self::JobChanged(_)
            | Self::Placed { .. } => false,
        }
    }
}

/// What the controller says on the link.
#[derive(Debug, Clone, PartialEq)]
pub enum ToAgent {
    /// Hello is accepted.
    Welcome {
        /// This life of the state.
        generation: Generation,
        /// What is durable of the node's spool.
        positions: Vec<Position>,
    },
    /// What the node shall carry.
    Desired(DesiredSet),
    /// What is durable now.
    Ack(Position),
    /// The heartbeat of this number renewed the lease.
    HeartbeatAck(u64),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The job that was made or changed.
    Job {
        /// Which.
        job: JobId,
        /// The same request had been answered before.
        repeated: bool,
    },
    /// Done.
    Done,
    /// A token was spent by this subject.
    Spent(Subject),
}
