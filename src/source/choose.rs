//! Choosing the image of an index to export.
//!
//! Engines and archives of `docker save` often hold an index of many platforms and the blobs of one.

use std::collections::{HashMap, HashSet};

use super::{BlobLookup, OnMissing, ReadGraphError, SourceError, read_document, read_graph};
use crate::image::{Descriptor, Document, DocumentError, GraphError, Kind, Limits, Platform, View};

/// Why no image can be chosen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChoiceError {
    /// A document of an image is invalid.
    #[error("{source_name}: {error}")]
    Document {
        /// The source.
        source_name: String,
        /// What is wrong.
        error: DocumentError,
    },
    /// The documents of an image do not fit together.
    #[error("{source_name}: {error}")]
    Graph {
        /// The source.
        source_name: String,
        /// What is wrong.
        error: GraphError,
    },
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The source holds no complete image for the platform.
    #[error("{source_name} holds no image for {requested}; it holds {}", if there.is_empty() { "none that is complete".to_owned() } else { there.join(", ") })]
    Platform {
        /// The source.
        source_name: String,
        /// The platform.
        requested: String,
        /// The platforms of the complete images.
        there: Vec<String>,
    },
}

impl ChoiceError {
    /// What a user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Platform { there, .. } if !there.is_empty() => Some("name one of these with --platform".to_owned()),
            _ => None,
        }
    }
}

/// The image to export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The root: the whole image, or one image of its index.
    pub root: Descriptor,
    /// The platform of that one image.
    pub only: Option<String>,
}

/// Chooses the whole image `root` if it is complete and no platform is given; otherwise, of the complete images of the
/// index, the one that fits the platform best.
///
/// # Errors
/// When there is none, or a document is invalid.
pub async fn choose(
    from: &dyn BlobLookup,
    root: &Descriptor,
    platform: Option<&Platform>,
) -> Result<Choice, ChoiceError> {
    Chooser(from).choose(root, platform, false).await
}

/// Chooses the image of one platform, even if `root` is complete: this machine's, or the only complete one.
///
/// # Errors
/// As [`choose`].
pub async fn choose_one(from: &dyn BlobLookup, root: &Descriptor) -> Result<Choice, ChoiceError> {
    Chooser(from).choose(root, None, true).await
}

pub(super) struct Chooser<'a>(pub(super) &'a dyn BlobLookup);

impl Chooser<'_> {
    async fn choose(
        &self,
        root: &Descriptor,
        platform: Option<&Platform>,
        is_alone: bool,
    ) -> Result<Choice, ChoiceError> {
        let whole = self.is_whole(root).await;
        let is_alone = is_alone && root.kind() == Kind::Index;
        if platform.is_none() && !is_alone && (matches!(whole, Ok(true)) || root.kind() != Kind::Index) {
            whole?;
            // A single image may lack blobs that the engine has; the export names those that it does not.
            return Ok(Choice { root: root.clone(), only: None });
        }
        let (mut there, mut known) = (Vec::new(), HashMap::new());
        for (entry, platform) in self.entries(root).await? {
            let is_there = match known.get(&entry.digest) {
                Some(is_there) => *is_there,
                None => self.is_whole(&entry).await.unwrap_or(false),
            };
            known.insert(entry.digest.clone(), is_there);
            if is_there {
                there.push((entry, platform));
            }
        }
        let host = Platform::host();
        let requested = platform.unwrap_or(&host);
        let best = there.iter().filter_map(|image| Some((image.1.fit(requested)?, image)));
        // Of several that fit equally well, the first.
        let best = best.reduce(|best, other| if other.0 > best.0 { other } else { best }).map(|(_, image)| image);
        let chosen = match (best, &there[..]) {
            (Some(image), _) => image,
            (None, [image]) if platform.is_none() => image,
            _ => {
                let (source_name, requested) = (self.name(), requested.to_string());
                let there = there.iter().map(|(_, platform)| platform.to_string()).collect();
                return Err(ChoiceError::Platform { source_name, requested, there });
            }
        };
        let only = (chosen.0.digest != root.digest).then(|| chosen.1.to_string());
        Ok(Choice { root: chosen.0.clone(), only })
    }

    fn name(&self) -> String {
        self.0.name().to_owned()
    }

    /// Whether every blob of an image is there.
    pub(super) async fn is_whole(&self, root: &Descriptor) -> Result<bool, ChoiceError> {
        let graph = match read_graph(self.0, root.clone(), Limits::default(), OnMissing::Stop).await {
            Ok(graph) => graph,
            Err(ReadGraphError::Missing { .. }) => return Ok(false),
            Err(ReadGraphError::Source(error)) => return Err(error.into()),
            Err(ReadGraphError::Graph(error)) => {
                return Err(ChoiceError::Graph { source_name: self.name(), error });
            }
        };
        for leaf in graph.leaves().iter().filter(|leaf| leaf.kind() != Kind::ForeignLayer) {
            if !self.0.has(leaf).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The images below `root` whose manifests the source has, and their platforms.
    async fn entries(&self, root: &Descriptor) -> Result<Vec<(Descriptor, Platform)>, ChoiceError> {
        let limits = Limits::default();
        let (mut found, mut level, mut seen) = (Vec::new(), vec![root.clone()], HashSet::new());
        for _ in 0..=limits.depth {
            let mut below = Vec::new();
            for descriptor in level {
                if !matches!(descriptor.kind(), Kind::Index | Kind::Manifest)
                    || descriptor.is_attestation()
                    || descriptor.size > limits.document_bytes
                    || found.len() > limits.children
                    // Two entries may have the same image for two platforms, and an index may name another one many times.
                    || !seen.insert((descriptor.digest.clone(), descriptor.platform.as_ref().map(Platform::to_string)))
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

    /// A document, if the source has it.
    async fn document(&self, descriptor: &Descriptor) -> Result<Option<Document>, ChoiceError> {
        let limits = Limits::default();
        if !descriptor.kind().is_document() || descriptor.size > limits.bytes_of(descriptor.kind()) {
            return Ok(None);
        }
        let bytes = match read_document(self.0, descriptor).await {
            Err(SourceError::NotFound { .. }) => return Ok(None),
            read => read?,
        };
        let document = Document::parse_within(descriptor.clone(), bytes, &limits);
        Ok(Some(document.map_err(|error| ChoiceError::Document { source_name: self.name(), error })?))
    }
}
