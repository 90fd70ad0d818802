//! The spans on their way to a collector. Whoever ends a span only puts it into a queue of bounded length; a task sends what is
//! in it. A collector that is slow, away or refuses costs spans, which are counted, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    OTEL_BSP_EXPORT_TIMEOUT, OTEL_BSP_EXPORT_TIMEOUT_DEFAULT, OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE_DEFAULT, OTEL_BSP_MAX_QUEUE_SIZE, OTEL_BSP_MAX_QUEUE_SIZE_DEFAULT,
    OTEL_BSP_SCHEDULE_DELAY, OTEL_BSP_SCHEDULE_DELAY_DEFAULT, Span, SpanData, SpanExporter, SpanProcessor,
};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::variables::Variables;

/// The largest value of each setting that is taken.
const MAX_SPANS: u64 = 65_536;
const MAX_MILLISECONDS: u64 = 600_000;

/// How long the last spans may take, unless `OTEL_BSP_EXPORT_TIMEOUT` is set; and at most.
const FLUSH: Duration = Duration::from_secs(3);
const MAX_FLUSH: Duration = Duration::from_secs(60);

/// How spans are batched (OpenTelemetry specification, "Batch Span Processor").
#[derive(Debug, Clone, Copy)]
pub(super) struct Batching {
    delay: Duration,
    limit: Duration,
    /// How long the last spans may take at the end of the process.
    flush: Duration,
    queue: usize,
    batch: usize,
}

impl Batching {
    pub(super) fn of(variables: &Variables) -> Self {
        let spans = |name, default: usize| {
            let number = variables.number(name, 1..=MAX_SPANS);
            number.and_then(|it| usize::try_from(it).ok()).unwrap_or(default)
        };
        let set = |name, least| variables.number(name, least..=MAX_MILLISECONDS).map(Duration::from_millis);
        // No time at all would be no export at all.
        let limit = set(OTEL_BSP_EXPORT_TIMEOUT, 1);
        let queue = spans(OTEL_BSP_MAX_QUEUE_SIZE, OTEL_BSP_MAX_QUEUE_SIZE_DEFAULT);
        Self {
            delay: set(OTEL_BSP_SCHEDULE_DELAY, 0).unwrap_or(OTEL_BSP_SCHEDULE_DELAY_DEFAULT),
            limit: limit.unwrap_or(OTEL_BSP_EXPORT_TIMEOUT_DEFAULT),
            flush: limit.unwrap_or(FLUSH).min(MAX_FLUSH),
            batch: spans(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, OTEL_BSP_MAX_EXPORT_BATCH_SIZE_DEFAULT).min(queue),
            queue,
        }
    }
}

/// How many spans were not sent. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Dropped(Arc<AtomicU64>);

impl Dropped {
    fn add(&self, spans: usize) {
        self.0.fetch_add(spans as u64, Ordering::Relaxed);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Takes the spans that end.
#[derive(Debug)]
pub(super) struct Queue {
    sender: Sender<SpanData>,
    dropped: Dropped,
}

/// The other end of a [`Queue`].
#[derive(Debug)]
pub(super) struct Sending {
    spans: Receiver<SpanData>,
    dropped: Dropped,
    batching: Batching,
}

/// A queue, and its end.
pub(super) fn queue(batching: Batching) -> (Queue, Sending) {
    let (sender, spans) = mpsc::channel(batching.queue);
    let dropped = Dropped::default();
    (Queue { sender, dropped: dropped.clone() }, Sending { spans, dropped, batching })
}

/// The kind of a span, by its name: those of requests that are served, and all others.
fn kind_of(name: &str) -> SpanKind {
    match name {
        "call" | "exchange" | "request" | "solve" => SpanKind::Server,
        _ => SpanKind::Internal,
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, mut span: SpanData) {
        span.span_kind = kind_of(&span.name);
        // The sampler may leave it out, and say so only to those that continue the trace.
        if span.span_context.is_sampled() && self.sender.try_send(span).is_err() {
            self.dropped.add(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn set_resource(&mut self, _resource: &Resource) {}
}

impl Sending {
    pub(super) fn dropped(&self) -> Dropped {
        self.dropped.clone()
    }

    /// How long the last spans may take.
    pub(super) fn flush(&self) -> Duration {
        self.batching.flush
    }

    /// Sends spans until `end` is cancelled, and then those that have ended by then. `end` may be cut short by dropping this.
    pub(super) async fn run(mut self, exporter: impl SpanExporter, end: CancellationToken) {
        let mut is_failing = false;
        loop {
            let Some(batch) = self.next(&end).await else { return };
            let spans = batch.len();
            let failure = match timeout(self.batching.limit, exporter.export(batch)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no response within {} ms", self.batching.limit.as_millis())),
            };
            match failure {
                None if is_failing => tracing::info!("the collector of traces takes spans again"),
                None => {}
                Some(error) => {
                    self.dropped.add(spans);
                    // Once, and not for each batch.
                    match is_failing {
                        false => {
                            tracing::warn!(error, spans, "the collector of traces takes no spans; they are dropped")
                        }
                        true => tracing::debug!(error, spans, "spans were dropped"),
                    }
                    is_failing = true;
                    continue;
                }
            }
            is_failing = false;
        }
    }

    /// The next spans to be sent; `None` after the last.
    async fn next(&mut self, end: &CancellationToken) -> Option<Vec<SpanData>> {
        let mut batch = Vec::new();
        let first = tokio::select! {
            first = self.spans.recv() => first,
            () = end.cancelled() => self.spans.try_recv().ok(),
        };
        batch.push(first?);
        let until = Instant::now() + self.batching.delay;
        while batch.len() < self.batching.batch {
            let room = self.batching.batch - batch.len();
            let taken = tokio::select! {
                taken = timeout_at(until, self.spans.recv_many(&mut batch, room)) => taken.unwrap_or(0),
                () = end.cancelled() => match self.spans.try_recv() {
                    Ok(span) => {
                        batch.push(span);
                        1
                    }
                    Err(_) => 0,
                },
            };
            if taken == 0 {
                break;
            }
        }
        Some(batch)
    }
}
