//! After the commit: what became visible is complete, or it is taken back.
//!
//! A lease keeps the garbage collector off, and nobody else: any client may delete a blob by its digest (`ctr content rm`)
//! between the last look at it and the moment when the names are set. So it is looked at once more. Documents are at hand
//! and are stored again, and what their labels kept is unpacked again; where a layer has gone, the names get back what they stood for.

use std::collections::{BTreeMap, BTreeSet};

use containerd_client::services::v1::Image;
use futures_util::future::try_join_all;

use super::images;
use super::ingest::ContainerdIngest;
use crate::engine::EngineError;
use crate::image::{Descriptor, Digest};

/// What names stood for before a commit.
#[derive(Debug)]
pub(crate) struct Before {
    names: Vec<(String, Option<Image>)>,
    /// The records that the engine would make by itself for images that lose these names. None of them was there.
    set_aside: Vec<Image>,
}

impl ContainerdIngest {
    /// What `names` stand for now. The lease keeps these images until the export ends: between the moment when one loses its
    /// last name and that in which it gets it back, the garbage collector may run.
    pub(crate) async fn standing(&self, names: Vec<String>) -> Result<Before, EngineError> {
        let root = self.root()?.digest;
        let found = try_join_all(names.iter().map(|name| images::get(self.client(), name))).await?;
        let others: BTreeSet<_> = found.iter().flatten().filter_map(digest).filter(|other| *other != root).collect();
        try_join_all(others.iter().map(|other| self.keep(other))).await?;
        Ok(Before { names: names.into_iter().zip(found).collect(), set_aside: Vec::new() })
    }

    /// The same for an engine that makes a record of each image that loses a name; `unnamed` is what it calls that.
    pub(crate) async fn standing_aside(
        &self,
        names: Vec<String>,
        unnamed: fn(&Digest) -> String,
    ) -> Result<Before, EngineError> {
        let mut before = self.standing(names).await?;
        let mut records = BTreeMap::new();
        for image in before.names.iter().filter_map(|(_, image)| image.as_ref()) {
            if let Some(digest) = digest(image) {
                let name = unnamed(&digest);
                records.insert(name.clone(), Image { name, ..image.clone() });
            }
        }
        let found = try_join_all(records.keys().map(|name| images::get(self.client(), name))).await?;
        let absent = records.into_values().zip(found).filter(|(_, found)| found.is_none());
        before.set_aside = absent.map(|(record, _)| record).collect();
        Ok(before)
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
    pub(crate) async fn back(&self, before: Before) {
        let Ok(root) = self.root() else { return };
        let Before { names, set_aside } = before;
        for (name, image) in &names {
            if let Err(error) = self.take_back(name, &root, image.clone()).await {
                tracing::warn!(%error, name, "a name stays with an image that was given up");
            }
        }
        for record in set_aside {
            let name = record.name.clone();
            if let Err(error) = self.forget(record, &names).await {
                tracing::warn!(%error, name, "an image that has its name again is kept without one as well");
            }
        }
    }

    /// Gives `name` back to `before`, unless somebody has given it to another image meanwhile.
    async fn take_back(&self, name: &str, root: &Descriptor, before: Option<Image>) -> Result<(), EngineError> {
        let outcome = match before {
            // containerd does not compare before an update.
            Some(image) => match images::stands(self.client(), name, &root.digest).await {
                Ok(true) => images::update(self.client(), image).await.map(|_| ()),
                other => other.map(|_| ()),
            },
            None => images::delete(self.client(), name, &root.digest).await,
        };
        match outcome {
            Err(EngineError::NameMoved { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    /// Deletes the `record` that the engine made of an image that was to lose one of `names`, if it has one of them.
    async fn forget(&self, record: Image, names: &[(String, Option<Image>)]) -> Result<(), EngineError> {
        let Some(target) = digest(&record) else { return Ok(()) };
        if !self.is_named(&target, names).await? {
            return Ok(());
        }
        images::delete(self.client(), &record.name, &target).await?;
        // Whoever took the name away at this moment may have relied on the record: an image must not be lost.
        if !self.is_named(&target, names).await? {
            images::insert(self.client(), record).await?;
        }
        Ok(())
    }

    /// Whether `target` has a name that it had.
    async fn is_named(&self, target: &Digest, names: &[(String, Option<Image>)]) -> Result<bool, EngineError> {
        let had = |image: &Option<Image>| image.as_ref().and_then(digest).is_some_and(|had| had == *target);
        for (name, _) in names.iter().filter(|(_, image)| had(image)) {
            match images::stands(self.client(), name, target).await {
                Ok(false) | Err(EngineError::NameMoved { .. }) => {}
                other => return other,
            }
        }
        Ok(false)
    }
}

/// The root of a record's image.
fn digest(image: &Image) -> Option<Digest> {
    image.target.as_ref()?.digest.parse().ok()
}
