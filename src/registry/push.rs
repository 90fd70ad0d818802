//! Pushes an image: leaves first, then documents, the root last and under its tag.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci_client::RegistryOperation;
use oci_client::errors::OciDistributionError;

use super::{Registry, RegistryError};
use crate::image::{Descriptor, Document, Graph, Kind};
use crate::progress::{Event, Events};
use crate::source::Source;

/// How many blobs are sent at once: the default maximum of docker's own push.
const PARALLEL: usize = 5;

/// The result of a push.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Blobs that were sent, including documents.
    pub sent_blobs: usize,
    /// The bytes of these.
    pub sent_bytes: u64,
    /// Blobs that the registry had.
    pub present_blobs: usize,
}

impl Registry {
    /// Pushes the image `graph`, whose leaves are read from `source`, and sets the name. Blobs that the registry has are not
    /// sent. Foreign layers that the source lacks are left out, as docker does.
    ///
    /// # Errors
    /// When the registry refuses, or a blob cannot be read. The name is then unchanged.
    pub async fn push(&self, graph: &Graph, source: Arc<dyn Source>, events: &Events) -> Result<Pushed, RegistryError> {
        self.authorize(RegistryOperation::Push).await?;
        let configs = graph.documents().iter().map(|document| &document.descriptor);
        let configs = configs.filter(|descriptor| !is_manifest(descriptor));
        let blobs: Vec<_> = configs.chain(graph.leaves()).filter(|blob| blob.kind() != Kind::ForeignLayer).collect();
        let checks: Vec<_> = blobs.into_iter().map(|blob| self.missing(blob)).collect();
        let checked: Vec<_> = stream::iter(checks).buffered(PARALLEL).try_collect().await?;
        let present = checked.iter().filter(|missing| missing.is_none()).count();
        let missing: Vec<_> = checked.into_iter().flatten().cloned().collect();
        events.emit(Event::Planned { present, missing: missing.clone(), stored: Vec::new() });
        let sends: Vec<_> = missing.iter().map(|blob| self.send(blob, &source, events)).collect();
        stream::iter(sends).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;

        // Children first: a registry refuses a document whose children it lacks.
        let manifests = graph.documents().iter().rev().filter(|document| is_manifest(&document.descriptor));
        let (mut count, mut bytes) = (0, 0);
        for document in manifests {
            self.put(document, document.descriptor.digest == graph.root().digest).await?;
            count += 1;
            bytes += document.descriptor.size;
        }
        let sent_bytes = bytes + missing.iter().map(|blob| blob.size).sum::<u64>();
        Ok(Pushed { sent_blobs: count + missing.len(), sent_bytes, present_blobs: present })
    }

    /// Sends the blob, unless the registry has it.
    async fn missing<'a>(&self, blob: &'a Descriptor) -> Result<Option<&'a Descriptor>, RegistryError> {
        let found = self.client.blob_exists(&self.image, blob.digest.as_str()).await;
        let found = found.map_err(|error| self.refused(format!("asking for {}", blob.digest), &error))?;
        Ok((!found).then_some(blob))
    }

    async fn send(&self, blob: &Descriptor, source: &Arc<dyn Source>, events: &Events) -> Result<(), RegistryError> {
        let (digest, total, listener) = (blob.digest.clone(), blob.size, events.clone());
        let mut current = 0;
        let chunks = source.open(blob, 0).await?.map(move |chunk| {
            let chunk = chunk.map_err(|error| OciDistributionError::IoError(std::io::Error::other(error)))?;
            current += chunk.len() as u64;
            listener.emit(Event::Sent { digest: digest.clone(), current, total });
            Ok(chunk)
        });
        let sent = self.client.push_blob_stream(&self.image, chunks, blob.digest.as_str(), Some(blob.size)).await;
        sent.map_err(|error| self.refused(format!("sending {}", blob.digest), &error))?;
        events.emit(Event::Stored { digest: blob.digest.clone() });
        Ok(())
    }

    /// Stores a document: the root under the name, others under their digest.
    async fn put(&self, document: &Document, is_root: bool) -> Result<(), RegistryError> {
        let digest = document.descriptor.digest.to_string();
        let of = match self.image.tag() {
            // Without a digest in the name: the tag is set.
            Some(tag) if is_root => {
                let (registry, repository) = (self.image.registry().to_owned(), self.image.repository().to_owned());
                oci_client::Reference::with_tag(registry, repository, tag.to_owned())
            }
            _ => self.image.clone_with_digest(digest.clone()),
        };
        let what = || format!("storing the manifest {digest}");
        let media_type = document.descriptor.media_type.parse().map_err(|_| RegistryError::Invalid {
            name: self.name.clone(),
            what: format!("`{}` is no media type", document.descriptor.media_type),
        })?;
        let stored = self.client.push_manifest_raw(&of, document.bytes.clone(), media_type).await;
        stored.map(drop).map_err(|error| self.refused(what(), &error))
    }

    fn refused(&self, what: String, error: &OciDistributionError) -> RegistryError {
        RegistryError::new(&self.name, what, error)
    }
}

fn is_manifest(descriptor: &Descriptor) -> bool {
    matches!(descriptor.kind(), Kind::Index | Kind::Manifest)
}
