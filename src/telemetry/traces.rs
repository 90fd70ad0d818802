//! Traces: the spans of this program, sent to a collector of OpenTelemetry.
//!
//! Spans are those of `tracing`, whoever makes them; this is one more listener of them. Connections are no spans of a trace,
//! because they outlive what comes over them.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanExporter as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Level, Metadata, Subscriber};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::otlp::{self, Target};
use super::queue::{Batching, Dropped, Sending, queue};
use crate::trace_context;

/// The name of the service where `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` give none.
const SERVICE: &str = "linkspan";

/// Traces of a process, before its runtime has started.
#[derive(Debug)]
pub(crate) struct Traces {
    target: Target,
    provider: SdkTracerProvider,
    resource: Resource,
    sending: Sending,
}

/// Traces that are being sent.
#[derive(Debug)]
pub(crate) struct RunningTraces {
    // The tracer of the process ends with it.
    _provider: SdkTracerProvider,
    task: AbortOnDropHandle<()>,
    end: CancellationToken,
    flush: Duration,
}

impl Traces {
    /// The traces of a process whose variables name a collector. What is wrong with these is for the log: nothing fails for want
    /// of traces.
    pub(crate) fn of_process() -> Result<Option<Self>, String> {
        let Some(target) = otlp::of_process().map_err(|error| error.to_string())? else { return Ok(None) };
        let (queue, sending) = queue(Batching::of_process());
        let resource = resource();
        let provider = SdkTracerProvider::builder().with_resource(resource.clone()).with_span_processor(queue).build();
        Ok(Some(Self { target, provider, resource, sending }))
    }

    /// What makes the spans of this program those of traces.
    pub(super) fn layer<S>(&self) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        trace_context::activate();
        let tracer: SdkTracer = self.provider.tracer(SERVICE);
        let layer = OpenTelemetryLayer::new(tracer).with_location(false).with_threads(false).with_target(false);
        layer.with_tracked_inactivity(false).with_level(false).with_filter(filter_fn(is_traced)).boxed()
    }

    /// How many spans were not sent.
    pub(crate) fn dropped(&self) -> Arc<dyn Fn() -> u64 + Send + Sync> {
        let dropped: Dropped = self.sending.dropped();
        Arc::new(move || dropped.count())
    }

    /// Sends them from now on; says where to.
    pub(crate) fn start(self) -> Result<(RunningTraces, String), String> {
        let Self { target, provider, resource, sending } = self;
        let mut exporter = otlp::exporter(&target).map_err(|error| error.to_string())?;
        exporter.set_resource(&resource);
        let (end, flush) = (CancellationToken::new(), sending.flush());
        let task = AbortOnDropHandle::new(tokio::spawn(sending.run(exporter, end.clone())));
        Ok((RunningTraces { _provider: provider, task, end, flush }, target.endpoint))
    }
}

impl RunningTraces {
    /// How long [`RunningTraces::finish`] may take.
    pub(crate) fn flush(&self) -> Duration {
        self.flush
    }

    /// Sends what has ended, for a bounded time.
    pub(crate) async fn finish(self) {
        self.end.cancel();
        if tokio::time::timeout(self.flush, self.task).await.is_err() {
            tracing::warn!("the collector of traces did not take the last spans in time");
        }
    }
}

/// What sends the spans: the variables win over the defaults here.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let detected = Resource::builder().build();
    let builder = Resource::builder().with_attribute(version);
    // The library's name for a service without one.
    let is_named = detected
        .get(&"service.name".into())
        .is_some_and(|name| !name.as_str().is_empty() && !name.as_str().starts_with("unknown_service"));
    if is_named { builder.build() } else { builder.with_service_name(SERVICE).build() }
}

/// Whether a span is one of a trace.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    let is_ours = metadata.target().starts_with(env!("CARGO_CRATE_NAME"));
    metadata.is_span() && is_ours && *metadata.level() <= Level::DEBUG && metadata.name() != "connection"
}
