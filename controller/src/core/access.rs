//! Who may speak: tokens, roles, revocation. Decided here, so that of many who present one token one wins.

use std::collections::{BTreeMap, BTreeSet};

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{NodeId, UserName};
use hone_proto::time::Now;

use super::Fleet;
use super::input::{Reply, Subject};
use super::keys::Key;
use super::record::{NodeAdmin, NodeRecord, Role, TokenPurpose};

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
        // Revocation deletes tokens as well; what was revoked must not come back by one that is left all the same.
        let gone = |name: &UserName| self.users.get(name).is_none_or(|user| user.revoked);
        let for_whom = match &token.purpose {
            TokenPurpose::Node => None,
            TokenPurpose::User(name) => Some(name),
        };
        if gone(&token.made_by) || for_whom.is_some_and(gone) {
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
                    earlier: Vec::new(),
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
}
