//! Who may speak: tokens, certificates, revocation. Decided here, so that of many who present one token one wins.

use std::collections::{BTreeMap, BTreeSet};

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{NodeId, UserName};
use hone_proto::time::Now;

use super::Fleet;
use super::input::{Reply, Subject};
use super::keys::Key;
use super::record::{CertificateRecord, NodeAdmin, NodeRecord, Role, TokenPurpose};

/// Who may speak, as of one turn: what the listeners check on every call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessFacts {
    /// People with the role that they have; revoked ones are absent.
    pub users: BTreeMap<UserName, Role>,
    /// Nodes; revoked ones are absent.
    pub nodes: BTreeSet<NodeId>,
}

impl Fleet {
    /// Who may speak now.
    #[must_use]
    pub fn access(&self) -> AccessFacts {
        AccessFacts {
            users: self
                .users
                .values()
                .filter(|user| !user.revoked)
                .map(|user| (user.name.clone(), user.role))
                .collect(),
            nodes: self
                .nodes
                .values()
                .filter(|node| node.record.admin != NodeAdmin::Revoked)
                .map(|node| node.record.id.clone())
                .collect(),
        }
    }

    /// Whose key this is, if its holder may still renew.
    #[must_use]
    pub fn holder_of(&self, key: &str) -> Option<(Subject, CertificateRecord)> {
        let node = self.nodes.values().find_map(|node| {
            let held = node.record.certificate.clone()?;
            (held.key == key && node.record.admin != NodeAdmin::Revoked)
                .then(|| (Subject::Node(node.record.id.clone()), held))
        });
        node.or_else(|| {
            self.users.values().find_map(|user| {
                let held = user.certificate.clone()?;
                (held.key == key && !user.revoked).then(|| (Subject::User(user.name.clone()), held))
            })
        })
    }

    pub(super) fn on_spend(
        &mut self,
        now: Now,
        public_id: &str,
        fresh_node: NodeId,
        display_name: String,
        for_node: bool,
    ) -> Result<Reply, Refusal> {
        // One answer for every way in which a token can be wrong: guessing learns nothing.
        let refused =
            || Refusal::new(Reason::TokenRefused, "the token is unknown, spent or expired");
        let token = self.tokens.get_mut(public_id).ok_or_else(refused)?;
        let right_kind = matches!(token.purpose, TokenPurpose::Node) == for_node;
        if token.spent || token.expires <= now.wall || !right_kind {
            return Err(refused());
        }
        token.spent = true;
        let (made_by, purpose) = (token.made_by.clone(), token.purpose.clone());
        self.dirty.insert(Key::Token(public_id.to_owned()));
        let subject = match purpose {
            TokenPurpose::Node => {
                self.add_node(NodeRecord {
                    id: fresh_node.clone(),
                    hostname: display_name.clone(),
                    enrolled_by: made_by.clone(),
                    enrolled_at: now.wall,
                    admin: NodeAdmin::Ready,
                    certificate: None,
                    boot: None,
                    capacity: None,
                    agent_version: String::new(),
                    last_hello: None,
                    revision: Default::default(),
                });
                self.dirty.insert(Key::Node(fresh_node.clone()));
                self.note(now, "node_enrolled", Some(made_by), |line| {
                    line.node = Some(fresh_node.clone());
                    line.text = format!("{display_name} joined");
                });
                Subject::Node(fresh_node)
            }
            TokenPurpose::User(name) => {
                self.note(now, "operator_enrolled", Some(made_by), |line| {
                    line.text = format!("{name} logged in for the first time");
                });
                Subject::User(name)
            }
        };
        self.out.push(super::Effect::AccessChanged);
        Ok(Reply::Spent(subject))
    }

    pub(super) fn on_issued(
        &mut self,
        subject: Subject,
        certificate: CertificateRecord,
    ) -> Result<Reply, Refusal> {
        match subject {
            Subject::Node(id) => {
                let node = self.nodes.get_mut(&id).ok_or_else(|| Self::not_found("node", &id))?;
                node.record.certificate = Some(certificate);
                self.dirty.insert(Key::Node(id));
            }
            Subject::User(name) => {
                let user =
                    self.users.get_mut(&name).ok_or_else(|| Self::not_found("operator", &name))?;
                user.certificate = Some(certificate);
                self.dirty.insert(Key::User(name));
            }
        }
        Ok(Reply::Done)
    }
}
