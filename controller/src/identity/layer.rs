//! In front of every service: no handler can forget to ask. What is under way is asked again whenever access changes
//! and when the certificate ends, since TLS looks at it only in the handshake.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{Either, select};
use hone_proto::error::{Reason, Refusal};
use hone_proto::identity::{CertificateFacts, PeerCertificate, PeerInfo};
use hone_proto::telemetry;
use hone_proto::time::{Now, WallNanos};
use tokio::sync::watch;
use tonic::Status;
use tower::{Layer, Service};
use tracing::{Instrument as _, Span};

use super::succession::Succession;
use super::{access, guard};
use crate::core::AccessFacts;

/// How often the clock is looked at: wall clocks jump, so one long sleep would not do.
const CLOCK: Duration = Duration::from_secs(30);

/// Checks every call of the service that it wraps. Clone one for all ports: it remembers renewals.
#[derive(Debug, Clone)]
pub struct AccessLayer {
    facts: watch::Receiver<Arc<AccessFacts>>,
    succession: Succession,
}

/// In the extensions of an answer: the caller's certificate was renewed, and this is the new one. What the caller has
/// open stays open until the new one ends.
#[derive(Debug, Clone)]
pub struct Renewed(pub CertificateFacts);

impl AccessLayer {
    /// With facts that are always current.
    #[must_use]
    pub fn new(facts: watch::Receiver<Arc<AccessFacts>>) -> Self {
        Self { facts, succession: Succession::default() }
    }

    /// Whether this call may be made now.
    fn admit(&self, path: &str, info: Option<&PeerInfo>, now: WallNanos) -> Result<(), Refusal> {
        let certificate = info.and_then(|info| info.certificate.as_deref());
        let peer = certificate.map(|certificate| &certificate.id.peer);
        access::admit(path, peer, &self.facts.borrow())?;
        match certificate {
            Some(certificate) if self.remaining(certificate, now).is_zero() => Err(expired()),
            _ => Ok(()),
        }
    }

    fn remaining(&self, certificate: &PeerCertificate, now: WallNanos) -> Duration {
        self.succession.in_force_until(&certificate.facts).since(now)
    }

    /// Waits until the call may not go on, and says why.
    async fn ended(mut self, path: String, info: PeerInfo) -> Refusal {
        loop {
            let now = Now::read().wall;
            self.facts.borrow_and_update();
            if let Err(refusal) = self.admit(&path, Some(&info), now) {
                info.hang_up();
                return refusal;
            }
            let remaining =
                info.certificate.as_deref().map_or(CLOCK, |held| self.remaining(held, now));
            tokio::select! {
                changed = self.facts.changed() => {
                    if changed.is_err() {
                        return Refusal::new(Reason::Unavailable, "the controller is shutting down");
                    }
                }
                () = tokio::time::sleep(remaining.min(CLOCK)) => {}
            }
        }
    }

    fn note_renewal(&self, info: &PeerInfo, answer: &Answer) {
        let old = info.certificate.as_deref();
        if let (Some(old), Some(Renewed(new))) = (old, answer.extensions().get()) {
            self.succession.record(&old.facts.serial, new.clone(), Now::read().wall);
        }
    }
}

fn expired() -> Refusal {
    Refusal::new(Reason::Unauthenticated, "the certificate has expired; connect with the new one")
}

impl<S> Layer<S> for AccessLayer {
    type Service = AccessService<S>;

    fn layer(&self, inner: S) -> AccessService<S> {
        AccessService { inner, access: self.clone() }
    }
}

/// A service behind the check.
#[derive(Debug, Clone)]
pub struct AccessService<S> {
    inner: S,
    access: AccessLayer,
}

type Body = tonic::body::Body;
type Answer = http::Response<Body>;

impl<S> Service<http::Request<Body>> for AccessService<S>
where
    S: Service<http::Request<Body>, Response = Answer>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Answer;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let info = request.extensions().get::<PeerInfo>().cloned();
        let path = request.uri().path().to_owned();
        if let Err(refusal) = self.access.admit(&path, info.as_ref(), Now::read().wall) {
            refused(&path, info.as_ref(), &refusal);
            return Box::pin(async move { Ok(Status::from(refusal).into_http()) });
        }
        let span = span_of(&path, &request);
        let Some(info) = info.filter(|info| info.certificate.is_some()) else {
            let answer = span.in_scope(|| self.inner.call(request));
            return Box::pin(answer.instrument(span));
        };
        let access = self.access.clone();
        let ended = access.clone().ended(path, info.clone()).boxed().shared();
        let request = request.map(|body| guard::request(body, ended.clone()));
        let answer = span.in_scope(|| self.inner.call(request));
        let answered = async move {
            match select(ended.clone(), Box::pin(answer)).await {
                Either::Left((refusal, _)) => Ok(Status::from(refusal).into_http()),
                Either::Right((answer, _)) => {
                    let answer = answer?;
                    access.note_renewal(&info, &answer);
                    Ok(answer.map(|body| guard::answer(body, ended)))
                }
            }
        };
        Box::pin(answered.instrument(span))
    }
}

/// Every call goes on in its caller's trace.
fn span_of(path: &str, request: &http::Request<Body>) -> Span {
    let name = path.trim_start_matches('/');
    let span = tracing::info_span!("call", otel.name = %name, otel.kind = "server");
    let context = request.headers().get(telemetry::TRACEPARENT);
    if let Some(context) = context.and_then(|value| value.to_str().ok()) {
        telemetry::continue_trace(&span, context);
    }
    span
}

/// A refusal is worth a line. The connection of a peer that is expired or revoked is of no more use.
fn refused(path: &str, info: Option<&PeerInfo>, refusal: &Refusal) {
    let peer =
        info.and_then(|info| info.certificate.as_deref()).map(|held| held.id.peer.to_string());
    let remote = info.map(|info| info.remote);
    tracing::warn!(path, peer, ?remote, reason = %refusal.reason, "refused: {refusal}");
    if let Some(info) = info
        && matches!(refusal.reason, Reason::Unauthenticated | Reason::Revoked)
    {
        info.hang_up();
    }
}

#[cfg(test)]
mod tests;
