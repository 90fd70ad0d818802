//! Spans are those of traces, if there is a collector.

use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{Status, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

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
    struct Headers<'h>([(&'static str, Option<&'h str>); 2]);
    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(key))?.1
        }

        fn keys(&self) -> Vec<&str> {
            self.0.iter().map(|(name, _)| *name).collect()
        }
    }
    if !is_active() || span.is_none() {
        return;
    }
    let headers = Headers(["traceparent", "tracestate"].map(|name| (name, header(name))));
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

/// Adds a number of bytes to `span`, for traces alone.
pub(crate) fn bytes(span: &Span, key: &'static str, bytes: u64) {
    if is_active() {
        span.set_attribute(key, i64::try_from(bytes).unwrap_or(i64::MAX));
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
    use std::time::Duration;

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanProcessor};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Takes spans, so that they are made.
    #[derive(Debug)]
    struct Taken;

    impl SpanProcessor for Taken {
        fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &Context) {}

        fn on_end(&self, _: SpanData) {}

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    #[test]
    fn a_trace_is_joined_and_passed_on() {
        const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
        const PARENT: &str = "b7ad6b7169203331";
        activate();
        let provider = SdkTracerProvider::builder().with_span_processor(Taken).build();
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
