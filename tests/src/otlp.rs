//! Collectors of spans for tests: one that takes what OTLP brings, and one that takes the connection and nothing else.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span as WireSpan;
use prost::Message as _;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A span as it came in.
#[derive(Debug, Clone)]
pub struct Span {
    /// Which program made it.
    pub service: String,
    /// Its name.
    pub name: String,
    /// The trace that it belongs to.
    pub trace: Vec<u8>,
    /// Its own id.
    pub id: Vec<u8>,
    /// The id of the span that it is a part of; empty for the first of a trace.
    pub parent: Vec<u8>,
    /// When it began and ended, in nanoseconds.
    pub times: (u64, u64),
    attributes: Vec<KeyValue>,
}

impl Span {
    /// An attribute as text.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<String> {
        text_of(&self.attributes, key)
    }
}

fn text_of(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

#[derive(Debug, Default)]
struct Taken {
    spans: Vec<Span>,
    /// Everything that came, as it came.
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
struct Taker(Arc<Mutex<Taken>>);

impl Taker {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl TraceService for Taker {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = request.into_inner();
        let mut taken = self.lock();
        taken.bytes.extend(request.encode_to_vec());
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            let service = text_of(&resource.attributes, "service.name").unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            taken.spans.extend(spans.map(|span| seen(&service, span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn seen(service: &str, span: WireSpan) -> Span {
    Span {
        service: service.to_owned(),
        name: span.name,
        trace: span.trace_id,
        id: span.span_id,
        parent: span.parent_span_id,
        times: (span.start_time_unix_nano, span.end_time_unix_nano),
        attributes: span.attributes,
    }
}

/// Takes spans until it is dropped.
#[derive(Debug)]
pub struct Collector {
    endpoint: String,
    taker: Taker,
    _runtime: Runtime,
}

impl Collector {
    /// Starts one.
    ///
    /// # Errors
    /// When there is no port or thread.
    pub fn start() -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let taker = Taker::default();
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let service = TraceServiceServer::new(taker.clone());
        let incoming = TcpListenerStream::new(listener);
        runtime.spawn(
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming),
        );
        Ok(Self { endpoint, taker, _runtime: runtime })
    }

    /// Where it is.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// All spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.taker.lock().spans.clone()
    }

    /// Nothing that came holds any of these texts.
    ///
    /// # Errors
    /// When something does.
    pub fn holds_none_of(&self, secrets: &[String]) -> Result<()> {
        let taken = self.taker.lock();
        for (number, secret) in secrets.iter().enumerate() {
            let secret = secret.as_bytes();
            ensure!(secret.len() >= 16, "secret {number} is too short to be one");
            let found = taken.bytes.windows(secret.len()).any(|part| part == secret);
            ensure!(!found, "secret {number} was sent to the collector");
        }
        Ok(())
    }
}

/// Lets programs connect, and never says a word.
#[derive(Debug)]
pub struct Hanging(TcpListener);

impl Hanging {
    /// Starts one. The kernel accepts for it: nobody reads.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start() -> Result<Self> {
        Ok(Self(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?))
    }

    /// Where it is.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn endpoint(&self) -> Result<String> {
        Ok(format!("http://{}", self.0.local_addr()?))
    }
}
