//! Where everything in a layout is, and whether a folder is a layout at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::image::OciLayout;

use super::disk::Disk;
use super::lock;
use super::seal::Seal;
use crate::engine::EngineError;
use crate::image::layout::{EMPTY_INDEX, INDEX_FILE, MARKER, MARKER_FILE, MAX_MARKER, VERSION};
use crate::image::{Algorithm, Digest};

/// Our own folder in a layout. Tools that read layouts follow digests and do not look at other names.
const OWN: &str = ".linkspan";

/// The paths of one layout.
#[derive(Debug, Clone)]
pub(super) struct Place {
    root: PathBuf,
}

/// What a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, or an empty folder, or a layout that was never completed.
    Nothing,
    /// A layout.
    Layout,
}

impl Place {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join(INDEX_FILE)
    }

    /// What BuildKit locks while it writes or reads the index (buildkit `client/ociindex/ociindex.go`).
    pub(super) fn buildkit_lock(&self) -> PathBuf {
        self.root.join("index.json.lock")
    }

    fn marker(&self) -> PathBuf {
        self.root.join(MARKER_FILE)
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(super) fn blobs_of(&self, algorithm: Algorithm) -> PathBuf {
        self.blobs().join(algorithm.name())
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs_of(digest.algorithm()).join(digest.hex())
    }

    pub(super) fn own(&self) -> PathBuf {
        self.root.join(OWN)
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.own().join("lock")
    }

    /// Which blobs are known to be what they are called ([`super::verified`]).
    pub(super) fn verified(&self) -> PathBuf {
        self.own().join("verified")
    }

    /// Since when blobs are needed by nothing ([`super::unreached`]).
    pub(super) fn unreached(&self) -> PathBuf {
        self.own().join("unreached")
    }

    /// A name for a file that will be put in the place of `name`.
    pub(super) fn draft(&self, name: &str) -> PathBuf {
        self.own().join(format!("{name}.{}", super::unique()))
    }

    pub(super) fn leases(&self) -> PathBuf {
        self.own().join("leases")
    }

    pub(super) fn lease(&self, export: &str) -> PathBuf {
        self.leases().join(export)
    }

    pub(super) fn uploads(&self) -> PathBuf {
        self.own().join("uploads")
    }

    pub(super) fn uploads_of(&self, export: &str) -> PathBuf {
        self.uploads().join(export)
    }

    /// Files of processes: one that lives has its own locked.
    pub(super) fn processes(&self) -> PathBuf {
        self.own().join("processes")
    }

    /// Blobs that are not complete, or complete and not yet on the disk for sure.
    pub(super) fn ingest(&self) -> PathBuf {
        self.own().join("ingest")
    }

    /// The part of a blob that a later writer goes on with. What was written before the machine restarted is not
    /// trusted: a power loss may have left holes in it.
    pub(super) fn partial(&self, boot: &str, digest: &Digest) -> PathBuf {
        self.ingest().join(format!("{}-{}.{boot}", digest.algorithm().name(), digest.hex()))
    }

    /// A complete blob that `process` has not synced yet. Whoever finds it after that process was killed knows what it
    /// is; what was written before the machine restarted is not trusted here either.
    pub(super) fn unsynced(&self, boot: &str, digest: &Digest, process: &str) -> PathBuf {
        let (algorithm, hex) = (digest.algorithm().name(), digest.hex());
        self.ingest().join(format!("{algorithm}-{hex}.{boot}.{process}.{}", super::unique()))
    }

    /// Looks at the folder without changing anything.
    pub(super) fn look(&self) -> Result<Found, EngineError> {
        match fs::metadata(&self.root) {
            Ok(found) if !found.is_dir() => return Err(self.refuse("it is not a folder")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(self.failed("looking at the layout", &error)),
        }
        let marker = match read_at_most(&self.marker(), MAX_MARKER) {
            Ok(marker) => marker,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.look_unmarked(),
            Err(error) => return Err(self.failed("reading oci-layout", &error)),
        };
        let marker: OciLayout = serde_json::from_slice(&marker).map_err(|error| {
            self.refuse(format!("its file oci-layout is not what the OCI specification says: {error}"))
        })?;
        if marker.image_layout_version().split('.').next() != VERSION.split('.').next() {
            let version = marker.image_layout_version();
            return Err(self.refuse(format!("its version is `{version}`, and only {VERSION} is known")));
        }
        Ok(Found::Layout)
    }

    /// A folder without `oci-layout`: somebody else's, unless it is empty or was begun by us.
    fn look_unmarked(&self) -> Result<Found, EngineError> {
        let mut entries = fs::read_dir(&self.root).map_err(|error| self.failed("looking at the layout", &error))?;
        // In this order: whoever begins one at this moment makes our folder first.
        if entries.next().is_none() || self.own().is_dir() {
            return Ok(Found::Nothing);
        }
        Err(self.refuse(
            "it is no OCI image layout (it has no file oci-layout) and not empty; name a layout or a new folder",
        ))
    }

    /// Completes the folder to a layout. Our own folder comes first: by it a layout that was begun is known.
    pub(super) fn create(&self, disk: &dyn Disk) -> Result<(), EngineError> {
        let found = self.look()?;
        let making = |error: io::Error| self.failed("making the layout", &error);
        if found == Found::Nothing {
            let mut missing: Vec<_> =
                self.root.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
            while let Some(folder) = missing.pop() {
                disk.create_folder(folder).map_err(making)?;
            }
        }
        let sha256 = self.blobs_of(Algorithm::Sha256);
        let own = [self.own(), self.leases(), self.uploads(), self.processes(), self.ingest(), self.blobs(), sha256];
        for folder in own {
            if !folder.is_dir() {
                disk.create_folder(&folder).map_err(making)?;
            }
        }
        if found == Found::Nothing { self.complete(disk) } else { Ok(()) }
    }

    /// Makes the files that make a folder a layout. Another process may have done so meanwhile, and put an image there.
    fn complete(&self, disk: &dyn Disk) -> Result<(), EngineError> {
        let _lock = lock::exclusive(self)?;
        if self.look()? == Found::Layout {
            return Ok(());
        }
        let making = |error: io::Error| self.failed("making the layout", &error);
        disk.sync_folder(&self.blobs()).map_err(making)?;
        if !self.index().exists() {
            self.put(disk, &self.index(), EMPTY_INDEX).map_err(making)?;
        }
        self.put(disk, &self.marker(), MARKER).map_err(making)?;
        if let Some(parent) = self.root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            disk.sync_folder(parent).map_err(making)?;
        }
        Ok(())
    }

    /// Makes `path` hold `content`, which is there as a whole or not at all whatever happens. Gives the seal of the file
    /// as it was before it got its name, which counts as a change.
    pub(super) fn put(&self, disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<Seal> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let draft = self.draft(&name);
        let mut file = disk.append(&draft)?;
        let written = file.write(content).and_then(|()| file.sync()).and_then(|()| {
            let seal = Seal::of(&file.file().metadata()?);
            disk.rename(&draft, path).map(|()| seal)
        });
        if written.is_err() {
            // What went wrong first is what matters.
            let _ = disk.remove(&draft);
        }
        let seal = written?;
        disk.sync_folder(&self.root).map(|()| seal)
    }

    /// Makes a file of ours hold `content`, or leaves it as it is. Past the disk's syncs, like every lock: for what may be
    /// lost.
    pub(super) fn jot(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let draft = self.draft(&path.file_name().unwrap_or_default().to_string_lossy());
        let written = fs::write(&draft, content).and_then(|()| fs::rename(&draft, path));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written
    }

    /// The layout cannot be used.
    pub(super) fn refuse(&self, reason: impl Into<String>) -> EngineError {
        EngineError::Layout { path: self.root.display().to_string(), reason: reason.into() }
    }

    /// The file system refused.
    pub(super) fn failed(&self, operation: &str, error: &io::Error) -> EngineError {
        match error.kind() {
            _ if is_full(error) => EngineError::NoSpace {
                operation: format!("{operation} of the layout {}", self.root.display()),
                message: error.to_string(),
            },
            io::ErrorKind::CrossesDevices => self.refuse(format!(
                "{operation}: its folder blobs lies on another file system; it must be on the same one"
            )),
            _ => self.refuse(format!("{operation}: {error}")),
        }
    }
}

/// Whether there is no room for more.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Opens a file to be read. What is no file, such as a pipe without a writer, could be waited for without end.
pub(super) fn open_file(path: &Path) -> io::Result<fs::File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    fs::File::open(path)
}

/// The beginning of a file of lines, up to the end of a line; at most `limit` bytes. Nothing if there is no such file.
pub(super) fn read_lines(path: &Path, limit: u64) -> io::Result<String> {
    use io::Read as _;
    let mut bytes = Vec::new();
    match open_file(path) {
        Ok(file) => file.take(limit).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    if bytes.len() as u64 == limit {
        bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads a file that must not be longer than `limit`.
pub(super) fn read_at_most(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_file_at_most(open_file(path)?, limit)
}

/// The same of one that is open.
pub(super) fn read_file_at_most(file: fs::File, limit: u64) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}
