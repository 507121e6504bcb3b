//! The services: thin. Each converts, asks the fleet, and answers.

pub mod bulk;
pub mod enrolment;
pub mod fleet_bulk;
mod hardware;
pub mod link;
mod listing;
pub mod operator;
mod state;
mod streams;
mod submit;
#[cfg(test)]
mod tests;
mod views;

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{JobId, NodeId, RequestId, UserName};
use hone_proto::identity::{KeyDigest, Peer, PeerInfo};
use tonic::Request;

use crate::core::record::NodeAdmin;
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

/// The key of the certificate that a request came with.
fn key<T>(request: &Request<T>) -> Option<KeyDigest> {
    let info = request.extensions().get::<PeerInfo>()?;
    info.certificate.as_ref().map(|certificate| certificate.facts.key)
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

/// The node of this id, or the one of this host name. A machine that joined again has the name of its revoked
/// predecessor: that one is meant only when no other is left.
fn find_node(fleet: &Fleet, name: &str) -> Result<NodeId, Refusal> {
    if let Some(id) = fleet.nodes().keys().find(|id| id.as_str() == name) {
        return Ok(id.clone());
    }
    let named = || fleet.nodes().values().filter(|node| node.record.hostname == name);
    let mut known = named().filter(|node| node.record.admin != NodeAdmin::Revoked).peekable();
    let (first, second) = if known.peek().is_some() {
        (known.next(), known.next())
    } else {
        let mut revoked = named();
        (revoked.next(), revoked.next())
    };
    match (first, second) {
        (Some(node), None) => Ok(node.record.id.clone()),
        (Some(_), Some(_)) => {
            Err(Refusal::new(Reason::Conflict, format!("several nodes are called {name}")))
        }
        (None, _) => Err(Refusal::new(Reason::NotFound, format!("there is no node {name}"))),
    }
}

fn no_job(id: JobId) -> Refusal {
    Refusal::new(Reason::NotFound, format!("there is no job {id}"))
}
