//! Copies of caches between stores: to and from folders as BuildKit's `type=local` reads and writes them.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{CacheError, CacheExport, CacheRef, Caches, ResolvedPart};
use crate::engine::caches::{CacheDocument, CacheVersion, NewVersion};
use crate::engine::images::Images;
use crate::engine::ingest::{Expected, IngestManager, OpenedIngest};
use crate::engine::{EngineError, InFlight, Lease, Origin, PARALLEL, Pin};
use crate::image::Descriptor;
use crate::image::cache::CacheConfig;
use crate::source::read_document;

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

impl Caches {
    /// Stores `part` of the caches `from` here, as the newest version of its part under `reference`.
    ///
    /// # Errors
    /// When either side cannot be used, or the policy does not allow the ref.
    pub async fn copy(
        self: &Arc<Self>,
        from: &Caches,
        part: &ResolvedPart,
        reference: &CacheRef,
        origin: &Origin,
    ) -> Result<Copied, CacheError> {
        let source = from.blobs();
        let listed = &part.listed;
        CacheConfig::check_size(&listed.config)?;
        let read = async |descriptor: &Descriptor| {
            let bytes = read_document(&source, descriptor).await?;
            Ok::<_, CacheError>(CacheDocument { descriptor: descriptor.clone(), bytes })
        };
        let (config, root) = (read(&listed.config).await?, read(&listed.descriptor).await?);
        let version = &part.version;
        let new = NewVersion {
            reference: reference.to_string(),
            part: version.part.clone(),
            title: version.title.clone(),
            mode: version.mode.clone(),
        };
        let export = self.begin_version(reference, new, 1, origin).await?;
        let (mut present, mut absent, mut seen) = (Vec::new(), HashSet::new(), HashSet::new());
        for layer in listed.layers.iter().filter(|layer| seen.insert(&layer.digest)) {
            match source.size(&layer.digest).await? {
                Some(_) => present.push(layer),
                None => {
                    absent.insert(layer.digest.clone());
                }
            }
        }
        let written = write_layers(&export, &source, &present).await?;
        let version = export.commit(config, root, absent).await?;
        let replaced = export.current().filter(|current| current.id != version.id).cloned();
        Ok(Copied { version, written, replaced })
    }
}

/// Pins the layers that are there, and writes the others.
async fn write_layers(
    export: &CacheExport,
    source: &Arc<dyn Images>,
    layers: &[&Descriptor],
) -> Result<u64, CacheError> {
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
    source: &Arc<dyn Images>,
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
