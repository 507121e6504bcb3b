//! The services: thin. Each converts, asks the fleet, and answers.

pub mod bulk;
pub mod enrolment;
pub mod fleet_bulk;
pub mod link;
pub mod operator;
mod streams;
mod submit;
mod views;

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{JobId, NodeId, RequestId, UserName};
use hone_proto::identity::{Peer, PeerInfo};
use tonic::Request;

use crate::core::{AccessFacts, Caller, Fleet};

/// The peer that a request came from. The access layer has admitted it already.
fn peer<T>(request: &Request<T>) -> Result<Peer, Refusal> {
    request
        .extensions()
        .get::<PeerInfo>()
        .and_then(|info| info.certificate.as_ref())
        .map(|certificate| certificate.id.peer.clone())
        .ok_or_else(|| Refusal::new(Reason::Unauthenticated, "the call carries no certificate"))
}

/// The node that a request came from.
fn node<T>(request: &Request<T>) -> Result<NodeId, Refusal> {
    match peer(request)? {
        Peer::Node(id) => Ok(id),
        Peer::User(_) | Peer::Controller => {
            Err(Refusal::new(Reason::NotPermitted, "only a node may call this"))
        }
    }
}

/// The person that a request came from, with the role that they have now.
fn caller<T>(request: &Request<T>, access: &AccessFacts) -> Result<Caller, Refusal> {
    match peer(request)? {
        Peer::User(user) => role_of(user, access),
        Peer::Node(_) | Peer::Controller => {
            Err(Refusal::new(Reason::NotPermitted, "only a person may call this"))
        }
    }
}

fn role_of(user: UserName, access: &AccessFacts) -> Result<Caller, Refusal> {
    match access.users.get(&user) {
        Some(role) => Ok(Caller { role: *role, user }),
        None => Err(Refusal::new(Reason::Revoked, format!("{user} has no access any more"))),
    }
}

fn request_id(text: &str) -> Result<RequestId, Refusal> {
    text.parse().map_err(|error| Refusal::new(Reason::BadRequest, format!("request_id: {error}")))
}

/// The node of this id, or the only one of this host name.
fn find_node(fleet: &Fleet, name: &str) -> Result<NodeId, Refusal> {
    if let Some(id) = fleet.nodes().keys().find(|id| id.as_str() == name) {
        return Ok(id.clone());
    }
    let mut named = fleet.nodes().values().filter(|node| node.record.hostname == name);
    match (named.next(), named.next()) {
        (Some(node), None) => Ok(node.record.id.clone()),
        (Some(_), Some(_)) => Err(Refusal::new(
            Reason::Conflict,
            format!("several nodes are called {name}; name one by its id"),
        )),
        (None, _) => Err(Refusal::new(Reason::NotFound, format!("there is no node {name}"))),
    }
}

fn no_job(id: JobId) -> Refusal {
    Refusal::new(Reason::NotFound, format!("there is no job {id}"))
}
