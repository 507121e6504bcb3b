//! The three ports of a controller and their HTTP/2 limits. The transport library takes an option that is not set as
//! *no limit*, so each is set here, once.

use std::time::Duration;

use tonic::transport::{Endpoint, Server};

/// One of the controller's three ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Plane {
    /// Link and operators: small messages that must not wait.
    Control,
    /// Checkpoints, inputs, images: large frames and windows.
    Bulk,
    /// Peers without a certificate.
    Enrolment,
}

/// Calls in progress on one connection. 64: a client follows a few streams and makes a few calls.
const MAX_STREAMS: u32 = 64;

/// Calls in progress on one enrolment connection: one is made.
const MAX_ENROLMENT_STREAMS: u32 = 4;

/// Streams that the client reset before the server took them up. hyper's own default, which tonic switches off.
const MAX_PENDING_RESETS: usize = 20;

/// Streams that the server had to reset because of what the client did. Beyond it the connection goes.
const MAX_LOCAL_RESETS: usize = 256;

/// All headers of one request. A `traceparent` and a user agent are far below it.
const MAX_HEADER_LIST: u32 = 16 << 10;

/// How often a silent connection is asked for a sign of life, and how long the answer may take: a dead link is noticed
/// before the 30 s lease ends.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// Frames of bulk data: 256 KiB took uploads from 1.8 to 3.0 GiB/s where the default is 16 KiB (measured).
const BULK_FRAME: u32 = 256 << 10;

/// Bulk windows per stream and connection: 231 MiB/s at 40 ms, where hyper's 1 MiB gives 22 (measured).
const BULK_WINDOWS: (u32, u32) = (16 << 20, 32 << 20);

/// For the whole TCP and TLS connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// A server with every limit set, for this port.
#[must_use]
pub fn server_builder(plane: Plane) -> Server {
    let streams = if plane == Plane::Enrolment { MAX_ENROLMENT_STREAMS } else { MAX_STREAMS };
    let server = Server::builder()
        .max_concurrent_streams(streams)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1));
    match plane {
        Plane::Control | Plane::Enrolment => server,
        Plane::Bulk => server
            .max_frame_size(BULK_FRAME)
            .initial_stream_window_size(BULK_WINDOWS.0)
            .initial_connection_window_size(BULK_WINDOWS.1),
    }
}

/// The client's half of [`server_builder`].
pub(super) fn client_limits(endpoint: Endpoint, plane: Plane) -> Endpoint {
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .http2_max_local_error_reset_streams(MAX_LOCAL_RESETS);
    match plane {
        Plane::Control | Plane::Enrolment => endpoint,
        Plane::Bulk => endpoint
            .max_frame_size(BULK_FRAME)
            .initial_stream_window_size(BULK_WINDOWS.0)
            .initial_connection_window_size(BULK_WINDOWS.1),
    }
}
