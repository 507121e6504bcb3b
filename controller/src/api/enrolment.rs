//! Enrolment: the only service for peers without a certificate.

use std::sync::Arc;

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::NodeId;
use hone_proto::identity::{PeerInfo, source_of};
use hone_proto::time::Now;
use hone_proto::wire;
use tonic::{Request, Response, Status};

use crate::core::{Input, Reply};
use crate::driver::Handle;
use crate::identity::Issuer;
use crate::identity::issue::Request as Signing;
use crate::identity::joins::Joins;
use crate::identity::tokens::Presented;
use crate::renewal::{self, Renewals};

/// The service.
pub struct EnrolmentService {
    fleet: Handle,
    issuer: Arc<Issuer>,
    renewals: Renewals,
    joins: Joins,
}

impl EnrolmentService {
    /// Serves the fleet behind this handle.
    #[must_use]
    pub fn new(fleet: Handle, issuer: Arc<Issuer>, renewals: Renewals) -> Self {
        Self { fleet, issuer, renewals, joins: Joins::default() }
    }

    /// With other bounds on how often anybody may try.
    #[must_use]
    pub fn with_joins(self, joins: Joins) -> Self {
        Self { joins, ..self }
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<(), Refusal> {
        let info = request.extensions().get::<PeerInfo>();
        let source = info.map(|info| source_of(info.remote.ip()));
        let source = source.ok_or_else(|| Refusal::new(Reason::Internal, "no source address"))?;
        if self.joins.admit(source, Now::read().boot) {
            return Ok(());
        }
        tracing::warn!(%source, "too many tries to enrol");
        Err(Refusal::new(Reason::Overloaded, "too many tries to enrol; wait a minute"))
    }

    async fn spend(&self, request: &wire::EnrolRequest) -> Result<crate::core::Subject, Refusal> {
        let refused =
            || Refusal::new(Reason::TokenRefused, "the token is unknown, spent or expired");
        let for_node = match wire::EnrolKind::try_from(request.kind) {
            Ok(wire::EnrolKind::Node) => true,
            Ok(wire::EnrolKind::User) => false,
            Ok(wire::EnrolKind::Unspecified) | Err(_) => {
                return Err(Refusal::new(Reason::BadRequest, "kind is missing"));
            }
        };
        let presented = Presented::read(&request.token).ok_or_else(refused)?;
        let public_id = presented.public_id().to_owned();
        let wanted = public_id.clone();
        let hash = self
            .fleet
            .read(move |fleet| fleet.tokens().get(&wanted).map(|token| token.hash.clone()))
            .await?;
        if !self.issuer.authority.tokens().matches(hash.as_deref(), &presented) {
            return Err(refused());
        }
        let display_name: String =
            request.display_name.chars().filter(|c| !c.is_control()).take(64).collect();
        let fresh_node = fresh_node_id();
        let spend =
            move |ticket| Input::Spend { ticket, public_id, fresh_node, display_name, for_node };
        match self.fleet.call(spend).await? {
            Reply::Spent(subject) => Ok(subject),
            Reply::Job { .. } | Reply::Done => Err(refused()),
        }
    }
}

/// A random id: never derived from a token or a host name.
fn fresh_node_id() -> NodeId {
    let random = uuid::Uuid::new_v4().simple().to_string();
    let id = format!("n-{}", &random[..12]);
    match id.parse() {
        Ok(id) => id,
        Err(error) => unreachable!("hexadecimal digits are an id: {error}"),
    }
}

#[tonic::async_trait]
impl wire::enrolment_server::Enrolment for EnrolmentService {
    async fn enrol(
        &self,
        request: Request<wire::EnrolRequest>,
    ) -> Result<Response<wire::IssuedCertificate>, Status> {
        self.admit(&request)?;
        let request = request.into_inner();
        let csr = request.signing_request.clone().unwrap_or_default().csr_der;
        // A request that cannot be signed must not cost the token.
        Signing::read(&csr).map_err(|error| renewal::refusal(&error))?;
        let subject = self.spend(&request).await?;
        tracing::info!(%subject, "enrolled");
        Ok(Response::new(self.renewals.issue(subject, &csr, None).await?.answer))
    }

    async fn renew_expired(
        &self,
        request: Request<wire::SigningRequest>,
    ) -> Result<Response<wire::IssuedCertificate>, Status> {
        self.admit(&request)?;
        let csr = request.into_inner().csr_der;
        let signing = Signing::read(&csr).map_err(|error| renewal::refusal(&error))?;
        let key = signing.key();
        let held = self.fleet.read(move |fleet| fleet.holder_of(&key.to_string())).await?;
        let now = Now::read().wall;
        match held {
            Some((subject, held)) if now.since(held.not_after) <= self.renewals.grace() => {
                Ok(Response::new(self.renewals.issue(subject, &csr, Some(key)).await?.answer))
            }
            Some(_) | None => Err(Refusal::new(
                Reason::NotPermitted,
                "this key is not known, was revoked, or expired too long ago",
            )
            .into()),
        }
    }
}
