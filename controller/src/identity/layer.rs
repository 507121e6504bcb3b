//! In front of every service: no handler can forget to ask. Streams are asked again when access changes and when the
//! certificate ends, since TLS looks at it only in the handshake.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hone_proto::identity::{PeerCertificate, PeerInfo};
use hone_proto::telemetry;
use hone_proto::time::Now;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tonic::Status;
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::access;
use crate::core::AccessFacts;

/// How often a stream looks at the clock: wall clocks jump, so one long sleep would not do.
const CLOCK: Duration = Duration::from_secs(30);

/// Checks every call of the service that it wraps.
#[derive(Clone)]
pub struct AccessLayer {
    facts: watch::Receiver<Arc<AccessFacts>>,
}

impl AccessLayer {
    /// With facts that are always current.
    #[must_use]
    pub const fn new(facts: watch::Receiver<Arc<AccessFacts>>) -> Self {
        Self { facts }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = AccessService<S>;

    fn layer(&self, inner: S) -> AccessService<S> {
        AccessService { inner, facts: self.facts.clone() }
    }
}

/// A service behind the check.
#[derive(Clone)]
pub struct AccessService<S> {
    inner: S,
    facts: watch::Receiver<Arc<AccessFacts>>,
}

type Answer = http::Response<tonic::body::Body>;

impl<S, B> Service<http::Request<B>> for AccessService<S>
where
    S: Service<http::Request<B>, Response = Answer>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Answer;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let certificate =
            request.extensions().get::<PeerInfo>().and_then(|info| info.certificate.clone());
        let peer = certificate.as_ref().map(|certificate| &certificate.id.peer);
        let path = request.uri().path().to_owned();
        let admitted = access::admit(&path, peer, &self.facts.borrow());
        if let Err(refusal) = admitted {
            tracing::warn!(path, ?peer, reason = %refusal.reason, "refused: {refusal}");
            return Box::pin(async move { Ok(Status::from(refusal).into_http()) });
        }
        let facts = self.facts.clone();
        // Every call goes on in its caller's trace.
        let span = tracing::info_span!("call", otel.name = %path, otel.kind = "server");
        let context = request.headers().get(telemetry::TRACEPARENT);
        if let Some(context) = context.and_then(|value| value.to_str().ok()) {
            telemetry::continue_trace(&span, context);
        }
        let answer = span.in_scope(|| self.inner.call(request));
        let answered = async move {
            let answer = answer.await?;
            Ok(match certificate {
                None => answer,
                Some(certificate) => answer.map(|body| guard(body, certificate, facts)),
            })
        };
        Box::pin(answered.instrument(span))
    }
}

fn guard(
    body: tonic::body::Body,
    certificate: Arc<PeerCertificate>,
    facts: watch::Receiver<Arc<AccessFacts>>,
) -> tonic::body::Body {
    tonic::body::Body::new(Guarded { body, ended: Box::pin(ended(certificate, facts)) })
}

/// Waits until the peer may not go on, and says why.
async fn ended(
    certificate: Arc<PeerCertificate>,
    mut facts: watch::Receiver<Arc<AccessFacts>>,
) -> Status {
    loop {
        if !access::still_known(&certificate.id.peer, &facts.borrow_and_update()) {
            return access::revoked(&certificate.id.peer).into();
        }
        let now = Now::read().wall;
        let remaining = certificate.facts.not_after.since(now);
        if remaining.is_zero() {
            return Status::unauthenticated(
                "the certificate has expired; connect with the new one",
            );
        }
        tokio::select! {
            changed = facts.changed() => {
                if changed.is_err() {
                    return Status::unavailable("the controller is shutting down");
                }
            }
            () = tokio::time::sleep(remaining.min(CLOCK)) => {}
        }
    }
}

/// A body that ends with an error once its reader may not go on.
struct Guarded<E> {
    body: tonic::body::Body,
    ended: Pin<Box<E>>,
}

impl<E: Future<Output = Status>> Body for Guarded<E> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(status) = self.ended.as_mut().poll(cx) {
            return Poll::Ready(Some(Err(status)));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
