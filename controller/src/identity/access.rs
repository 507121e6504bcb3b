//! Who may call what: one table, complete by test. A call that is not in it is refused.

use hone_proto::error::{Reason, Refusal};
use hone_proto::identity::{Peer, Role};

use crate::core::AccessFacts;

/// Who may make a call. Ownership is checked later, by the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Anybody, without a certificate: the enrolment port.
    Anyone,
    /// A node of the fleet.
    Node,
    /// A person with at least this role.
    User(Role),
    /// A node, or a person with at least this role.
    NodeOrUser(Role),
}

/// Every call of every service.
pub const TABLE: &[(&str, Rule)] = &[
    ("/hone.v1.Enrolment/Enrol", Rule::Anyone),
    ("/hone.v1.Enrolment/RenewExpired", Rule::Anyone),
    ("/hone.v1.Link/Attach", Rule::Node),
    ("/hone.v1.Link/Renew", Rule::NodeOrUser(Role::Viewer)),
    ("/hone.v1.Bulk/Missing", Rule::NodeOrUser(Role::Submitter)),
    ("/hone.v1.Bulk/Upload", Rule::NodeOrUser(Role::Submitter)),
    ("/hone.v1.Bulk/Commit", Rule::NodeOrUser(Role::Submitter)),
    ("/hone.v1.Bulk/GetManifest", Rule::NodeOrUser(Role::Viewer)),
    ("/hone.v1.Bulk/Download", Rule::NodeOrUser(Role::Viewer)),
    ("/hone.v1.Operator/WhoAmI", Rule::User(Role::Viewer)),
    ("/hone.v1.Operator/Submit", Rule::User(Role::Submitter)),
    ("/hone.v1.Operator/Cancel", Rule::User(Role::Submitter)),
    ("/hone.v1.Operator/ListJobs", Rule::User(Role::Viewer)),
    ("/hone.v1.Operator/GetJob", Rule::User(Role::Viewer)),
    ("/hone.v1.Operator/Explain", Rule::User(Role::Viewer)),
    ("/hone.v1.Operator/Series", Rule::User(Role::Viewer)),
    ("/hone.v1.Operator/Logs", Rule::User(Role::Viewer)),
    ("/hone.v1.Operator/Checkpoints", Rule::User(Role::Viewer)),
    ("/hone.v1.Operator/Events", Rule::User(Role::Viewer)),
    ("/hone.v1.Operator/CreateNodeToken", Rule::User(Role::Operator)),
    ("/hone.v1.Operator/ListNodes", Rule::User(Role::Viewer)),
    ("/hone.v1.Operator/GetNode", Rule::User(Role::Viewer)),
    ("/hone.v1.Operator/Hardware", Rule::User(Role::Viewer)),
    ("/hone.v1.Operator/DrainNode", Rule::User(Role::Operator)),
    ("/hone.v1.Operator/ResumeNode", Rule::User(Role::Operator)),
    ("/hone.v1.Operator/RevokeNode", Rule::User(Role::Admin)),
    ("/hone.v1.Operator/LoseNode", Rule::User(Role::Operator)),
    ("/hone.v1.Operator/InviteOperator", Rule::User(Role::Admin)),
    ("/hone.v1.Operator/ListOperators", Rule::User(Role::Admin)),
    ("/hone.v1.Operator/RevokeOperator", Rule::User(Role::Admin)),
    ("/hone.v1.Operator/ExportState", Rule::User(Role::Admin)),
];

/// The rule of a call; `None` for one that does not exist.
#[must_use]
pub fn rule(path: &str) -> Option<Rule> {
    TABLE.iter().find(|(known, _)| *known == path).map(|(_, rule)| *rule)
}

/// Whether this peer may make this call now.
pub fn admit(path: &str, peer: Option<&Peer>, facts: &AccessFacts) -> Result<(), Refusal> {
    let Some(rule) = rule(path) else {
        return Err(Refusal::new(Reason::Protocol, format!("there is no call {path}")));
    };
    if rule == Rule::Anyone {
        return Ok(());
    }
    let Some(peer) = peer else {
        return Err(Refusal::new(Reason::Unauthenticated, "the call needs a certificate"));
    };
    let refused = |why: String| Err(Refusal::new(Reason::NotPermitted, why));
    match (peer, rule) {
        (Peer::Node(id), Rule::Node | Rule::NodeOrUser(_)) => {
            if facts.nodes.contains(id) {
                Ok(())
            } else {
                Err(revoked(peer))
            }
        }
        (Peer::User(name), Rule::User(least) | Rule::NodeOrUser(least)) => {
            match facts.users.get(name) {
                None => Err(revoked(peer)),
                Some(role) if *role >= least => Ok(()),
                Some(role) => {
                    let (has, needs) = (one(*role), one(least));
                    refused(format!("{name} is {has}; this call needs {needs}"))
                }
            }
        }
        (Peer::Node(_), _) => refused("a node may not make this call".to_owned()),
        (Peer::User(_), _) => refused("only a node may make this call".to_owned()),
        (Peer::Controller, _) => refused("a controller makes no calls".to_owned()),
    }
}

/// A role with its article.
fn one(role: Role) -> String {
    let article = match role {
        Role::Viewer | Role::Submitter => "a",
        Role::Operator | Role::Admin => "an",
    };
    format!("{article} {role}")
}

/// Whether this peer may go on with what it began.
#[must_use]
pub fn still_known(peer: &Peer, facts: &AccessFacts) -> bool {
    match peer {
        Peer::Node(id) => facts.nodes.contains(id),
        Peer::User(name) => facts.users.contains_key(name),
        Peer::Controller => false,
    }
}

/// The answer to somebody whose access was taken away.
#[must_use]
pub fn revoked(peer: &Peer) -> Refusal {
    let who = match peer {
        Peer::Node(id) => format!("node {id}"),
        Peer::User(name) => name.to_string(),
        Peer::Controller => "a controller".to_owned(),
    };
    Refusal::new(Reason::Revoked, format!("{who} was revoked or is not known"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost::Message as _;

    use super::*;

    fn every_call() -> BTreeSet<String> {
        let set = prost_types::FileDescriptorSet::decode(hone_proto::wire::DESCRIPTORS)
            .expect("the descriptor set");
        set.file
            .iter()
            .filter(|file| file.package() == "hone.v1")
            .flat_map(|file| file.service.iter())
            .flat_map(|service| {
                service
                    .method
                    .iter()
                    .map(move |method| format!("/hone.v1.{}/{}", service.name(), method.name()))
            })
            .collect()
    }

    #[test]
    fn the_table_names_every_call_once_and_no_other() {
        let listed: Vec<_> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        let unique: BTreeSet<_> = listed.iter().cloned().collect();
        assert_eq!(listed.len(), unique.len(), "a call stands twice");
        assert_eq!(unique, every_call());
    }

    #[test]
    fn nobody_gets_through_a_door_that_is_not_theirs() {
        let facts = AccessFacts {
            users: BTreeMap::from(
                Role::ALL.map(|role| (role.to_string().parse().expect("a name"), role)),
            ),
            nodes: BTreeSet::from(["n1".parse().expect("an id")]),
        };
        let node = Peer::Node("n1".parse().expect("an id"));
        let stranger = Peer::Node("n2".parse().expect("an id"));
        for (path, rule) in TABLE {
            let may = |peer: Option<&Peer>| admit(path, peer, &facts).is_ok();
            assert_eq!(may(None), *rule == Rule::Anyone, "{path} without a certificate");
            let nodes = matches!(rule, Rule::Anyone | Rule::Node | Rule::NodeOrUser(_));
            assert_eq!(may(Some(&node)), nodes, "{path} by a node");
            assert_eq!(may(Some(&stranger)), *rule == Rule::Anyone, "{path} by a revoked node");
            for role in Role::ALL {
                let user = Peer::User(role.to_string().parse().expect("a name"));
                let admitted = match rule {
                    Rule::Anyone => true,
                    Rule::Node => false,
                    Rule::User(least) | Rule::NodeOrUser(least) => role >= *least,
                };
                assert_eq!(may(Some(&user)), admitted, "{path} by a {role}");
            }
        }
        assert!(admit("/hone.v1.Operator/Nothing", Some(&node), &facts).is_err());
        let refused = |path, role: Role| {
            let user = Peer::User(role.to_string().parse().expect("a name"));
            admit(path, Some(&user), &facts).expect_err("too little").message
        };
        assert_eq!(
            refused("/hone.v1.Operator/RevokeNode", Role::Operator),
            "operator is an operator; this call needs an admin"
        );
        assert_eq!(
            refused("/hone.v1.Operator/Submit", Role::Viewer),
            "viewer is a viewer; this call needs a submitter"
        );
    }
}
