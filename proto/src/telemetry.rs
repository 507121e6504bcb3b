//! Logs and traces of both daemons. Traces cross processes: the W3C context travels in gRPC metadata, and within the
//! assignment of an attempt, so that one trace spans submit to commit.

use std::io::IsTerminal as _;
use std::str::FromStr as _;

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Name of the metadata entry, and of the context in an assignment.
pub const TRACEPARENT: &str = "traceparent";

/// The exporter's own calls must not be traced: they would feed themselves.
const NEVER_TRACED: &str =
    "h2=off,hyper=off,hyper_util=off,tonic=off,tower=off,rustls=off,opentelemetry=off";

/// What telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The endpoint is not usable.
    #[error("spans cannot be exported to {endpoint}")]
    Exporter {
        /// Where to.
        endpoint: String,
        /// Why.
        source: opentelemetry_otlp::ExporterBuildError,
    },
}

/// Keeps telemetry going; what is still unsent goes out when it is dropped.
#[must_use = "dropping it ends the export"]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.0
            && let Err(error) = provider.shutdown()
        {
            // Nobody may be listening any more; the process ends anyway.
            tracing::debug!("the last spans were not sent: {error}");
        }
    }
}

/// Sets up logs to standard error (`HONE_LOG` filters, as `RUST_LOG` does) and, with an endpoint, the export of spans
/// over OTLP. `OTEL_EXPORTER_OTLP_ENDPOINT` serves where `endpoint` is absent. Call it within a runtime, once.
pub fn init(service: &'static str, endpoint: Option<&str>) -> Result<Telemetry, TelemetryError> {
    let wanted = std::env::var("HONE_LOG").or_else(|_| std::env::var("RUST_LOG"));
    let filter = EnvFilter::new(wanted.as_deref().unwrap_or("info"));
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter(filter);
    let from_environment = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok();
    let endpoint = endpoint.map(str::to_owned).or(from_environment).filter(|e| !e.is_empty());
    let provider = endpoint.map(|endpoint| provider(service, &endpoint)).transpose()?;
    let spans = provider.as_ref().map(|provider| {
        let traced = EnvFilter::from_str(&format!("info,{NEVER_TRACED}")).unwrap_or_default();
        tracing_opentelemetry::layer().with_tracer(provider.tracer(service)).with_filter(traced)
    });
    // A test may have set one up in this process; the first stays.
    let _ = tracing_subscriber::registry().with(to_stderr).with(spans).try_init();
    Ok(Telemetry(provider))
}

fn provider(service: &'static str, endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|source| TelemetryError::Exporter { endpoint: endpoint.to_owned(), source })?;
    let resource = Resource::builder().with_service_name(service).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// The context of `span` as W3C text; empty where nothing is traced.
#[must_use]
pub fn context_of(span: &Span) -> String {
    let context = span.context();
    if !context.span().span_context().is_valid() {
        return String::new();
    }
    let mut text = One(String::new());
    TraceContextPropagator::new().inject_context(&context, &mut text);
    text.0
}

/// Makes `span` go on in the trace of this W3C text; an empty or malformed one changes nothing.
pub fn continue_trace(span: &Span, traceparent: &str) {
    let context = TraceContextPropagator::new().extract(&One(traceparent.to_owned()));
    if context.span().span_context().is_valid()
        && let Err(error) = span.set_parent(context)
    {
        tracing::trace!("the span goes on alone: {error}");
    }
}

/// Adds the current span's context to a request's metadata.
pub fn inject(metadata: &mut MetadataMap) {
    let text = context_of(&Span::current());
    if let Ok(value) = AsciiMetadataValue::try_from(text.as_str())
        && !text.is_empty()
    {
        metadata.insert(AsciiMetadataKey::from_static(TRACEPARENT), value);
    }
}

/// The caller's trace context; empty when it sent none, or none that is well formed.
#[must_use]
pub fn traceparent(metadata: &MetadataMap) -> String {
    let text = metadata.get(TRACEPARENT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let context = TraceContextPropagator::new().extract(&One(text.to_owned()));
    if context.span().span_context().is_valid() { text.to_owned() } else { String::new() }
}

/// A carrier of nothing but `traceparent`.
struct One(String);

impl Injector for One {
    fn set(&mut self, key: &str, value: String) {
        if key == TRACEPARENT {
            self.0 = value;
        }
    }
}

impl Extractor for One {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT && !self.0.is_empty()).then_some(self.0.as_str())
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_context_is_passed_on() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut metadata = MetadataMap::new();
        assert_eq!(traceparent(&metadata), "");
        for (sent, kept) in [(good, good), ("00-nonsense", ""), (&"x".repeat(9000), "")] {
            metadata.insert(TRACEPARENT, sent.parse().expect("ascii"));
            assert_eq!(traceparent(&metadata), kept);
        }
    }
}
