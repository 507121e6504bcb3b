//! The calls of the bulk service, each with its deadline, and the patience around those that may be repeated.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::retry::Patience;
use super::{BulkError, DIGESTS, MESSAGE, Retry, STALL, Scope};
use crate::id::{Digest, RequestId};
use crate::manifest::{Sealed, decode_and_validate};
use crate::wire;
use crate::wire::bulk_client::BulkClient;

/// Adds what every call shall carry, such as the trace context.
pub type Decorate = Arc<dyn Fn(&mut MetadataMap) + Send + Sync>;

/// How long a client waits. The defaults suit a link of 256 kbit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For one answer. A commit checks every chunk of its manifest, 100,000 at most.
    pub call: Duration,
    /// For the next frame of a download.
    pub stall: Duration,
    /// For the acknowledgement of a chunk: several windows may lie in the buffers of a slow link before it.
    pub ack: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { call: Duration::from_secs(120), stall: STALL, ack: Duration::from_secs(600) }
    }
}

/// Moves bulk data for one scope over one connection, which it shares and which reconnects by itself.
#[derive(Clone)]
pub struct Client {
    rpc: BulkClient<Channel>,
    scope: Scope,
    retry: Retry,
    pub(super) limits: Limits,
    decorate: Option<Decorate>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Client {
    /// A client over a channel to the bulk port.
    #[must_use]
    pub fn new(channel: Channel, scope: Scope, retry: Retry) -> Self {
        let rpc = BulkClient::new(channel)
            .max_decoding_message_size(MESSAGE)
            .max_encoding_message_size(MESSAGE);
        Self { rpc, scope, retry, limits: Limits::default(), decorate: None }
    }

    /// With other waits.
    #[must_use]
    pub const fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// With metadata on every call.
    #[must_use]
    pub fn with_metadata(mut self, decorate: Decorate) -> Self {
        self.decorate = Some(decorate);
        self
    }

    /// On whose behalf it moves data.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(super) const fn patience(&self) -> Patience {
        Patience::new(self.retry)
    }

    pub(super) fn wire_scope(&self) -> Option<wire::Scope> {
        Some(wire::Scope::from(&self.scope))
    }

    pub(super) fn rpc(&self) -> BulkClient<Channel> {
        self.rpc.clone()
    }

    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(decorate) = &self.decorate {
            decorate(request.metadata_mut());
        }
        request
    }

    /// Awaits an answer, but not for ever.
    pub(super) async fn answer<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, BulkError> {
        match tokio::time::timeout(self.limits.call, call).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(BulkError::stalled(what)),
        }
    }

    /// Which of at most [`DIGESTS`] chunks the project lacks: one answer per digest, in order.
    pub(super) async fn missing(&self, digests: &[Digest]) -> Result<Vec<bool>, BulkError> {
        debug_assert!(digests.len() <= DIGESTS);
        let message = wire::MissingRequest {
            scope: self.wire_scope(),
            digests: digests.iter().map(|digest| digest.as_bytes().to_vec()).collect(),
        };
        let mut rpc = self.rpc();
        let reply = self.answer("missing", rpc.missing(self.request(message))).await?;
        let mut lacks = vec![false; digests.len()];
        for index in reply.into_inner().missing {
            let lack = usize::try_from(index).ok().and_then(|index| lacks.get_mut(index));
            *lack.ok_or_else(|| BulkError::protocol("an index beyond the digests"))? = true;
        }
        Ok(lacks)
    }

    /// Commits once. The caller repeats with the same request id.
    pub(super) async fn commit_once(
        &self,
        manifest: &[u8],
        request: &RequestId,
    ) -> Result<Digest, BulkError> {
        let message = wire::CommitRequest {
            scope: self.wire_scope(),
            manifest: manifest.to_vec(),
            request_id: request.to_string(),
        };
        let mut rpc = self.rpc();
        let reply = self.answer("commit", rpc.commit(self.request(message))).await?;
        let digest = Digest::of(manifest);
        if reply.into_inner().digest == digest.as_bytes() {
            Ok(digest)
        } else {
            Err(BulkError::protocol("another manifest was committed"))
        }
    }

    /// A committed manifest: its bytes match `digest`, and it is valid.
    pub async fn manifest(&self, digest: Digest) -> Result<Sealed, BulkError> {
        let mut patience = self.patience();
        let bytes = loop {
            let message = wire::GetManifestRequest {
                scope: self.wire_scope(),
                digest: digest.as_bytes().to_vec(),
            };
            let mut rpc = self.rpc();
            match self.answer("manifest", rpc.get_manifest(self.request(message))).await {
                Ok(reply) => break reply.into_inner().manifest,
                Err(error) => patience.after(error).await?,
            }
        };
        if Digest::of(&bytes) != digest {
            return Err(BulkError::Corrupt { what: "the manifest".to_owned(), digest });
        }
        decode_and_validate(bytes).map_err(BulkError::Manifest)
    }
}
