//! Bodies that end when their peer may not go on. Requests end with an error, so that a handler reads nothing more;
//! answers end with the refusal in their trailers, so that the peer is told.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{BoxFuture, Shared};
use hone_proto::error::Refusal;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

/// Resolves when the peer may not go on, and says why.
pub(super) type Ended = Shared<BoxFuture<'static, Refusal>>;

/// The request's body: reads as an error once `ended`.
pub(super) fn request(body: tonic::body::Body, ended: Ended) -> tonic::body::Body {
    tonic::body::Body::new(Guarded { body: Some(body), ended, end: End::Error })
}

/// The answer's body: ends with the refusal once `ended`.
pub(super) fn answer(body: tonic::body::Body, ended: Ended) -> tonic::body::Body {
    tonic::body::Body::new(Guarded { body: Some(body), ended, end: End::Trailers })
}

#[derive(Clone, Copy)]
enum End {
    Error,
    Trailers,
}

struct Guarded {
    /// `None` once it was ended.
    body: Option<tonic::body::Body>,
    ended: Ended,
    end: End,
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        // A body that is over by itself needs no guard, and would wait for it in vain.
        if body.is_end_stream() {
            return Poll::Ready(None);
        }
        let Poll::Ready(refusal) = Pin::new(&mut self.ended).poll(cx) else {
            return match &mut self.body {
                Some(body) => Pin::new(body).poll_frame(cx),
                None => Poll::Ready(None),
            };
        };
        // Drops what the handler still wanted to say, and with it the handler's stream.
        self.body = None;
        let status = Status::from(refusal);
        Poll::Ready(Some(match self.end {
            End::Error => Err(status),
            End::Trailers => {
                let mut trailers = HeaderMap::new();
                status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.body, self.end) {
            // The length of an answer is not promised: it may end early.
            (Some(body), End::Error) => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}
