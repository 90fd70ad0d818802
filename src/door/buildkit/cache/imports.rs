//! The cache imports of a build.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::super::entry::Entry;
use super::super::progress::{remark, remark_now};
use super::attributes::{imported, shown};
use super::build::CacheBuild;
use super::options::{CacheOptions, edit_gateway};
use super::stored::Stored;
use super::{KIND, STORE_PREFIX, display};
use crate::activity::Activity;
use crate::caches::Part;
use crate::image::Digest;

/// How long the imports of a call are looked for. The client waits meanwhile, and gives a build up that does not begin within 15 s.
const LOOK_UP: Duration = Duration::from_secs(8);

impl CacheBuild {
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
        self.look_up(&options.lookups(self.reads_images())).await;
        edit_gateway(&message, &*self.imports.lock().await).unwrap_or(message)
    }

    /// Finds the parts of caches that are imported, each cache once for all calls of a build; and the engine's images that come
    /// before those of registries.
    pub(super) async fn look_up(self: &Arc<Self>, entries: &[Entry]) {
        let Some(stored) = &self.stored else { return };
        let mut imports = self.imports.lock().await;
        let deadline = Instant::now() + LOOK_UP;
        for import in entries {
            if imports.contains_key(import) {
                continue;
            }
            let found = match timeout_at(deadline, self.import(stored, import)).await {
                Ok(found) => found,
                Err(_) => Err(format!("{} has not responded within {} s", self.engine(), LOOK_UP.as_secs())),
            };
            let entries = found.unwrap_or_else(|reason| {
                remark(&self.frames, &format!("the cache import `{}` is left out: {reason}", shown(import)));
                Vec::new()
            });
            imports.insert(import.clone(), entries);
        }
    }

    /// The entries that take the place of an import: none if there is neither such a cache nor an image of that name with an
    /// inline cache.
    async fn import(self: &Arc<Self>, stored: &Arc<Stored>, import: &Entry) -> Result<Vec<Entry>, String> {
        let mut entries = Vec::new();
        if import.kind != KIND {
            let name = import.attrs.get("ref").map(String::as_str).unwrap_or_default();
            return Ok(self.inline(stored, name).await?.iter().map(|root| self.local(root)).collect());
        }
        for name in imported(import)? {
            let (parts, unusable) = stored.caches.resolve_all(&name).await.map_err(|error| error.to_string())?;
            let is_hit = !parts.is_empty();
            for error in unusable {
                let hint = error.hint().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
                remark(&self.frames, &format!("{error}{hint}"));
            }
            if parts.is_empty() {
                entries.extend(self.inline(stored, name.as_str()).await?.iter().map(|root| self.local(root)));
            }
            let is_hit = is_hit || !entries.is_empty();
            self.context.exports.activities().emit(Activity::CacheLookup { is_hit });
            if let Some(text) = display::found(self.engine(), name.as_str(), &parts) {
                remark_now(&self.frames, &text);
            }
            self.keep(&parts);
            let repository = match &self.context.loopback {
                Some(loopback) => {
                    let running = Arc::downgrade(self);
                    loopback.offer(&name, &parts, stored, &self.session, running).await
                }
                None => None,
            };
            for part in parts {
                let root = &part.root.descriptor.digest;
                entries.push(match &repository {
                    Some(repository) => lazy(repository, root),
                    None => self.local(root),
                });
                stored.reader.add(part);
            }
        }
        // Two caches may have the same part.
        let mut known = HashSet::new();
        entries.retain(|entry| known.insert(entry.clone()));
        Ok(entries)
    }

    /// The manifests of the engine's image `name` that have inline caches.
    async fn inline(&self, stored: &Stored, text: &str) -> Result<Vec<Digest>, String> {
        let Ok(name) = text.parse() else { return Ok(Vec::new()) };
        let caches = stored.caches.inline(&name).await.map_err(|error| error.to_string())?;
        if !caches.is_empty() {
            remark_now(&self.frames, &display::found_inline(self.engine(), text));
        }
        caches.iter().for_each(|cache| stored.reader.add_inline(cache));
        Ok(caches.into_iter().map(|cache| cache.manifest.digest).collect())
    }

    /// The import of one document of ours from the client's session.
    fn local(&self, root: &Digest) -> Entry {
        let src = format!("{STORE_PREFIX}{}", self.nonce);
        let attrs = [("digest".to_owned(), root.to_string()), ("src".to_owned(), src)];
        Entry { kind: "local".into(), attrs: attrs.into() }
    }
}

/// The import of one document from a registry on the builder's loopback.
fn lazy(repository: &str, root: &Digest) -> Entry {
    Entry { kind: "registry".into(), attrs: [("ref".to_owned(), format!("{repository}@{root}"))].into() }
}
