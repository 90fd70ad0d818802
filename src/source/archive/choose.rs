//! Which part of an image an archive holds.

use super::{Archive, ArchiveError, Place};
use crate::image::{Descriptor, Document, Kind, Limits, Platform, View};
use crate::source::{ReadGraphError, SourceError, read_document, read_graph};

/// What is to be exported of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The image, or the one of its index that was chosen.
    pub root: Descriptor,
    /// The platform, where not all of the image was taken.
    pub only: Option<String>,
}

impl Archive {
    /// The image `root` as a whole, if nothing of it is missing. Archives of `docker save` often hold an index of many
    /// platforms and the blobs of one: then, or when a platform is asked for, the image of the platform that fits best.
    ///
    /// # Errors
    /// When there is none, or documents are not what they should be.
    pub async fn choose(&self, root: &Descriptor, platform: Option<&Platform>) -> Result<Choice, ArchiveError> {
        let whole = self.is_whole(root).await;
        if platform.is_none() && (matches!(whole, Ok(true)) || root.kind() != Kind::Index) {
            whole?;
            // What a single image lacks is named when it is exported: the engine may have it.
            return Ok(Choice { root: root.clone(), only: None });
        }
        let mut there = Vec::new();
        for (entry, platform) in self.entries(root).await? {
            if self.is_whole(&entry).await.unwrap_or(false) {
                there.push((entry, platform));
            }
        }
        let host = Platform::host();
        let wanted = platform.unwrap_or(&host);
        let best = there.iter().filter_map(|image| Some((image.1.fit(wanted)?, image)));
        // Of several that fit alike the first.
        let best = best.reduce(|best, other| if other.0 > best.0 { other } else { best }).map(|(_, image)| image);
        let chosen = match (best, &there[..]) {
            (Some(image), _) => image,
            (None, [image]) if platform.is_none() => image,
            _ => {
                let (archive, wanted) = (self.files.name().to_owned(), wanted.to_string());
                let there = there.iter().map(|(_, platform)| platform.to_string()).collect();
                return Err(ArchiveError::Platform { archive, wanted, there });
            }
        };
        let only = (chosen.0.digest != root.digest).then(|| chosen.1.to_string());
        Ok(Choice { root: chosen.0.clone(), only })
    }

    /// Whether every blob of an image is there.
    async fn is_whole(&self, root: &Descriptor) -> Result<bool, ArchiveError> {
        let graph = match read_graph(self, root.clone(), Limits::default()).await {
            Ok(graph) => graph,
            Err(ReadGraphError::Source(SourceError::NotFound { .. })) => return Ok(false),
            Err(ReadGraphError::Source(error)) => return Err(error.into()),
            Err(ReadGraphError::Graph(error)) => {
                return Err(ArchiveError::Graph { archive: self.files.name().to_owned(), error });
            }
        };
        for leaf in graph.leaves().iter().filter(|leaf| leaf.kind() != Kind::ForeignLayer) {
            if self.place(&leaf.digest).await?.as_ref().map(Place::size) != Some(leaf.size) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The images below `root` that are documents here, and their platforms.
    async fn entries(&self, root: &Descriptor) -> Result<Vec<(Descriptor, Platform)>, ArchiveError> {
        let limits = Limits::default();
        let (mut found, mut level) = (Vec::new(), vec![root.clone()]);
        for _ in 0..=limits.depth {
            let mut below = Vec::new();
            for descriptor in level {
                if !matches!(descriptor.kind(), Kind::Index | Kind::Manifest)
                    || descriptor.is_attestation()
                    || descriptor.size > limits.document_bytes
                    || found.len() > limits.children
                {
                    continue;
                }
                let Some(document) = self.document(&descriptor).await? else { continue };
                match document.view {
                    View::Index(index) => below.extend(index.manifests.into_iter().take(limits.children)),
                    View::Manifest(manifest) => {
                        let platform = match descriptor.platform.clone() {
                            Some(platform) => platform,
                            None => match self.document(&manifest.config).await.ok().flatten() {
                                Some(Document { view: View::Config(config), .. }) => config.platform,
                                _ => continue,
                            },
                        };
                        found.push((descriptor, platform));
                    }
                    View::Config(_) => {}
                }
            }
            level = below;
        }
        Ok(found)
    }

    /// A document, if it is there.
    async fn document(&self, descriptor: &Descriptor) -> Result<Option<Document>, ArchiveError> {
        let limits = Limits::default();
        if !descriptor.kind().is_document() || descriptor.size > limits.bytes_of(descriptor.kind()) {
            return Ok(None);
        }
        let bytes = match read_document(self, descriptor).await {
            Err(SourceError::NotFound { .. }) => return Ok(None),
            read => read?,
        };
        let document = Document::parse_within(descriptor.clone(), bytes, &limits);
        let archive = || self.files.name().to_owned();
        Ok(Some(document.map_err(|error| ArchiveError::Document { archive: archive(), error })?))
    }
}
