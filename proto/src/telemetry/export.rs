//! The way of spans out of the process. It has a runtime and threads of its own: a collector that hangs, refuses or is
//! away holds up nothing but them, and what the process leaves behind still goes out while its own runtime stands still.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_otlp::{RetryPolicy, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::Runtime;

use super::Service;

/// How long the end of a process waits for its last spans. A person waits for the command: 1 s is what a collector on
/// another continent needs, handshake included.
const FLUSH: Duration = Duration::from_secs(1);

/// Why spans cannot be exported.
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
    /// There is no thread for it.
    #[error("spans cannot be exported")]
    Thread(#[source] std::io::Error),
}

/// A running export. Dropping it sends what is left, for as long as [`FLUSH`].
pub(super) struct Export {
    pub(super) provider: SdkTracerProvider,
    _threads: Threads,
}

/// A runtime that may be dropped within another one: that does not wait for it.
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> Result<Self, TelemetryError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp")
            .enable_all()
            .build();
        Ok(Self(Some(runtime.map_err(TelemetryError::Thread)?)))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Export {
    pub(super) fn start(service: Service, endpoint: &str) -> Result<Self, TelemetryError> {
        let threads = Threads::start()?;
        let exporter = {
            // The channel's own task lives where the channel is made.
            let _within = threads.0.as_ref().map(Runtime::enter);
            opentelemetry_otlp::SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .with_retry_policy(retries(service))
                .build()
                .map_err(|source| TelemetryError::Exporter {
                    endpoint: endpoint.to_owned(),
                    source,
                })?
        };
        let resource = Resource::builder().with_service_name(service.name()).build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Reported { exporter, failing: AtomicBool::new(false) })
            .with_resource(resource)
            .build();
        Ok(Self { provider, _threads: threads })
    }
}

/// The command does not try again: whoever typed it waits.
fn retries(service: Service) -> RetryPolicy {
    match service {
        Service::Command => RetryPolicy::disabled(),
        Service::Controller | Service::Agent => RetryPolicy::recommended(),
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH) {
            // Nobody may be listening any more; the process ends anyway.
            tracing::debug!("the last spans were not sent: {error}");
        }
    }
}

/// Says once that spans are not taken, and once that they are again. The library says it with every batch.
#[derive(Debug)]
struct Reported<E> {
    exporter: E,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Reported<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        let failed = result.is_err();
        if self.failing.swap(failed, Ordering::Relaxed) != failed {
            match &result {
                Err(error) => {
                    tracing::warn!("spans are not taken, and dropped until they are: {error}");
                }
                Ok(()) => tracing::info!("spans are taken again"),
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
