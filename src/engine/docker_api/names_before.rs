//! What names resolved to before they were set, and giving it back to them.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::timeout;

use super::names::image;
use crate::docker_api::Api;
use crate::engine::docker::{set_name, take_name};
use crate::engine::{EngineError, Precondition};
use crate::image::{Descriptor, Digest, Reference};

/// How many names are looked at at once.
const LOOKUPS: usize = 16;

/// What names resolved to before they were set to `root`.
#[derive(Debug)]
pub(super) struct NamesBefore {
    root: Digest,
    names: Vec<(Reference, Option<Digest>)>,
}

impl NamesBefore {
    /// Looks up `names`.
    pub(super) async fn of(api: &Api, names: &[Reference], root: &Digest) -> Result<Self, EngineError> {
        let lookup = async |name: &Reference| {
            let found = image(api, &name.to_string()).await?;
            Ok::<_, EngineError>((name.clone(), found.map(|target| target.digest)))
        };
        let lookups: Vec<_> = names.iter().map(lookup).collect();
        let names = stream::iter(lookups).buffered(LOOKUPS).try_collect().await?;
        Ok(Self { root: root.clone(), names })
    }

    /// What `name` resolved to.
    pub(super) fn digest(&self, name: &Reference) -> Option<&Digest> {
        self.names.iter().find(|(known, _)| known == name)?.1.as_ref()
    }

    /// Refuses the first name of which a precondition does not hold.
    pub(super) async fn check(&self, api: &Api, preconditions: &[Precondition]) -> Result<(), EngineError> {
        for precondition in preconditions {
            match self.names.iter().find(|(name, _)| *name == precondition.name) {
                Some((_, before)) => precondition.check(before.as_ref())?,
                None => {
                    let current = image(api, &precondition.name.to_string()).await?;
                    precondition.check(current.as_ref().map(|root| &root.digest))?;
                }
            }
        }
        Ok(())
    }

    /// Gives back to the names that point to the root by now what they resolved to. Those that did not exist stay where
    /// `are_new_kept`. Returns the names that may still point to the root.
    pub(super) async fn restore(&self, api: &Api, are_new_kept: bool, limit: Duration) -> Vec<String> {
        let is_changed = |(_, before): &&(Reference, Option<Digest>)| before.as_ref() != Some(&self.root);
        let mut open: Vec<_> = self.names.iter().filter(is_changed).collect();
        let mut left = Vec::new();
        let work = async {
            while let Some((name, before)) = open.last() {
                match self.restore_name(api, name, before.as_ref(), are_new_kept).await {
                    Ok(true) => {}
                    Ok(false) => left.push(name.familiar()),
                    Err(error) => {
                        tracing::warn!(%error, %name, "the name may point to an image whose export failed");
                        left.push(name.familiar());
                    }
                }
                open.pop();
            }
        };
        if timeout(limit, work).await.is_err() {
            tracing::warn!("docker takes too long to give names back");
            left.extend(open.iter().map(|(name, _)| name.familiar()));
        }
        left
    }

    /// Whether the name does not point to the root any more.
    async fn restore_name(
        &self,
        api: &Api,
        name: &Reference,
        before: Option<&Digest>,
        are_new_kept: bool,
    ) -> Result<bool, EngineError> {
        if image(api, &name.to_string()).await?.is_none_or(|now| now.digest != self.root) {
            return Ok(true);
        }
        match before {
            Some(before) => set_name(api, &Descriptor::new("", before.clone(), 0), name).await?,
            None if are_new_kept => return Ok(false),
            None => take_name(api, name).await?,
        }
        Ok(true)
    }
}
