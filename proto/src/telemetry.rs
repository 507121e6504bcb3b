//! Traces across processes: the W3C context travels in gRPC metadata.

use tonic::metadata::MetadataMap;

/// Name of the metadata entry and of the field in an assignment.
pub const TRACEPARENT: &str = "traceparent";

/// The caller's trace context; empty when it sent none, or none that is well formed.
#[must_use]
pub fn traceparent(metadata: &MetadataMap) -> String {
    metadata
        .get(TRACEPARENT)
        .and_then(|value| value.to_str().ok())
        .filter(|text| text.len() == 55 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'))
        .map(str::to_owned)
        .unwrap_or_default()
}
