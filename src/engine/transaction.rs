//! Image transactions: blobs in, then a record, or nothing.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::EngineError;
use crate::image::{Descriptor, Digest, Kind, Reference};

/// What an engine has of an image, and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Blobs, documents included, that the engine has; they are pinned.
    pub present: Vec<Descriptor>,
    /// Leaves that must be sent, the largest first: sending them in this order ends soonest. Foreign layers are not counted.
    pub missing: Vec<Descriptor>,
    /// Documents that the beginning of the transaction stored, because their bytes were at hand.
    pub stored: Vec<Descriptor>,
}

impl Plan {
    /// Adds all leaves of an image, and of each whether the engine has it. A foreign layer that it lacks is left out: it can do
    /// without.
    pub(crate) fn add_leaves<'a>(&mut self, leaves: impl IntoIterator<Item = (&'a Descriptor, bool)>) {
        for (leaf, is_present) in leaves {
            match (is_present, leaf.kind()) {
                (true, _) => self.present.push(leaf.clone()),
                (false, Kind::ForeignLayer) => {}
                (false, _) => self.missing.push(leaf.clone()),
            }
        }
        self.missing.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    }
}

/// An image on its way into an engine. Nothing of it is visible to the engine's users before it is committed.
///
/// Made by [`Lease::begin`](super::Lease::begin), which plans it. An engine that cannot pin (Docker's classic store) may
/// find at the commit that something has gone; [`EngineError::is_outdated_plan`] then asks for a new transaction.
#[async_trait]
pub trait ImageTransaction: Debug + Send + Sync {
    /// What is there and what is missing.
    fn plan(&self) -> &Plan;

    /// Opens a missing blob for writing.
    ///
    /// # Errors
    /// When the store refuses.
    async fn writer(&self, blob: &Descriptor) -> Result<Opened, EngineError>;

    /// Waits until all that can be done before the commit is done: layers unpacked, every digest verified to be present.
    ///
    /// # Errors
    /// When a layer cannot be unpacked or a blob is missing after all.
    async fn prepare(&self) -> Result<&dyn PreparedImage, EngineError>;

    /// Stops what is under way, such as unpacking. What was stored stays as long as the lease.
    async fn cancel(&self);

    /// What [`ImageTransaction::cancel`] could not take back of a commit that was cancelled, for a person.
    fn names_left(&self) -> Option<String> {
        None
    }
}

/// An image that is complete.
#[async_trait]
pub trait PreparedImage: Debug + Send + Sync {
    /// Makes the image visible under `names`; with none, as a dangling image. A name with a precondition must be as that
    /// expects, or none is set. `layout` compares and sets under its lock, `containerd` does so for names that must not
    /// exist, `docker`, `docker-classic` and the engine behind a daemon look right before they ask.
    ///
    /// # Errors
    /// [`EngineError::NameMoved`] when a precondition does not hold; with the engine's own words when it refuses.
    ///
    /// Whoever cancels an export lets this come to its end, for as long as the engine may set names and
    /// [gives them back](Self::unwanted).
    async fn commit(&self, names: &[Reference], preconditions: &[Precondition]) -> Result<(), EngineError>;

    /// Says that nobody waits for the commit that is under way: an engine that can then gives the names back, and the commit
    /// fails. `false` if it cannot, and the commit is to be dropped: what the engine makes of that is its own affair.
    fn unwanted(&self) -> bool {
        false
    }
}

/// What a name must resolve to before it is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precondition {
    /// The name.
    pub name: Reference,
    /// One of these roots; `None` is that it does not exist.
    pub expected: Vec<Option<Digest>>,
}

impl Precondition {
    /// Compares what the name resolves to with what is expected.
    ///
    /// # Errors
    /// [`EngineError::NameMoved`].
    pub(crate) fn check(&self, current: Option<&Digest>) -> Result<(), EngineError> {
        if self.expected.iter().any(|expected| expected.as_ref() == current) {
            return Ok(());
        }
        Err(EngineError::NameMoved { name: self.name.to_string(), current: current.cloned() })
    }
}

/// The outcome of opening a blob.
#[derive(Debug)]
pub enum Opened {
    /// The engine has it by now, and it is pinned.
    Present,
    /// It must be written.
    Writer(Box<dyn BlobWriter>),
}

/// A blob being written. Dropping it without `commit` leaves an ingest that the lease's release removes, or that a later
/// writer of the same blob resumes.
#[async_trait]
pub trait BlobWriter: Debug + Send {
    /// How many bytes the store has from an earlier attempt: writing begins there.
    fn offset(&self) -> u64 {
        0
    }

    /// Sends the next bytes (any length; at most 4 MiB are buffered). Returns when there is room for more,
    /// not when they are stored. It is called for each chunk of a blob, so it is written out: a writer around another one
    /// returns that one's future and allocates none.
    ///
    /// # Errors
    /// When the store has refused anything sent so far.
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>>;

    /// Completes the blob: the store has verified size and digest when this returns. Docker's classic store verifies the
    /// digest of the content instead, when it unpacks the layer at the commit, and before it makes an image of it.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] when they do not match.
    async fn commit(self: Box<Self>) -> Result<(), EngineError>;
}

/// How many bytes of `blob` are to come after the first `length`; [`EngineError::Corrupt`] if `bytes`, the next ones, are
/// more.
pub(super) fn check_room(blob: &Descriptor, length: u64, bytes: &Bytes) -> Result<u64, EngineError> {
    let room = blob.size.saturating_sub(length);
    if bytes.len() as u64 > room {
        let reason = format!("more than the expected {} bytes came", blob.size);
        return Err(EngineError::Corrupt { digest: blob.digest.clone(), reason });
    }
    Ok(room)
}

/// [`EngineError::Corrupt`] unless all bytes of `blob` came.
pub(super) fn check_length(blob: &Descriptor, length: u64) -> Result<(), EngineError> {
    if length != blob.size {
        let reason = format!("{length} bytes came, expected {}", blob.size);
        return Err(EngineError::Corrupt { digest: blob.digest.clone(), reason });
    }
    Ok(())
}
