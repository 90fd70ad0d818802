//! Copies of caches between stores: to and from folders as BuildKit's `type=local` reads and writes them.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::guards::VersionLease;
use super::{CacheError, CacheExport, CacheRef, Caches, Dropped, ResolvedPart, read_root};
use crate::engine::caches::{CacheDocument, CacheVersion, NewVersion, check_new};
use crate::engine::ingest::{Expected, IngestManager, OpenedIngest};
use crate::engine::{EngineError, InFlight, Lease, Origin, PARALLEL, Pin};
use crate::image::cache::{CacheConfig, CacheRoot};
use crate::image::{Descriptor, Digest};
use crate::source::{BlobLookup, Source, SourceError, read_document};

/// A version that is copied.
#[derive(Debug, Clone)]
pub struct CopySource {
    /// The version.
    pub version: CacheVersion,
    /// What its root lists.
    pub listed: Arc<CacheRoot>,
    /// The layers that its store has lost.
    pub absent: HashSet<Digest>,
    /// Where its documents and its layers are read.
    pub blobs: Arc<dyn Source>,
    /// Keeps the version where that is up to this process.
    _kept: Option<Arc<Kept>>,
}

/// A version that stays, and its lease if it has one.
type Kept = (ResolvedPart, Option<VersionLease>);

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The version as it is stored now.
    pub version: CacheVersion,
    /// How many bytes of layers were written; those that were there were not.
    pub written: u64,
    /// The version that the part had before, unless it is this one.
    pub replaced: Option<CacheVersion>,
    /// The versions that went because of a limit.
    pub dropped: Vec<Dropped>,
}

impl CopySource {
    /// A version whose blobs are kept by whoever serves `blobs`.
    pub fn new(version: CacheVersion, listed: Arc<CacheRoot>, absent: HashSet<Digest>, blobs: Arc<dyn Source>) -> Self {
        Self { version, listed, absent, blobs, _kept: None }
    }

    /// A version that is listed in a layout whose blobs are read from `blobs`.
    ///
    /// # Errors
    /// [`CacheError::Unusable`] says why it cannot be used.
    pub(crate) async fn listed_in(blobs: Arc<dyn BlobLookup>, version: CacheVersion) -> Result<Self, CacheError> {
        let unusable = |error| CacheError::unusable(&version, error);
        let (listed, absent) = read_listed(&*blobs, &version).await.map_err(unusable)?;
        let source = Self { version: version.clone(), listed: Arc::new(listed), absent, blobs, _kept: None };
        let (config, _) = source.documents().await.map_err(unusable)?;
        CacheConfig::parse(&config.descriptor, &config.bytes).map_err(|error| unusable(error.into()))?;
        check_new(&source.new_version(&version.reference)).map_err(|error| unusable(error.into()))?;
        Ok(source)
    }

    /// The config and the root.
    ///
    /// # Errors
    /// When they cannot be read, or the config is longer than one may be.
    pub async fn documents(&self) -> Result<(CacheDocument, CacheDocument), CacheError> {
        CacheConfig::check_size(&self.listed.config)?;
        let read = async |descriptor: &Descriptor| {
            let bytes = read_document(&*self.blobs, descriptor).await?;
            Ok::<_, CacheError>(CacheDocument { descriptor: descriptor.clone(), bytes })
        };
        Ok((read(&self.listed.config).await?, read(&self.listed.descriptor).await?))
    }

    /// What a copy of it is as a version of `reference`.
    pub(crate) fn new_version(&self, reference: &str) -> NewVersion {
        let CacheVersion { part, title, mode, .. } = &self.version;
        NewVersion { reference: reference.to_owned(), part: part.clone(), title: title.clone(), mode: mode.clone() }
    }

    /// The layers that its store has, each once.
    pub fn layers(&self) -> Vec<&Descriptor> {
        let mut seen = HashSet::new();
        let present = self.listed.layers.iter().filter(|layer| !self.absent.contains(&layer.digest));
        present.filter(|layer| seen.insert(&layer.digest)).collect()
    }
}

impl Caches {
    /// A version that is copied from here. What it has stays as long as this is held, whoever deletes it.
    ///
    /// # Errors
    /// [`CacheError::Unusable`] says why it cannot be used, [`CacheError::Unknown`] that it was deleted meanwhile.
    pub async fn copy_source(&self, version: CacheVersion) -> Result<CopySource, CacheError> {
        let lease = self.guards.lease(vec![version.id.clone()], false).await.unwrap_or_else(|error| {
            // A folder may be read-only.
            tracing::debug!(%error, "a version of a cache is read without a lease");
            None
        });
        // The lease first, the look second.
        let versions = self.store.versions(Some(&version.reference)).await?;
        if !versions.iter().any(|listed| listed.id == version.id) {
            return Err(CacheError::Unknown { reference: version.reference });
        }
        let part = self.open(version).await?;
        let blobs = self.blobs();
        let (mut absent, mut seen) = (HashSet::new(), HashSet::new());
        for layer in part.listed.layers.iter().filter(|layer| seen.insert(&layer.digest)) {
            if blobs.size(&layer.digest).await?.is_none() {
                absent.insert(layer.digest.clone());
            }
        }
        let (version, listed) = (part.version.clone(), part.listed.clone());
        Ok(CopySource { version, listed, absent, blobs, _kept: Some(Arc::new((part, lease))) })
    }

    /// Stores a version of other caches here, as the newest version of its part under `reference`.
    ///
    /// # Errors
    /// When either side cannot be used, or the policy does not allow the ref.
    pub async fn copy(
        self: &Arc<Self>,
        from: &CopySource,
        reference: &CacheRef,
        origin: &Origin,
    ) -> Result<Copied, CacheError> {
        let (config, root) = from.documents().await?;
        let new = from.new_version(reference.as_str());
        let export = self.begin_version(reference, new, 1, origin).await?;
        let written = write_layers(&export, &*from.blobs, &from.layers()).await?;
        let version = export.commit(config, root, from.absent.clone()).await?;
        let replaced = export.current().filter(|current| current.id != version.id).cloned();
        Ok(Copied { version, written, replaced, dropped: export.dropped() })
    }
}

/// What the root of a version lists, and the layers that `blobs` lacks.
async fn read_listed(
    blobs: &dyn BlobLookup,
    version: &CacheVersion,
) -> Result<(CacheRoot, HashSet<Digest>), CacheError> {
    let listed = read_root(blobs, &version.root).await?;
    // Without its config it is nothing.
    if !blobs.has(&listed.config).await? {
        let (name, digest) = (blobs.name().to_owned(), listed.config.digest.clone());
        return Err(SourceError::NotFound { name, digest }.into());
    }
    let (mut absent, mut seen) = (HashSet::new(), HashSet::new());
    for layer in listed.layers.iter().filter(|layer| seen.insert(&layer.digest)) {
        if blobs.blob_size(&layer.digest).await?.is_none() {
            absent.insert(layer.digest.clone());
        }
    }
    Ok((listed, absent))
}

/// Pins the layers that are there, and writes the others.
async fn write_layers(export: &CacheExport, source: &dyn Source, layers: &[&Descriptor]) -> Result<u64, CacheError> {
    let lease = export.lease();
    let pins: Vec<_> = layers.iter().map(|layer| Pin::from(*layer)).collect();
    let found = lease.pin(&pins).await?;
    let missing = layers.iter().zip(found).filter(|(_, size)| size.is_none()).map(|(layer, _)| *layer);
    let in_flight = &InFlight::new();
    let writes: Vec<_> = missing.map(|layer| write(&lease, source, layer, in_flight)).collect();
    let sizes: Vec<u64> = stream::iter(writes).buffer_unordered(PARALLEL).try_collect().await?;
    Ok(sizes.into_iter().fold(0, u64::saturating_add))
}

async fn write(
    lease: &Arc<dyn Lease>,
    source: &dyn Source,
    layer: &Descriptor,
    in_flight: &InFlight,
) -> Result<u64, CacheError> {
    let _permit = in_flight.enter(layer).await;
    let ingests: &dyn IngestManager = lease.ingests()?;
    let expected = Expected { digest: Some(layer.digest.clone()), size: Some(layer.size) };
    let OpenedIngest::Writer(mut writer) = ingests.open(&format!("layer-{}", layer.digest), &expected).await? else {
        return Ok(0);
    };
    let begin = writer.offset();
    let mut chunks = if begin < layer.size { source.open(layer, begin).await? } else { stream::empty().boxed() };
    while let Some(chunk) = chunks.next().await {
        let bytes: Bytes = chunk?;
        writer.write(bytes).await?;
    }
    match writer.commit(expected).await {
        Ok(_) | Err(EngineError::Present { .. }) => Ok(layer.size - begin.min(layer.size)),
        Err(error) => Err(error.into()),
    }
}
