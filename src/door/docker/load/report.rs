//! The log line of a load: one line, however it ends, in the same terms as those of other [exports](crate::export).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tracing::Span;

use super::blobs::StoredHere;
use super::upload::ArchiveFacts;
use crate::activity::{Activities, Activity, Arrival, DOCKER_FAILED, EndedExport, ExportEnd};
use crate::engine::Origin;
use crate::export::{Listed, LiveExports};
use crate::trace_context;

/// The state of a load, as it is listed.
pub(super) const LOADING: &str = "loading";

/// How many images one line lists.
pub(super) const MOST_NAMED: usize = 5;

/// The line of a load whose outcome is not known: dockerd may have made an image of what it had by then.
const LEFT: &str = "the client left before docker's response had ended";

/// The log line of one load, written on drop.
#[derive(Debug)]
pub(super) struct Report {
    begun: Instant,
    principal: String,
    export: String,
    engine: &'static str,
    activities: Activities,
    _listed: Listed,
    /// The facts about the archive: what was omitted, and why it was not sent.
    known: Arc<ArchiveFacts>,
    /// What came and was stored here.
    here: Arc<StoredHere>,
    /// The spans of the load and of its request.
    spans: [Span; 2],
    /// The names that dockerd loaded, up to [`MOST_NAMED`].
    names: Vec<String>,
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Unknown,
    Loaded,
    Failed(String),
}

impl Report {
    /// Begins the report of the load `origin`, which is listed in `exports` until its end.
    pub(super) fn begin(exports: &LiveExports, origin: &Origin, known: Arc<ArchiveFacts>) -> Self {
        let (principal, listed) = (origin.principal.to_string(), exports.add(origin, Vec::new()));
        listed.enter(LOADING);
        let (engine, activities) = ("", Activities::default());
        let begun = Instant::now();
        let export = origin.export.clone();
        Self {
            begun,
            principal,
            export,
            engine,
            activities,
            _listed: listed,
            known,
            here: Arc::default(),
            spans: [Span::none(), Span::none()],
            names: Vec::new(),
            end: End::Unknown,
        }
    }

    /// Tells `activities` of the load into an engine of the kind `engine`, of which `here` counts a part.
    #[must_use]
    pub(super) fn counted(mut self, engine: &'static str, activities: &Activities, here: Arc<StoredHere>) -> Self {
        (self.engine, self.activities, self.here) = (engine, activities.clone(), here);
        self
    }

    /// Its end is that of `spans`.
    pub(super) fn trace(&mut self, spans: [Span; 2]) {
        self.spans = spans;
    }

    /// Records that dockerd loaded `name`.
    pub(super) fn name(&mut self, name: &str) {
        if self.names.len() < MOST_NAMED {
            self.names.push(name.to_owned());
        }
    }

    /// Records a failure; only the first reason is kept.
    pub(super) fn fail(&mut self, reason: impl Into<String>) {
        if !matches!(self.end, End::Failed(_)) {
            self.end = End::Failed(reason.into());
        }
    }

    /// Records the end of dockerd's response; unless there was a failure, the archive is loaded.
    pub(super) fn done(&mut self) {
        if self.end == End::Unknown {
            self.end = End::Loaded;
        }
    }

    /// Why the load failed, if it did.
    pub(super) fn failure(&self) -> Option<&str> {
        match &self.end {
            End::Loaded => None,
            // What dockerd says then is that the archive broke off.
            _ if self.is_given_up() => Some(LEFT),
            End::Failed(reason) => Some(reason),
            End::Unknown => Some(self.known.trouble.get().map_or(LEFT, String::as_str)),
        }
    }

    /// Whether the client gave it up: it left within the archive, or before dockerd's response had ended.
    fn is_given_up(&self) -> bool {
        let is_refused = self.known.trouble.get().is_some();
        match &self.end {
            End::Loaded => false,
            End::Failed(_) => self.known.is_left.load(Ordering::Relaxed) && !is_refused,
            End::Unknown => !is_refused,
        }
    }

    fn end(&self) -> ExportEnd {
        match &self.end {
            End::Loaded if self.known.savings.get().is_some_and(|savings| savings.are_all) => ExportEnd::Unchanged,
            End::Loaded => ExportEnd::Exported,
            _ if self.is_given_up() => ExportEnd::Cancelled,
            _ => ExportEnd::Failed(self.known.kind.get().copied().unwrap_or(DOCKER_FAILED)),
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let (principal, export, engine) = (&self.principal, &self.export, self.engine);
        let (seconds, mut names) = (self.begun.elapsed().as_millis() as f64 / 1e3, self.names.join(","));
        if let Some(denied) = self.known.denied.get().filter(|_| names.is_empty()) {
            names.clone_from(denied);
        }
        let savings = self.known.savings.get().copied().unwrap_or_default();
        let (spared_blobs, spared_bytes) = (savings.blobs, savings.bytes);
        let (sent_blobs, sent_bytes) = self.here.counts();
        let end = self.end();
        macro_rules! line {
            ($level:ident, $($end:tt)*) => {
                tracing::$level!(
                    door = "docker",
                    names,
                    sent_blobs,
                    sent_bytes,
                    spared_blobs,
                    spared_bytes,
                    seconds,
                    principal,
                    export,
                    engine,
                    $($end)*
                )
            };
        }
        let (is_failure, is_clients) = (matches!(end, ExportEnd::Failed(_)), self.known.kind.get().is_some());
        match self.failure() {
            None => line!(info, "loaded"),
            // Whoever runs this sees failures at the level `warn`; what is the client's doing is said to the client.
            Some(error) if is_failure && !is_clients => line!(warn, error, "not loaded"),
            Some(error) => line!(info, error, "not loaded"),
        }
        for span in &self.spans {
            match self.failure().filter(|_| is_failure) {
                Some(error) => trace_context::fail(span, &error),
                None => {
                    trace_context::number(span, "sent_bytes", sent_bytes);
                    trace_context::number(span, "spared_bytes", spared_bytes);
                }
            }
        }
        // Counted when the line is there, so that whoever sees the one finds the other.
        let present = (savings.blobs as u64, savings.bytes);
        if present.0 > 0 {
            let (blobs, bytes) = present;
            self.activities.emit(Activity::Blobs { door: "docker", how: Arrival::Present, blobs, bytes });
        }
        let after = self.begun.elapsed();
        self.activities.emit(Activity::Ended(EndedExport { door: "docker", engine, end, after }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Principal;

    #[test]
    fn what_is_not_known_to_be_loaded_is_not() {
        let known = Arc::new(ArchiveFacts::default());
        let (builder, principal) = (String::new(), Principal::Internal);
        let origin = Origin { export: "e".to_owned(), door: "docker", builder, principal };
        let mut report = Report::begin(&LiveExports::default(), &origin, known.clone());
        assert_eq!(report.failure(), Some(LEFT));
        known.trouble.set("it was denied".to_owned()).unwrap();
        assert_eq!(report.failure(), Some("it was denied"));
        report.done();
        assert_eq!(report.failure(), None);
        report.fail("no room");
        report.fail("later");
        report.done();
        assert_eq!((report.failure(), report.end()), (Some("no room"), ExportEnd::Failed(DOCKER_FAILED)));
    }

    #[test]
    fn a_client_that_leaves_has_given_up_whatever_docker_says_of_it() {
        let known = Arc::new(ArchiveFacts::default());
        let (builder, principal) = (String::new(), Principal::Internal);
        let origin = Origin { export: "e".to_owned(), door: "docker", builder, principal };
        let begin = || Report::begin(&LiveExports::default(), &origin, known.clone());
        let mut report = begin();
        assert_eq!(report.end(), ExportEnd::Cancelled, "before docker's response");
        report.fail("unexpected EOF");
        assert_eq!(report.end(), ExportEnd::Failed(DOCKER_FAILED), "the archive is not whole");
        known.is_left.store(true, Ordering::Relaxed);
        assert_eq!((report.failure(), report.end()), (Some(LEFT), ExportEnd::Cancelled));
        known.trouble.set("it was denied".to_owned()).unwrap();
        known.kind.set("policy").unwrap();
        assert_eq!((report.failure(), report.end()), (Some("unexpected EOF"), ExportEnd::Failed("policy")));
        let mut report = begin();
        report.done();
        assert_eq!(report.end(), ExportEnd::Exported, "it had all that docker needed");
    }
}
