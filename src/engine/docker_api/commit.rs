//! The commit: names are set on an image that dockerd has loaded and unpacked, or get back what they had.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::archive::refused;
use super::load::Load;
use super::names_before::NamesBefore;
use crate::engine::docker::{Tagged, broken, event, load_names, tag};
use crate::engine::{EngineError, Precondition};
use crate::image::Reference;

/// How long setting names may take, and as long again giving them back.
const LIMIT: Duration = Duration::from_secs(30);
/// How often a name that was set is looked for, and how long after one another.
const LOOKS: usize = 5;
const INTERVAL: Duration = Duration::from_millis(100);
/// How long dockerd has for what a request has left that broke off, before names are looked at.
const SETTLED: Duration = Duration::from_secs(1);
/// What dockerd reports of an image without a name.
const LOADED_ID: &str = "Loaded image ID: ";

impl Load {
    /// Makes the loaded image, of which dockerd said `notes`, visible under `names`.
    pub(super) async fn commit(
        &self,
        notes: Vec<String>,
        names: &[Reference],
        preconditions: &[Precondition],
    ) -> Result<(), EngineError> {
        if names.is_empty() {
            self.unnamed.keep();
            self.report(notes);
            return Ok(());
        }
        let failed = async |error| {
            self.unnamed.may_be_back();
            self.unnamed.forget().await;
            Err(self.explained(error).await)
        };
        // dockerd compares nothing, so this is done right before it is asked.
        let before = match self.look(names, preconditions).await {
            Ok(before) => before,
            Err(error) => return failed(error).await,
        };
        let late = EngineError::Timeout { operation: "setting names in docker".to_owned(), after: LIMIT };
        let Err(error) = timeout(LIMIT, self.name(names, &before)).await.unwrap_or(Err(late)) else {
            let own = notes.into_iter().filter(|note| !note.starts_with(LOADED_ID));
            let named = names.iter().map(|name| format!("Loaded image: {}", name.familiar()));
            self.report(own.chain(named));
            return Ok(());
        };
        if matches!(error, EngineError::Timeout { .. } | EngineError::Unreachable { .. }) {
            // dockerd may be about to set a name for a request that it still has.
            sleep(SETTLED).await;
        }
        // An image that was there without a name would go with its new one, which is worse as long as it is complete.
        let is_broken = matches!(error, EngineError::Vanished { .. });
        let left = before.restore(&self.docker.api, self.unnamed.was_there() && !is_broken, LIMIT).await;
        let outcome = failed(error).await;
        if left.is_empty() {
            return outcome;
        }
        outcome.map_err(|error| {
            let error = EngineError::NamesLeft { error: Box::new(error), names: left, root: self.root().clone() };
            // Whoever cancelled the export does not get the error.
            tracing::warn!(%error, "names could not be given back");
            error
        })
    }

    async fn look(&self, names: &[Reference], preconditions: &[Precondition]) -> Result<NamesBefore, EngineError> {
        let before = NamesBefore::of(&self.docker.api, names, self.root()).await?;
        before.check(&self.docker.api, preconditions).await?;
        self.check_cancelled()?;
        Ok(before)
    }

    fn check_cancelled(&self) -> Result<(), EngineError> {
        if self.cancelled.is_cancelled() { Err(broken("the export was cancelled".to_owned())) } else { Ok(()) }
    }

    /// Sets the names, and looks at them and the image once more: both may have been removed in between.
    async fn name(&self, names: &[Reference], before: &NamesBefore) -> Result<(), EngineError> {
        let (api, root) = (&self.docker.api, self.graph.root());
        let (mut untaggable, mut is_new) = (Vec::new(), false);
        // One after the other: of two that take the last names of an image at once, dockerd lets neither keep it as one without a
        // name (moby `softImageDelete`).
        for name in names {
            self.check_cancelled()?;
            match tag(api, root, name).await? {
                Tagged::Done => is_new |= before.digest(name) != Some(self.root()),
                Tagged::Gone => return Err(EngineError::Vanished { digests: vec![self.root().clone()] }),
                Tagged::Untaggable => untaggable.push(name.clone()),
            }
        }
        if !untaggable.is_empty() {
            // All that they name is there, so that this is no more than a tag.
            load_names(api, root, &untaggable, LIMIT).await?;
        }
        if is_new {
            // dockerd puts a new name into its place.
            self.unnamed.keep();
        } else {
            self.unnamed.yield_to_name().await;
        }
        self.check_cancelled()?;
        let (blobs, now) = tokio::join!(self.check_blobs(), self.named(names));
        match (blobs, now) {
            (Err(error @ EngineError::Vanished { .. }), _) => Err(error),
            (Ok(()), Ok(now)) => match names.iter().find(|name| now.digest(name).is_none()) {
                // One that points to another image by now was moved by another client.
                Some(name) => {
                    let name = name.familiar();
                    Err(refused(format!("another client removed the name `{name}` when it had been set")))
                }
                None => self.check_cancelled(),
            },
            (Err(error), _) | (_, Err(error)) => {
                // It was complete a moment before its names were set, and nothing says that it no longer is.
                tracing::warn!(%error, "an image was named, and could not be looked at once more");
                Ok(())
            }
        }
    }

    /// What the names are that have been set. One that another client moves at this moment does not exist for an instant (moby
    /// `daemon/containerd/image_tag.go` deletes its record, then creates one).
    async fn named(&self, names: &[Reference]) -> Result<NamesBefore, EngineError> {
        let look = || NamesBefore::of(&self.docker.api, names, self.root());
        let mut now = look().await?;
        for _ in 1..LOOKS {
            if names.iter().all(|name| now.digest(name).is_some()) {
                break;
            }
            sleep(INTERVAL).await;
            now = look().await?;
        }
        Ok(now)
    }

    fn report(&self, notes: impl IntoIterator<Item = String>) {
        notes.into_iter().map(event).for_each(|event| self.options.events.emit(event));
    }
}
