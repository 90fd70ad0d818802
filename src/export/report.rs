//! One line of the log for each export: who, what, and what it cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::ExportError;
use super::request::{Outcome, Request};
use crate::activity::{Activities, Activity, EndedExport, ExportEnd};
use crate::net::Principal;

/// What is known when an export begins.
#[derive(Debug)]
pub(super) struct Report {
    door: &'static str,
    builder: String,
    principal: String,
    /// Whether this process asked for it: it says itself what failed.
    is_own: bool,
    export: String,
    root: String,
    names: String,
    begun: Instant,
    /// Bytes that the engine held; [`u64::MAX`] as long as that is not known.
    spared: Arc<AtomicU64>,
    ending: Ending,
}

impl Report {
    pub(super) fn of(request: &Request, spared: Arc<AtomicU64>, ending: Ending) -> Self {
        spared.store(u64::MAX, Ordering::Relaxed);
        let origin = request.origin.clone();
        let names: Vec<_> = request.names.iter().map(ToString::to_string).collect();
        let (root, names) = (request.root.digest.to_string(), names.join(","));
        Self {
            door: origin.door,
            builder: origin.builder,
            principal: origin.principal.to_string(),
            is_own: matches!(origin.principal, Principal::Internal),
            export: origin.export,
            root,
            names,
            begun: Instant::now(),
            spared,
            ending,
        }
    }

    /// Records how it ended; hands that on.
    pub(super) fn end(self, result: Result<Outcome, ExportError>) -> Result<Outcome, ExportError> {
        let Self { door, builder, principal, is_own, export, root, names, begun, spared, mut ending } = self;
        let engine = ending.ended.engine;
        ending.ended.after = begun.elapsed();

        let seconds = begun.elapsed().as_millis() as f64 / 1e3;
        // An image that is there as a whole is not looked into.
        let spared_bytes = Some(spared.load(Ordering::Relaxed)).filter(|bytes| *bytes != u64::MAX);
        ending.ended.end = end_of(&result, spared_bytes.is_some());
        // Whoever runs this sees failures at the level `warn`; what is the client's doing is said to the client.
        macro_rules! not_exported {
            ($level:ident, $error:expr) => {
                tracing::$level!(
                    door,
                    builder,
                    export,
                    root,
                    names,
                    seconds,
                    principal,
                    engine,
                    error = %$error,
                    "not exported"
                )
            };
        }
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
                engine,
                "exported"
            ),
            Err(error) if is_own || error.is_clients() => not_exported!(info, error),
            Err(error) => not_exported!(warn, error),
        }
        // Counted when the line is there, so that whoever sees the one finds the other.
        drop(ending);
        result
    }
}

/// Tells that an export has ended, when this is dropped: a defect, unless it was told how.
#[derive(Debug)]
pub(super) struct Ending {
    activities: Activities,
    ended: EndedExport,
}

impl Ending {
    pub(super) fn new(door: &'static str, engine: &'static str, activities: Activities) -> Self {
        let end = ExportEnd::Failed("internal");
        Self { activities, ended: EndedExport { door, engine, end, after: Duration::ZERO } }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.activities.emit(Activity::Ended(self.ended.clone()));
    }
}

/// How an export ended whose image was looked into, or was there as a whole.
fn end_of(result: &Result<Outcome, ExportError>, is_planned: bool) -> ExportEnd {
    match result {
        Ok(_) if is_planned => ExportEnd::Exported,
        Ok(_) => ExportEnd::Unchanged,
        Err(ExportError::Cancelled) => ExportEnd::Cancelled,
        Err(error) => ExportEnd::Failed(error.kind()),
    }
}
