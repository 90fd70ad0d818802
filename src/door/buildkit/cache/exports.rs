//! The cache exports of a build.

use std::sync::{Arc, OnceLock, PoisonError};

use super::super::entry::Entry;
use super::super::progress::{Display, size};
use super::STORE_PREFIX;
use super::attributes::ExportEntry;
use super::build::CacheBuild;
use super::builder_export::{BuilderExport, Exported, Target};
use super::display;
use crate::caches::Caches;
use crate::export::Listed;
use crate::net::Principal;

/// Reads an export of `client`, and refuses names that policy does not allow.
pub(super) fn read_export(caches: &Arc<Caches>, entry: &Entry, client: &Principal) -> Result<ExportEntry, String> {
    let export = ExportEntry::read(entry)?;
    for name in &export.refs {
        caches.check(name, client).map_err(|error| error.to_string())?;
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
    /// Shows what an export has moved, once it is complete.
    pub(super) fn show(&self) {
        let (exported, moved) = self.export.result();
        if !exported.is_empty() {
            let text = display::summary(self.engine, moved, &size(moved.sent_bytes));
            self.is_shown.get_or_init(|| {
                self.display.note(&text);
                for Exported { version, is_unchanged } in &exported {
                    tracing::info!(
                        cache = version.reference,
                        part = version.title,
                        root = %version.root.digest,
                        sent = moved.sent,
                        sent_bytes = moved.sent_bytes,
                        unchanged = is_unchanged,
                        "a build cache is exported"
                    );
                }
            });
        }
    }
}

impl CacheBuild {
    /// The name that the vertex `digest` gets, if it is that of an export of ours.
    pub(in super::super) fn vertex_name(&self, digest: &str) -> Option<String> {
        let index = (0..self.exports.len()).find(|index| display::vertex(&self.session, *index) == digest)?;
        Some(display::name(self.engine(), &self.refs(index)))
    }

    /// Begins the export `index`.
    pub(super) fn begin(&self, caches: &Arc<Caches>, index: usize) -> Arc<ShownExport> {
        let entry = &self.exports[index];
        let part = self.part.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let target = Target { refs: entry.refs.clone(), part, mode: entry.mode, keep: entry.keep };
        let origin = self.origin();
        let display = Display::beside(self.build.clone(), self.engine(), display::vertex(&self.session, index));
        let names = entry.refs.iter().map(|name| format!("cache {name}")).collect();
        let listed = self.caching.exports.live().add(&origin, names);
        listed.enter("transferring");
        let export = BuilderExport::new(
            caches.clone(),
            self.caching.exports.clone(),
            self.caching.content.clone(),
            target,
            origin,
            display.events(),
        );
        Arc::new(ShownExport { export, display, engine: self.engine(), is_shown: OnceLock::new(), _listed: listed })
    }

    fn refs(&self, index: usize) -> String {
        let refs: Vec<_> = self.exports[index].refs.iter().map(ToString::to_string).collect();
        refs.join(", ")
    }

    /// The id of the store that the export `index` writes.
    pub(super) fn dest(&self, index: usize) -> String {
        format!("{STORE_PREFIX}{}/e{index}", self.nonce)
    }
}
