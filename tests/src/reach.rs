//! Where a controller is reached, and as whom: the same for one within the test and for one that is a process.

use std::time::Duration;

use anyhow::Context as _;
use hone_proto::enrol::{EnrolError, Invitation, enrol};
use hone_proto::identity::{
    ClientIdentity, Connector, ControllerAddress, Credentials, Fingerprint, Plane,
};
use hone_proto::wire;
use hone_proto::wire::bulk_client::BulkClient;
use hone_proto::wire::link_client::LinkClient;
use hone_proto::wire::operator_client::OperatorClient;
use tonic::transport::Channel;

use crate::identities::Identities;

/// The first admin's name.
pub const ADMIN: &str = "ada";

/// A controller as seen from outside.
pub struct Reach {
    /// Certificates of its authority, and wrong ones.
    pub identities: Identities,
    /// Where it listens.
    pub address: ControllerAddress,
    /// The first admin.
    pub admin: Credentials,
}

impl Reach {
    /// SHA-256 of the root.
    #[must_use]
    pub fn root(&self) -> Fingerprint {
        self.identities.issuer.authority.root_fingerprint()
    }

    /// A channel with this identity.
    pub fn channel(&self, identity: ClientIdentity, plane: Plane) -> anyhow::Result<Channel> {
        Ok(Connector::fixed(identity).channel(&self.address, plane)?)
    }

    /// The operators' service, as the holder of these credentials.
    pub fn operator(&self, credentials: &Credentials) -> anyhow::Result<OperatorClient<Channel>> {
        let identity = ClientIdentity::new(credentials)?;
        Ok(OperatorClient::new(self.channel(identity, Plane::Control)?))
    }

    /// The link, as the holder of these credentials.
    pub fn link(&self, credentials: &Credentials) -> anyhow::Result<LinkClient<Channel>> {
        let identity = ClientIdentity::new(credentials)?;
        Ok(LinkClient::new(self.channel(identity, Plane::Control)?))
    }

    /// Bulk data, as the holder of these credentials.
    pub fn bulk(&self, credentials: &Credentials) -> anyhow::Result<BulkClient<Channel>> {
        let identity = ClientIdentity::new(credentials)?;
        Ok(BulkClient::new(self.channel(identity, Plane::Bulk)?))
    }

    /// A token for one node.
    pub async fn node_token(&self, ttl_seconds: u32) -> anyhow::Result<String> {
        let request = wire::CreateNodeTokenRequest { request_id: fresh_id(), ttl_seconds };
        let reply = self.operator(&self.admin)?.create_node_token(request).await?;
        Ok(reply.into_inner().token)
    }

    /// A token for this person.
    pub async fn invite(&self, name: &str, role: &str) -> anyhow::Result<String> {
        let request = wire::InviteOperatorRequest {
            request_id: fresh_id(),
            user: name.to_owned(),
            role: role.to_owned(),
            ttl_seconds: 0,
        };
        let reply = self.operator(&self.admin)?.invite_operator(request).await?;
        Ok(reply.into_inner().token)
    }

    /// What a newcomer with this token knows.
    #[must_use]
    pub fn invitation(&self, token: &str, kind: wire::EnrolKind) -> Invitation {
        Invitation {
            controller: self.address.clone(),
            root: self.root(),
            token: token.to_owned().into(),
            kind,
            display_name: "host-1".to_owned(),
        }
    }

    /// Enrols with this token.
    pub async fn enrol(
        &self,
        token: &str,
        kind: wire::EnrolKind,
    ) -> Result<Credentials, EnrolError> {
        enrol(self.invitation(token, kind)).await
    }

    /// A node that has enrolled.
    pub async fn enrolled_node(&self) -> anyhow::Result<Credentials> {
        let token = self.node_token(0).await?;
        self.enrol(&token, wire::EnrolKind::Node).await.context("a node enrols")
    }

    /// A person that has enrolled.
    pub async fn enrolled_user(&self, name: &str, role: &str) -> anyhow::Result<Credentials> {
        let token = self.invite(name, role).await?;
        self.enrol(&token, wire::EnrolKind::User).await.context("a person enrols")
    }
}

/// A request id that was never used.
#[must_use]
pub fn fresh_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// How long anything may take that is over in a moment on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
