//! What is exported, and what came of it.

use std::collections::HashSet;

use crate::engine::{Origin, Precondition, UnpackFor};
use crate::image::{Descriptor, Digest, Reference};

/// What to export.
#[derive(Debug, Clone)]
pub struct Request {
    /// The root of the image: an index or a manifest. What its annotations call it is not taken for a name.
    pub root: Descriptor,
    /// The names to give it; none leaves it dangling. One with a digest must be this image's.
    pub names: Vec<Reference>,
    /// The one of `names` that only says in which repository the image is: it has its digest and no tag. Who may name anything there
    /// may set it.
    pub kept_as: Option<Reference>,
    /// What names must resolve to before they are set, beside what policy wants.
    pub preconditions: Vec<Precondition>,
    /// Whether the image is unpacked before it becomes visible, where the engine leaves the choice.
    pub unpack: UnpackFor,
    /// Blobs that the client sent under the lease before, and that were counted then.
    pub received: HashSet<Digest>,
    /// Who exports.
    pub origin: Origin,
}

impl Request {
    /// An image that becomes visible under `names` when it is unpacked, whatever they were before.
    pub fn new(root: Descriptor, names: Vec<Reference>, origin: Origin) -> Self {
        let (kept_as, preconditions, received) = Default::default();
        let names = Reference::each_once(names);
        Self { root, names, kept_as, preconditions, unpack: UnpackFor::Commit, received, origin }
    }
}

/// What an export did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Blobs sent, documents included.
    pub sent_blobs: usize,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Blobs that the engine had.
    pub present_blobs: usize,
}
