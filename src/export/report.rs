//! One line of the log for each export: who, what, and what it cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::ExportError;
use super::request::{Outcome, Request};

/// What is known when an export begins.
#[derive(Debug)]
pub(super) struct Report {
    door: &'static str,
    builder: String,
    principal: String,
    export: String,
    root: String,
    names: String,
    begun: Instant,
    /// Bytes that the engine held; [`u64::MAX`] as long as that is not known.
    spared: Arc<AtomicU64>,
}

impl Report {
    pub(super) fn of(request: &Request, spared: Arc<AtomicU64>) -> Self {
        spared.store(u64::MAX, Ordering::Relaxed);
        let origin = request.origin.clone();
        let names: Vec<_> = request.names.iter().map(ToString::to_string).collect();
        let (root, names) = (request.root.digest.to_string(), names.join(","));
        Self {
            door: origin.door,
            builder: origin.builder,
            principal: origin.principal.to_string(),
            export: origin.export,
            root,
            names,
            begun: Instant::now(),
            spared,
        }
    }

    /// Records how it ended; hands that on.
    pub(super) fn end(self, result: Result<Outcome, ExportError>) -> Result<Outcome, ExportError> {
        let Self { door, builder, principal, export, root, names, begun, spared } = self;
        let seconds = begun.elapsed().as_millis() as f64 / 1e3;
        // An image that is there as a whole is not looked into.
        let spared_bytes = Some(spared.load(Ordering::Relaxed)).filter(|bytes| *bytes != u64::MAX);
        match &result {
            Ok(Outcome { sent_blobs, sent_bytes, present_blobs }) => tracing::info!(
                door,
                builder,
                export,
                root,
                names,
                sent_blobs,
                sent_bytes,
                spared_blobs = present_blobs,
                spared_bytes,
                seconds,
                principal,
                "exported"
            ),
            Err(error) => {
                tracing::info!(door, builder, export, root, names, seconds, principal, %error, "not exported")
            }
        }
        result
    }
}
