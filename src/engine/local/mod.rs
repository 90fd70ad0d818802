//! The stores of a repository in an OCI image layout directory (image-spec `image-layout.md`).
//!
//! ```text
//! oci-layout, index.json        the layout; the index is replaced as a whole (`name_index`)
//! blobs/ALGORITHM/HEX           synced blobs (`blob_store`)
//! .linkspan/lock                guards changes of the index and the collector (`lock`)
//! .linkspan/ingest/             parts of blobs, and pending blobs
//! .linkspan/uploads/EXPORT/     ingests of a lease (`ingest_files`)
//! .linkspan/leases/EXPORT       leases (`lease_store`)
//! .linkspan/processes/          a locked file for each process that lives (`process_file`)
//! .linkspan/verified            which blobs were verified (`verified`)
//! .linkspan/unreached           since when blobs are garbage (`unreached`)
//! ```
//!
//! Tools that read layouts follow digests and do not look at other names. The order of writes is: content synced, blob
//! named, folder synced, index synced, index named, folder synced. So after a crash or a power loss at any moment the
//! layout is one that was complete at some time, and the content of a blob matches its name.

mod blob_sink;
mod blob_store;
mod blob_writer;
mod caches;
mod clock;
mod disk;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gc;
mod hashed_file;
mod index;
mod ingest_files;
mod init;
mod lease_file;
mod lease_store;
mod lock;
mod name_index;
mod new_layout;
mod paths;
mod process_file;
mod reachable;
mod seal;
mod unreached;
mod unsynced;
mod verified;

use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, CWD, accessat};

pub(super) use blob_sink::BlobSink;
pub(super) use blob_store::{BlobReader, BlobStore, KnownParts};
pub(super) use caches::MAX_FOREIGN;
pub(crate) use caches::{cache_tags, cache_versions, new_cache_index};
pub(super) use gc::{Collected, GRACE, collect};
pub(super) use hashed_file::HashedFile;
pub(super) use index::{Entry, LayoutIndex};
pub(super) use ingest_files::{IngestFiles, Note};
pub(super) use lease_file::LeaseFile;
pub(super) use lease_store::LeaseStore;
pub(super) use name_index::NameIndex;
pub(crate) use new_layout::NewLayout;

use self::disk::{Disk, System};
use self::paths::LayoutPaths;
use self::process_file::ProcessFile;
use super::EngineError;
use super::process::boot;

/// The stores of the layout at `root`. Changes nothing.
pub(super) fn open(root: &Path) -> (Arc<BlobStore>, NameIndex, LeaseStore) {
    on(root, Arc::new(System), boot())
}

/// The same of a layout that is for this user alone. Takes other users' permissions from one that we have used before.
pub(super) fn open_private(root: &Path) -> Result<(Arc<BlobStore>, NameIndex, LeaseStore), EngineError> {
    let paths = LayoutPaths::private(root);
    paths.close_if_used()?;
    Ok(stores(paths, Arc::new(System), boot()))
}

/// The stores on the given disk, in the given boot.
pub(super) fn on(root: &Path, disk: Arc<dyn Disk>, boot: String) -> (Arc<BlobStore>, NameIndex, LeaseStore) {
    stores(LayoutPaths::new(root), disk, boot)
}

fn stores(paths: LayoutPaths, disk: Arc<dyn Disk>, boot: String) -> (Arc<BlobStore>, NameIndex, LeaseStore) {
    let process = Arc::new(ProcessFile::new(paths.clone()));
    let leases = LeaseStore::new(paths.clone(), disk.clone(), process.clone());
    let names = NameIndex::new(paths.clone(), disk.clone());
    (BlobStore::new(paths, disk, boot, process), names, leases)
}

/// Fails if this process may not write the layout at `root`, or make it.
pub(super) fn check_writable(root: &Path) -> Result<(), EngineError> {
    LayoutPaths::new(root)
        .check_writable(|folder| Ok(accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?))
}

/// Items that tests of the repository use.
#[cfg(test)]
pub(super) mod testing {
    pub(crate) use super::disk::{Disk, DiskFile, System};
    pub(crate) use super::lease_file::{LeaseFile, Owner};
    pub(crate) use super::lock::claim;
    pub(in crate::engine) use super::on;
    pub(crate) use super::paths::LayoutPaths;
    pub(crate) use super::seal::Seal;
    pub(crate) use super::unreached::index_written;
}
