//! The files of a lease's ingests: the bytes received, and a note for each.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::blob_store::BlobStore;
use super::files::{entries, read_at_most};
use super::hashed_file::HashedFile;
use crate::engine::EngineError;
use crate::image::{Algorithm, Digest};

/// The longest note of an ingest.
const MAX_NOTE: u64 = 16 << 10;
/// How often a folder is cleared that is written to meanwhile: more often than an export has writers at a time, each with two
/// files.
const CLEARINGS: usize = 256;

/// The note, a JSON file beside an ingest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) name: String,
    pub(crate) digest: Option<Digest>,
    pub(crate) size: Option<u64>,
    /// Milliseconds since 1970.
    pub(crate) started: u64,
}

/// The files of the ingests of one lease. Every method blocks.
#[derive(Debug)]
pub(crate) struct IngestFiles {
    blobs: Arc<BlobStore>,
    export: String,
}

impl BlobStore {
    /// The files of the ingests of `export`.
    pub(crate) fn ingests(self: &Arc<Self>, export: &str) -> IngestFiles {
        IngestFiles::new(self.clone(), export.to_owned())
    }
}

impl IngestFiles {
    fn new(blobs: Arc<BlobStore>, export: String) -> Self {
        Self { blobs, export }
    }

    fn folder(&self) -> PathBuf {
        self.blobs.paths.uploads_of(&self.export)
    }

    fn data(&self, name: &str) -> PathBuf {
        // Names are the client's, and may contain any bytes.
        self.folder().join(Digest::sha256(name.as_bytes()).hex())
    }

    fn note_path(&self, name: &str) -> PathBuf {
        self.data(name).with_extension("json")
    }

    fn failed(&self, error: &io::Error) -> EngineError {
        self.blobs.refused(&self.export, "writing an ingest", error)
    }

    /// Opens the file of an ingest, to resume it at its length.
    pub(crate) fn open(&self, name: &str, algorithm: Algorithm) -> Result<HashedFile, EngineError> {
        let (disk, path) = (&self.blobs.disk, self.data(name));
        if !path.exists() {
            return Ok(HashedFile::new(disk.clone(), algorithm, path));
        }
        let resumed = disk.append(&path).and_then(|file| HashedFile::resume(disk.clone(), algorithm, path, file));
        resumed.map_err(|error| self.failed(&error))
    }

    /// Creates the folder of the ingests.
    pub(crate) fn create(&self) -> Result<(), EngineError> {
        self.blobs.disk.create_folder(&self.folder()).map_err(|error| self.failed(&error))
    }

    /// Reads the note of an ingest; `None` if there is no readable one.
    pub(crate) fn read_note(&self, name: &str) -> Result<Option<Note>, EngineError> {
        match read_at_most(&self.note_path(name), MAX_NOTE) {
            // A note that a crash cut off counts as absent.
            Ok(note) => Ok(serde_json::from_slice(&note).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Whether there is a note.
    pub(crate) fn has_note(&self, name: &str) -> bool {
        self.note_path(name).exists()
    }

    /// Writes a note, unless there is one: it makes the ingest known after a restart.
    pub(crate) fn write_note(&self, note: &Note) -> Result<(), EngineError> {
        let (disk, path) = (&self.blobs.disk, self.note_path(&note.name));
        if path.exists() {
            return Ok(());
        }
        let written = serde_json::to_vec(note).map_err(io::Error::from).and_then(|text| {
            let written = disk.append(&path).and_then(|mut file| file.write(&text));
            written.inspect_err(|_| drop(disk.remove(&path)))
        });
        written.map_err(|error| self.failed(&error))
    }

    /// Writes all bytes of an ingest, even if there are none.
    pub(crate) fn write(&self, hashed: &mut HashedFile, rest: Vec<Bytes>) -> Result<(), EngineError> {
        hashed.create().and_then(|()| hashed.take(rest)).map_err(|error| {
            hashed.make_room(&error);
            self.failed(&error)
        })
    }

    /// Moves a complete file out of the ingests. The name of a part lets it be found again if this process is killed.
    pub(crate) fn take_out(&self, mut hashed: HashedFile, digest: &Digest) -> Result<HashedFile, EngineError> {
        let Some(file) = &hashed.file else { return Ok(hashed) };
        let part = self.blobs.paths.partial(&self.blobs.boot, digest);
        let is_free = file.file().try_lock().is_ok() && !self.blobs.boot.is_empty() && !part.exists();
        let path = if is_free { part } else { self.blobs.unsynced_path(digest)? };
        self.blobs.disk.rename(&hashed.path, &path).map_err(|error| self.failed(&error))?;
        hashed.path = path;
        Ok(hashed)
    }

    /// Removes an ingest; succeeds if there is none.
    pub(crate) fn remove(&self, name: &str) -> Result<(), EngineError> {
        let disk = &self.blobs.disk;
        let removed = disk.remove(&self.data(name)).and_then(|()| disk.remove(&self.note_path(name)));
        removed.map_err(|error| self.failed(&error))
    }

    /// Removes all ingests.
    pub(crate) fn clear(&self) -> Result<(), EngineError> {
        let disk = &self.blobs.disk;
        let clear = || {
            entries(&self.folder())?.iter().try_for_each(|entry| disk.remove(&entry.path()))?;
            disk.remove_folder(&self.folder())
        };
        // A writer that was dropped a moment ago may write its last bytes between the two. It does so once, and once the folder
        // is gone it cannot.
        let is_refilled = |cleared: &io::Result<()>| {
            cleared.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::DirectoryNotEmpty)
        };
        let mut cleared = clear();
        for _ in 1..CLEARINGS {
            if !is_refilled(&cleared) {
                break;
            }
            cleared = clear();
        }
        cleared.map_err(|error| self.blobs.failed("releasing an export", &error))
    }

    /// All notes, with the number of bytes received and the time of the last write.
    pub(crate) fn list(&self) -> Result<Vec<(Note, u64, Option<SystemTime>)>, EngineError> {
        self.read_all().map_err(|error| self.failed(&error))
    }

    fn read_all(&self) -> io::Result<Vec<(Note, u64, Option<SystemTime>)>> {
        let mut found = Vec::new();
        for entry in entries(&self.folder())? {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let Ok(note) = serde_json::from_slice::<Note>(&read_at_most(&path, MAX_NOTE)?) else { continue };
            let data = fs::metadata(path.with_extension("")).ok();
            let length = data.as_ref().map_or(0, fs::Metadata::len);
            found.push((note, length, data.and_then(|data| data.modified().ok())));
        }
        Ok(found)
    }
}
