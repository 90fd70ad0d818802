//! The caches of one build: what it imports and exports, from its request to the response.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use super::super::progress::Display;
use super::super::status_frames::StatusFrames;
use super::attributes::ExportEntry;
use super::builder_export::{BuilderExport, Target};
use super::context::CacheContext;
use super::exports::ShownExport;
use super::options::Replacements;
use super::stored::{KeptVersions, Stored};
use super::{STORE_PREFIX, display};
use crate::caches::{Caches, Part, ResolvedPart};
use crate::engine::{Origin, Pin};
use crate::export::unique_id;
use crate::net::Principal;

/// One build, as its calls share it.
#[derive(Debug)]
pub(in super::super) struct CacheBuild {
    pub(super) nonce: String,
    pub(super) context: Arc<CacheContext>,
    pub(super) client: Principal,
    /// What the build's client is shown.
    pub(super) frames: Arc<StatusFrames>,
    pub(super) session: String,
    /// `None` where the builder cannot reach our stores, or the engine has none: then nothing is exported or imported.
    pub(super) stored: Option<Arc<Stored>>,
    pub(super) kept: Option<Arc<KeptVersions>>,
    pub(super) exports: Vec<ExportEntry>,
    pub(super) begun: Vec<OnceLock<Arc<ShownExport>>>,
    pub(super) part: Mutex<Part>,
    /// What has taken the place of the imports so far. Held while more are looked up.
    pub(super) imports: AsyncMutex<Replacements>,
}

impl CacheBuild {
    pub(super) fn reads_images(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored.caches.reads_engine_images())
    }

    pub(super) fn engine(&self) -> &'static str {
        self.context.exports.engine().identity().kind.name()
    }

    /// Who reads and writes.
    pub(super) fn origin(&self) -> Origin {
        let (builder, principal) = (self.context.builder.clone(), self.client.clone());
        Origin { export: unique_id(), door: "buildkit", builder, principal }
    }

    /// Pins what `parts` list for as long as the build runs, or what it has imported lazily is read.
    pub(super) fn keep(self: &Arc<Self>, parts: &[ResolvedPart]) {
        let Some(stored) = &self.stored else { return };
        let pins = parts.iter().flat_map(ResolvedPart::blobs).map(Pin::from).collect();
        stored.leases.keep(self.origin(), pins, self.kept.clone());
    }

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
        let display = Display::beside(self.frames.clone(), self.engine(), display::vertex(&self.session, index));
        let names = entry.refs.iter().map(|name| format!("cache {name}")).collect();
        let listed = self.context.exports.live().add(&origin, names);
        listed.enter("transferring");
        let export = BuilderExport::new(
            caches.clone(),
            self.context.exports.clone(),
            self.context.content.clone(),
            target,
            origin,
            display.events(),
        );
        Arc::new(ShownExport::new(export, display, self.engine(), listed))
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
