//! Images as plain files in the layout of the registry API's paths, which any static file server, bucket or CDN hands out: a
//! registry that can only be read.
//!
//! ```text
//! v2/index.html                     what clients look for first
//! v2/NAME/blobs/DIGEST              configs and layers
//! v2/NAME/manifests/DIGEST          manifests and indexes
//! v2/NAME/referrers/DIGEST          what refers to a manifest
//! v2/NAME/tags/list                 the tags
//! v2/NAME/manifests/TAG             written last
//! ```
//!
//! Each file appears when it is complete, after all that it refers to, and what is there already is not written again.

mod bucket;
mod error;
mod files;
mod folder;
mod nginx;
mod referrers;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use self::files::{BLOB, Files, JSON};
use crate::image::{Descriptor, Digest, Document, Graph, Kind, Reference};
use crate::progress::{Event, Events};
use crate::source::{Source, Verified};

pub use bucket::Bucket;
pub use error::PublishError;
pub use folder::Folder;

/// How many blobs are sent at once.
const PARALLEL: usize = 4;
/// Parts of paths behind a name, which can be no parts of names.
const RESERVED: [&str; 4] = ["manifests", "blobs", "tags", "referrers"];

/// An image that is published.
#[derive(Debug)]
pub struct Publication<'a> {
    /// Its documents.
    pub graph: &'a Graph,
    /// Its name, with a tag.
    pub name: &'a Reference,
    /// The foreign layers that are not there.
    pub absent: &'a HashSet<Digest>,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Blobs and manifests.
    pub blobs: usize,
    /// The bytes of these.
    pub bytes: u64,
    /// Blobs and manifests that were there.
    pub present: usize,
}

#[derive(Debug, Serialize)]
struct Tags<'a> {
    name: &'a str,
    tags: BTreeSet<String>,
}

/// The path of a name's repository.
fn repository(name: &Reference) -> Result<String, PublishError> {
    let refused = |reason| PublishError::Name { name: name.to_string(), reason };
    let path =
        Reference::path_in_registry(&name.name()).ok_or_else(|| refused("a path can hold no registry's port"))?;
    if path.split('/').any(|part| RESERVED.contains(&part)) {
        return Err(refused("`manifests`, `blobs`, `tags` and `referrers` are parts of the paths of other names"));
    }
    Ok(path)
}

fn is_tag(name: &str) -> bool {
    format!("x:{name}").parse::<Reference>().is_ok_and(|found| found.tag() == Some(name))
}

fn is_manifest(blob: &Descriptor) -> bool {
    matches!(blob.kind(), Kind::Index | Kind::Manifest)
}

/// A site that images are published to.
#[derive(Debug)]
pub struct Site(Arc<dyn Files>);

impl From<Folder> for Site {
    fn from(folder: Folder) -> Self {
        Self(Arc::new(folder))
    }
}

impl From<Bucket> for Site {
    fn from(bucket: Bucket) -> Self {
        Self(Arc::new(bucket))
    }
}

impl Site {
    /// Publishes images, whose leaves are read from `source`.
    ///
    /// # Errors
    /// When a name cannot be published, a blob cannot be read, or the site cannot be written. Tags are then unchanged, unless
    /// it is a later tag that cannot be written.
    pub async fn publish(
        &self,
        images: &[Publication<'_>],
        source: &Arc<dyn Source>,
        events: &Events,
    ) -> Result<Written, PublishError> {
        let mut written = Written::default();
        // Checked before anything is written.
        let paths = images.iter().map(|image| repository(image.name)).collect::<Result<Vec<_>, _>>()?;
        for (image, path) in images.iter().zip(&paths) {
            self.content(image, path, source, events, &mut written).await?;
        }
        self.write_changed("v2/index.html", JSON, Bytes::from_static(b"{}")).await?;
        for (image, path) in images.iter().zip(&paths) {
            let Some(tag) = image.name.tag() else { continue };
            let Some(root) = image.graph.documents().iter().find(|document| is_root(image.graph, document)) else {
                continue;
            };
            self.write_changed(&format!("v2/{path}/manifests/{tag}"), &root.descriptor.media_type, root.bytes.clone())
                .await?;
        }
        for path in paths.iter().collect::<BTreeSet<_>>() {
            let names = self.0.names(&format!("v2/{path}/manifests")).await?;
            // Digests are none, nor is what others put there.
            let tags = names.into_iter().filter(|name| is_tag(name)).collect();
            let list = serde_json::to_vec(&Tags { name: path, tags }).map_err(PublishError::Json)?;
            self.write_changed(&format!("v2/{path}/tags/list"), JSON, list.into()).await?;
        }
        self.0.finish().await?;
        Ok(written)
    }

    /// Writes everything but the tag.
    async fn content(
        &self,
        Publication { graph, absent, .. }: &Publication<'_>,
        path: &str,
        source: &Arc<dyn Source>,
        events: &Events,
        written: &mut Written,
    ) -> Result<(), PublishError> {
        let documents = graph.documents().iter();
        let configs = documents.clone().map(|document| &document.descriptor).filter(|blob| !is_manifest(blob));
        let blobs: Vec<_> = configs.chain(graph.leaves()).filter(|blob| !absent.contains(&blob.digest)).collect();
        let place = |blob: &Descriptor| format!("v2/{path}/blobs/{}", blob.digest);
        let sizes = blobs.iter().map(|blob| async { self.0.size(&place(blob)).await });
        let sizes: Vec<_> = stream::iter(sizes.collect::<Vec<_>>()).buffered(PARALLEL).try_collect().await?;
        let missing = blobs.iter().zip(&sizes).filter(|(blob, size)| **size != Some(blob.size));
        let missing: Vec<Descriptor> = missing.map(|(blob, _)| (*blob).clone()).collect();
        let present = blobs.len() - missing.len();
        events.emit(Event::Planned { present, missing: missing.clone(), stored: Vec::new() });
        // A damaged blob is refused before its last bytes are written.
        let source: &Arc<dyn Source> = &(Arc::new(Verified(source.clone())) as Arc<dyn Source>);
        let sends = missing.iter().map(|blob| async {
            let (digest, total, listener) = (blob.digest.clone(), blob.size, events.clone());
            let mut current = 0;
            let chunks = source.open(blob, 0).await?.inspect_ok(move |chunk| {
                current += chunk.len() as u64;
                listener.emit(Event::Sent { digest: digest.clone(), current, total });
            });
            self.0.write_blob(&place(blob), BLOB, blob.size, chunks.boxed()).await?;
            events.emit(Event::Stored { digest: blob.digest.clone() });
            Ok::<_, PublishError>(())
        });
        stream::iter(sends.collect::<Vec<_>>()).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        written.present += present;
        written.blobs += missing.len();
        written.bytes += missing.iter().map(|blob| blob.size).sum::<u64>();
        // Children first.
        for document in documents.rev().filter(|document| is_manifest(&document.descriptor)) {
            let Document { descriptor, bytes, .. } = document;
            let place = format!("v2/{path}/manifests/{}", descriptor.digest);
            if self.0.size(&place).await? == Some(descriptor.size) {
                written.present += 1;
            } else {
                self.0.write(&place, &descriptor.media_type, bytes.clone()).await?;
                (written.blobs, written.bytes) = (written.blobs + 1, written.bytes + descriptor.size);
            }
            if let Some((subject, list)) = referrers::with(&*self.0, path, document).await? {
                self.write_changed(&format!("v2/{path}/referrers/{subject}"), referrers::INDEX, list).await?;
            }
        }
        Ok(())
    }

    /// Writes a file, unless it is as it must be.
    async fn write_changed(&self, path: &str, kind: &str, bytes: Bytes) -> Result<(), PublishError> {
        if self.0.read(path).await?.is_some_and(|found| found == bytes) {
            return Ok(());
        }
        self.0.write(path, kind, bytes).await
    }
}

fn is_root(graph: &Graph, document: &Document) -> bool {
    document.descriptor.digest == graph.root().digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_told_from_digests_and_from_files_of_others() {
        let digest = Digest::sha256(b"x").to_string();
        let found = ["1", "v1.2-rc_3", "UPPER", ".DS_Store", "a b", "1~", &digest, ""].map(is_tag);
        assert_eq!(found, [true, true, true, false, false, false, false, false]);
    }

    #[test]
    fn names_that_are_nested_do_not_clash() {
        let path = |name: &str| repository(&name.parse().unwrap());
        assert_eq!(path("a:1").unwrap(), "a");
        assert_eq!(path("ghcr.io/a/b:1").unwrap(), "ghcr.io/a/b");
        for name in ["a/tags/list:1", "a/manifests/1:1", "blobs:1", "registry:5000/a:1"] {
            let error = path(name).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
