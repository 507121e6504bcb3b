//! Tokens that let a machine or a colleague join: how long they work, and making one.

use std::time::Duration;

use hone_proto::error::{Reason, Refusal};
use hone_proto::identity::Role;
use hone_proto::time::Now;
use hone_proto::wire;
use secrecy::ExposeSecret as _;
use tonic::{Response, Status};

use super::{OperatorService, internal};
use crate::core::record::TokenPurpose;
use crate::core::{Caller, Command};

/// How long tokens work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLives {
    /// A machine's, unless the caller says otherwise.
    pub usual: Duration,
    /// At most; an invitation's, unless the caller says otherwise.
    pub most: Duration,
}

impl Default for TokenLives {
    /// Long enough to change windows, short enough to leak; and a day at most.
    fn default() -> Self {
        Self { usual: Duration::from_secs(15 * 60), most: Duration::from_secs(24 * 3600) }
    }
}

impl OperatorService {
    pub(super) async fn make_token(
        &self,
        caller: Caller,
        request: &str,
        purpose: TokenPurpose,
        role: Option<Role>,
        ttl_seconds: u32,
    ) -> Result<Response<wire::TokenReply>, Status> {
        let ttl = match (ttl_seconds, &purpose) {
            // Who joins a machine sits in front of it; a colleague reads the message when the day allows.
            (0, TokenPurpose::Node) => self.facts.tokens.usual.min(self.facts.tokens.most),
            (0, TokenPurpose::User(_)) => self.facts.tokens.most,
            (n, _) => Duration::from_secs(n.into()),
        };
        if ttl > self.facts.tokens.most {
            let most = self.facts.tokens.most.as_secs();
            let text = format!("a token works for {most} seconds at most here");
            return Err(Refusal::new(Reason::BadRequest, text).into());
        }
        let (secret, parts) = self.facts.issuer.authority.tokens().mint().map_err(internal)?;
        let expires = Now::read().wall.plus(ttl);
        let command = Command::MakeToken {
            public_id: parts.public_id,
            hash: parts.hash,
            purpose,
            role,
            expires,
        };
        self.change(caller, request, command).await?;
        Ok(Response::new(wire::TokenReply {
            token: secret.expose_secret().to_owned(),
            expires_wall_ns: expires.get(),
            root_fingerprint: self.facts.root_fingerprint.clone(),
            address: self.facts.address.clone(),
            control_port: self.facts.control_port.into(),
        }))
    }
}
