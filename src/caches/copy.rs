//! Copies of caches between stores: to and from folders as BuildKit's `type=local` reads and writes them.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{CacheError, CacheExport, CacheRef, Caches, ResolvedPart};
use crate::engine::caches::{CacheDocument, CacheVersion, NewVersion};
use crate::engine::ingest::{Expected, IngestManager, OpenedIngest};
use crate::engine::{EngineError, InFlight, Lease, Origin, PARALLEL, Pin};
use crate::image::cache::{CacheConfig, CacheRoot};
use crate::image::{Descriptor, Digest};
use crate::source::{Source, read_document};

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
    _kept: Option<Arc<ResolvedPart>>,
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The version as it is stored now.
    pub version: CacheVersion,
    /// How many bytes of layers were written; those that were there were not.
    pub written: u64,
    /// The version that the part had before, unless it is this one.
    pub replaced: Option<CacheVersion>,
}

impl CopySource {
    /// A version whose blobs are kept by whoever serves `blobs`.
    pub fn new(version: CacheVersion, listed: Arc<CacheRoot>, absent: HashSet<Digest>, blobs: Arc<dyn Source>) -> Self {
        Self { version, listed, absent, blobs, _kept: None }
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

    /// The layers that its store has, each once.
    pub fn layers(&self) -> Vec<&Descriptor> {
        let mut seen = HashSet::new();
        let present = self.listed.layers.iter().filter(|layer| !self.absent.contains(&layer.digest));
        present.filter(|layer| seen.insert(&layer.digest)).collect()
    }
}

impl Caches {
    /// A version that is copied from here. It stays as long as this is held.
    ///
    /// # Errors
    /// [`CacheError::Unusable`] says why it cannot be used.
    pub async fn copy_source(&self, version: CacheVersion) -> Result<CopySource, CacheError> {
        let part = self.open(version).await?;
        let blobs = self.blobs();
        let (mut absent, mut seen) = (HashSet::new(), HashSet::new());
        for layer in part.listed.layers.iter().filter(|layer| seen.insert(&layer.digest)) {
            if blobs.size(&layer.digest).await?.is_none() {
                absent.insert(layer.digest.clone());
            }
        }
        let (version, listed) = (part.version.clone(), part.listed.clone());
        Ok(CopySource { version, listed, absent, blobs, _kept: Some(Arc::new(part)) })
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
        let version = &from.version;
        let new = NewVersion {
            reference: reference.to_string(),
            part: version.part.clone(),
            title: version.title.clone(),
            mode: version.mode.clone(),
        };
        let export = self.begin_version(reference, new, 1, origin).await?;
        let written = write_layers(&export, &*from.blobs, &from.layers()).await?;
        let version = export.commit(config, root, from.absent.clone()).await?;
        let replaced = export.current().filter(|current| current.id != version.id).cloned();
        Ok(Copied { version, written, replaced })
    }
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
