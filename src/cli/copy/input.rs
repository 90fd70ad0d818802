//! The image that is copied: where it is found, and how much of it is taken.

use std::sync::Arc;

use super::location::ImageLocation;
use crate::cli::abandoned::AbandonedLeases;
use crate::cli::engine::Target;
use crate::cli::extent::{Extent, SelectedPart};
use crate::cli::read_leases::ReadLeases;
use crate::cli::{CommandError, engine, output};
use crate::config::Config;
use crate::image::{Descriptor, Reference};
use crate::registry::Registry;
use crate::source::archive::{Archive, ManifestFormat, SavedImage};
use crate::source::{BlobLookup, Choice, Source, choose};

/// An image to be copied.
pub(super) struct CopyInput {
    pub(super) left: Option<AbandonedLeases>,
    pub(super) source: Arc<dyn Source>,
    pub(super) taken: SelectedPart,
    pub(super) names: Vec<Reference>,
}

/// Where to find the image, and how much of it to take.
#[derive(Clone, Copy)]
pub(super) struct From<'a> {
    pub(super) from: &'a ImageLocation,
    pub(super) config: &'a Config,
    pub(super) configured: &'a Target,
    pub(super) extent: &'a Extent,
    pub(super) plain_http: bool,
}

impl From<'_> {
    /// Fails if the engine at this place has no such image.
    pub(super) async fn exists(&self) -> Result<(), CommandError> {
        if let Some((selection, Some(given))) = self.from.engine(self.config, self.configured) {
            let (engine, images) = engine::images(&selection).await?;
            engine::find(&*engine, &*images, given).await?;
        }
        Ok(())
    }

    /// Finds the image; `format` is for archives without manifests.
    pub(super) async fn found(
        &self,
        format: ManifestFormat,
        takes_parts: bool,
        held: &ReadLeases,
    ) -> Result<CopyInput, CommandError> {
        let extent = self.extent;
        let (selection, given) = match self.from {
            ImageLocation::Archive(_, file, name) => {
                let archive = Archive::open(file, format, None).await?;
                let image = image_of(archive.images(), name.as_deref())?.clone();
                let taken = take(&archive, &image.root, extent, takes_parts, "the archive").await?;
                return Ok(CopyInput { left: None, source: Arc::new(archive), taken, names: image.names });
            }
            ImageLocation::Registry(name) => {
                let registry = Registry::new(name, self.plain_http).await?;
                let mut taken = SelectedPart { root: registry.resolve().await?, graph: None, note: None };
                if extent.platform.is_some() || extent.one_platform {
                    taken = extent.take(&registry, &taken.root).await?;
                }
                let names = if name.digest().is_some() { Vec::new() } else { vec![name.clone()] };
                return Ok(CopyInput { left: None, source: Arc::new(registry), taken, names });
            }
            // Every other location is an engine.
            place => place.engine(self.config, self.configured).ok_or(CommandError::IntoArchive)?,
        };
        let (engine, images) = engine::images(&selection).await.map_err(|error| match error {
            CommandError::NoLayout { path } if matches!(self.from, ImageLocation::Layout(..)) => {
                CommandError::NoFolder { path }
            }
            error => error,
        })?;
        let left = Some(AbandonedLeases::of(&engine).await);
        let given = match given {
            Some(given) => given.to_owned(),
            None => engine::only(&*engine, &*images, &self.from.example()).await?,
        };
        let root = engine::resolve(&*engine, &*images, &given).await?;
        let taken = take(&images, &root, extent, takes_parts, engine.identity().kind.name()).await?;
        let names = engine::name(&*images, &given).await?.into_iter().collect();
        // The export reports invalid documents.
        let graph = match &taken.graph {
            Some(graph) => Ok(graph.clone()),
            None => engine::graph(&*images, taken.root.clone()).await,
        };
        if let Ok(graph) = graph {
            held.add(&*engine, &Arc::new(graph), "copy").await;
        }
        Ok(CopyInput { left, source: images, taken, names })
    }
}

/// The image `name` of an archive, or its only one.
fn image_of<'a>(images: &'a [SavedImage], name: Option<&str>) -> Result<&'a SavedImage, CommandError> {
    match (name, images) {
        (None, [image]) => Ok(image),
        (None, images) => Err(CommandError::ManyInArchive { count: images.len(), names: names_of(images) }),
        (Some(given), images) => {
            let name: Reference = given.parse()?;
            let found = images.iter().find(|image| image.names.contains(&name));
            found.ok_or_else(|| CommandError::NotInArchive { given: given.to_owned(), names: names_of(images) })
        }
    }
}

/// The names of an archive's images.
fn names_of(images: &[SavedImage]) -> Vec<String> {
    images.iter().flat_map(|image| &image.names).map(Reference::familiar).collect()
}

/// The part of an image to copy: what the source has of it, what was asked for, and what the target accepts. Notes what is
/// left out.
async fn take(
    from: &dyn BlobLookup,
    root: &Descriptor,
    extent: &Extent,
    takes_parts: bool,
    holder: &str,
) -> Result<SelectedPart, CommandError> {
    let is_open = extent.platform.is_none() && !extent.one_platform;
    if is_open && !takes_parts {
        let Choice { root, only } = choose(from, root, None).await?;
        if let Some(platform) = only {
            output::note(&format!("{holder} holds only a part of the image; {platform} is copied"));
        }
        return Ok(SelectedPart { root, graph: None, note: None });
    }
    let taken = extent.take(from, root).await?;
    if let Some(part) = &taken.note {
        output::note(&format!("{holder} holds only a part of the image; {part} copied, and named by the whole index"));
    }
    Ok(taken)
}
