//! Unpacking the images of an archive before dockerd looks whether they are unpacked.
//!
//! Which images an archive has is known when its index comes, often as the last member. So every manifest whose config has come,
//! too, is taken for an image, and its layers are unpacked as they come. Nothing of that is visible: a snapshot is named after the
//! diff ids that were verified, and without an image that refers to it, it is collected when the lease is released.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tracing::{debug, info};

use crate::engine::images::Images;
use crate::engine::{EngineError, ImageTransaction, Lease, TransactionOptions, UnpackFor};
use crate::image::{Descriptor, Digest, Document, Graph, Kind, Limits, Platform, View, media_type_of};
use crate::progress::Events;
use crate::source::{OnMissing, ReadGraphError, SourceError, read_document, read_graph};

/// How many new bytes are worth it. Below that dockerd is as quick.
const MIN_BYTES: u64 = 1 << 20;
/// The largest manifest or config that is looked at.
const DOCUMENT_BYTES: u64 = 1 << 20;
/// How many images of an archive are unpacked at most.
const IMAGES: usize = 100;
/// The media type of a blob that has no other (RFC 2046, section 4.5.1).
const ANYTHING: &str = "application/octet-stream";

/// Why an image is not unpacked here.
#[derive(Debug, thiserror::Error)]
enum NotUnpacked {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Graph(#[from] ReadGraphError),
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// The images of one archive.
#[derive(Debug)]
pub(super) struct Unpacking {
    images: Arc<dyn Images>,
    /// Bytes of new blobs.
    stored: u64,
    /// Manifests whose config has not come, by its digest.
    waiting: HashMap<Digest, Descriptor>,
    /// Manifests whose config is in the store.
    ready: VecDeque<Descriptor>,
    /// Manifests so far.
    found: usize,
    current: Option<Current>,
}

/// The image that is being unpacked. Images of one archive often share layers, so there is one at a time.
#[derive(Debug)]
struct Current {
    manifest: Digest,
    begun: Instant,
    transaction: Box<dyn ImageTransaction>,
    /// Layers that have not come.
    missing: HashMap<Digest, Descriptor>,
}

impl Unpacking {
    /// The images of an archive whose blobs can be read from `images`.
    pub(super) fn new(images: Arc<dyn Images>) -> Self {
        let (stored, waiting, ready, found, current) = Default::default();
        Self { images, stored, waiting, ready, found, current }
    }

    /// A new blob is in the store and pinned by `lease`.
    pub(super) async fn stored(&mut self, lease: &Arc<dyn Lease>, digest: &Digest, size: u64) {
        self.stored = self.stored.saturating_add(size);
        if let Some(current) = &mut self.current {
            current.stored(digest).await;
        }
        if size <= DOCUMENT_BYTES
            && let Err(error) = self.take_manifest(digest, size).await
        {
            debug!(%error, %digest, "a small blob of an archive cannot be looked at");
        }
        if self.current.is_none() && self.stored >= MIN_BYTES {
            self.next(lease).await;
        }
    }

    /// Looks whether a blob is a manifest, or the config of one.
    async fn take_manifest(&mut self, digest: &Digest, size: u64) -> Result<(), NotUnpacked> {
        self.ready.extend(self.waiting.remove(digest));
        if self.found >= IMAGES {
            return Ok(());
        }
        let mut blob = Descriptor::new(ANYTHING, digest.clone(), size);
        let bytes = read_document(&self.images, &blob).await?;
        let Some(media_type) = media_type_of(&bytes).filter(|it| Kind::of(it) == Kind::Manifest) else { return Ok(()) };
        blob.media_type = media_type;
        // What is wrong with a document is for dockerd to say.
        let Ok(Document { view: View::Manifest(manifest), .. }) = Document::parse(blob.clone(), bytes) else {
            return Ok(());
        };
        self.found += 1;
        let config = manifest.config.digest;
        match self.images.size(&config).await? {
            Some(_) => self.ready.push_back(blob),
            None => drop(self.waiting.insert(config, blob)),
        }
        Ok(())
    }

    /// Begins to unpack the next image; `false` if there is none.
    async fn next(&mut self, lease: &Arc<dyn Lease>) -> bool {
        while let Some(manifest) = self.ready.pop_front() {
            let digest = manifest.digest.clone();
            match self.begin(lease, manifest).await {
                Ok(Some(current)) => {
                    self.current = Some(current);
                    return true;
                }
                Ok(None) => {}
                Err(error) => debug!(%error, manifest = %digest, "docker unpacks an image of an archive"),
            }
        }
        false
    }

    /// `None` for an image that does not run on this host, which dockerd does not unpack either.
    async fn begin(&self, lease: &Arc<dyn Lease>, manifest: Descriptor) -> Result<Option<Current>, NotUnpacked> {
        let begun = Instant::now();
        let limits = Limits { config_bytes: DOCUMENT_BYTES, total_bytes: 2 * DOCUMENT_BYTES, ..Limits::default() };
        let graph = read_graph(&self.images, manifest, limits, OnMissing::Stop).await?;
        if graph.image_for(&Platform::host()).is_none() {
            return Ok(None);
        }
        let manifest = Graph::root(&graph).digest.clone();
        let options = TransactionOptions { unpack: UnpackFor::Engine, names: Vec::new(), events: Events::none() };
        let transaction = lease.clone().begin(Arc::new(graph), options).await?;
        let missing = transaction.plan().missing.iter().map(|blob| (blob.digest.clone(), blob.clone())).collect();
        Ok(Some(Current { manifest, begun, transaction, missing }))
    }

    /// Unpacks every image, now that all blobs have come. It can be dropped, and is then to be cancelled.
    pub(super) async fn finish(&mut self, lease: &Arc<dyn Lease>) {
        if self.stored < MIN_BYTES {
            return;
        }
        loop {
            if let Some(Current { manifest, begun, transaction, .. }) = &self.current {
                match transaction.prepare().await {
                    Ok(_) => {
                        let seconds = begun.elapsed().as_millis() as f64 / 1e3;
                        info!(%manifest, seconds, "an image of an archive is unpacked before docker sets its name");
                    }
                    Err(error) => {
                        transaction.cancel().await;
                        info!(%error, %manifest, "docker unpacks an image of an archive");
                    }
                }
                self.current = None;
            }
            if !self.next(lease).await {
                return;
            }
        }
    }

    /// Stops the unpacking under way.
    pub(super) async fn cancel(self) {
        if let Some(Current { transaction, .. }) = self.current {
            transaction.cancel().await;
        }
    }
}

impl Current {
    /// A blob is in the store: its layer can be unpacked.
    async fn stored(&mut self, digest: &Digest) {
        let Some(layer) = self.missing.remove(digest) else { return };
        // It is found to be present, which is what the transaction waits for.
        if let Err(error) = self.transaction.writer(&layer).await {
            debug!(%error, layer = %layer.digest, "a layer of an archive is not unpacked as it comes");
        }
    }
}
