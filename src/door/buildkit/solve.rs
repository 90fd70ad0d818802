//! The request that starts a build: parsed, and edited as bytes.
//!
//! Field numbers are those of BuildKit's `api/services/control/control.proto`.

use bytes::Bytes;

use super::cache::CacheOptions;
use super::exporters::Exporter;
use super::wire::{WireError, copy_without, entry, fields, put_bytes, put_map, put_varint};
use crate::build_outputs::OutputOptions;

const REF: u32 = 1;
const EXPORTER_DEPRECATED: u32 = 3;
const EXPORTER_ATTRS_DEPRECATED: u32 = 4;
const SESSION: u32 = 5;
const FRONTEND: u32 = 6;
const FRONTEND_ATTRS: u32 = 7;
const CACHE: u32 = 8;
const INTERNAL: u32 = 11;
const EXPORTERS: u32 = 13;
const ENABLE_SESSION_EXPORTER: u32 = 14;
const SOURCE_POLICY_SESSION: u32 = 15;
const COMPATIBILITY_VERSION: u32 = 16;

/// The frontend's attribute that buildx makes of its environment variable of that name.
const EPOCH_ARG: &str = "build-arg:SOURCE_DATE_EPOCH";

/// The frontend's attribute that buildx makes of `--no-cache` and `--no-cache-filter`.
pub(super) const NO_CACHE: &str = "no-cache";

/// A `SolveRequest`.
#[derive(Debug, Clone)]
pub(super) struct Solve {
    /// Its bytes.
    pub(super) message: Bytes,
    /// The id of the build, chosen by the client.
    pub(super) build: String,
    /// The id of the client's session.
    pub(super) session: String,
    /// Its exporters. A request of an old client that has only the deprecated fields has one.
    pub(super) exporters: Vec<Exporter>,
    /// Whether the builder itself runs a frontend; otherwise the client does, or there is none.
    pub(super) has_frontend: bool,
    /// The build argument `SOURCE_DATE_EPOCH`.
    pub(super) epoch: Option<String>,
    /// Whether the frontend that the builder runs must not take some or all steps from the cache.
    pub(super) is_uncached: bool,
    /// Whether the client handles the builder's calls about exporters itself.
    pub(super) has_session_exporter: bool,
    /// The version of BuildKit's results that it requests; zero is the newest.
    pub(super) compatibility: u64,
    /// The session that the builder asks about the build's sources; none if empty.
    pub(super) policy_session: String,
    /// The Linkspan caches that it reads and writes.
    pub(super) cache: CacheOptions,
}

/// The request that replaces `message`, a `SolveRequest`; `None` if it contains no load or is not a message that we
/// understand: then it is forwarded unchanged.
pub fn rewrite(message: Bytes, plain_is_load: bool) -> Option<Bytes> {
    let solve = Solve::read(message).ok()?;
    let options = OutputOptions { plain_is_load, ..OutputOptions::default() };
    solve.with_exporters(&solve.builder_exporters(options)?).ok()
}

/// Whether the builder records a build in its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum History {
    Keep,
    Skip,
}

impl Solve {
    /// Reads a request.
    pub(super) fn read(message: Bytes) -> Result<Self, WireError> {
        let (mut build, mut session) = (String::new(), String::new());
        let (mut has_frontend, mut epoch, mut is_uncached, mut has_session_exporter) = (false, None, false, false);
        let (mut compatibility, mut policy_session) = (0, String::new());
        let cache = CacheOptions::of_solve(&message)?;
        let (mut exporters, mut deprecated) = (Vec::new(), Exporter::default());
        for field in fields(&message) {
            let field = field?;
            match field.number {
                REF => field.text()?.clone_into(&mut build),
                SESSION => field.text()?.clone_into(&mut session),
                FRONTEND => has_frontend = !field.bytes.is_empty(),
                FRONTEND_ATTRS => {
                    let (key, value) = entry(field.bytes)?;
                    is_uncached |= key == NO_CACHE;
                    if key == EPOCH_ARG {
                        epoch = Some(value);
                    }
                }
                EXPORTERS => exporters.push(Exporter::read(field.bytes)?),
                ENABLE_SESSION_EXPORTER => has_session_exporter = field.varint != 0,
                SOURCE_POLICY_SESSION => field.text()?.clone_into(&mut policy_session),
                COMPATIBILITY_VERSION => compatibility = field.varint,
                EXPORTER_DEPRECATED => field.text()?.clone_into(&mut deprecated.kind),
                EXPORTER_ATTRS_DEPRECATED => deprecated.attrs.extend([entry(field.bytes)?]),
                _ => {}
            }
        }
        // The builder, too, reads the deprecated fields only if there are no others (control/control.go).
        if exporters.is_empty() && !deprecated.kind.is_empty() {
            exporters.push(deprecated);
        }
        Ok(Self {
            message,
            build,
            exporters,
            has_frontend,
            epoch,
            is_uncached,
            session,
            has_session_exporter,
            compatibility,
            policy_session,
            cache,
        })
    }

    /// The exporters that replace the client's; `None` if no load is among them.
    pub(super) fn builder_exporters(&self, options: OutputOptions) -> Option<Vec<Exporter>> {
        let is_load = |exporter: &Exporter| exporter.is_load(options.plain_is_load);
        if !self.exporters.iter().any(is_load) {
            return None;
        }
        let compression = self.load_compression(options);
        let replacement = |exporter: &Exporter| {
            if is_load(exporter) { exporter.rewritten().compressed(compression) } else { exporter.clone() }
        };
        Some(self.exporters.iter().map(replacement).collect())
    }

    /// The same request with other exporters (as many, in the same order). Each unchanged entry and field keeps its
    /// bytes.
    pub(super) fn with_exporters(&self, exporters: &[Exporter]) -> Result<Bytes, WireError> {
        let mut message = copy_without(&self.message, &[EXPORTERS, EXPORTER_DEPRECATED, EXPORTER_ATTRS_DEPRECATED])?;
        let mut index = 0;
        let mut has_deprecated = false;
        for field in fields(&self.message) {
            let field = field?;
            match field.number {
                EXPORTERS if self.exporters.get(index) == exporters.get(index) => {
                    message.extend_from_slice(field.raw);
                    index += 1;
                }
                EXPORTERS => {
                    exporters[index].put(&mut message, EXPORTERS, Some(field))?;
                    index += 1;
                }
                EXPORTER_DEPRECATED => has_deprecated = true,
                _ => {}
            }
        }
        for exporter in exporters.iter().skip(index).filter(|_| index > 0) {
            exporter.put(&mut message, EXPORTERS, None)?;
        }
        // Clients fill the deprecated fields from the first entry, for builders older than 0.13.
        if let Some(first) = exporters.first().filter(|_| has_deprecated) {
            put_bytes(&mut message, EXPORTER_DEPRECATED, first.kind.as_bytes());
            put_map(&mut message, EXPORTER_ATTRS_DEPRECATED, &first.attrs);
        }
        Ok(message.into())
    }

    /// `message`, with which the builder calls the client's session about its exporters.
    pub(super) fn with_session_exporter(message: &[u8]) -> Bytes {
        let mut message = message.to_vec();
        put_varint(&mut message, ENABLE_SESSION_EXPORTER, 1);
        message.into()
    }

    /// The same request, about whose sources the builder asks its client's session.
    pub(super) fn with_policy_session(&self) -> Result<Self, WireError> {
        let mut message = copy_without(&self.message, &[SOURCE_POLICY_SESSION])?;
        put_bytes(&mut message, SOURCE_POLICY_SESSION, self.session.as_bytes());
        Self::read(message.into())
    }

    /// The same build under another id, with `exporters` and without exporting its cache a second time.
    pub(super) fn again(&self, build: &str, exporters: &[Exporter], history: History) -> Result<Bytes, WireError> {
        let mut message = copy_without(
            &self.message,
            &[REF, INTERNAL, CACHE, EXPORTERS, EXPORTER_DEPRECATED, EXPORTER_ATTRS_DEPRECATED, ENABLE_SESSION_EXPORTER],
        )?;
        put_bytes(&mut message, REF, build.as_bytes());
        if history == History::Skip {
            put_varint(&mut message, INTERNAL, 1);
        }
        for cache in fields(&self.message).filter_map(Result::ok).filter(|field| field.number == CACHE) {
            put_bytes(&mut message, CACHE, &without_cache_exports(cache.bytes)?);
        }
        for exporter in exporters {
            exporter.put(&mut message, EXPORTERS, None)?;
        }
        Ok(message.into())
    }
}

/// `CacheOptions` without cache exports: fields 1, 3 (deprecated) and 4; the imports stay. An inline cache stays too:
/// it is part of the image.
fn without_cache_exports(options: &[u8]) -> Result<Vec<u8>, WireError> {
    const EXPORTS: u32 = 4;
    let mut copy = copy_without(options, &[1, 3, EXPORTS])?;
    for field in fields(options) {
        let field = field?;
        if field.number == EXPORTS && Exporter::read(field.bytes)?.kind == "inline" {
            copy.extend_from_slice(field.raw);
        }
    }
    Ok(copy)
}

#[cfg(test)]
mod tests;
