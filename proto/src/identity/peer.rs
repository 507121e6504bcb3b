//! The name in a certificate, and nothing else of it, says who the peer is.

use std::fmt;
use std::str::FromStr;

use crate::id::{FleetId, NodeId, UserName};

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// The fleet's controller.
    Controller,
    /// The agent of one node.
    Node(NodeId),
    /// A person.
    User(UserName),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller => f.write_str("controller"),
            Self::Node(id) => write!(f, "node/{id}"),
            Self::User(name) => write!(f, "user/{name}"),
        }
    }
}

/// A peer of one fleet, written `spiffe://<fleet id>/<peer>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// The fleet.
    pub fleet: FleetId,
    /// The peer within it.
    pub peer: Peer,
}

/// A name that is none of `spiffe://<fleet id>/{controller, node/<id>, user/<name>}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} does not name a peer of a fleet")]
pub struct NotAPeer {
    /// The name, cut to 200 characters.
    pub text: String,
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}", self.fleet, self.peer)
    }
}

impl FromStr for SpiffeId {
    type Err = NotAPeer;

    /// Exact: every accepted text is what [`fmt::Display`] writes for the result.
    fn from_str(text: &str) -> Result<Self, NotAPeer> {
        parse(text).ok_or_else(|| NotAPeer { text: text.chars().take(200).collect() })
    }
}

fn parse(text: &str) -> Option<SpiffeId> {
    let (fleet, path) = text.strip_prefix("spiffe://")?.split_once('/')?;
    let fleet = fleet.parse().ok()?;
    let peer = match path.split_once('/') {
        None if path == "controller" => Peer::Controller,
        Some(("node", id)) => Peer::Node(id.parse().ok()?),
        Some(("user", name)) => Peer::User(name.parse().ok()?),
        _ => return None,
    };
    Some(SpiffeId { fleet, peer })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_the_three_kinds_of_peer() {
        let parse = |text: &str| text.parse::<SpiffeId>().map(|id| id.peer);
        assert_eq!(parse("spiffe://f1/controller"), Ok(Peer::Controller));
        assert_eq!(parse("spiffe://f1/node/n-1"), Ok(Peer::Node("n-1".parse().expect("an id"))));
        assert_eq!(parse("spiffe://f1/user/ann"), Ok(Peer::User("ann".parse().expect("a name"))));
    }

    #[test]
    fn anything_else_is_nobody() {
        for bad in [
            "",
            "spiffe://",
            "spiffe:///controller",
            "spiffe://f1",
            "spiffe://f1/",
            "spiffe://f1/controller/",
            "spiffe://f1/controllers",
            "spiffe://f1/node",
            "spiffe://f1/node/",
            "spiffe://f1/node/a/b",
            "spiffe://f1/node/..",
            "spiffe://f1/user/Ann",
            "spiffe://f1/admin/ann",
            "SPIFFE://f1/controller",
            "https://f1/controller",
            "spiffe://f1/controller?x",
            "spiffe://f1/user/ann#admin",
            "spiffe://f1/user/ann\0",
            "spiffe://f1:80/controller",
            "spiffe://u@f1/controller",
            " spiffe://f1/controller",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn every_peer_survives_its_name(
            fleet in "[a-z0-9][a-z0-9._-]{0,63}",
            id in "[a-z0-9][a-z0-9._-]{0,63}",
            kind in 0_u8..3,
        ) {
            let peer = match kind {
                0 => Peer::Controller,
                1 => Peer::Node(id.parse().expect("a node id")),
                _ => Peer::User(id.parse().expect("a user name")),
            };
            let name = SpiffeId { fleet: fleet.parse().expect("a fleet id"), peer };
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }

        #[test]
        fn no_text_has_two_readings(
            text in prop_oneof![any::<String>(), "(spiffe://)?[a-z0-9./#?:@-]{0,12}(/(node|user|controller))?(/[a-zA-Z0-9./ -]{0,9})?"],
        ) {
            if let Ok(name) = text.parse::<SpiffeId>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
