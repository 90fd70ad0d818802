//! Traces: the spans of this program, sent to a collector of OpenTelemetry.
//!
//! Spans are those of `tracing`, whoever makes them; this is one more listener of them. Connections are no spans of a trace,
//! because they outlive what comes over them.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
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
use super::variables::{Variables, pairs};
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
    /// The traces of a process whose variables name a collector, and what is wrong with its variables. That is for the log: nothing
    /// fails for want of traces.
    pub(crate) fn of_process() -> (Result<Option<Self>, String>, Vec<String>) {
        let variables = Variables::of_process();
        let target = otlp::target(&variables).map_err(|error| error.to_string());
        for limit in ["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT"] {
            // The library reads them itself, and as we do.
            variables.number(limit, 0..=u64::from(u32::MAX));
        }
        let (batching, sampler, resource) = (Batching::of(&variables), variables.sampler(), resource(&variables));
        let traces = target.map(|target| {
            let target = target?;
            let (queue, sending) = queue(batching);
            let provider = SdkTracerProvider::builder().with_resource(resource.clone()).with_sampler(sampler);
            Some(Self { target, provider: provider.with_span_processor(queue).build(), resource, sending })
        });
        (traces, variables.warnings())
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
fn resource(variables: &Variables) -> Resource {
    const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
    let attributes = pairs(variables.get(ATTRIBUTES).unwrap_or_default()).unwrap_or_else(|reason| {
        variables.warn(format!("{ATTRIBUTES} is ignored: {reason}; expected `KEY=VALUE,KEY=VALUE`, percent-encoded"));
        Vec::new()
    });
    let named = attributes.iter().find(|(key, value)| key == "service.name" && !value.is_empty());
    let name = variables.get("OTEL_SERVICE_NAME").or(named.map(|(_, value)| value.as_str())).unwrap_or(SERVICE);
    let name = name.to_owned();
    // The library's own reader of the attributes does not decode them.
    Resource::builder_empty()
        .with_detectors(&[Box::new(TelemetryResourceDetector)])
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)))
        .with_attribute(KeyValue::new("service.name", name))
        .build()
}

/// Whether a span is one of a trace.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    let is_ours = metadata.target().starts_with(env!("CARGO_CRATE_NAME"));
    metadata.is_span() && is_ours && *metadata.level() <= Level::DEBUG && metadata.name() != "connection"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_variables_are_decoded_and_win() {
        for (given, expected, warnings) in [
            (&[][..], ["linkspan", env!("CARGO_PKG_VERSION"), ""], 0),
            (&[("OTEL_SERVICE_NAME", "mine")], ["mine", env!("CARGO_PKG_VERSION"), ""], 0),
            (
                &[("OTEL_RESOURCE_ATTRIBUTES", "service.name=my%20own,service.version=2,a=b%2Cc")],
                ["my own", "2", "b,c"],
                0,
            ),
            (
                &[("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,a=%2")],
                ["linkspan", env!("CARGO_PKG_VERSION"), ""],
                1,
            ),
        ] {
            let variables = Variables::new(given.iter().map(|(name, value)| (name.into(), value.into())));
            let resource = resource(&variables);
            let value = |key: &'static str| resource.get(&key.into()).map(|it| it.to_string()).unwrap_or_default();
            assert_eq!([value("service.name"), value("service.version"), value("a")], expected, "{given:?}");
            assert!(!value("telemetry.sdk.name").is_empty());
            assert_eq!(variables.warnings().len(), warnings);
        }
    }
}
