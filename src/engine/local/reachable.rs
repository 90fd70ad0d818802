//! Which blobs the roots of a layout reach.

use std::collections::HashSet;
use std::io;

use super::files::read_at_most;
use super::index::is_leaf;
use super::paths::LayoutPaths;
use crate::image::cache::CACHE_CONFIG;
use crate::image::{Descriptor, Digest, Document, Kind, Limits, media_type_of};

/// How many blobs are followed.
const MAX_BLOBS: usize = 4_000_000;
/// The largest document that is read, in bytes. Larger than those that we export: others may allow more.
const DOCUMENT_BYTES: u64 = 32 << 20;
/// How many doubts are kept.
const MAX_DOUBTS: usize = 100;

/// Blobs that are reachable from roots.
#[derive(Debug, Default)]
pub(super) struct Reachable {
    pub(super) all: HashSet<Digest>,
    /// Documents whose children were followed.
    followed: HashSet<Digest>,
    /// Why there may be more reachable blobs.
    pub(super) doubts: Vec<String>,
}

impl Reachable {
    /// Follows all blobs that `root` reaches. A missing document reaches nothing: layouts may contain a part of an
    /// image. A document that cannot be parsed may reach any blob.
    pub(super) fn follow(&mut self, paths: &LayoutPaths, root: &Descriptor) {
        let mut next = vec![(root.clone(), !is_leaf(root))];
        while let Some((blob, may_be_manifest)) = next.pop() {
            self.all.insert(blob.digest.clone());
            if self.all.len() > MAX_BLOBS {
                return self.doubt(format!("there are more than {MAX_BLOBS} of them"));
            }
            let kind = blob.kind();
            // The root of a build cache lists layers and a config, which refer to nothing.
            let is_of_cache = matches!(kind, Kind::Layer | Kind::ForeignLayer) || blob.media_type == CACHE_CONFIG;
            if may_be_manifest && !is_of_cache && !matches!(kind, Kind::Index | Kind::Manifest) {
                let (digest, media_type) = (&blob.digest, &blob.media_type);
                self.doubt(format!(
                    "what {digest} of type `{media_type}` refers to is not known; hint: take it out of index.json"
                ));
                continue;
            }
            if !matches!(kind, Kind::Index | Kind::Manifest) || !self.followed.insert(blob.digest.clone()) {
                continue;
            }
            match read(paths, &blob) {
                Ok(Some(document)) => {
                    let is_index = kind == Kind::Index;
                    next.extend(document.children().into_iter().map(|child| (child.clone(), is_index)));
                }
                Ok(None) => {}
                Err(reason) => self.doubt(format!(
                    "{} cannot be read: {reason}; hint: load its image again, or take it out of index.json",
                    blob.digest
                )),
            }
        }
    }

    fn doubt(&mut self, reason: String) {
        if self.doubts.len() < MAX_DOUBTS {
            self.doubts.push(reason);
        }
    }
}

/// Reads a document; `None` if it is missing.
fn read(paths: &LayoutPaths, blob: &Descriptor) -> Result<Option<Document>, String> {
    let wide = usize::try_from(DOCUMENT_BYTES).unwrap_or(usize::MAX);
    let limits = Limits { document_bytes: DOCUMENT_BYTES, children: wide, ..Limits::default() };
    let bytes = match read_at_most(&paths.blob(&blob.digest), DOCUMENT_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    // Identified by its digest, whatever size the descriptor gives, and whether it has OCI's media type or Docker's.
    let own = media_type_of(&bytes).filter(|own| Kind::of(own) == blob.kind());
    let media_type = own.unwrap_or_else(|| blob.media_type.clone());
    let blob = Descriptor { media_type, size: bytes.len() as u64, ..blob.clone() };
    Document::parse_within(blob, bytes.into(), &limits).map(Some).map_err(|error| error.to_string())
}
