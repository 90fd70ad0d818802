//! Applies a layer in this process: its archive becomes the files of an overlayfs snapshot, without containerd's diff service.
//!
//! containerd decompresses, hashes and writes a layer in one thread; here each of them has its own. The files are exactly those
//! that containerd would make: what could turn out otherwise is refused while it is read, and then containerd does the whole
//! layer.

mod entry;
mod fault;
mod folders;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod pax;
mod preconditions;
mod reader;
mod time;
mod write;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use containerd_client::types::Mount;
use rustix::fs::{Dir, flistxattr_query};
use rustix::io::Errno;
use tokio::time::timeout;

use self::fault::Fault;
use self::write::{Whiteouts, Writer};
use super::super::discover::DEFAULT_SNAPSHOTTER;
use super::apply_tasks::ApplyTasks;
use super::described::Described;
use super::host::{Host, OverlayDirs};
use super::layer::Layer;
use super::snapshots::Snapshots;
use crate::compression::Compression;
use crate::engine::EngineError;
use crate::engine::layer_applier::ApplierChoice;
use crate::image::{Algorithm, Digest};

/// The applier, for one containerd.
#[derive(Debug)]
pub(super) struct InProcessApplier {
    host: Arc<Host>,
    /// The folder of the content store.
    content: PathBuf,
    umask: u32,
    apply_tasks: ApplyTasks,
}

/// Why a layer was not applied.
#[derive(Debug)]
pub(super) enum NotApplied {
    /// containerd must apply it, into a folder that was not touched.
    Unsupported(String),
    Failed(EngineError),
}

/// A layer and the empty folder that it is applied to, both open.
#[derive(Debug)]
pub(super) struct OpenLayer {
    blob: File,
    compression: Compression,
    folder: OwnedFd,
    /// The folder as containerd knows it.
    path: PathBuf,
    whiteouts: Whiteouts,
}

/// Stops the threads when nobody waits for them any more.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl InProcessApplier {
    /// The applier for the containerd of `snapshots`; `None` if its files are not accessible, or containerd was
    /// chosen.
    pub(super) async fn of(snapshots: &Snapshots) -> Result<Option<Self>, EngineError> {
        let left = |reason: String| {
            tracing::info!(reason, "containerd's diff service unpacks all layers");
            Ok(None)
        };
        if snapshots.layer_applier() == ApplierChoice::Containerd {
            return left("as configured".to_owned());
        }
        // Others may mount the same way and mean something else by it.
        if snapshots.snapshotter() != DEFAULT_SNAPSHOTTER {
            return left(format!("the snapshotter is `{}`", snapshots.snapshotter()));
        }
        let Some(content) = snapshots.content_root() else {
            return left("containerd does not say where its content is".to_owned());
        };
        let host = match snapshots.host().await? {
            Ok(host) => host,
            Err(reason) => return left(reason),
        };
        match preconditions::check(&host) {
            Ok(umask) => {
                let (host, apply_tasks) = (Arc::new(host), snapshots.apply_tasks().clone());
                Ok(Some(Self { host, content: content.to_owned(), umask, apply_tasks }))
            }
            Err(reason) => left(reason),
        }
    }

    /// containerd's files.
    pub(super) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Looks whether `layer` can be applied to `mounts`, of a snapshot without a parent if `is_bottom`. Nothing is written yet.
    ///
    /// # Errors
    /// The reason why not.
    pub(super) async fn open(&self, layer: &Layer, mounts: &[Mount], is_bottom: bool) -> Result<OpenLayer, String> {
        if layer.diff_id.algorithm() != Algorithm::Sha256 {
            return Err(format!("its diff id is {}", layer.diff_id));
        }
        let whiteouts = whiteouts(mounts, is_bottom)?;
        let upper = OverlayDirs::of(mounts).ok_or("its snapshot is not an overlay")?.upper;
        let digest = &layer.blob.digest;
        let blob = self.content.join("blobs").join(digest.algorithm().name()).join(digest.hex());
        let (host, media_type, size) = (self.host.clone(), layer.blob.media_type.clone(), layer.blob.size);
        let open = move || {
            let blob = host.file(&blob).map_err(|error| format!("its blob cannot be read: {error}"))?;
            if !blob.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == size) {
                return Err("its blob has another size".to_owned());
            }
            let compression = compression(&media_type, &blob)?;
            let folder = host.folder(&upper).map_err(|error| format!("its folder cannot be opened: {error}"))?;
            check_folder(&folder)?;
            Ok(OpenLayer { blob, compression, folder, path: upper, whiteouts })
        };
        tokio::task::spawn_blocking(open).await.map_err(|error| error.to_string())?
    }

    /// Applies a layer, and verifies its diff id. Returns which folders it described.
    pub(super) async fn apply(&self, layer: &Layer, opened: OpenLayer) -> Result<Described, NotApplied> {
        let cancelled = CancelOnDrop(Arc::default());
        let (flag, umask, path) = (cancelled.0.clone(), self.umask, opened.path.clone());
        let applying = self.apply_tasks.spawn(move || run(opened, umask, &flag));
        let (limit, operation) = (layer.apply_timeout(), format!("unpacking {}", layer.blob.digest));
        let Ok(ended) = timeout(limit, applying).await else {
            return Err(NotApplied::Failed(EngineError::Timeout { operation, after: limit }));
        };
        match ended.map_err(|error| NotApplied::Unsupported(error.to_string()))? {
            Ok((described, digest)) if digest == layer.diff_id => Ok(described),
            Ok((_, digest)) => Err(NotApplied::Unsupported(format!("it unpacks to {digest}"))),
            Err(Fault::Unsupported(reason)) => Err(NotApplied::Unsupported(reason)),
            Err(Fault::NoSpace(reason)) => {
                let message = format!("writing to {}: {reason}", path.display());
                Err(NotApplied::Failed(EngineError::NoSpace { operation, message }))
            }
            Err(Fault::Cancelled) => Err(NotApplied::Unsupported("it was cancelled".to_owned())),
        }
    }
}

fn run(opened: OpenLayer, umask: u32, cancelled: &AtomicBool) -> Result<(Described, Digest), Fault> {
    let OpenLayer { blob, compression, folder, whiteouts, .. } = opened;
    let outcome = reader::run(blob, compression, cancelled, |reader| {
        let mut writer = Writer::new(&folder, whiteouts, umask);
        while let Some(entry) = entry::next(reader)? {
            writer.write(&entry, reader)?;
        }
        writer.finish()
    });
    if matches!(outcome, Err(Fault::NoSpace(_)))
        && let Err(error) = clear(&folder)
    {
        tracing::debug!(%error, "files of a layer that did not fit stay until their snapshot is removed");
    }
    outcome
}

/// Makes the folder empty: on a full disk containerd could not write that its snapshot is removed.
fn clear(folder: &OwnedFd) -> io::Result<()> {
    for entry in fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// What containerd makes of whiteouts in `mounts` (`core/diff/apply/apply_linux.go`, `apply`).
fn whiteouts(mounts: &[Mount], is_bottom: bool) -> Result<Whiteouts, String> {
    let [mount] = mounts else { return Err("its snapshot has several mounts".to_owned()) };
    let known = |option: &&String| {
        let value = ["index=", "workdir=", "upperdir=", "lowerdir="].iter().any(|known| option.starts_with(known));
        value || ["rw", "volatile"].contains(&option.as_str()) || (mount.r#type == "bind" && *option == "rbind")
    };
    // Such as those that map ids.
    if let Some(option) = mount.options.iter().find(|option| !known(option)) {
        return Err(format!("its snapshot is mounted with `{option}`"));
    }
    match mount.r#type.as_str() {
        "overlay" => Ok(Whiteouts::Overlay),
        "bind" if is_bottom => Ok(Whiteouts::Remove),
        "bind" => Err("its snapshot has a parent and is no overlay".to_owned()),
        other => Err(format!("its snapshot is a mount of the type `{other}`")),
    }
}

/// How containerd decompresses a blob of this media type (`core/diff/stream.go` and `core/images/mediatypes.go`,
/// `DiffCompression`).
fn compression(media_type: &str, blob: &File) -> Result<Compression, String> {
    let mut mark = [0; Compression::MARK_BYTES];
    let length = blob.read_at(&mut mark, 0).map_err(|error| error.to_string())?;
    let found = Compression::of(&mark[..length]);
    let expected: &[Compression] = match media_type {
        "application/vnd.oci.image.layer.v1.tar" => return Ok(Compression::None),
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            &[Compression::Gzip]
        }
        "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            &[Compression::Zstd]
        }
        "application/vnd.docker.image.rootfs.diff.tar" => &[Compression::None, Compression::Gzip, Compression::Zstd],
        other => return Err(format!("its media type is `{other}`")),
    };
    match expected.contains(&found) {
        true => Ok(found),
        false => Err(format!("its media type is `{media_type}`, but its bytes are {}", found.name())),
    }
}

/// Fails unless the folder is as new, and hands nothing on to what is made in it.
fn check_folder(folder: &OwnedFd) -> Result<(), String> {
    let failed = |error: Errno| format!("its folder cannot be read: {error}");
    for entry in Dir::read_from(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Err("its folder is not empty".to_owned());
        }
    }
    match flistxattr_query(folder) {
        // Security labels depend on the process that creates a file, and access control lists on the order of calls.
        Ok(1..) => Err("its folder has extended attributes".to_owned()),
        Ok(0) | Err(Errno::NOTSUP) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn only_plain_mounts_are_filled() {
        let of = |kind: &str, options: &[&str], is_bottom| {
            let options = options.iter().map(ToString::to_string).collect();
            whiteouts(&[Mount { r#type: kind.to_owned(), options, ..Mount::default() }], is_bottom)
        };
        let found = |kind: &str, options: &[&str]| of(kind, options, true);
        assert!(of("bind", &["rw", "rbind"], false).is_err());
        assert_eq!(found("bind", &["rw", "rbind"]), Ok(Whiteouts::Remove));
        assert_eq!(found("overlay", &["rw", "upperdir=/s/1/fs"]), Ok(Whiteouts::Overlay));
        assert_eq!(
            found("overlay", &["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/l"]),
            Ok(Whiteouts::Overlay)
        );
        for (kind, options) in [
            ("overlay", ["upperdir=/u", "userxattr"]),
            ("overlay", ["upperdir=/u", "uidmap=0:1000:1"]),
            ("bind", ["ro", "rbind"]),
            ("erofs", ["rw", "rw"]),
        ] {
            assert!(found(kind, &options).is_err(), "{kind} {options:?}");
        }
        assert!(whiteouts(&[], true).is_err());
    }

    #[test]
    fn compression_is_what_containerd_takes_it_for() {
        let mut gzip = tempfile::tempfile().unwrap();
        gzip.write_all(&[0x1f, 0x8b, 8, 0]).unwrap();
        let plain = tempfile::tempfile().unwrap();
        let oci = |kind: &str| format!("application/vnd.oci.image.layer.v1.tar{kind}");
        assert_eq!(compression(&oci("+gzip"), &gzip), Ok(Compression::Gzip));
        // It is not looked at.
        assert_eq!(compression(&oci(""), &gzip), Ok(Compression::None));
        assert_eq!(compression("application/vnd.docker.image.rootfs.diff.tar", &gzip), Ok(Compression::Gzip));
        assert_eq!(compression("application/vnd.docker.image.rootfs.diff.tar", &plain), Ok(Compression::None));
        for (media_type, blob) in [(oci("+gzip"), &plain), (oci("+zstd"), &gzip), (oci("+gzip+encrypted"), &gzip)] {
            assert!(compression(&media_type, blob).is_err(), "{media_type}");
        }
    }

    #[test]
    fn only_an_empty_folder_without_attributes_is_filled() {
        let folder = tempfile::tempdir().unwrap();
        let open = || OwnedFd::from(File::open(folder.path()).unwrap());
        assert_eq!(check_folder(&open()), Ok(()));
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(check_folder(&open()).unwrap_err().contains("not empty"));
    }
}
