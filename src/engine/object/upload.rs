//! A blob on its way into a bucket: hashed here, and visible under its key only when its digest is the expected one.
//!
//! A short blob is one write at its end. A long one is a multipart upload at its final key: each part is sent while the next
//! one fills and is hashed, and the upload is completed, which makes the object visible, after the digest was compared. Until
//! then the store shows nothing. At most [`PARTS`] parts of all uploads are in memory beside those that fill.

mod pieces;
mod progress;

use std::sync::Arc;

use bytes::Bytes;
use object_store::MultipartId;
use object_store::multipart::PartId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};

use pieces::Pieces;

use super::bucket::Bucket;
use crate::engine::EngineError;
use crate::image::{Algorithm, Digest, Hasher};

pub(super) use progress::Progress;

/// The least size of a part: S3 takes none below 5 MiB but the last.
pub(super) const PART: usize = 5 << 20;
/// How many parts an upload may have: S3 has a limit of 10,000.
const MAX_PARTS: u64 = 9_000;
/// The parts of a blob of unknown size, all as long as the first (R2 takes no others): up to 70 GiB.
const PART_OF_UNKNOWN: usize = 8 << 20;
/// How many parts of the least size are on their way or hashed at once, of all uploads together; a larger one counts as several.
pub(super) const PARTS: u32 = 5;
/// How many of them are of one upload.
const PARTS_OF_ONE: usize = 3;

/// An upload that has begun in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Begun {
    /// The key of the object.
    pub(super) key: String,
    /// The store's id of the upload.
    pub(super) id: MultipartId,
}

/// The size of the parts of a blob of `size` bytes.
fn part_size(size: Option<u64>) -> usize {
    let Some(size) = size else { return PART_OF_UNKNOWN };
    let least = size.div_ceil(MAX_PARTS).next_multiple_of(1 << 20);
    usize::try_from(least).unwrap_or(usize::MAX).max(PART)
}

/// The hash of all parts so far, which a thread computes.
#[derive(Debug)]
enum Hashing {
    Ready(Box<Hasher>),
    Busy(JoinHandle<Box<Hasher>>),
}

/// A blob that is being written.
#[derive(Debug)]
pub(super) struct Upload {
    bucket: Bucket,
    permits: Arc<Semaphore>,
    key: String,
    part_size: usize,
    /// The bytes of no part yet.
    buffer: Pieces,
    /// How many bytes are in parts.
    in_parts: u64,
    algorithm: Algorithm,
    hashing: Option<Hashing>,
    begun: Option<Begun>,
    sending: JoinSet<(usize, Result<PartId, object_store::Error>)>,
    parts: Vec<Option<PartId>>,
    /// How many parts there were when its progress was noted last.
    noted: usize,
    /// Why it ended.
    failure: Option<EngineError>,
}

impl Upload {
    /// An upload of nothing yet, to the object `key`.
    pub(super) fn new(
        bucket: &Bucket,
        permits: &Arc<Semaphore>,
        key: String,
        algorithm: Algorithm,
        size: Option<u64>,
    ) -> Self {
        Self {
            bucket: bucket.clone(),
            permits: permits.clone(),
            key,
            part_size: part_size(size),
            buffer: Pieces::default(),
            in_parts: 0,
            algorithm,
            hashing: Some(Hashing::Ready(Box::new(Hasher::new(algorithm)))),
            begun: None,
            sending: JoinSet::new(),
            parts: Vec::new(),
            noted: 0,
            failure: None,
        }
    }

    /// How many bytes were pushed.
    pub(super) fn length(&self) -> u64 {
        self.in_parts + self.buffer.len() as u64
    }

    /// The key of the object that it will be.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The multipart upload in the store, if one has begun.
    pub(super) fn begun(&self) -> Option<&Begun> {
        self.begun.as_ref()
    }

    /// Takes the first of `bytes`, as many as the part has room for; returns whether it is complete, so that [`Self::send`] sends it.
    pub(super) fn push(&mut self, bytes: &mut Bytes) -> bool {
        let part = bytes.split_to(bytes.len().min(self.part_size - self.buffer.len()));
        self.buffer.push(part);
        self.buffer.len() == self.part_size
    }

    /// Whether the next part needs a multipart upload that has not begun.
    pub(super) fn is_to_begin(&self) -> bool {
        self.begun.is_none()
    }

    /// Begins a multipart upload.
    pub(super) async fn begin(&mut self) -> Result<Begun, EngineError> {
        let path = self.bucket.path(&self.key);
        let id = self.bucket.objects.create_multipart(&path).await;
        let id = id.map_err(|error| self.bucket.failed("beginning to write", &self.key, &error))?;
        let begun = Begun { key: self.key.clone(), id };
        self.begun = Some(begun.clone());
        Ok(begun)
    }

    /// Sends the part that is complete, and hashes it meanwhile. Returns when there is room for the next one.
    pub(super) async fn send(&mut self) -> Result<(), EngineError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let sent = self.send_part().await;
        if let Err(error) = &sent {
            self.failure = Some(error.clone());
        }
        sent
    }

    async fn send_part(&mut self) -> Result<(), EngineError> {
        let Some(Begun { id, .. }) = self.begun.clone() else {
            return Err(self.broken("no upload has begun"));
        };
        if self.parts.len() as u64 >= MAX_PARTS {
            return Err(self.broken("it is longer than 70 GiB, the most that can be sent without its size"));
        }
        let weight = u32::try_from(self.part_size.div_ceil(PART)).unwrap_or(PARTS).min(PARTS);
        // Until it is sent and hashed.
        let room: Arc<OwnedSemaphorePermit> = match self.permits.clone().acquire_many_owned(weight).await {
            Ok(permit) => Arc::new(permit),
            Err(_) => return Err(self.broken("the store is closed")),
        };
        self.in_parts += self.buffer.len() as u64;
        let bytes = self.buffer.take();
        let mut hasher = self.hasher().await?;
        let (hashed, held) = (bytes.clone(), room.clone());
        self.hashing = Some(Hashing::Busy(spawn_blocking(move || {
            hashed.iter().for_each(|piece| hasher.update(piece));
            drop((hashed, held));
            hasher
        })));
        let (objects, path, at) = (self.bucket.objects.clone(), self.bucket.path(&self.key), self.parts.len());
        self.parts.push(None);
        self.sending.spawn(async move {
            let sent = objects.put_part(&path, &id, at, bytes).await;
            drop(room);
            (at, sent)
        });
        while self.sending.len() >= PARTS_OF_ONE {
            self.sent().await?;
        }
        Ok(())
    }

    fn broken(&self, reason: &str) -> EngineError {
        let object = self.bucket.object(&self.key);
        EngineError::Object { operation: "writing", object, reason: reason.to_owned(), hint: None }
    }

    /// Waits for one part.
    async fn sent(&mut self) -> Result<(), EngineError> {
        match self.sending.join_next().await {
            Some(Ok((at, Ok(part)))) => {
                self.parts[at] = Some(part);
                Ok(())
            }
            Some(Ok((_, Err(error)))) => Err(self.bucket.failed("writing a part of", &self.key, &error)),
            Some(Err(_)) => Err(self.broken("the task that sends a part broke off")),
            None => Ok(()),
        }
    }

    /// Waits for all parts.
    async fn all_sent(&mut self) -> Result<(), EngineError> {
        while !self.sending.is_empty() {
            self.sent().await?;
        }
        Ok(())
    }

    /// Takes the hash of all parts.
    async fn hasher(&mut self) -> Result<Box<Hasher>, EngineError> {
        match self.hashing.take() {
            Some(Hashing::Ready(hasher)) => Ok(hasher),
            Some(Hashing::Busy(thread)) => thread.await.map_err(|_| self.broken("hashing it broke off")),
            None => Err(self.broken("it is broken")),
        }
    }

    /// The digest of all bytes so far.
    pub(super) async fn digest(&mut self) -> Result<Digest, EngineError> {
        let hasher = self.hasher().await?;
        let mut whole = hasher.clone();
        self.hashing = Some(Hashing::Ready(hasher));
        let rest = self.buffer.shared();
        let hashed = spawn_blocking(move || {
            rest.iter().for_each(|piece| whole.update(piece));
            whole.finish()
        });
        let hashed = hashed.await;
        hashed.map_err(|_| self.broken("hashing it broke off"))
    }

    /// Makes the object, whose digest the caller has compared. Where this fails the upload can only be aborted.
    pub(super) async fn complete(&mut self) -> Result<(), EngineError> {
        let Some(Begun { id, .. }) = self.begun.clone() else {
            let bytes = self.buffer.take();
            return self.bucket.put(&self.key, bytes).await;
        };
        if !self.buffer.is_empty() {
            self.send().await?;
        }
        self.all_sent().await?;
        let parts: Option<Vec<_>> = std::mem::take(&mut self.parts).into_iter().collect();
        let parts = parts.ok_or_else(|| self.broken("a part of it is lost"))?;
        let done = self.bucket.objects.complete_multipart(&self.bucket.path(&self.key), &id, parts).await;
        match done {
            Ok(_) => {}
            // The answer to a first request may have been lost: then the upload is gone because the object is there.
            Err(error) => match self.bucket.size(&self.key).await {
                Ok(Some(size)) if size == self.in_parts => {}
                _ => return Err(self.bucket.failed("completing", &self.key, &error)),
            },
        }
        self.begun = None;
        Ok(())
    }

    /// Gives an upload of which nothing was sent another key; `false` if it is too late.
    pub(super) fn redirect(&mut self, key: String) -> bool {
        let is_possible = self.key == key || self.begun.is_none();
        if is_possible {
            self.key = key;
        }
        is_possible
    }

    /// How many bytes are in memory.
    pub(super) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Waits until all parts are stored.
    pub(super) async fn settle(&mut self) -> Result<(), EngineError> {
        match &self.failure {
            Some(failure) => Err(failure.clone()),
            None => self.all_sent().await,
        }
    }

    /// Forgets what is in memory: the next writer sends it again.
    pub(super) fn trim(&mut self) {
        self.buffer.clear();
    }

    /// Hashes by another algorithm, which is possible until a part is sent.
    pub(super) fn rehash(&mut self, algorithm: Algorithm) -> Result<(), EngineError> {
        match &self.hashing {
            _ if self.algorithm == algorithm => Ok(()),
            Some(Hashing::Ready(_)) if self.in_parts == 0 => {
                self.algorithm = algorithm;
                self.hashing = Some(Hashing::Ready(Box::new(Hasher::new(algorithm))));
                Ok(())
            }
            _ => {
                Err(self.broken("it is hashed by another algorithm than that of its digest: begin it with its digest"))
            }
        }
    }

    /// Forgets all of it; returns the multipart upload that is to be aborted.
    pub(super) async fn restart(&mut self) -> Option<Begun> {
        self.sending.shutdown().await;
        self.parts.clear();
        self.buffer.clear();
        (self.in_parts, self.noted, self.failure) = (0, 0, None);
        self.hashing = Some(Hashing::Ready(Box::new(Hasher::new(self.algorithm))));
        self.begun.take()
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn parts_suffice_for_any_size() {
        assert_eq!((part_size(Some(0)), part_size(Some(1 << 30))), (PART, PART));
        for size in [1 << 36, 1 << 40, 5 << 40] {
            let part = part_size(Some(size)) as u64;
            assert!(part.is_multiple_of(1 << 20) && size.div_ceil(part) <= MAX_PARTS, "{size}");
        }
    }

    pub(super) async fn written(length: usize) -> (Bucket, Upload, Digest) {
        let bucket = Bucket::new(Arc::new(InMemory::new()), "s3://b", "p");
        let content: Vec<u8> = (0..length).map(|at| (at / 1000 % 251) as u8).collect();
        let permits = Arc::new(Semaphore::new(1));
        let mut upload = Upload::new(&bucket, &permits, "key".to_owned(), Algorithm::Sha256, Some(length as u64));
        for chunk in content.chunks(300_000) {
            let mut bytes = Bytes::copy_from_slice(chunk);
            while !bytes.is_empty() {
                if upload.push(&mut bytes) {
                    if upload.is_to_begin() {
                        upload.begin().await.unwrap();
                    }
                    upload.send().await.unwrap();
                }
            }
        }
        (bucket, upload, Digest::sha256(&content))
    }

    #[tokio::test]
    async fn nothing_is_visible_before_it_is_complete() {
        for length in [0, 1, PART - 1, PART, 3 * PART + 1] {
            let (bucket, mut upload, digest) = written(length).await;
            assert_eq!((upload.length(), upload.digest().await.unwrap()), (length as u64, digest.clone()));
            assert_eq!(bucket.size("key").await.unwrap(), None, "{length} bytes");
            upload.complete().await.unwrap();
            let found = bucket.get("key", 1 << 30).await.unwrap().unwrap();
            assert!(digest.verify(&found.bytes), "{length} bytes");
        }
    }

    #[tokio::test]
    async fn what_was_suspended_goes_on_at_a_part() {
        let (_, mut upload, _) = written(2 * PART + 5).await;
        upload.settle().await.unwrap();
        assert_eq!((upload.length(), upload.buffered()), (2 * PART as u64 + 5, 5));
        upload.trim();
        assert_eq!(upload.length(), 2 * PART as u64);
        assert!(upload.restart().await.is_some() && upload.length() == 0);
    }
}
