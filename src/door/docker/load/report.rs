//! The log line of a load: one line, however it ends, in the same terms as those of other [exports](crate::export).

use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::upload::ArchiveFacts;
use crate::activity::{Activities, Activity, Arrival, DOCKER_FAILED, EndedExport, ExportEnd};
use crate::engine::Origin;
use crate::export::{Listed, LiveExports};

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
            names: Vec::new(),
            end: End::Unknown,
        }
    }

    /// Tells `activities` of the load into an engine of the kind `engine`.
    #[must_use]
    pub(super) fn counted(mut self, engine: &'static str, activities: &Activities) -> Self {
        (self.engine, self.activities) = (engine, activities.clone());
        self
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
            End::Failed(reason) => Some(reason),
            End::Unknown => Some(self.known.trouble.get().map_or(LEFT, String::as_str)),
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let (principal, export, engine) = (&self.principal, &self.export, self.engine);
        let (seconds, names) = (self.begun.elapsed().as_millis() as f64 / 1e3, self.names.join(","));
        let savings = self.known.savings.get().copied().unwrap_or_default();
        let (spared_blobs, spared_bytes) = (savings.blobs, savings.bytes);
        match self.failure() {
            None => {
                info!(door = "docker", names, spared_blobs, spared_bytes, seconds, principal, export, engine, "loaded")
            }
            Some(error) => {
                info!(
                    door = "docker",
                    names, spared_blobs, spared_bytes, seconds, principal, export, engine, error, "not loaded"
                )
            }
        }
        // Counted when the line is there, so that whoever sees the one finds the other.
        let present = (savings.blobs as u64, savings.bytes);
        if present.0 > 0 {
            let (blobs, bytes) = present;
            self.activities.emit(Activity::Blobs { door: "docker", how: Arrival::Present, blobs, bytes });
        }
        let kind = self.known.kind.get().copied().unwrap_or(DOCKER_FAILED);
        let end = match &self.end {
            End::Loaded => ExportEnd::Exported,
            End::Failed(_) => ExportEnd::Failed(kind),
            End::Unknown if self.known.trouble.get().is_some() => ExportEnd::Failed(kind),
            End::Unknown => ExportEnd::Cancelled,
        };
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
        assert_eq!(report.failure(), Some("no room"));
    }
}
