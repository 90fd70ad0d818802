//! After the commit: what became visible is complete, or it is taken back.
//!
//! A lease keeps the garbage collector off, and nobody else: any client may delete a blob by its digest (`ctr content rm`)
//! between the last look at it and the moment when the names are set. So it is looked at once more. Documents are at hand
//! and are stored again, and what their labels kept is unpacked again; where a layer has gone, the names get back what they stood for.

use containerd_client::services::v1::Image;
use futures_util::future::try_join_all;

use super::images;
use super::ingest::ContainerdIngest;
use crate::engine::EngineError;
use crate::image::Descriptor;

/// What names stood for before a commit.
#[derive(Debug)]
pub(crate) struct Before(Vec<(String, Option<Image>)>);

impl ContainerdIngest {
    /// What `names` stand for now.
    pub(crate) async fn standing(&self, names: Vec<String>) -> Result<Before, EngineError> {
        let found = try_join_all(names.iter().map(|name| images::get(self.client(), name))).await?;
        Ok(Before(names.into_iter().zip(found).collect()))
    }

    /// Makes sure of the image that was made visible.
    ///
    /// # Errors
    /// [`EngineError::Vanished`] with layers that have gone, or why documents that have gone could not be stored again: the
    /// names then stand for what they did before.
    pub(crate) async fn confirm(&self, before: Before) -> Result<(), EngineError> {
        // Whatever was refused before: what is there is an image now.
        self.client().found_room();
        let error = match self.complete().await {
            Ok(()) => return Ok(()),
            Err(EngineError::Missing { .. }) => match self.restore().await {
                Ok(missing) if missing.is_empty() => return Ok(()),
                Ok(digests) => EngineError::Vanished { digests },
                Err(error) => error,
            },
            // It was complete a moment before its names were set, and nothing says that it no longer is.
            Err(error) => {
                tracing::warn!(%error, "an image was named, and could not be looked at once more");
                return Ok(());
            }
        };
        self.back(before).await;
        Err(error)
    }

    /// Gives names back to what they stood for `before` the commit.
    pub(super) async fn back(&self, before: Before) {
        let Ok(root) = self.root() else { return };
        for (name, image) in before.0 {
            if let Err(error) = self.take_back(&name, &root, image).await {
                tracing::warn!(%error, name, "a name stays with an image that was given up");
            }
        }
    }

    /// Gives `name` back to `before`, unless somebody has given it to another image meanwhile.
    async fn take_back(&self, name: &str, root: &Descriptor, before: Option<Image>) -> Result<(), EngineError> {
        let is_ours = |image: &Image| image.target.as_ref().is_some_and(|target| target.digest == root.digest.as_str());
        if !images::get(self.client(), name).await?.is_some_and(|image| is_ours(&image)) {
            return Ok(());
        }
        match before {
            Some(image) => images::update(self.client(), image).await.map(|_| ()),
            None => images::delete(self.client(), name).await,
        }
    }
}
