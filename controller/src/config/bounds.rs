//! Bounds on what others may cost, each with its default and its reason.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use hone_proto::identity::AcceptLimits;
use hone_proto::quantity::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::api::bulk::Limits;
use crate::api::operator::TokenLives;
use crate::core::Settings;
use crate::driver::NODE_HISTORY;
use crate::identity::joins::{self, Joins};

/// How much of everything there may be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Connections to the control port, and as many to the bulk port.
    pub connections: NonZeroUsize,
    /// Of these, from one source: machines behind one NAT are one source.
    pub connections_per_source: NonZeroUsize,
    /// Tries to enrol in a minute from one source. A machine that joins needs one.
    pub joins_per_source: NonZeroU32,
    /// Tries to enrol in a minute in all: a fleet that is set up by a script stays below it.
    pub joins: NonZeroU32,
    /// How long a machine's token works unless its maker says otherwise, in seconds: long enough to change windows.
    pub token_seconds: NonZeroU32,
    /// How long a token may work at most, and an invitation works unless its maker says otherwise, in seconds. A day,
    /// which is also the most that `--ttl` takes.
    pub token_most_seconds: NonZeroU32,
    /// Uploads, and as many downloads, that one peer may have in progress.
    pub bulk_streams_per_peer: NonZeroUsize,
    /// Chunks of 4 MiB that all uploads together hold in memory.
    pub bulk_chunks_in_memory: NonZeroUsize,
    /// Lines of the fleet's history.
    pub history: NonZeroU64,
    /// Hardware history of each node on the disk; the oldest goes first, 8 MiB at a time.
    #[serde(deserialize_with = "size")]
    pub node_history: Bytes,
}

/// A size with its unit, as in a spec.
pub(super) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

impl Default for Bounds {
    fn default() -> Self {
        let (accept, bulk, tokens) =
            (AcceptLimits::default(), Limits::default(), TokenLives::default());
        let few = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let seconds = |life: Duration| u32::try_from(life.as_secs()).unwrap_or(u32::MAX);
        let some = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        Self {
            connections: some(accept.connections),
            connections_per_source: some(accept.connections_per_source),
            joins_per_source: few(joins::PER_SOURCE),
            joins: few(joins::IN_ALL),
            token_seconds: few(seconds(tokens.usual)),
            token_most_seconds: few(seconds(tokens.most)),
            bulk_streams_per_peer: some(bulk.streams_per_peer),
            bulk_chunks_in_memory: some(bulk.chunks_in_memory),
            history: NonZeroU64::new(Settings::default().keep_history).unwrap_or(NonZeroU64::MIN),
            node_history: NODE_HISTORY,
        }
    }
}

impl Bounds {
    /// Of the control port and the bulk port.
    #[must_use]
    pub fn accept(&self) -> AcceptLimits {
        AcceptLimits {
            connections: self.connections.get(),
            connections_per_source: self.connections_per_source.get(),
            ..AcceptLimits::default()
        }
    }

    /// Of bulk data.
    #[must_use]
    pub fn bulk(&self) -> Limits {
        Limits {
            streams_per_peer: self.bulk_streams_per_peer.get(),
            chunks_in_memory: self.bulk_chunks_in_memory.get(),
            ..Limits::default()
        }
    }

    /// Of enrolment.
    #[must_use]
    pub fn enrolment(&self) -> Joins {
        Joins::new(self.joins_per_source.get(), self.joins.get())
    }

    /// Of tokens.
    #[must_use]
    pub fn tokens(&self) -> TokenLives {
        let seconds = |n: NonZeroU32| Duration::from_secs(n.get().into());
        TokenLives { usual: seconds(self.token_seconds), most: seconds(self.token_most_seconds) }
    }
}
