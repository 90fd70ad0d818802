//! Names: set under their preconditions, and given back if the image that they were set to is not complete.
//!
//! A lease protects from the garbage collector, not from other clients: any of them may delete a blob by its digest
//! (`ctr content rm`) between the last check and the moment when the names are set. So the image is checked once more
//! after its commit. Documents are at hand and are stored again, and what their labels kept is unpacked again; where a
//! layer is gone, each name gets back the image that it had.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use containerd_client::services::v1::Image;
use futures_util::future::try_join_all;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::images;
use super::transaction::{Committer, ContainerdTransaction};
use crate::engine::{EngineError, Precondition};
use crate::image::{Descriptor, Digest, Reference};

/// How long a call that sets a name may still take once the names are to be taken back. A containerd that does not respond gets
/// the calls that take them back behind that one.
const LAST_CALL: Duration = Duration::from_secs(3);

/// Commits by containerd's image service.
#[derive(Debug)]
pub(super) struct Records;

#[async_trait]
impl Committer for Records {
    async fn commit(
        &self,
        image: &ContainerdTransaction,
        names: &[Reference],
        preconditions: &[Precondition],
    ) -> Result<(), EngineError> {
        let recorded = image.record(names, preconditions, &CancellationToken::new()).await;
        recorded.map(drop).map_err(|refused| refused.error)
    }
}

/// What names resolved to before a commit.
#[derive(Debug, Clone)]
pub(crate) struct NamesBefore {
    names: Vec<(String, Option<Image>)>,
    /// The records that the engine would make by itself for images that lose these names. None of them was there.
    set_aside: Vec<Image>,
}

/// Why an image is not visible under its names.
#[derive(Debug)]
pub(crate) struct NotRecorded {
    pub(crate) error: EngineError,
    /// Whether every name is what it was before.
    pub(crate) is_restored: bool,
}

impl From<EngineError> for NotRecorded {
    /// Before the first name was set.
    fn from(error: EngineError) -> Self {
        Self { error, is_restored: true }
    }
}

impl ContainerdTransaction {
    /// Makes the image visible as [`PreparedImage::commit`](crate::engine::PreparedImage::commit) does, and takes the names back
    /// when `stop` comes before all are set. What is returned can be given back to the names.
    pub(crate) async fn record(
        &self,
        names: &[Reference],
        preconditions: &[Precondition],
        stop: &CancellationToken,
    ) -> Result<NamesBefore, NotRecorded> {
        let names = match names {
            [] => vec![images::dangling(&self.root().digest)],
            names => names.iter().map(ToString::to_string).collect(),
        };
        let looking = async {
            let before = self.names_before(names.clone()).await?;
            // All before the first is set: one that is refused leaves the others as they are.
            self.check_names(preconditions).await?;
            Ok(before)
        };
        let before = stop.run_until_cancelled(looking).await.unwrap_or_else(|| Err(stopped()))?;
        let setting = async {
            for name in &names {
                if stop.is_cancelled() {
                    return Err(stopped());
                }
                self.set_name(name, preconditions).await?;
            }
            Ok(())
        };
        if let Err(error) = unless_stopped(stop, setting).await.unwrap_or_else(|| Err(stopped())) {
            let is_restored = self.restore_names(before).await;
            let error = match error {
                EngineError::Rpc { code: Code::InvalidArgument | Code::PermissionDenied, message, .. } => {
                    EngineError::Commit { engine: "containerd", reason: message }
                }
                error => error,
            };
            return Err(NotRecorded { error, is_restored });
        }
        match unless_stopped(stop, self.confirm(before.clone())).await {
            Some(confirmed) => confirmed.map(|()| before),
            None => Err(NotRecorded { error: stopped(), is_restored: self.restore_names(before).await }),
        }
    }

    /// Whether a record of this name exists; refused if a precondition does not hold.
    async fn check_name(&self, name: &str, preconditions: &[Precondition]) -> Result<bool, EngineError> {
        let current = images::get(self.client(), name).await?.as_ref().and_then(digest);
        let of_name = preconditions.iter().filter(|precondition| precondition.name.to_string() == name);
        of_name.into_iter().try_for_each(|precondition| precondition.check(current.as_ref()))?;
        Ok(current.is_some())
    }

    /// Refuses the first name of which a precondition does not hold.
    pub(crate) async fn check_names(&self, preconditions: &[Precondition]) -> Result<(), EngineError> {
        for precondition in preconditions {
            self.check_name(&precondition.name.to_string(), preconditions).await?;
        }
        Ok(())
    }

    /// Sets a name under its preconditions. containerd has no compare-and-set: between the look and the change of a record
    /// that exists another client may change it. A record that must not exist is created or nothing.
    async fn set_name(&self, name: &str, preconditions: &[Precondition]) -> Result<(), EngineError> {
        let is_free = preconditions.iter().all(|precondition| precondition.name.to_string() != name);
        if !is_free && !self.check_name(name, preconditions).await? {
            if images::create(self.client(), name, self.root()).await? {
                return Ok(());
            }
            self.check_name(name, preconditions).await?;
        }
        images::set(self.client(), name, self.root()).await
    }

    /// What `names` resolve to now. The lease keeps these images until the export ends: between the moment when one loses
    /// its last name and that in which it gets it back, the garbage collector may run.
    async fn names_before(&self, names: Vec<String>) -> Result<NamesBefore, EngineError> {
        Ok(NamesBefore { names: self.pin_replaced(names).await?, set_aside: Vec::new() })
    }

    /// Looks up `names` and pins the images that they resolve to, unless that was done before.
    pub(super) async fn pin_replaced(&self, names: Vec<String>) -> Result<Vec<(String, Option<Image>)>, EngineError> {
        let root = &self.root().digest;
        let found = try_join_all(names.iter().map(|name| images::get(self.client(), name))).await?;
        let others: BTreeSet<_> = found.iter().flatten().filter_map(digest).filter(|other| other != root).collect();
        let new: Vec<_> = others.difference(&self.replaced()).cloned().collect();
        try_join_all(new.iter().map(|other| self.lease.add(other))).await?;
        self.replaced().extend(new);
        Ok(names.into_iter().zip(found).collect())
    }

    fn replaced(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for an engine that creates a record of each image that loses a name; `unnamed` is the name of that record.
    pub(crate) async fn names_before_load(
        &self,
        names: Vec<String>,
        unnamed: fn(&Digest) -> String,
    ) -> Result<NamesBefore, EngineError> {
        let mut before = self.names_before(names).await?;
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

    /// Checks the image that was made visible.
    ///
    /// # Errors
    /// [`EngineError::Vanished`] with layers that are gone, or why documents that are gone could not be stored again: the
    /// names then have the images that they had before.
    pub(crate) async fn confirm(&self, before: NamesBefore) -> Result<(), NotRecorded> {
        // Whatever was refused before: what is there is an image now.
        self.client().found_room();
        let error = match self.check_complete().await {
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
        let is_restored = self.restore_names(before).await;
        Err(NotRecorded { error, is_restored })
    }

    /// Gives names back to the images that they had `before` the commit. Whether all have them.
    pub(crate) async fn restore_names(&self, before: NamesBefore) -> bool {
        let (NamesBefore { names, set_aside }, mut is_restored) = (before, true);
        for (name, image) in &names {
            if let Err(error) = self.restore_name(name, image.clone()).await {
                tracing::warn!(%error, name, "a name stays with an image whose export failed");
                is_restored = false;
                // The others would be waited for as long, one after another.
                if error.is_disconnect() || matches!(error, EngineError::Timeout { .. }) {
                    return false;
                }
            }
        }
        for record in set_aside {
            let name = record.name.clone();
            if let Err(error) = self.forget(record, &names).await {
                tracing::warn!(%error, name, "an image that has its name again is also kept under the name of a dangling one");
            }
        }
        is_restored
    }

    /// Gives `name` back to `before`, unless another client has moved it meanwhile.
    async fn restore_name(&self, name: &str, before: Option<Image>) -> Result<(), EngineError> {
        let root: &Descriptor = self.root();
        let outcome = match before {
            // containerd does not compare before an update.
            Some(image) => match images::resolves_to(self.client(), name, &root.digest).await {
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
        // A client that took the name away at this moment may have relied on the record: an image must not be lost.
        if !self.is_named(&target, names).await? {
            images::insert(self.client(), record).await?;
        }
        Ok(())
    }

    /// Whether `target` has a name that it had.
    async fn is_named(&self, target: &Digest, names: &[(String, Option<Image>)]) -> Result<bool, EngineError> {
        let had = |image: &Option<Image>| image.as_ref().and_then(digest).is_some_and(|had| had == *target);
        for (name, _) in names.iter().filter(|(_, image)| had(image)) {
            match images::resolves_to(self.client(), name, target).await {
                Ok(false) | Err(EngineError::NameMoved { .. }) => {}
                other => return other,
            }
        }
        Ok(false)
    }
}

/// Why names were not set that are to be taken back.
fn stopped() -> EngineError {
    EngineError::Commit { engine: "containerd", reason: "its names were to be taken back".to_owned() }
}

/// Runs `work` to its end. Once `stop` is there it has [`LAST_CALL`] left.
async fn unless_stopped<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        outcome = &mut work => Some(outcome),
        () = stop.cancelled() => timeout(LAST_CALL, work).await.ok(),
    }
}

/// The root of a record's image.
fn digest(image: &Image) -> Option<Digest> {
    image.target.as_ref()?.digest.parse().ok()
}
