//! Archives for tests, and how dockerd imports them.

#![allow(clippy::unwrap_used, reason = "only tests and fuzz targets have it")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use tar_core::{HeaderBuilder, PaxBuilder};

use super::blobs::EngineBlobs;
use super::member::{Read, read};
use crate::engine::ingest::{Expected, IngestWriter};
use crate::engine::{EngineError, StoredBlob};
use crate::image::Digest;
use crate::tar::{BLOCK, padding};

/// An archive that is being written.
#[derive(Debug, Clone, Default)]
pub(super) struct Tar(pub(super) Vec<u8>);

impl Tar {
    pub(super) fn file(self, name: &str, content: &[u8]) -> Self {
        self.member(b'0', name, content)
    }

    /// A file under the name of its digest.
    pub(super) fn blob(self, content: &[u8]) -> Self {
        self.file(&blob_name(content), content)
    }

    pub(super) fn layout(self) -> Self {
        self.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
    }

    pub(super) fn member(mut self, kind: u8, name: &str, content: &[u8]) -> Self {
        self.0.extend(header(kind, name, content.len() as u64));
        self.content(content)
    }

    /// A file with an extended header.
    pub(super) fn pax(mut self, records: &[(&str, &str)], name: &str, content: &[u8]) -> Self {
        let mut extended = PaxBuilder::new();
        for (key, value) in records {
            extended.add(key, value);
        }
        self = self.member(b'x', "PaxHeaders/x", &extended.finish());
        self.0.extend(header(b'0', name, content.len() as u64));
        self.content(content)
    }

    pub(super) fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len() + padding(content.len() as u64), 0);
        self
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

pub(super) fn blob_name(content: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::sha256(content).hex())
}

pub(super) fn header(kind: u8, name: &str, size: u64) -> [u8; BLOCK] {
    let mut header = HeaderBuilder::new_ustar();
    header.path(name).unwrap();
    header.mode(0o644).unwrap().uid(0).unwrap().gid(0).unwrap().size(size).unwrap().mtime(1_676_604_177).unwrap();
    let mut block = *header.finish().as_bytes();
    block[156] = kind;
    seal(&mut block);
    block
}

/// Sets the checksum.
pub(super) fn seal(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// The state of containerd's importer after an archive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Import {
    /// Files by name, the last of each.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Everything that was stored.
    pub(super) stored: BTreeSet<Vec<u8>>,
    /// Whether the archive was read to its end.
    pub(super) complete: bool,
}

/// Reads an archive without unusual members.
pub(super) fn import(archive: &[u8]) -> Import {
    try_import(archive).unwrap_or_else(|reason| panic!("{reason}"))
}

/// The same; the error names the unusual member.
pub(super) fn try_import(mut archive: &[u8]) -> Result<Import, &'static str> {
    let mut import = Import::default();
    loop {
        if archive.is_empty() {
            import.complete = true;
            return Ok(import);
        }
        let mut needed = BLOCK;
        let member = loop {
            let Some(head) = archive.get(..needed) else { return Ok(import) };
            match read(head) {
                Read::More(more) => needed = more,
                Read::Member(member) => break member,
                Read::Zeros => {
                    let second = archive.get(BLOCK..2 * BLOCK);
                    import.complete = archive.len() == BLOCK || second.is_some_and(|second| *second == [0; BLOCK]);
                    return Ok(import);
                }
                Read::Strange(reason) => return Err(reason),
            }
        };
        archive = &archive[member.head..];
        let Some((content, rest)) = archive.split_at_checked(member.size as usize) else { return Ok(import) };
        archive = &rest[member.padding().min(rest.len())..];
        if let Some(name) = member.file {
            import.files.insert(String::from_utf8_lossy(&name).into_owned(), content.to_vec());
            import.stored.insert(content.to_vec());
        }
    }
}

/// An engine with some blobs in memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) blobs: HashMap<Digest, Bytes>,
    /// Blobs that are gone after they were pinned.
    pub(super) fleeting: HashSet<Digest>,
    pub(super) broken_pins: bool,
    pub(super) pinned: Mutex<Vec<Vec<Digest>>>,
    /// Whether new blobs are stored.
    pub(super) stores: bool,
    /// Whether storing them fails.
    pub(super) is_full: bool,
    pub(super) new: Arc<Mutex<HashMap<Digest, Bytes>>>,
    pub(super) unpacks: Mutex<usize>,
}

impl Memory {
    pub(super) fn of<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let blobs = contents.into_iter().map(|content| (Digest::sha256(content), Bytes::copy_from_slice(content)));
        Self { blobs: blobs.collect(), ..Self::default() }
    }

    /// The new blobs that were stored.
    pub(super) fn new_blobs(&self) -> BTreeSet<Vec<u8>> {
        self.new.lock().unwrap().values().map(|bytes| bytes.to_vec()).collect()
    }
}

#[async_trait]
impl EngineBlobs for Memory {
    async fn find(&self, digest: &Digest) -> Result<Option<Arc<dyn StoredBlob>>, EngineError> {
        let new = self.new.lock().unwrap().get(digest).cloned();
        let found = self.blobs.get(digest).cloned().or(new);
        Ok(found.map(|bytes| Arc::new(Stored(bytes)) as Arc<dyn StoredBlob>))
    }

    async fn pin(&self, digests: &[Digest]) -> Result<Vec<Digest>, EngineError> {
        if self.broken_pins {
            return Err(EngineError::LeaseLost { lease: "test".to_owned() });
        }
        self.pinned.lock().unwrap().push(digests.to_vec());
        Ok(digests.iter().filter(|digest| self.fleeting.contains(digest)).cloned().collect())
    }

    async fn create(&self, size: u64) -> Result<Option<Box<dyn IngestWriter>>, EngineError> {
        let writer = MemoryWriter { new: self.new.clone(), is_full: self.is_full, size, bytes: Vec::new() };
        Ok(self.stores.then(|| Box::new(writer) as Box<dyn IngestWriter>))
    }

    async fn stored(&self, digest: &Digest, size: u64) {
        let stored = self.new.lock().unwrap().get(digest).map(Bytes::len);
        assert_eq!(stored, Some(size as usize), "it is in the store");
    }

    async fn unpack(&self) {
        *self.unpacks.lock().unwrap() += 1;
    }

    async fn leave_packed(&self) {}

    async fn release(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

/// A new blob.
#[derive(Debug)]
struct MemoryWriter {
    new: Arc<Mutex<HashMap<Digest, Bytes>>>,
    is_full: bool,
    size: u64,
    bytes: Vec<u8>,
}

#[async_trait]
impl IngestWriter for MemoryWriter {
    fn offset(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        if self.is_full {
            return Err(EngineError::NoSpace { operation: "writing".to_owned(), message: "full".to_owned() });
        }
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn digest(&mut self) -> Result<Digest, EngineError> {
        Ok(Digest::sha256(&self.bytes))
    }

    async fn restart(&mut self) -> Result<(), EngineError> {
        self.bytes.clear();
        Ok(())
    }

    async fn suspend(self: Box<Self>) -> Result<(), EngineError> {
        Ok(())
    }

    async fn commit(self: Box<Self>, _: Expected) -> Result<(Digest, u64), EngineError> {
        assert_eq!(self.size, self.bytes.len() as u64);
        let digest = Digest::sha256(&self.bytes);
        // As if the disk took its time.
        tokio::task::yield_now().await;
        match self.new.lock().unwrap().insert(digest.clone(), self.bytes.into()) {
            None => Ok((digest, self.size)),
            Some(_) => Err(EngineError::Present { digest }),
        }
    }
}

#[derive(Debug)]
struct Stored(Bytes);

#[async_trait]
impl StoredBlob for Stored {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read_at(self: Arc<Self>, offset: u64, mut buffer: Vec<u8>) -> Result<Vec<u8>, EngineError> {
        let (offset, length) = (offset as usize, buffer.len());
        buffer.copy_from_slice(&self.0[offset..offset + length]);
        Ok(buffer)
    }
}
