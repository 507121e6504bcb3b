//! The layer alone, around a handler that the test looks into.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use bytes::Bytes;
use futures_util::StreamExt as _;
use hone_proto::identity::{KeyDigest, Peer, Serial, SpiffeId};
use http_body::Frame;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tower::ServiceExt as _;

use super::*;

const ATTACH: &str = "/hone.v1.Link/Attach";

/// A body that goes on for as long as somebody holds the sender.
struct Fed(ReceiverStream<Bytes>);

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.poll_next_unpin(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn fed() -> (mpsc::Sender<Bytes>, Body) {
    let (feed, hungry) = mpsc::channel(4);
    (feed, Body::new(Fed(ReceiverStream::new(hungry))))
}

async fn frame(body: &mut Body) -> Option<Result<Frame<Bytes>, Status>> {
    let next = std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut *body), cx));
    tokio::time::timeout(PATIENCE, next).await.expect("a frame or an end")
}

fn knowing(nodes: &[&str]) -> Arc<AccessFacts> {
    let nodes = nodes.iter().map(|id| id.parse().expect("an id"));
    Arc::new(AccessFacts { users: BTreeMap::new(), nodes: nodes.collect::<BTreeSet<_>>() })
}

fn certificate(serial: u8, life: Duration) -> PeerCertificate {
    let peer = Peer::Node("n1".parse().expect("an id"));
    let now = Now::read().wall;
    PeerCertificate {
        id: SpiffeId { fleet: "f1".parse().expect("an id"), peer },
        facts: CertificateFacts {
            serial: Serial::from_bytes(&[serial]),
            not_before: now,
            not_after: now.plus(life),
            key: KeyDigest::of(&[serial]),
        },
    }
}

fn request(certificate: PeerCertificate, body: Body) -> http::Request<Body> {
    let mut request = http::Request::new(body);
    *request.uri_mut() = ATTACH.parse().expect("a path");
    let remote = ([127, 0, 0, 1], 1).into();
    request.extensions_mut().insert(PeerInfo::new(Some(Arc::new(certificate)), remote));
    request
}

/// For what happens at once.
const PATIENCE: Duration = Duration::from_secs(20);

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn both_bodies_end_with_the_reason_when_access_is_taken_away() {
    let (grant, facts) = watch::channel(knowing(&["n1"]));
    let (hand_over, mut handed) = mpsc::channel(1);
    let (say, answer) = fed();
    let answer = std::sync::Mutex::new(Some(answer));
    let handler = tower::service_fn(move |request: http::Request<Body>| {
        let body = answer.lock().expect("the lock").take().expect("one call");
        hand_over.try_send(request.into_body()).expect("one call");
        async move { Ok::<_, Infallible>(http::Response::new(body)) }
    });
    let (send, body) = fed();
    let service = AccessLayer::new(facts).layer(handler);
    let call = service.oneshot(request(certificate(1, HOUR), body));
    let mut answer = call.await.expect("an answer").into_body();
    let mut heard = handed.recv().await.expect("the request's body");

    send.send(Bytes::from_static(b"in")).await.expect("it is sent");
    say.send(Bytes::from_static(b"out")).await.expect("it is sent");
    let data = |frame: Option<Result<Frame<Bytes>, Status>>| {
        frame.expect("a frame").expect("data").into_data().expect("data")
    };
    assert_eq!(data(frame(&mut heard).await), "in");
    assert_eq!(data(frame(&mut answer).await), "out");

    grant.send_replace(knowing(&[]));
    let status = frame(&mut heard).await.expect("an end").expect_err("the handler reads on");
    assert_eq!(Refusal::from(&status).reason, Reason::Revoked);
    let trailers = frame(&mut answer).await.expect("an end").expect("trailers");
    let trailers = trailers.into_trailers().expect("trailers");
    let status = Status::from_header_map(&trailers).expect("a status");
    assert_eq!(Refusal::from(&status).reason, Reason::Revoked);
    assert!(frame(&mut answer).await.is_none() && frame(&mut heard).await.is_none());
    assert!(say.is_closed(), "the handler's stream is still held");
}

#[tokio::test]
async fn a_call_that_waits_for_its_handler_ends_too() {
    let (grant, facts) = watch::channel(knowing(&["n1"]));
    let handler = tower::service_fn(|_: http::Request<Body>| {
        std::future::pending::<Result<Answer, Infallible>>()
    });
    let service = AccessLayer::new(facts).layer(handler);
    let call = tokio::spawn(service.oneshot(request(certificate(1, HOUR), Body::empty())));
    grant.send_replace(knowing(&[]));
    let call = tokio::time::timeout(PATIENCE, call).await.expect("the call ends in time");
    let answer = call.expect("the call ends").expect("an answer");
    let status = Status::from_header_map(answer.headers()).expect("a status");
    assert_eq!(Refusal::from(&status).reason, Reason::Revoked);
}

#[tokio::test]
async fn an_expired_certificate_makes_no_call_unless_it_was_renewed() {
    let (_grant, facts) = watch::channel(knowing(&["n1"]));
    let layer = AccessLayer::new(facts);
    let renewed = certificate(2, HOUR).facts;
    let renewal = tower::service_fn(move |_: http::Request<Body>| {
        let mut answer = http::Response::new(Body::empty());
        answer.extensions_mut().insert(Renewed(renewed.clone()));
        async move { Ok::<_, Infallible>(answer) }
    });
    let reason = async |answer: Result<Answer, Infallible>| {
        let status = Status::from_header_map(answer.expect("an answer").headers());
        status.map(|status| Refusal::from(&status).reason)
    };
    let call = |life| {
        layer.clone().layer(renewal.clone()).oneshot(request(certificate(1, life), Body::empty()))
    };
    assert_eq!(reason(call(Duration::ZERO).await).await, Some(Reason::Unauthenticated));
    assert_eq!(reason(call(HOUR).await).await, None, "in force, and renewed by this call");
    assert_eq!(reason(call(Duration::ZERO).await).await, None, "its successor is in force");
}
