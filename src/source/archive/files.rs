//! The files of an archive or of a folder, by name.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::ArchiveError;
use super::members::{BlobLocation, First, Members};
use crate::image::{Algorithm, Digest, Hasher};

/// The files.
#[derive(Debug)]
pub(super) struct Files {
    name: String,
    location: Location,
    /// Of several files with the name of a blob, the one that has its bytes.
    chosen: Mutex<HashMap<Digest, BlobLocation>>,
}

#[derive(Debug)]
enum Location {
    Tar(Members),
    /// A folder; only fixed names and digests are looked up in it.
    Folder(PathBuf),
}

impl Files {
    pub(super) fn tar(name: String, members: Members) -> Self {
        Self { name, location: Location::Tar(members), chosen: Mutex::default() }
    }

    pub(super) fn folder(name: String, folder: PathBuf) -> Self {
        Self { name, location: Location::Folder(folder), chosen: Mutex::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_folder(&self) -> bool {
        matches!(self.location, Location::Folder(_))
    }

    /// Finds the file `member`; `None` if there is none. Blocks.
    pub(super) fn find(&self, member: &str, first: First) -> Result<Option<BlobLocation>, ArchiveError> {
        let folder = match &self.location {
            Location::Tar(members) => {
                return Ok(members.find(member, first).map_err(|reason| self.wrong(member, reason))?.cloned());
            }
            Location::Folder(folder) => folder,
        };
        let path = folder.join(member);
        // To open a pipe without a writer would block.
        let file = match fs::metadata(&path).and_then(|found| found.is_file().then(|| File::open(&path)).transpose()) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(self.wrong(member, "is no file".to_owned())),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(self.failed(member, error)),
        };
        let metadata = file.metadata().map_err(|error| self.failed(member, error))?;
        Ok(Some(BlobLocation::File { file: Arc::new(file), offset: 0, size: metadata.len() }))
    }

    /// Finds the blob `digest` by its name; `None` if there is none. Of several files with that name it is the one with
    /// these bytes, because the importer goes by content. Blocks.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Option<BlobLocation>, ArchiveError> {
        let member = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        let last = self.find(&member, First::Files)?;
        let (Some(last), Location::Tar(members)) = (&last, &self.location) else { return Ok(last) };
        let replaced: Vec<_> = members.replaced(&member).collect();
        if replaced.is_empty() {
            return Ok(Some(last.clone()));
        }
        if let Some(location) = self.chosen.lock().unwrap_or_else(PoisonError::into_inner).get(digest) {
            return Ok(Some(location.clone()));
        }
        let mut chosen = last;
        for location in [last].into_iter().chain(replaced) {
            if matches!(location, BlobLocation::Engine { .. })
                || self.digest(&member, location, digest.algorithm())? == *digest
            {
                chosen = location;
                break;
            }
        }
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone(), chosen.clone());
        Ok(Some(chosen.clone()))
    }

    /// The digest of the bytes at `location`. Blocks.
    pub(super) fn digest(
        &self,
        member: &str,
        location: &BlobLocation,
        algorithm: Algorithm,
    ) -> Result<Digest, ArchiveError> {
        let (mut hasher, mut at) = (Hasher::new(algorithm), 0);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = self.read_at(member, location, at, &mut buffer)?;
            if read == 0 {
                return Ok(hasher.finish());
            }
            hasher.update(&buffer[..read]);
            at += read as u64;
        }
    }

    /// Reads the file `member`, of at most `limit` bytes; `None` if there is none. Blocks.
    pub(super) fn read(&self, member: &str, limit: u64, first: First) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some(location) = self.find(member, first)? else { return Ok(None) };
        if location.size() > limit {
            return Err(self.wrong(member, format!("has {} bytes; at most {limit} are read", location.size())));
        }
        let mut bytes = vec![0; usize::try_from(location.size()).unwrap_or(usize::MAX)];
        let read = self.read_at(member, &location, 0, &mut bytes)?;
        bytes.truncate(read);
        Ok(Some(bytes))
    }

    /// Reads from `at` on until `into` is full or the file ends. Blocks.
    pub(super) fn read_at(
        &self,
        member: &str,
        location: &BlobLocation,
        at: u64,
        into: &mut [u8],
    ) -> Result<usize, ArchiveError> {
        read_at(location, at, into).map_err(|error| self.failed(member, error))
    }

    /// An error about `member`.
    pub(super) fn wrong(&self, member: &str, reason: String) -> ArchiveError {
        let member = member.chars().take(200).map(|letter| if letter.is_control() { '?' } else { letter }).collect();
        ArchiveError::Member { archive: self.name.clone(), member, reason }
    }

    fn failed(&self, member: &str, error: io::Error) -> ArchiveError {
        ArchiveError::Io { archive: self.name.clone(), what: format!("reading `{member}`"), error }
    }
}

/// Parses the JSON value at the beginning of `bytes` and ignores what follows, as Go's decoders do.
pub(super) fn json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    T::deserialize(&mut serde_json::Deserializer::from_slice(bytes))
}

/// Reads from `at` on until `into` is full or the file ends. Blocks.
pub(super) fn read_at(location: &BlobLocation, at: u64, into: &mut [u8]) -> io::Result<usize> {
    let BlobLocation::File { file, offset, size } = location else {
        return Err(io::Error::other("it was not kept, because the engine had it"));
    };
    let left = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
    let end = into.len().min(left);
    let mut filled = 0;
    while filled < end {
        match file.read_at(&mut into[filled..end], offset + at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
