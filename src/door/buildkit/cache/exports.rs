//! The cache exports of a build.

use std::sync::{Arc, OnceLock};

use super::super::entry::Entry;
use super::super::progress::Display;
use super::attributes::ExportEntry;
use super::builder_export::{BuilderExport, Exported};
use super::display;
use crate::activity::Refused;
use crate::byte_size;
use crate::caches::Caches;
use crate::engine::Origin;
use crate::export::{Listed, Progress};
use crate::net::Principal;

/// Reads an export of `client`, and refuses names that policy does not allow.
pub(super) fn read_export(
    caches: &Arc<Caches>,
    entry: &Entry,
    client: &Principal,
) -> Result<ExportEntry, (Option<Refused>, String)> {
    let export = ExportEntry::read(entry).map_err(|reason| (Some(Refused::Input), reason))?;
    for name in &export.refs {
        caches.check(name, client).map_err(|error| (Some(Refused::Policy), error.to_string()))?;
    }
    Ok(export)
}

/// An export, and where it is shown.
#[derive(Debug)]
pub(super) struct ShownExport {
    pub(super) export: Arc<BuilderExport>,
    display: Display,
    engine: &'static str,
    is_shown: OnceLock<()>,
    /// Among the live exports.
    _listed: Listed,
}

impl ShownExport {
    pub(super) fn new(export: Arc<BuilderExport>, display: Display, engine: &'static str, listed: Listed) -> Self {
        let asked = Arc::downgrade(&export);
        listed.ask(move || {
            let (_, moved) = asked.upgrade()?.result();
            let blobs = (moved.present + moved.sent) as u64;
            let bytes = moved.present_bytes.saturating_add(moved.sent_bytes);
            Some(Progress { state: None, blobs, bytes, expires: None })
        });
        Self { export, display, engine, is_shown: OnceLock::new(), _listed: listed }
    }

    /// Shows what an export has moved, once it is complete.
    pub(super) fn show(&self) {
        let (exported, moved) = self.export.result();
        if !exported.is_empty() {
            let Origin { export, door, principal, .. } = self.export.origin();
            let engine = self.engine;
            let text = display::summary(self.engine, moved, &byte_size::in_line(moved.sent_bytes));
            self.is_shown.get_or_init(|| {
                self.display.note(&text);
                for Exported { version, is_unchanged } in &exported {
                    tracing::info!(
                        export,
                        door,
                        engine,
                        %principal,
                        cache = version.reference,
                        part = version.title,
                        root = %version.root.digest,
                        sent = moved.sent,
                        sent_bytes = moved.sent_bytes,
                        present = moved.present,
                        present_bytes = moved.present_bytes,
                        unchanged = is_unchanged,
                        "a build cache is exported"
                    );
                }
            });
        }
    }
}
