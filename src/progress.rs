//! The events of an export, for progress displays and logs.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//!
//! use linkspan::progress::{Event, Events};
//!
//! let notes = Arc::new(Mutex::new(Vec::new()));
//! let kept = notes.clone();
//! let events = Events::new(move |event| {
//!     if let Event::Note(note) = event {
//!         kept.lock().unwrap().push(note.clone());
//!     }
//! });
//! events.emit(Event::Note("hello".to_owned()));
//! assert_eq!(*notes.lock().unwrap(), ["hello"]);
//! ```

use std::fmt;
use std::sync::Arc;

use crate::image::{Descriptor, Digest};

/// The state of an export, of which there may be more one day. Everything before [`State::Committed`] is invisible to users of the
/// engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// The engine holds a lease for the export.
    Open,
    /// It is known which blobs the engine lacks.
    Planned,
    /// Missing blobs are moving.
    Transferring,
    /// All blobs have come, and layers are still being unpacked. An export that unpacks nothing, or is done with it when the last
    /// blob comes, is never in it.
    Unpacking,
    /// Every blob is in the store and pinned.
    Ready,
    /// The image records are visible.
    Committed,
    /// The export was given up; nothing of it is visible.
    Aborted,
}

impl State {
    /// Its name, in small letters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Planned => "planned",
            Self::Transferring => "transferring",
            Self::Unpacking => "unpacking",
            Self::Ready => "ready",
            Self::Committed => "committed",
            Self::Aborted => "aborted",
        }
    }
}

/// One step of an export.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The export entered a state.
    State(State),
    /// The plan is made.
    Planned {
        /// Blobs, documents included, that the engine already holds.
        present: usize,
        /// Blobs that will be sent.
        missing: Vec<Descriptor>,
        /// Documents that the plan has sent, because their bytes were at hand.
        stored: Vec<Descriptor>,
    },
    /// A blob is being sent.
    Sending {
        /// Which blob.
        digest: Digest,
        /// How many bytes the engine has of it: from an earlier attempt, or in another namespace.
        offset: u64,
    },
    /// Bytes of a blob arrived in the engine.
    Sent {
        /// Which blob.
        digest: Digest,
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A blob is complete in the engine.
    Stored {
        /// Which blob.
        digest: Digest,
    },
    /// A layer is being unpacked.
    Unpacking {
        /// The layer's blob.
        digest: Digest,
    },
    /// A layer is unpacked.
    Unpacked {
        /// The layer's blob.
        digest: Digest,
    },
    /// The image is stored as it is, because it cannot be unpacked.
    NotUnpacked {
        /// Why.
        reason: String,
    },
    /// What one node of a cluster was sent, when the image has its names.
    Node {
        /// The node.
        node: String,
        /// Blobs that were sent to it, documents included.
        sent_blobs: usize,
        /// Their bytes.
        sent_bytes: u64,
        /// Blobs that it had.
        present_blobs: usize,
        /// Layers that were unpacked there.
        unpacked: usize,
    },
    /// A remark for people, such as a line of the engine's response.
    Note(String),
}

/// The listeners of one export.
pub type Events = Listeners<Event>;

/// Listeners of something. Cloning is cheap; listeners must not block.
pub struct Listeners<E>(Vec<Listener<E>>);

type Listener<E> = Arc<dyn Fn(&E) + Send + Sync>;

impl<E> Listeners<E> {
    /// Events go to `listener`, which is called from the tasks that do the work.
    pub fn new(listener: impl Fn(&E) + Send + Sync + 'static) -> Self {
        Self::none().and(listener)
    }

    /// Events without a listener.
    pub fn none() -> Self {
        Self::default()
    }

    /// Events go to `listener` as well.
    #[must_use]
    pub fn and(mut self, listener: impl Fn(&E) + Send + Sync + 'static) -> Self {
        self.0.push(Arc::new(listener));
        self
    }

    /// Calls every listener, in the order in which they were added.
    pub fn emit(&self, event: E) {
        self.0.iter().for_each(|listener| listener(&event));
    }
}

impl<E> Clone for Listeners<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E> Default for Listeners<E> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<E> fmt::Debug for Listeners<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listeners").field(&self.0.len()).finish()
    }
}
