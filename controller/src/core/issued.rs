//! Which keys may renew. Many answers may be lost between the controller and the one who asked, so a key is retired only
//! once its successor was used: until then both may renew, also after they expired.
//!
//! ```text
//! enrol            A            renews by A, later by nothing else
//! renew with A     A ◄─ B       B may never have arrived: A may renew, and B
//! renew with A     A ◄─ C       B never arrived: it is forgotten
//! renew with C     C ◄─ D       C arrived: A is retired
//! ```
//! A person has one such line for each machine that they logged in from.

use hone_proto::error::{Reason, Refusal};

use super::Fleet;
use super::input::{Reply, Subject};
use super::keys::Key;
use super::record::{CertificateRecord, NodeAdmin};

/// Certificates that are known of one subject. 16: a person's eight machines, each in the middle of a renewal; beyond it
/// the one that ends first is forgotten, and its machine has to enrol again once it has expired.
const MAX_KNOWN: usize = 16;

impl Fleet {
    /// Whose key this is, if its holder may still renew.
    #[must_use]
    pub fn holder_of(&self, key: &str) -> Option<(Subject, CertificateRecord)> {
        let find = |newest: &Option<CertificateRecord>, earlier: &[CertificateRecord]| {
            newest.iter().chain(earlier).find(|held| held.key == key).cloned()
        };
        let nodes = self.nodes.values().map(|node| &node.record);
        let node = nodes.filter(|node| node.admin != NodeAdmin::Revoked).find_map(|node| {
            let held = find(&node.certificate, &node.earlier)?;
            Some((Subject::Node(node.id.clone()), held))
        });
        node.or_else(|| {
            self.users.values().filter(|user| !user.revoked).find_map(|user| {
                let held = find(&user.certificate, &user.earlier)?;
                Some((Subject::User(user.name.clone()), held))
            })
        })
    }

    pub(super) fn on_issued(
        &mut self,
        subject: Subject,
        certificate: CertificateRecord,
        with: Option<&str>,
    ) -> Result<Reply, Refusal> {
        match subject {
            Subject::Node(id) => {
                let node = self.nodes.get_mut(&id).ok_or_else(|| Self::not_found("node", &id))?;
                let node = &mut node.record;
                if node.admin == NodeAdmin::Revoked {
                    return Err(Refusal::new(Reason::Revoked, "this node was revoked"));
                }
                add(&mut node.certificate, &mut node.earlier, certificate, with);
                self.dirty.insert(Key::Node(id));
            }
            Subject::User(name) => {
                let user =
                    self.users.get_mut(&name).ok_or_else(|| Self::not_found("operator", &name))?;
                if user.revoked {
                    return Err(Refusal::new(Reason::Revoked, format!("{name} was revoked")));
                }
                add(&mut user.certificate, &mut user.earlier, certificate, with);
                self.dirty.insert(Key::User(name));
            }
        }
        Ok(Reply::Done)
    }
}

fn add(
    newest: &mut Option<CertificateRecord>,
    earlier: &mut Vec<CertificateRecord>,
    mut issued: CertificateRecord,
    with: Option<&str>,
) {
    earlier.extend(newest.take());
    if let Some(with) = with {
        // It arrived: what it followed has served, and what else followed that never arrived.
        let used = earlier.iter_mut().find(|held| held.key == with);
        if let Some(before) = used.and_then(|used| used.follows.take()) {
            earlier.retain(|held| {
                held.key != before && held.follows.as_deref() != Some(before.as_str())
            });
        }
        // Whoever asks with it once more did not get the answers so far.
        earlier.retain(|held| held.follows.as_deref() != Some(with));
        issued.follows = Some(with.to_owned()).filter(|with| *with != issued.key);
    }
    earlier.retain(|held| held.key != issued.key);
    while earlier.len() >= MAX_KNOWN {
        let first = earlier.iter().enumerate().min_by_key(|(_, held)| held.not_after);
        let Some((place, _)) = first else { break };
        earlier.remove(place);
    }
    *newest = Some(issued);
}

#[cfg(test)]
mod tests {
    use hone_proto::id::UserName;
    use hone_proto::time::{Now, WallNanos};

    use super::super::Settings;
    use super::*;

    fn ada() -> UserName {
        "ada".parse().expect("a name")
    }

    fn fleet() -> Fleet {
        let fleet = "fleet-1".parse().expect("an id");
        Fleet::found(Settings::default(), fleet, ada(), Now::read()).0
    }

    fn issue(fleet: &mut Fleet, key: &str, with: Option<&str>) {
        let not_after = WallNanos::new(100);
        let certificate = CertificateRecord { key: key.to_owned(), not_after, follows: None };
        fleet.on_issued(Subject::User(ada()), certificate, with).expect("ada is known");
    }

    /// Those of these keys that may renew.
    fn may_renew(fleet: &Fleet, keys: &str) -> String {
        keys.chars().filter(|key| fleet.holder_of(&key.to_string()).is_some()).collect()
    }

    #[test]
    fn a_key_may_renew_until_its_successor_was_used() {
        let mut fleet = fleet();
        issue(&mut fleet, "a", None);
        issue(&mut fleet, "b", Some("a"));
        assert_eq!(may_renew(&fleet, "ab"), "ab", "the answer may have been lost, or not");
        issue(&mut fleet, "c", Some("a"));
        assert_eq!(may_renew(&fleet, "abc"), "ac", "b never arrived");
        issue(&mut fleet, "d", Some("c"));
        assert_eq!(may_renew(&fleet, "abcd"), "cd", "c arrived, so a has served");
        issue(&mut fleet, "d", Some("d"));
        assert_eq!(may_renew(&fleet, "abcd"), "d", "an expired key renews as itself");
    }

    #[test]
    fn a_persons_machines_renew_each_for_itself() {
        let mut fleet = fleet();
        issue(&mut fleet, "a", None);
        issue(&mut fleet, "x", None);
        issue(&mut fleet, "b", Some("a"));
        issue(&mut fleet, "c", Some("b"));
        assert_eq!(may_renew(&fleet, "abcx"), "bcx");
        issue(&mut fleet, "y", Some("x"));
        issue(&mut fleet, "z", Some("y"));
        assert_eq!(may_renew(&fleet, "abcxyz"), "bcyz");
        fleet.users.get_mut(&ada()).expect("ada").revoked = true;
        assert_eq!(may_renew(&fleet, "abcxyz"), "", "revoked, and may renew");
    }

    #[test]
    fn what_is_known_of_one_subject_is_bounded() {
        let mut fleet = fleet();
        for n in 0..100 {
            issue(&mut fleet, &n.to_string(), None);
        }
        let user = fleet.users.get(&ada()).expect("ada");
        assert_eq!(user.earlier.len() + 1, MAX_KNOWN);
        assert!(fleet.holder_of("99").is_some());
    }
}
