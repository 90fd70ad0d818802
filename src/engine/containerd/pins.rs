//! Pins: documents of our own, held by a lease, whose labels refer to blobs as a manifest's labels refer to its layers. So one
//! synced write pins any number of blobs, where adding them to the lease would be one for each.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::client::Client;
use super::content::{self, Put};
use super::labels::{self, Labels};
use super::lease_calls;
use crate::engine::EngineError;
use crate::image::{Descriptor, Digest};

/// How many blobs one document pins. containerd sends all labels of a blob with every response about it, and a response
/// ends at 16 MiB.
const PINS: usize = 1000;

/// The pins of one lease.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// The document that the next labels go to.
    document: Option<Digest>,
    /// Labels that it was given.
    count: usize,
    /// Documents before it.
    part: usize,
    /// Where each blob is pinned: the document, and the label.
    places: HashMap<Digest, (Digest, String)>,
}

impl Pins {
    /// Finds those of an earlier process again; `resources` is what the lease holds.
    pub(crate) async fn load(client: &Client, lease: &str, resources: &[Digest]) -> Result<Self, EngineError> {
        let mut pins = Self::default();
        loop {
            let document = descriptor(lease, pins.part).0.digest;
            if !resources.contains(&document) {
                return Ok(pins);
            }
            if let Some(info) = content::info(client, &document).await? {
                let pinned = info.labels.into_iter().filter(|(key, _)| labels::is_pin(key));
                let placed = pinned.filter_map(|(key, digest)| Some((digest.parse().ok()?, (document.clone(), key))));
                pins.places.extend(placed);
            }
            // Which numbers were used and removed is not known: the next labels go to a new document.
            pins.part += 1;
        }
    }

    /// Pins `digests`. `client` must act in the name of `lease`.
    pub(crate) async fn add(&mut self, client: &Client, lease: &str, digests: &[Digest]) -> Result<(), EngineError> {
        let mut seen = HashSet::new();
        let is_new = |digest: &&Digest| !self.contains(digest) && seen.insert((*digest).clone());
        let new: Vec<_> = digests.iter().filter(is_new).cloned().collect();
        for some in new.chunks(PINS) {
            self.label(client, lease, some).await?;
        }
        Ok(())
    }

    async fn label(&mut self, client: &Client, lease: &str, digests: &[Digest]) -> Result<(), EngineError> {
        if self.count + digests.len() > PINS {
            (self.document, self.count, self.part) = (None, 0, self.part + 1);
        }
        let numbered = digests.iter().zip(self.count..);
        let labels: Vec<_> = numbered.map(|(digest, number)| labels::pin(number, digest)).collect();
        let expected: Labels = labels.iter().cloned().collect();
        let document = match &self.document {
            Some(document) => {
                content::label(client, document, expected).await?;
                document.clone()
            }
            None => {
                let (descriptor, bytes) = descriptor(lease, self.part);
                if content::put(client, lease, &descriptor, &bytes, expected.clone()).await? == Put::Present {
                    content::label(client, &descriptor.digest, expected).await?;
                }
                self.document.insert(descriptor.digest).clone()
            }
        };
        self.count += digests.len();
        let places = digests.iter().zip(labels).map(|(digest, (key, _))| (digest.clone(), (document.clone(), key)));
        self.places.extend(places);
        Ok(())
    }

    /// Gives up one pin; fine if there is none.
    pub(crate) async fn remove(&mut self, client: &Client, digest: &Digest) -> Result<(), EngineError> {
        if let Some((document, key)) = self.places.get(digest) {
            // A label without a value is removed (containerd `core/metadata/boltutil`, `WriteLabels`).
            content::label(client, document, Labels::from([(key.clone(), String::new())])).await?;
            self.places.remove(digest);
        }
        Ok(())
    }

    /// Whether `digest` is pinned.
    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.places.contains_key(digest)
    }

    /// What is pinned.
    pub(crate) fn pinned(&self) -> impl Iterator<Item = &Digest> {
        self.places.keys()
    }

    /// Whether a blob is one of the documents.
    pub(crate) fn is_document(&self, lease: &str, digest: &Digest) -> bool {
        (0..=self.part).any(|part| descriptor(lease, part).0.digest == *digest)
    }
}

/// The document of this number.
fn descriptor(lease: &str, part: usize) -> (Descriptor, Bytes) {
    let bytes = Bytes::from(format!("{{\"lease\":\"{lease}\",\"part\":{part}}}"));
    (Descriptor::new("application/json", Digest::sha256(&bytes), bytes.len() as u64), bytes)
}

/// What a lease holds by itself: blobs.
pub(crate) async fn leased(client: &Client, lease: &str) -> Result<Vec<Digest>, EngineError> {
    let held = lease_calls::resources(client, lease).await?.into_iter();
    Ok(held.filter(|held| held.r#type == lease_calls::CONTENT).filter_map(|held| held.id.parse().ok()).collect())
}
