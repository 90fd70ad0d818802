//! The caches of one build: what it imports and exports, from its request to the response.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::Mutex as AsyncMutex;
use tonic::Status;

use super::super::builds::Build;
use super::super::entry::Entry;
use super::super::progress::{Display, remark, remark_now, size};
use super::super::response::Keys;
use super::attributes::{ExportEntry, ignores_errors, imported, shown};
use super::builder_export::{BuilderExport, Exported, Target};
use super::content::Store;
use super::display;
use super::options::{CacheOptions, Replacements, edit_gateway, edit_solve};
use super::results::{self, CacheResult};
use super::{Caching, KIND, STORE_PREFIX};
use crate::caches::{CacheReader, Caches, Part, ResolvedPart};
use crate::engine::{Lease, Lifetime, Origin, Pin};
use crate::export::{Exports, Listed, unique_id};
use crate::image::Digest;
use crate::net::Principal;

/// One build, as its calls share it.
#[derive(Debug)]
pub(in super::super) struct CacheBuild {
    pub(super) nonce: String,
    caching: Arc<Caching>,
    client: Principal,
    build: Arc<Build>,
    session: String,
    /// `None` where the builder cannot reach our stores, or the engine has none: then nothing is exported or imported.
    stored: Option<Stored>,
    exports: Vec<ExportEntry>,
    begun: Vec<OnceLock<Arc<ShownExport>>>,
    part: Mutex<Part>,
    /// What has taken the place of the imports so far. Held while more are looked up.
    imports: AsyncMutex<Replacements>,
}

/// The caches, and what the build reads of them.
#[derive(Debug)]
struct Stored {
    caches: Arc<Caches>,
    reader: Arc<CacheReader>,
    exports: Arc<Exports>,
    /// Keep what is read although another process deletes its version.
    leases: Mutex<Vec<Arc<dyn Lease>>>,
}

impl Drop for Stored {
    fn drop(&mut self) {
        for lease in std::mem::take(self.leases.get_mut().unwrap_or_else(PoisonError::into_inner)) {
            self.exports.release(lease);
        }
    }
}

/// The build and its request, as the builder gets it. Dropping it ends the exports.
#[derive(Debug)]
pub(in super::super) struct Cached {
    build: Arc<CacheBuild>,
    /// The edited request.
    pub(in super::super) message: Bytes,
}

impl Caching {
    /// Edits a request that has entries of ours. `is_split` says whether the builder can reach our stores: the client's
    /// session is split.
    ///
    /// # Errors
    /// When an export cannot be made and the user did not say that the build goes on without it.
    pub(in super::super) async fn solve(
        self: &Arc<Self>,
        message: &[u8],
        options: &CacheOptions,
        session: &str,
        is_split: bool,
        client: &Principal,
        build: &Arc<Build>,
    ) -> Result<Cached, Status> {
        let engine = self.exports.engine().identity().kind;
        let caches = match &self.caches {
            None => Err(format!("the engine {engine} stores no build caches")),
            Some(_) if !is_split => Err(TOO_LATE.to_owned()),
            Some(caches) => Ok(caches),
        };
        let mut exports = Vec::new();
        for entry in &options.exports {
            match caches.clone().and_then(|caches| read_export(caches, entry, client)) {
                Ok(export) => exports.push(export),
                Err(reason) => {
                    let text = format!("the cache export `{}`: {reason}", shown(entry));
                    if !ignores_errors(entry) {
                        return Err(Status::unknown(format!("linkspan: {text}")));
                    }
                    remark(build, &text);
                }
            }
        }
        let cached = Arc::new(CacheBuild {
            nonce: unique_id(),
            caching: self.clone(),
            client: client.clone(),
            build: build.clone(),
            session: session.to_owned(),
            stored: caches.as_ref().ok().map(|caches| Stored {
                caches: Arc::clone(caches),
                reader: CacheReader::new(caches.blobs()),
                exports: self.exports.clone(),
                leases: Mutex::default(),
            }),
            begun: exports.iter().map(|_| OnceLock::new()).collect(),
            exports,
            part: Mutex::new(options.part.clone()),
            imports: AsyncMutex::default(),
        });
        self.add(&cached);
        match (caches, options.imports.first()) {
            (Err(reason), Some(import)) => {
                remark(build, &format!("the cache import `{}` is left out: {reason}", shown(import)));
            }
            _ => cached.look_up(&options.wanted(cached.reads_images())).await,
        }
        let locals: Vec<_> =
            cached.exports.iter().enumerate().map(|(i, export)| export.local(cached.dest(i))).collect();
        let message = edit_solve(message, &locals, &*cached.imports.lock().await);
        let message = message.map_err(|error| Status::internal(error.to_string()))?;
        build.set_cache(&cached);
        Ok(Cached { build: cached, message })
    }
}

/// Reads an export of `client`, and refuses names that policy does not allow.
fn read_export(caches: &Arc<Caches>, entry: &Entry, client: &Principal) -> Result<ExportEntry, String> {
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

/// Why nothing can be read or written inside a client's session.
const TOO_LATE: &str = "the builder cannot reach Linkspan inside this client's session, which another build uses as it is; \
                        hint: build again, and by itself";

impl CacheBuild {
    /// The store `name` of the build: the empty one has what is imported, `e0` takes the first export.
    pub(super) fn store(self: &Arc<Self>, name: &str) -> Option<Store> {
        let Stored { caches, reader, .. } = self.stored.as_ref()?;
        if name.is_empty() {
            return Some(Store::Import(reader.clone()));
        }
        let index: usize = name.strip_prefix('e')?.parse().ok()?;
        Some(Store::Export(self.begun.get(index)?.get_or_init(|| self.begin(caches, index)).clone()))
    }

    /// The name that the vertex `digest` gets, if it is that of an export of ours.
    pub(in super::super) fn vertex_name(&self, digest: &str) -> Option<String> {
        let index = (0..self.exports.len()).find(|index| display::vertex(&self.session, *index) == digest)?;
        Some(display::name(self.engine(), &self.refs(index)))
    }

    /// A call of the gateway, with its imports replaced.
    pub(in super::super) async fn gateway(self: &Arc<Self>, message: Bytes) -> Bytes {
        let Ok(options) = CacheOptions::of_gateway(&message) else { return message };
        // The first call that has them is the build itself; others, such as those for its attestations, have none.
        if options.part != Part::default() {
            let mut part = self.part.lock().unwrap_or_else(PoisonError::into_inner);
            if *part == Part::default() {
                *part = options.part.clone();
            }
        }
        if options.is_empty() && !self.reads_images() {
            return message;
        }
        self.look_up(&options.wanted(self.reads_images())).await;
        edit_gateway(&message, &*self.imports.lock().await).unwrap_or(message)
    }

    /// Finds the parts of caches that are imported, each cache once for all calls of a build; and the engine's images that come
    /// before those of registries.
    async fn look_up(self: &Arc<Self>, wanted: &[Entry]) {
        let Some(stored) = &self.stored else { return };
        let mut imports = self.imports.lock().await;
        for import in wanted {
            if imports.contains_key(import) {
                continue;
            }
            let entries = self.import(stored, import).await.unwrap_or_else(|reason| {
                remark(&self.build, &format!("the cache import `{}` is left out: {reason}", shown(import)));
                Vec::new()
            });
            imports.insert(import.clone(), entries);
        }
    }

    /// The entries that take the place of an import: none if there is neither such a cache nor an image of that name with an
    /// inline cache.
    async fn import(self: &Arc<Self>, stored: &Stored, import: &Entry) -> Result<Vec<Entry>, String> {
        let mut roots = Vec::new();
        if import.kind != KIND {
            let name = import.attrs.get("ref").map(String::as_str).unwrap_or_default();
            return Ok(self.inline(stored, name).await?.iter().map(|root| self.entry(root)).collect());
        }
        for name in imported(import)? {
            let parts = stored.caches.resolve(&name).await.map_err(|error| error.to_string())?;
            if parts.is_empty() {
                roots.extend(self.inline(stored, name.as_str()).await?);
            }
            if let Some(text) = display::found(self.engine(), name.as_str(), &parts) {
                remark_now(&self.build, &text);
            }
            self.keep(&parts);
            for part in parts {
                roots.push(part.root.descriptor.digest.clone());
                stored.reader.add(part);
            }
        }
        let mut entries = Vec::new();
        for entry in roots.iter().map(|root| self.entry(root)) {
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// Pins what `parts` list for as long as the build runs; beside it, so that it does not wait for synced writes of the engine.
    fn keep(self: &Arc<Self>, parts: &[ResolvedPart]) {
        let listed = parts.iter().flat_map(|part| part.listed.layers.iter().chain([&part.listed.config]));
        let pins: Vec<Pin> = listed.map(Pin::from).collect();
        if pins.is_empty() {
            return;
        }
        let (exports, origin, build) = (self.caching.exports.clone(), self.origin(), Arc::downgrade(self));
        self.caching.exports.clean_up(async move {
            let pinned = async {
                let lease = exports.engine().lease(&origin, Lifetime::Process).await?;
                match lease.pin(&pins).await {
                    Ok(_) => Ok(lease),
                    Err(error) => {
                        exports.release(lease);
                        Err(error)
                    }
                }
            };
            match pinned.await {
                Ok(lease) => match build.upgrade().as_ref().and_then(|build| build.stored.as_ref()) {
                    Some(stored) => stored.leases.lock().unwrap_or_else(PoisonError::into_inner).push(lease),
                    None => exports.release(lease),
                },
                // The version's own lease is there all the same.
                Err(error) => tracing::debug!(%error, "what a build reads of caches has no lease of its own"),
            }
        });
    }

    fn origin(&self) -> Origin {
        let (builder, principal) = (self.caching.builder.clone(), self.client.clone());
        Origin { export: unique_id(), door: "buildkit", builder, principal }
    }

    /// The manifests of the engine's image `name` that have inline caches.
    async fn inline(&self, stored: &Stored, name: &str) -> Result<Vec<Digest>, String> {
        let Ok(name) = name.parse() else { return Ok(Vec::new()) };
        let caches = stored.caches.inline(&name).await.map_err(|error| error.to_string())?;
        caches.iter().for_each(|cache| stored.reader.add_inline(cache));
        Ok(caches.into_iter().map(|cache| cache.manifest.digest).collect())
    }

    /// The import of one document of ours, as the builder gets it.
    fn entry(&self, root: &Digest) -> Entry {
        let src = format!("{STORE_PREFIX}{}", self.nonce);
        let attrs = [("digest".to_owned(), root.to_string()), ("src".to_owned(), src)];
        Entry { kind: "local".into(), attrs: attrs.into() }
    }

    fn begin(&self, caches: &Arc<Caches>, index: usize) -> Arc<ShownExport> {
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

    fn reads_images(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored.caches.reads_engine_images())
    }

    fn engine(&self) -> &'static str {
        self.caching.exports.engine().identity().kind.name()
    }

    fn refs(&self, index: usize) -> String {
        let refs: Vec<_> = self.exports[index].refs.iter().map(ToString::to_string).collect();
        refs.join(", ")
    }

    fn dest(&self, index: usize) -> String {
        format!("{STORE_PREFIX}{}/e{index}", self.nonce)
    }
}

impl Cached {
    /// The build, as it is shown.
    pub(in super::super) fn shown(&self) -> Arc<Build> {
        self.build.build.clone()
    }

    /// Adds the results of the exports to what the client gets, and shows them.
    pub(in super::super) fn finish(&self, keys: &mut Keys) {
        if let Some(totals) = self.build.stored.as_ref().map(|stored| stored.reader.totals()).filter(|it| it.bytes > 0)
        {
            tracing::info!(blobs = totals.blobs, bytes = totals.bytes, "a build has read from build caches");
        }
        let mut results = Vec::new();
        for (id, export) in self.build.begun.iter().enumerate() {
            let Some(export) = export.get() else { continue };
            let (exported, moved) = export.export.result();
            results.extend(exported.iter().map(|exported| CacheResult::new(id, exported, moved)));
        }
        results::add(keys, &results);
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        for export in self.build.begun.iter().filter_map(|export| export.get().cloned()) {
            self.build.caching.exports.clean_up(async move { export.export.close().await });
        }
    }
}
