//! Logs and traces of daemons and command. Traces cross processes: the W3C context travels in gRPC metadata, and within
//! the assignment of an attempt, so that one trace spans submit to commit.

mod export;

use std::io::IsTerminal as _;
use std::str::FromStr as _;

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::export::Export;
pub use self::export::TelemetryError;

/// Name of the metadata entry, and of the context in an assignment.
pub const TRACEPARENT: &str = "traceparent";

/// The collector of spans, as every program that exports them names it.
pub const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The exporter's own calls must not be traced: they would feed themselves.
const NEVER_TRACED: &str =
    "h2=off,hyper=off,hyper_util=off,tonic=off,tower=off,rustls=off,opentelemetry=off";

/// Which of the three programs this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// `hone` as a person runs it.
    Command,
    /// `hone serve`.
    Controller,
    /// `hone-agent run`.
    Agent,
}

impl Service {
    /// Its `service.name`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "hone",
            Self::Controller => "hone-controller",
            Self::Agent => "hone-agent",
        }
    }

    /// What it logs unless somebody says otherwise. A command talks for itself.
    const fn logs(self) -> &'static str {
        match self {
            Self::Command => "off",
            Self::Controller | Self::Agent => "info",
        }
    }
}

/// Keeps telemetry going; what is still unsent goes out when it is dropped, within a second.
#[must_use = "dropping it ends the export"]
pub struct Telemetry {
    _export: Option<Export>,
}

/// Sets up logs to standard error (`HONE_LOG` filters, as `RUST_LOG` does) and, with an endpoint, the export of spans
/// over OTLP. [`OTLP_ENDPOINT`] serves where `endpoint` is absent. Call it once.
pub fn init(service: Service, endpoint: Option<&str>) -> Result<Telemetry, TelemetryError> {
    let from_environment = std::env::var(OTLP_ENDPOINT).ok();
    let endpoint = endpoint.map(str::to_owned).or(from_environment).filter(|e| !e.is_empty());
    let export = endpoint.map(|endpoint| Export::start(service, &endpoint)).transpose()?;
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter(log_filter(service));
    let spans = export.as_ref().map(|export| {
        let traced = EnvFilter::from_str(&format!("info,{NEVER_TRACED}")).unwrap_or_default();
        tracing_opentelemetry::layer()
            .with_tracer(export.provider.tracer(service.name()))
            // The places of lines and threads are of no use to who operates a fleet.
            .with_location(false)
            .with_threads(false)
            .with_filter(traced)
    });
    // A test may have set one up in this process; the first stays.
    let _ = tracing_subscriber::registry().with(to_stderr).with(spans).try_init();
    Ok(Telemetry { _export: export })
}

fn log_filter(service: Service) -> EnvFilter {
    let wanted = std::env::var("HONE_LOG").or_else(|_| std::env::var("RUST_LOG"));
    let wanted = wanted.as_deref().unwrap_or(service.logs());
    // The exporter complains with every batch; `export` says it once. Whoever names it gets to hear it.
    EnvFilter::new(format!("opentelemetry=off,{wanted}"))
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

/// Marks a span as failed. It must have a field `otel.status_code`.
pub fn failed(span: &Span) {
    span.record("otel.status_code", "error");
}

/// Adds the current span's context to a request's metadata.
pub fn inject(metadata: &mut MetadataMap) {
    inject_or(metadata, "");
}

/// The same; where nothing is traced here, the context that this work was given travels on, so that the trace is whole
/// again at whoever does trace.
pub fn inject_or(metadata: &mut MetadataMap, given: &str) {
    let own = context_of(&Span::current());
    let text = if own.is_empty() { given } else { &own };
    if let Ok(value) = AsciiMetadataValue::try_from(text)
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

    #[tokio::test]
    async fn an_endpoint_that_is_none_is_an_error() {
        let started = Export::start(Service::Command, "not an address");
        assert!(matches!(started.err(), Some(TelemetryError::Exporter { .. })));
    }

    #[test]
    fn where_nothing_is_traced_the_given_context_travels_on() {
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut metadata = MetadataMap::new();
        inject(&mut metadata);
        assert!(metadata.is_empty());
        inject_or(&mut metadata, given);
        assert_eq!(traceparent(&metadata), given);
    }

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
