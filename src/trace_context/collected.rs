//! Spans are those of traces, if there is a collector.

use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{Status, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::traceparent;

static IS_ACTIVE: AtomicBool = AtomicBool::new(false);

/// From now on spans are part of traces.
pub(crate) fn activate() {
    IS_ACTIVE.store(true, Ordering::Relaxed);
}

fn is_active() -> bool {
    IS_ACTIVE.load(Ordering::Relaxed)
}

/// Makes `span` part of the trace that `header` names, if it names one. To be called before the span is entered.
pub(crate) fn follow<'h>(span: &Span, header: impl Fn(&str) -> Option<&'h str>) {
    /// Those that are there.
    struct Headers([(&'static str, Option<String>); 2]);
    impl Extractor for Headers {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(key))?.1.as_deref()
        }

        fn keys(&self) -> Vec<&str> {
            self.0.iter().map(|(name, _)| *name).collect()
        }
    }
    if !is_active() || span.is_none() {
        return;
    }
    // The library takes more for a `traceparent` than the specification does.
    let Some(parent) = header("traceparent").and_then(traceparent::known) else { return };
    let state = header("tracestate").map(str::to_owned);
    let headers = Headers([("traceparent", Some(parent)), ("tracestate", state)]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
    if context.span().span_context().is_valid()
        && let Err(error) = span.set_parent(context)
    {
        tracing::debug!(?error, "a trace is not continued");
    }
}

/// The same for the headers of a request.
pub(crate) fn follow_headers(span: &Span, headers: &HeaderMap) {
    follow(span, |name| headers.get(name)?.to_str().ok());
}

/// Names the trace of the current span in `headers`, unless they name one: what passes through stays as it is.
pub(crate) fn inject(headers: &mut HeaderMap) {
    struct Headers<'h>(&'h mut HeaderMap);
    impl Injector for Headers<'_> {
        fn set(&mut self, key: &str, value: String) {
            let header = key.parse::<HeaderName>().ok().zip(HeaderValue::try_from(value).ok());
            // An empty `tracestate` says nothing.
            if let Some((name, value)) = header.filter(|(_, value)| !value.is_empty()) {
                self.0.insert(name, value);
            }
        }
    }
    if !is_active() || headers.contains_key("traceparent") {
        return;
    }
    let context = Span::current().context();
    if context.span().span_context().is_valid() {
        TraceContextPropagator::new().inject_context(&context, &mut Headers(headers));
    }
}

/// Adds a number to `span`, for traces alone.
pub(crate) fn number(span: &Span, key: &'static str, number: u64) {
    if is_active() {
        span.set_attribute(key, i64::try_from(number).unwrap_or(i64::MAX));
    }
}

/// Says that what `span` is about has failed, for traces alone.
pub(crate) fn fail(span: &Span, error: &impl ToString) {
    if is_active() {
        span.set_status(Status::error(error.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanProcessor};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Takes spans, so that they are made.
    #[derive(Debug, Clone, Default)]
    struct Taken(Arc<Mutex<Vec<SpanData>>>);

    impl SpanProcessor for Taken {
        fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &Context) {}

        fn on_end(&self, span: SpanData) {
            self.0.lock().unwrap().push(span);
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    #[test]
    fn a_call_has_failed_if_that_is_its_servers_doing() {
        activate();
        let taken = Taken::default();
        let provider = SdkTracerProvider::builder().with_span_processor(taken.clone()).build();
        let layer = tracing_opentelemetry::OpenTelemetryLayer::new(provider.tracer("test"));
        let statuses = [
            (tonic::Status::ok(""), Status::Unset),
            (tonic::Status::not_found("no such export"), Status::Unset),
            (tonic::Status::cancelled("gone"), Status::Unset),
            (tonic::Status::unavailable("no engine"), Status::error("no engine")),
            (tonic::Status::internal("a defect"), Status::error("a defect")),
        ];
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for (status, _) in &statuses {
                let span = tracing::info_span!("call", export = tracing::field::Empty);
                span.in_scope(|| crate::trace_context::about_export("e1"));
                crate::trace_context::answered(&span, status);
            }
        });
        let spans = taken.0.lock().unwrap();
        assert_eq!(spans.len(), statuses.len());
        for (span, (status, expected)) in spans.iter().zip(&statuses) {
            let value = |key: &str| {
                let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key);
                found.map(|attribute| attribute.value.to_string())
            };
            assert_eq!(&span.status, expected, "{status:?}");
            assert_eq!(value("rpc.grpc.status_code"), Some((status.code() as i32).to_string()));
            assert_eq!(value("export").as_deref(), Some("e1"));
        }
    }

    #[test]
    fn a_trace_is_joined_and_passed_on() {
        const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
        const PARENT: &str = "b7ad6b7169203331";
        activate();
        let provider = SdkTracerProvider::builder().with_span_processor(Taken::default()).build();
        let layer = tracing_opentelemetry::OpenTelemetryLayer::new(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let headers = HeaderMap::from_iter([(
                HeaderName::from_static("traceparent"),
                HeaderValue::try_from(format!("00-{TRACE}-{PARENT}-01")).unwrap(),
            )]);
            let span = tracing::info_span!("joined");
            follow_headers(&span, &headers);
            let _entered = span.enter();
            let mut ours = HeaderMap::new();
            inject(&mut ours);
            let ours = ours["traceparent"].to_str().unwrap();
            assert!(ours.starts_with(&format!("00-{TRACE}-")) && !ours.contains(PARENT), "{ours}");
            // What passes through stays as it is.
            let mut passing = headers.clone();
            inject(&mut passing);
            assert_eq!(passing, headers);
        });
        let mut outside = HeaderMap::new();
        inject(&mut outside);
        assert!(outside.is_empty());
    }
}
