//! What is logged of a load: one line, whatever its end, in the words of [exports](crate::export), of which it is one.

use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::upload::Known;
use crate::engine::Origin;
use crate::export::{Listed, LiveExports};

/// How many images one line names.
pub(super) const MOST_NAMED: usize = 5;

/// What is said of a load of which the end is not known: dockerd may have made an image of what it had by then.
const LEFT: &str = "the client left before docker's answer had ended";

/// The line of one load, which is written when this is dropped.
#[derive(Debug)]
pub(super) struct Report {
    begun: Instant,
    principal: String,
    _listed: Listed,
    /// What is known of the archive: what was left out of it, and why it was not sent.
    known: Arc<Known>,
    /// What dockerd says that it loaded, up to [`MOST_NAMED`].
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
    /// Of the load of `origin`, which begins now and is one of `exports` until its end.
    pub(super) fn begin(exports: &LiveExports, origin: &Origin, known: Arc<Known>) -> Self {
        let (principal, listed) = (origin.principal.to_string(), exports.add(origin, Vec::new()));
        listed.enter("loading");
        Self { begun: Instant::now(), principal, _listed: listed, known, names: Vec::new(), end: End::Unknown }
    }

    /// dockerd says that it loaded `name`.
    pub(super) fn name(&mut self, name: &str) {
        if self.names.len() < MOST_NAMED {
            self.names.push(name.to_owned());
        }
    }

    /// It failed; the first reason is the one.
    pub(super) fn fail(&mut self, reason: impl Into<String>) {
        if !matches!(self.end, End::Failed(_)) {
            self.end = End::Failed(reason.into());
        }
    }

    /// dockerd's response has ended; unless something has failed, the archive is loaded.
    pub(super) fn done(&mut self) {
        if self.end == End::Unknown {
            self.end = End::Loaded;
        }
    }

    /// Why it is not loaded, if it is not.
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
        let principal = &self.principal;
        let (seconds, names) = (self.begun.elapsed().as_millis() as f64 / 1e3, self.names.join(","));
        let savings = self.known.savings.get().copied().unwrap_or_default();
        let (spared_blobs, spared_bytes) = (savings.blobs, savings.bytes);
        match self.failure() {
            None => info!(door = "docker", names, spared_blobs, spared_bytes, seconds, principal, "loaded"),
            Some(error) => {
                info!(door = "docker", names, spared_blobs, spared_bytes, seconds, principal, error, "not loaded")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Principal;

    #[test]
    fn what_is_not_known_to_be_loaded_is_not() {
        let known = Arc::new(Known::default());
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
