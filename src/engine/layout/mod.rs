//! The `layout` engine: an OCI image layout directory (image-spec `image-layout.md`). It needs neither root nor a
//! daemon, and any tool that knows layouts reads what is exported.
//!
//! * Blobs are written to files of ours in `.linkspan/ingest`, hashed on their way, and get their names below `blobs`
//!   when their content is on the disk ([`blob_store`]). `index.json` is replaced last, as a whole, and keeps what it said
//!   of images that are not ours ([`index`]). The order is: content synced, blob named, folder synced, index synced,
//!   index named, folder synced. So after a crash or a power loss at any moment the layout is one that was complete at
//!   some time, and a blob that is there is what its name says.
//! * Any number of tasks and processes may work on a layout at once. A lock guards changes of the index and the
//!   collector ([`gc`], [`lock`]); leases say what is not to be collected ([`lease_file`]).
//! * The interrupted transfer of a large blob is resumed by the next export of the same blob, of whichever process, until
//!   the machine restarts ([`blob_writer`]). An export that outlives its process finds its complete blobs again as well,
//!   however small, although they were not synced when the process was killed ([`unsynced`]).

mod blob_sink;
mod blob_store;
mod blob_writer;
mod clock;
mod disk;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gc;
mod hashed_file;
mod index;
mod ingest_writer;
mod ingests;
mod init;
mod lease;
mod lease_file;
mod lock;
mod names;
mod paths;
mod pins;
mod reachable;
mod read;
mod seal;
#[cfg(test)]
mod tests;
mod transaction;
mod unreached;
mod unsynced;
mod verified;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;

use self::blob_store::BlobStore;
use self::disk::{Disk, System};
use self::gc::Outcome;
use self::init::Found;
use self::lease::LayoutLease;
use self::lease_file::Owner;
use self::paths::LayoutPaths;
use self::read::{LayoutImages, read_index};
use super::images::{Images, Record};
use super::process::boot;
use super::{
    Abandoned, DurableLease, Engine, EngineError, EngineKind, Identity, Lease, Lifetime, MAX_RECORD, Origin, Storage,
};
use crate::image::{Descriptor, Graph, GraphError, Limits, Reference};
use crate::source::{OnMissing, ReadGraphError, read_graph};

/// A layout.
#[derive(Debug)]
pub(crate) struct LayoutEngine {
    blobs: Arc<BlobStore>,
    identity: Identity,
}

impl LayoutEngine {
    /// The layout at `root`, which may be a folder that is empty or not there: the first export makes a layout of it.
    pub(crate) async fn connect(root: &Path) -> Result<Self, EngineError> {
        Self::on(root, Arc::new(System), boot()).await
    }

    /// On this disk, in this boot.
    async fn on(root: &Path, disk: Arc<dyn Disk>, boot: String) -> Result<Self, EngineError> {
        let absolute = std::path::absolute(root);
        let root = absolute.as_deref().unwrap_or(root);
        let identity = Identity {
            kind: EngineKind::Layout,
            version: crate::image::layout::VERSION.to_owned(),
            address: root.display().to_string(),
            storage: Storage::Directory {},
        };
        let this = Self { blobs: BlobStore::new(LayoutPaths::new(root), disk, boot), identity };
        this.work(|blobs| blobs.paths.look().and_then(|_| read_index(&blobs.paths))).await?;
        Ok(this)
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<BlobStore>) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let blobs = self.blobs.clone();
        let done = spawn_blocking(move || work(&blobs)).await;
        done.unwrap_or_else(|_| Err(self.blobs.paths.refuse("working on it broke off")))
    }

    /// Whether `names` resolve to `root` and everything is there; how many blobs it has.
    async fn look(&self, root: &Descriptor, names: &[Reference]) -> Result<Option<usize>, EngineError> {
        if names.is_empty() {
            return Ok(None);
        }
        let (named, names) = (root.clone(), names.to_vec());
        let resolves = self.work(move |blobs| {
            let is_layout = blobs.paths.look()? != Found::Nothing;
            Ok(is_layout && read_index(&blobs.paths)?.is_some_and(|index| index.resolves_to(&named, &names)))
        });
        if !resolves.await? {
            return Ok(None);
        }
        let images = LayoutImages::new(self.blobs.clone());
        let graph = match read_graph(&images, root.clone(), Limits::default(), OnMissing::Stop).await {
            Ok(graph) => graph,
            // An export mends documents that are missing or damaged.
            Err(ReadGraphError::Missing { .. } | ReadGraphError::Source(_)) => return Ok(None),
            Err(ReadGraphError::Graph(GraphError::Document(_))) => return Ok(None),
            Err(ReadGraphError::Graph(error)) => return Err(error.into()),
        };
        self.work(move |blobs| {
            // A blob that waits has no name yet: something is to be done.
            let is_there = |blob: &Descriptor| blobs.named(&blob.digest, blob.size);
            Ok(graph.descriptors().all(is_there).then(|| graph.blobs()))
        })
        .await
    }

    async fn open_lease(&self, origin: &Origin, record: Option<&str>) -> Result<Arc<dyn Lease>, EngineError> {
        let (export, record) = (origin.export.clone(), record.map(str::to_owned));
        self.work(move |blobs| {
            check_id(&export)?;
            blobs.paths.create(&*blobs.disk)?;
            let owner = match record {
                Some(record) if record.len() > MAX_RECORD => {
                    let (operation, reason) = ("opening an export".to_owned(), "its record is too long".to_owned());
                    return Err(EngineError::Protocol { operation, reason });
                }
                Some(record) => Owner::Nobody(record),
                None => Owner::Process(blobs.process()?),
            };
            Ok(Arc::new(LayoutLease::open(blobs, &export, &owner)?) as Arc<dyn Lease>)
        })
        .await
    }
}

/// An export's id becomes a file's name.
fn check_id(export: &str) -> Result<(), EngineError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=64).contains(&export.len()) && export.bytes().all(is_plain) {
        return Ok(());
    }
    let (operation, shown) = ("opening an export".to_owned(), export.chars().take(80).collect::<String>());
    Err(EngineError::Protocol { operation, reason: format!("`{shown}` is no id: expected up to 64 of a-z, 0-9 and -") })
}

/// A name that no other file of any process has.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    // The time tells processes of the same pid apart, in other namespaces and on other machines.
    format!("{}-{now:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Engine for LayoutEngine {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn already_complete<'a>(
        &'a self,
        root: &'a Descriptor,
        names: &'a [Reference],
    ) -> BoxFuture<'a, Result<Option<usize>, EngineError>> {
        Box::pin(self.look(root, names))
    }

    fn lease<'a>(
        &'a self,
        origin: &'a Origin,
        lifetime: Lifetime<'a>,
    ) -> BoxFuture<'a, Result<Arc<dyn Lease>, EngineError>> {
        let record = match lifetime {
            Lifetime::Process => None,
            Lifetime::Durable { record } => Some(record),
        };
        Box::pin(self.open_lease(origin, record))
    }

    fn durable_leases(&self) -> BoxFuture<'_, Result<Vec<DurableLease>, EngineError>> {
        Box::pin(self.work(|blobs| {
            lease_file::durables(&blobs.paths).map_err(|error| blobs.paths.failed("reading leases", &error))
        }))
    }

    fn images(&self) -> Result<Arc<dyn Images>, EngineError> {
        Ok(Arc::new(LayoutImages::new(self.blobs.clone())))
    }

    /// A layout in which we never wrote is not written to in order to be read. Whoever collects in it first gives what
    /// is read an hour.
    fn read_lease<'a>(
        &'a self,
        origin: &'a Origin,
        graph: &'a Arc<Graph>,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Lease>>, EngineError>> {
        Box::pin(async move {
            let (export, graph) = (origin.export.clone(), graph.clone());
            let lease = self.work(move |blobs| {
                check_id(&export)?;
                if !blobs.paths.leases().is_dir() || !blobs.paths.processes().is_dir() {
                    return Ok(None);
                }
                let lease = LayoutLease::open(blobs, &export, &Owner::Process(blobs.process()?))?;
                lease.pins.add(graph.descriptors().map(|blob| &blob.digest))?;
                Ok(Some(Arc::new(lease) as Arc<dyn Lease>))
            });
            lease.await
        })
    }

    fn recover(&self) -> BoxFuture<'_, Result<usize, EngineError>> {
        Box::pin(async move {
            let collected = self.work(|blobs| {
                // Nothing of ours was ever there.
                if !blobs.paths.own().is_dir() {
                    return Ok(Outcome::default());
                }
                gc::collect(blobs)
            });
            let Outcome { blobs, bytes, exports, is_more } = collected.await?;
            if blobs > 0 {
                tracing::info!(blobs, bytes, "collected blobs that no image needs");
            }
            if is_more {
                gc::collect_later(&self.blobs);
            }
            Ok(exports)
        })
    }

    fn tag<'a>(&'a self, root: &'a Descriptor, name: &'a Reference) -> BoxFuture<'a, Result<(), EngineError>> {
        let (root, names) = (root.clone(), vec![name.clone()]);
        Box::pin(self.work(move |blobs| names::change(blobs, |index| index.insert(&root, &names))))
    }

    fn remove<'a>(&'a self, record: &'a Record, _: bool) -> BoxFuture<'a, Result<(), EngineError>> {
        let record = record.clone();
        Box::pin(self.work(move |blobs| {
            names::change(blobs, |index| Ok(index.remove(record.name.as_deref(), &record.target.digest)))
        }))
    }

    fn abandoned(&self) -> BoxFuture<'_, Result<Abandoned, EngineError>> {
        Box::pin(self.work(|blobs| {
            let leases = lease_file::survey(&blobs.paths).map(|survey| survey.abandoned);
            let leases = leases.map_err(|error| blobs.paths.failed("reading leases", &error))?;
            Ok(Abandoned { leases, ..Abandoned::default() })
        }))
    }

    /// The collector releases all that are abandoned by then.
    fn release_abandoned<'a>(&'a self, _: &'a [String]) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move { self.recover().await.map(|_| ()) })
    }
}
