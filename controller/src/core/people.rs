//! Who may speak: tokens that invite machines and people, and people who are shut out.

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::UserName;
use hone_proto::time::{Now, WallNanos};

use super::Fleet;
use super::input::{Caller, Effect, Reply};
use super::keys::Key;
use super::record::{Role, TokenPurpose, TokenRecord, UserRecord};

impl Fleet {
    #[expect(clippy::too_many_arguments, reason = "they are the fields of one command")]
    pub(super) fn make_token(
        &mut self,
        now: Now,
        caller: &Caller,
        public_id: String,
        hash: String,
        purpose: TokenPurpose,
        role: Option<Role>,
        expires: WallNanos,
    ) -> Result<Reply, Refusal> {
        if let TokenPurpose::User(name) = &purpose {
            let role = role.unwrap_or(Role::Viewer);
            if self.users.get(name).is_some_and(|user| user.revoked) {
                let text = format!("{name} was revoked; invite them under another name");
                return Err(Refusal::new(Reason::Conflict, text));
            }
            if *name == caller.user && role < caller.role {
                let text = "you cannot lower your own role".to_owned();
                return Err(Refusal::new(Reason::Conflict, text));
            }
            let user = self.users.entry(name.clone()).or_insert_with(|| UserRecord {
                name: name.clone(),
                role,
                invited_by: Some(caller.user.clone()),
                certificate: None,
                earlier: Vec::new(),
                revoked: false,
            });
            user.role = role;
            self.dirty.insert(Key::User(name.clone()));
            self.out.push(Effect::AccessChanged);
        }
        let what = match &purpose {
            TokenPurpose::Node => "for a node".to_owned(),
            TokenPurpose::User(name) => format!("for {name}"),
        };
        self.note(now, "token_made", Some(caller.user.clone()), |line| line.text = what);
        // Tokens that can never be spent again are of no use to anybody.
        let dead: Vec<_> = self
            .tokens
            .values()
            .filter(|token| token.spent || token.expires <= now.wall)
            .map(|token| token.public_id.clone())
            .collect();
        self.forget_tokens(dead);
        self.dirty.insert(Key::Token(public_id.clone()));
        let made_by = caller.user.clone();
        let record = TokenRecord {
            public_id: public_id.clone(),
            hash,
            purpose,
            made_by,
            expires,
            spent: false,
        };
        self.tokens.insert(public_id, record);
        Ok(Reply::Done)
    }

    fn forget_tokens(&mut self, dead: Vec<String>) {
        for id in dead {
            self.tokens.remove(&id);
            self.dirty.insert(Key::Token(id));
        }
    }

    pub(super) fn revoke_user(
        &mut self,
        now: Now,
        caller: &Caller,
        name: &UserName,
    ) -> Result<Reply, Refusal> {
        let admins = self
            .users
            .values()
            .filter(|user| user.role == Role::Admin && !user.revoked && user.name != *name)
            .count();
        let user = self.users.get_mut(name).ok_or_else(|| Self::not_found("operator", name))?;
        if admins == 0 {
            let text = format!("{name} is the only admin; invite another one first");
            return Err(Refusal::new(Reason::Conflict, text));
        }
        user.revoked = true;
        self.dirty.insert(Key::User(name.clone()));
        // What they handed out, and what was handed out to them, must not let anybody in after this.
        let theirs = |token: &&TokenRecord| {
            token.made_by == *name || token.purpose == TokenPurpose::User(name.clone())
        };
        let dead: Vec<_> =
            self.tokens.values().filter(theirs).map(|token| token.public_id.clone()).collect();
        self.forget_tokens(dead);
        self.note(now, "operator_revoked", Some(caller.user.clone()), |line| {
            line.text = name.to_string();
        });
        self.out.push(Effect::AccessChanged);
        Ok(Reply::Done)
    }
}
